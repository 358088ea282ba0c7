"""Problem -> the plan and the execution that its data set brings along, where it brings any.

GSM8K's configuration "socratic" has sub-questions (the plan) before the steps of the human
rationale (the execution); StrategyQA has human decompositions, executed by its facts and answer. A
set of one's own has them in the fields ``plan`` and ``execution`` of its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from plan_tuning.records import Problem
from plan_tuning.tasks.socratic import numbered
from plan_tuning.text.formats import stated

# Bump when the same problems get other plans or executions: their corpora are others then.
VERSION = 1


@dataclass(frozen=True, slots=True)
class DatasetPlan:
    """A plan that comes with a problem; an empty text is one that the row does not have."""

    plan: str
    execution: str
    annotated_execution: str = ""  # with its equations as <<a=b>>; never trained on


def dataset_plan(problem: Problem) -> DatasetPlan | None:
    r"""Read the plan that came with a problem; None where its row has none.

    Where the row has no ``execution`` of its own, the human rationale is the execution, in the
    words in which ``sft`` learns it: a comparison of the two then differs in the plan alone.

    >>> read = dataset_plan(Problem("1", "2+2?", "4", "2+2=4", metadata={"plan": "1. Add."}))
    >>> read.plan, read.execution
    ('1. Add.', '2+2=4\nThe answer is \\boxed{4}.')
    """
    metadata = problem.metadata
    plan = metadata.get("plan") or metadata.get("decomposition")
    if isinstance(plan, list | tuple):
        plan = numbered([str(step) for step in plan if str(step).strip()])
    if not isinstance(plan, str) or not plan.strip():
        return None
    execution = metadata.get("execution")
    if not isinstance(execution, str) or not execution.strip():
        rationale = problem.solution.strip()
        execution = stated(rationale, problem.answer, problem.style) if rationale else ""
    annotated = metadata.get("annotated_execution")
    return DatasetPlan(
        plan.strip(), execution.strip(), annotated if isinstance(annotated, str) else ""
    )
