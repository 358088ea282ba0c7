"""Rollouts of a step with what was found out about them: rewards, advantages, log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.rewards.combination import summarize
from plan_tuning.rewards.shaping import overlong_penalty
from plan_tuning.text.formats import parse_output
from plan_tuning.training.distributed import Ranks
from plan_tuning.training.grpo.advantages import (
    Advantages,
    Array,
    Flags,
    group_advantages,
    kl_to_go,
    token_advantages,
)
from plan_tuning.training.grpo.rollout import Rollout


@dataclass
class Experience:
    """Whole groups, group by group; all lists run along ``rollouts``.

    Groups that were drawn and replaced by others stay in it: they are reported and not learned
    from.
    """

    rollouts: list[Rollout] = field(default_factory=list)
    rewards: list[dict[str, float]] = field(default_factory=list)
    old: list[torch.Tensor | None] = field(default_factory=list)  # each (T_i,)
    reference: list[torch.Tensor | None] = field(default_factory=list)
    is_kept: list[bool] = field(default_factory=list)  # not replaced by a further draw
    advantages: list[Array] = field(default_factory=list)  # each (T_i,)
    totals: Array = field(default_factory=lambda: np.zeros(0))  # advantages as a whole
    is_live: list[bool] = field(default_factory=list)

    def add(self, other: Experience, is_kept: Sequence[bool]) -> None:
        """Take the rollouts of ``other``; those that are not kept for the record only."""
        self.rollouts += other.rollouts
        self.rewards += other.rewards
        self.old += other.old
        self.reference += other.reference
        self.is_kept += is_kept

    @property
    def live(self) -> list[int]:
        """Rollouts that are learned from."""
        return [index for index, is_live in enumerate(self.is_live) if is_live]


def add_penalties(
    experience: Experience, weights: Mapping[str, float], method: GRPOConfig
) -> dict[str, float]:
    """Add the reward that depends on the length limit; returns all weights."""
    weights = dict(weights)
    if method.truncation == "penalise":
        weights["overlong"] = 1.0
        for rollout, found in zip(experience.rollouts, experience.rewards, strict=True):
            found["overlong"] = overlong_penalty(
                len(rollout), method.max_new_tokens, method.overlong_buffer
            )
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
    ranks: Ranks,
) -> dict[str, float]:
    """Fill in advantages and what is learned from; returns figures of the rewards of all ranks.

    Groups lie on one rank as a whole, so only rewards travel: spreads over the batch come out as on
    a single rank. Advantages compare the groups that are kept; the figures count all that were
    drawn.
    """
    size = method.group_size
    mine = (table(experience.rewards, size), list(experience.is_kept[::size]))
    shares = ranks.gather(mine)
    everything = {
        name: np.concatenate([rewards[name] for rewards, _ in shares]) for name in shares[0][0]
    }
    is_kept = np.concatenate([np.array(kept, bool) for _, kept in shares])  # (P,)
    found = compare_groups(
        {name: part[is_kept] for name, part in everything.items()}, weights, method, aggregation
    )
    first = sum(len(kept) for _, kept in shares[: ranks.rank])
    own = slice(first, first + len(mine[1]))

    def spread(kept: Array | Flags) -> Array:
        """Put values of kept groups where the groups lie, and take this rank's rows."""
        out = np.zeros((len(is_kept), size))
        out[is_kept] = kept
        return out[own].ravel()

    totals = spread(found.total)
    parts = {name: spread(part) for name, part in found.parts.items()}
    is_dead = spread(found.is_dead[:, None]).astype(bool)
    is_unscored = spread(np.isnan(found.rewards)).astype(bool)
    experience.totals = totals
    experience.advantages = [
        _spread_over_tokens(rollout, index, totals, parts, method)
        for index, rollout in enumerate(experience.rollouts)
    ]
    experience.is_live = [
        len(rollout) > 0
        and experience.is_kept[index]
        and not is_unscored[index]
        and not (method.drop_dead_groups and is_dead[index])
        and not (method.truncation == "mask" and rollout.is_truncated)
        for index, rollout in enumerate(experience.rollouts)
    ]
    num_dead = int(found.is_dead.sum() + (~is_kept).sum())  # only dead groups are replaced
    return summarize(everything, weights) | {
        "dead_rate": num_dead / len(is_kept),
        "drawn_groups": float(len(is_kept)),
        "dead_groups": float(num_dead),
        "kept_groups": float(is_kept.sum()),
        "advantage": float(np.abs(found.total).mean()),
    }


def subtract_kl(experience: Experience, beta: float) -> None:
    """Take the KL to the reference, as a reward of each token, off the advantages.

    The advantages stay those of the task's rewards otherwise: what the KL does to a group neither
    revives a dead one nor is blown up by dividing by the group's spread.
    """
    for index in experience.live:
        old, reference = experience.old[index], experience.reference[index]
        if old is not None and reference is not None:
            cost = kl_to_go(old.numpy(), reference.numpy())
            experience.advantages[index] = experience.advantages[index] - beta * cost


def _spread_over_tokens(
    rollout: Rollout, index: int, totals: Array, parts: Mapping[str, Array], method: GRPOConfig
) -> Array:
    is_plan = np.arange(len(rollout)) < rollout.num_plan_tokens
    own = {name: float(part[index]) for name, part in parts.items()}
    return token_advantages(
        float(totals[index]), own, is_plan, method.credit, amplification=method.plan_amplification
    )


def completion_rows(step: int, experience: Experience) -> list[dict[str, Any]]:
    """Describe a step's completions: problem, plan, answer, rewards, advantage, finish."""
    return [_row(step, experience, index) for index in range(len(experience.rollouts))]


def _row(step: int, experience: Experience, index: int) -> dict[str, Any]:
    rollout = experience.rollouts[index]
    rewards = {
        f"reward_{name}": None if math.isnan(value) else round(value, 6)
        for name, value in experience.rewards[index].items()
    }
    return {
        "step": step,
        "problem_id": rollout.case.problem.id,
        "sample": rollout.sample,
        "plan": rollout.plan,
        "teacher_plan": rollout.case.teacher_plan,
        "answer": parse_output(rollout.completion.text),
        "gold": rollout.case.problem.answer,
        **rewards,
        "advantage": round(float(experience.totals[index]), 6),
        "is_learned": experience.is_live[index],
        "tokens": len(rollout),
        "finish": rollout.completion.finish_reason,
    }
