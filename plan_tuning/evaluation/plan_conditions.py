"""Test problems -> what a plan's worth is measured on: reference executions, and whose plans.

Pure functions. Conditions are the plans that a reference execution is put behind, see
experiments/METHOD.md section 10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plan_tuning.config.evaluation import PLAN_CONDITIONS
from plan_tuning.config.extensions import record
from plan_tuning.evaluation.predictions import other_problems
from plan_tuning.records import Prediction, Problem
from plan_tuning.tasks.dataset_plans import dataset_plan
from plan_tuning.tasks.microworld_questions import execution_of
from plan_tuning.tasks.microworld_text import parse_plan, parse_problem, steps_of
from plan_tuning.text.formats import is_micro, stated
from plan_tuning.text.plan_edits import shuffled, with_number_swapped, with_step_dropped

GIVEN = ("teacher", "dataset", "true")  # plans that the student did not write
ALTERED = ("other", "shuffled", "number_swapped", "step_dropped")  # made from the subject's

Plans = Mapping[str, str]
"""Plans by problem id; only problems that have one."""


@dataclass(frozen=True)
class Conditions:
    """The plans of every condition, and whose plans those of ALTERED are made from."""

    plans: Mapping[str, Plans]  # by condition, in the order of PLAN_CONDITIONS; none: empty texts
    subject: str  # own; of a student that writes no plans teacher, dataset or true; or empty


def reference_execution(problem: Problem) -> str:
    """Write the execution that a plan's worth is measured by; empty where the data has none.

    In the micro-world it is that of the true plan, without a mistake; elsewhere that of the data
    set's own plan, or its solution, in the form in which a student learns it.
    """
    if is_micro(problem.style) and problem.true_plan:
        story = parse_problem(problem.problem)
        return execution_of(story, steps_of(story, parse_plan(problem.true_plan)))
    given = dataset_plan(problem)
    if given is not None and given.execution:
        return given.execution
    solution = problem.solution.strip()
    return stated(solution, problem.answer, problem.style) if solution else ""


def own_plans(predictions: Sequence[Prediction]) -> dict[str, str]:
    """Take the student's plans out of its predictions: those of the first sample."""
    return {row.problem_id: row.plan for row in predictions if row.sample == 0 and row.plan.strip()}


def conditions(
    problems: Sequence[Problem], method: str, own: Plans, teacher: Plans | None
) -> Conditions:
    """Say which plans the reference executions of problems are put behind.

    Args:
        problems: those that have a reference execution.
        method: of the student; without a place for plans only ``none`` is left.
        own: what the student planned.
        teacher: plans of a distilled test set; None: there is none.
    """
    found: dict[str, dict[str, str]] = {"none": {problem.id: "" for problem in problems}}
    if not record("method", method).takes_plans:
        return Conditions(found, "")
    ids = list(found["none"])
    if record("method", method).writes_plan:
        found["own"] = _of(own, ids)
    found["teacher"] = _of(teacher or {}, ids)
    given = {problem.id: dataset_plan(problem) for problem in problems}
    found["dataset"] = {name: plan.plan for name, plan in given.items() if plan is not None}
    found["true"] = {p.id: p.true_plan for p in problems if p.true_plan.strip()}
    subject = next((name for name in ("own", *GIVEN) if found.get(name)), "")
    if subject:
        found |= _edited(problems, found[subject])
    return Conditions(
        {name: found[name] for name in PLAN_CONDITIONS if name == "none" or found.get(name)},
        subject,
    )


def _of(plans: Plans, ids: Sequence[str]) -> dict[str, str]:
    return {name: plans[name] for name in ids if plans.get(name, "").strip()}


def _edited(problems: Sequence[Problem], plans: Plans) -> dict[str, dict[str, str]]:
    """Another problem's plan, and edits of the own one, where there is something to edit."""
    found: dict[str, dict[str, str]] = {name: {} for name in ALTERED}
    if len(plans) > 1:
        found["other"] = {name: plans[other] for name, other in other_problems([*plans]).items()}
    for problem in problems:
        plan = plans.get(problem.id)
        if plan is None:
            continue
        swap = with_number_swapped(plan, problem.id, problem.problem, problem.style)
        edits = {
            "shuffled": shuffled(plan, problem.id, problem.style),
            "number_swapped": None if swap is None else swap.plan,
            "step_dropped": with_step_dropped(plan, problem.id, problem.style),
        }
        for name, edited in edits.items():
            if edited:
                found[name][problem.id] = edited
    return found
