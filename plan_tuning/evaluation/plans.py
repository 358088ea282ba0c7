"""A distilled test set to the plans that are swapped in for a student's own."""

from __future__ import annotations

from collections.abc import Iterable

from plan_tuning.records import Trajectory

_USABLE = "ok"


def teacher_plans(trajectories: Iterable[Trajectory]) -> dict[str, str]:
    """Choose the teacher's plan of each problem: the best scored one, the earliest among equals.

    The Plan Verifier chooses, for it knows no gold answer; the Answer Verifier does, and choosing
    by it would let the gold answers of a test set into its plans.

    Args:
        trajectories: all candidates of a test set.

    Returns:
        Plans by problem id, empty where the teacher wrote none that can be used.
    """
    best: dict[str, tuple[int, int, str]] = {}
    plans: dict[str, str] = {}
    for row in trajectories:
        plans.setdefault(row.problem_id, "")
        if row.plan_status != _USABLE or not row.plan.strip():
            continue
        score = row.plan_score if row.plan_score is not None else -101  # below any score
        rank = (-score, row.candidate, row.plan)
        if row.problem_id not in best or rank < best[row.problem_id]:
            best[row.problem_id] = rank
            plans[row.problem_id] = row.plan
    return plans
