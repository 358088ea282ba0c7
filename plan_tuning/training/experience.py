"""Rollouts of a step with what was found out about them: rewards, advantages, log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.rewards.combination import summarize
from plan_tuning.rewards.shaping import overlong_penalty
from plan_tuning.training.advantages import Advantages, Array, group_advantages, token_advantages
from plan_tuning.training.rollouts import Rollout

Gather = Callable[[Any], list[Any]]
"""From this rank's object to those of all ranks, in their order."""


@dataclass
class Experience:
    """Whole groups, group by group; all lists run along ``rollouts``."""

    rollouts: list[Rollout] = field(default_factory=list)
    rewards: list[dict[str, float]] = field(default_factory=list)
    old: list[torch.Tensor | None] = field(default_factory=list)  # each (T_i,)
    reference: list[torch.Tensor | None] = field(default_factory=list)
    advantages: list[Array] = field(default_factory=list)  # each (T_i,)
    totals: Array = field(default_factory=lambda: np.zeros(0))
    is_live: list[bool] = field(default_factory=list)

    def add(self, other: Experience, keep: Sequence[bool]) -> None:
        """Take the rollouts of ``other`` that are to be kept."""
        for index, is_kept in enumerate(keep):
            if is_kept:
                self.rollouts.append(other.rollouts[index])
                self.rewards.append(other.rewards[index])
                self.old.append(other.old[index])
                self.reference.append(other.reference[index])

    @property
    def live(self) -> list[int]:
        """Rollouts that are learned from."""
        return [index for index, is_live in enumerate(self.is_live) if is_live]


def add_penalties(
    experience: Experience, weights: Mapping[str, float], method: GRPOConfig
) -> dict[str, float]:
    """Add the rewards that depend on the policy or on the length limit; returns all weights."""
    weights = dict(weights)
    if method.truncation == "penalise":
        weights["overlong"] = 1.0
        for rollout, found in zip(experience.rollouts, experience.rewards, strict=True):
            found["overlong"] = overlong_penalty(
                len(rollout), method.max_new_tokens, method.overlong_buffer
            )
    if method.has_reference and method.kl_in == "reward":
        weights["kl"] = method.beta
        for found, old, reference in zip(
            experience.rewards, experience.old, experience.reference, strict=True
        ):
            if old is not None and reference is not None:
                found["kl"] = float((reference - old).sum())
    return weights


def table(rewards: Sequence[Mapping[str, float]], group_size: int) -> dict[str, Array]:
    """Arrange rewards by part, each (P, G)."""
    names = list(rewards[0]) if rewards else []
    return {
        name: np.array([row[name] for row in rewards], float).reshape(-1, group_size)
        for name in names
    }


def compare_groups(
    parts: Mapping[str, Array], weights: Mapping[str, float], method: GRPOConfig, aggregation: str
) -> Advantages:
    """Compute advantages as the method says."""
    return group_advantages(
        parts,
        weights,
        aggregation=aggregation,
        baseline=method.baseline,
        scaling=method.scaling,
        epsilon=method.std_epsilon,
        tolerance=method.dead_tolerance,
    )


def assign_advantages(
    experience: Experience,
    weights: Mapping[str, float],
    method: GRPOConfig,
    aggregation: str,
    gather: Gather,
    rank: int = 0,
) -> dict[str, float]:
    """Fill in advantages and what is learned from; returns figures of the rewards of all ranks.

    Groups lie on one rank as a whole, so only rewards travel: spreads over the batch come out as on
    a single rank.
    """
    ranks = gather(table(experience.rewards, method.group_size))
    names = list(ranks[rank])
    offset = sum(len(part[names[0]]) for part in ranks[:rank])
    everything = {name: np.concatenate([part[name] for part in ranks]) for name in names}
    found = compare_groups(everything, weights, method, aggregation)
    count = len(experience.rollouts) // method.group_size
    mine = slice(offset, offset + count)
    totals = found.total[mine].ravel()
    parts = {name: part[mine].ravel() for name, part in found.parts.items()}
    is_dead = np.repeat(found.is_dead[mine], method.group_size)
    experience.totals = totals
    experience.advantages = [
        _spread_over_tokens(rollout, index, totals, parts, method.credit)
        for index, rollout in enumerate(experience.rollouts)
    ]
    experience.is_live = [
        len(rollout) > 0
        and not (method.drop_dead_groups and bool(is_dead[index]))
        and not (method.truncation == "mask" and rollout.is_truncated)
        for index, rollout in enumerate(experience.rollouts)
    ]
    return summarize(everything, weights) | {
        "dead_rate": float(found.is_dead.mean()),
        "advantage": float(np.abs(found.total).mean()),
    }


def _spread_over_tokens(
    rollout: Rollout, index: int, totals: Array, parts: Mapping[str, Array], credit: str
) -> Array:
    is_plan = np.arange(len(rollout)) < rollout.num_plan_tokens
    own = {name: float(part[index]) for name, part in parts.items()}
    return token_advantages(float(totals[index]), own, is_plan, credit)
