"""Plans -> R_plan by any of its kinds, guards first: the one way to call a plan reward.

A GRPO training calls it on a step's rollouts, an audit on stored rows. A kind is a record of
:mod:`plan_tuning.config.extensions`; what implements it is called as ``await reward(cases, config,
means)`` and answers in the order of the cases, each in [0, 1] or None where nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plan_tuning.config.extensions import record
from plan_tuning.config.reward import PlanRewardConfig
from plan_tuning.rewards.plan_cases import Means, PlanCase, PlanRewardError
from plan_tuning.rewards.plan_similarity import guarded


@dataclass(frozen=True, slots=True)
class PlanReward:
    """What one plan earns."""

    value: float | None  # in [0, 1]; None: not known
    guard: str | None = None  # which guard refused it; its value is 0 then


async def plan_rewards(
    cases: Sequence[PlanCase], config: PlanRewardConfig, means: Means
) -> list[PlanReward]:
    """Reward plans: 0 for one that a guard refuses, else what the kind says.

    Args:
        cases: plans of any problems, in any order.
        config: kind, guards and settings of the reward.
        means: what the kind's record needs; see :func:`missing_means`.

    Returns:
        In the order of the cases.

    Raises:
        PlanRewardError: something that the kind needs was not handed over, or a kind from outside
            answers with something else than a number in [0, 1], None or NaN.
    """
    missing = missing_means(config, means)
    if missing:
        raise PlanRewardError(
            f"reward.plan.kind={config.kind} needs {' and '.join(missing)}: nobody handed that over"
        )
    refused = [
        guarded(
            case.plan,
            reference=case.teacher_plan,
            problem=case.problem.problem,
            answer=case.problem.answer,
            guards=config.guards,
        )
        for case in cases
    ]
    honest = [case for case, guard in zip(cases, refused, strict=True) if guard is None]
    found = iter(await _values(honest, config, means) if honest else [])
    return [
        PlanReward(next(found)) if guard is None else PlanReward(0.0, guard) for guard in refused
    ]


async def _values(
    cases: Sequence[PlanCase], config: PlanRewardConfig, means: Means
) -> list[float | None]:
    kind = record("plan_similarity", config.kind)
    reward = kind.load()
    if kind.is_outside:  # a plain function of two plans
        return [_checked(config.kind, case, reward(case.teacher_plan, case.plan)) for case in cases]
    values: list[float | None] = await reward(cases, config, means)
    return values


def _checked(kind: str, case: PlanCase, value: Any) -> float | None:
    """Read what a function from outside answers; None and NaN: not known."""
    if value is None:
        return None
    if not isinstance(value, int | float | np.number) or not (math.isnan(value) or 0 <= value <= 1):
        raise PlanRewardError(
            f"the plan reward {kind} returned {value!r} for problem {case.problem.id}: a number in "
            "[0, 1] is a reward, None says that there is none"
        )
    return None if math.isnan(value) else float(value)


def missing_means(config: PlanRewardConfig, means: Means) -> list[str]:
    """Name what a kind's record needs and ``means`` lacks."""
    handed = {
        "ask": means.ask,
        "encoder": means.embed,
        "generate": means.generate and means.grade,
        "log_probs": means.log_probs,
    }
    needs = record("plan_similarity", config.kind).needs
    return [name for name in needs if name in handed and handed[name] is None]
