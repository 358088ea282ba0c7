"""A corpus -> the right execution of each problem that plans are valued by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from plan_tuning.records import Problem, Trajectory
from plan_tuning.text.formats import stated
from plan_tuning.text.parsing import LOWEST


def reference_executions(
    candidates: Sequence[Trajectory], problems: Iterable[Problem]
) -> dict[str, str]:
    """Take a right execution of each problem: a teacher's, or a human's where no teacher has any.

    The human rationale is read only where no candidate of the whole corpus has a right execution.
    The two are different languages, and which of them a problem has would hang on whether its
    candidates are right: a reward that mixes them would say that of plans.

    Args:
        candidates: all of a corpus.
        problems: whose human rationales may be read.

    Returns:
        Executions by problem; a problem of which none is known is absent.
    """
    found = right_executions(candidates)
    if found:
        return found
    human = ((problem.id, human_execution(problem)) for problem in problems)
    return {name: execution for name, execution in human if execution}


def right_executions(candidates: Sequence[Trajectory]) -> dict[str, str]:
    """Take a teacher's right execution of each problem, that of the best-scored plan first.

    Which plan it carries out does not matter: it says how a problem is solved. The micro-world's
    true plan is never read: what only that world knows can be no reward.
    """
    found: dict[str, tuple[int, str]] = {}
    for row in candidates:
        if row.is_correct and row.execution.strip():
            score = LOWEST if row.plan_score is None else row.plan_score
            if row.problem_id not in found or score > found[row.problem_id][0]:
                found[row.problem_id] = (score, row.execution.strip())
    return {name: execution for name, (_, execution) in found.items()}


def human_execution(problem: Problem) -> str:
    """Write the human rationale as a student learns it; empty where there is none."""
    solution = problem.solution.strip()
    return stated(solution, problem.answer, problem.style) if solution else ""
