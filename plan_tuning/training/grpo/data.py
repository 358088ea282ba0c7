"""Corpus to the problems that GRPO trains on: those with a teacher_plan, in every arm alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from plan_tuning.config.filter import FilterConfig
from plan_tuning.distillation.corpus import read_problems, read_trajectories
from plan_tuning.distillation.filters import filter_trajectories
from plan_tuning.records import Trajectory
from plan_tuning.training.grpo.rollout import GoldenProblem


def golden_problems(
    corpus: Path, chosen: FilterConfig
) -> tuple[list[GoldenProblem], dict[str, Any]]:
    """Pair the problems of a corpus with the plan of their selected trajectory.

    Args:
        corpus: folder of the corpus.
        chosen: which trajectories may give the golden plan. One is taken per problem, the first in
            the filter's order; where the filter keeps several, further ones are not used.

    Returns:
        The problems in the corpus's order, and how many there are with and without a plan.
    """
    filtered = filter_trajectories(read_trajectories(corpus), replace(chosen, max_rows=None))
    plans = _first_plans(filtered.kept)
    problems = read_problems(corpus)
    cases = [GoldenProblem(p, plans[p.id]) for p in problems if p.id in plans]
    return cases, {
        "rows": len(cases),
        "reasons": dict(filtered.reasons),
        "problems_without_plan": len(problems) - len(cases),
    }


def _first_plans(kept: Sequence[Trajectory]) -> dict[str, str]:
    plans: dict[str, str] = {}
    for trajectory in kept:
        plans.setdefault(trajectory.problem_id, trajectory.plan)
    return plans
