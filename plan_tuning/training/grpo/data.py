"""Corpus to the problems that GRPO trains on: those with a teacher_plan, in every arm alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from plan_tuning.config.filter import FilterConfig
from plan_tuning.distillation.corpus import read_problems, read_trajectories
from plan_tuning.distillation.filters import FilterError, advice, filter_trajectories
from plan_tuning.distillation.reference_executions import reference_executions
from plan_tuning.records import Problem


@dataclass(frozen=True, slots=True)
class PlannedProblem:
    """A training problem with the plan that the student's plan is compared with."""

    problem: Problem
    teacher_plan: str
    execution: str = ""  # a right one, by which plans can be valued; empty: none is known


def planned_problems(
    corpus: Path, chosen: FilterConfig
) -> tuple[list[PlannedProblem], dict[str, Any]]:
    """Pair the problems of a corpus with the plan of their selected trajectory.

    Args:
        corpus: folder of the corpus.
        chosen: which trajectories may give the teacher_plan. One is taken per problem, the first in
            the filter's order; where the filter keeps several, further ones are not used.

    Returns:
        The problems in the corpus's order, and how many there are with and without a plan.

    Raises:
        FilterError: the teacher wrote no plan that any filter could keep.
    """
    candidates = read_trajectories(corpus)
    if all(row.plan_status != "ok" for row in candidates):
        raise FilterError(f"no problem of {corpus} has a teacher_plan. {advice(candidates)}")
    filtered = filter_trajectories(candidates, replace(chosen, max_rows=None))
    plans: dict[str, str] = {}
    for trajectory in filtered.kept:
        plans.setdefault(trajectory.problem_id, trajectory.plan)
    problems = read_problems(corpus)
    executions = reference_executions(candidates, problems)
    planned = [
        PlannedProblem(p, plans[p.id], executions.get(p.id, "")) for p in problems if p.id in plans
    ]
    return planned, {
        "rows": len(planned),
        "reasons": dict(filtered.reasons),
        "problems_without_plan": len(problems) - len(planned),
    }


def hold_out(
    problems: Sequence[PlannedProblem], *, count: int, seed: int
) -> tuple[list[PlannedProblem], list[Problem]]:
    """Put ``count`` problems aside for validation; at least one is left to train on."""
    count = min(count, len(problems) - 1)
    chosen = set(np.random.default_rng([seed, len(problems), 2]).permutation(len(problems))[:count])
    return (
        [planned for index, planned in enumerate(problems) if index not in chosen],
        [problems[index].problem for index in sorted(chosen)],
    )
