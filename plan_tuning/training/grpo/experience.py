"""Rollouts of a step with what was found out about them: rewards, advantages, log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.reward import RewardConfig
from plan_tuning.rewards.combination import summarize
from plan_tuning.rewards.rules import overlong_penalty
from plan_tuning.text.formats import parse_output
from plan_tuning.text.thoughts import split_thoughts
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


@dataclass(eq=False)
class Experience:
    """One rollout and what is learned from it; a step's lie in a list, group by group.

    Groups that were drawn and replaced by others stay in the list: they are reported and not
    learned from.
    """

    rollout: Rollout
    rewards: dict[str, float] = field(default_factory=dict)  # by part; NaN: unknown
    old_log_probs: torch.Tensor | None = None  # (T,) under the policy before the step
    reference_log_probs: torch.Tensor | None = None  # (T,)
    is_kept: bool = True  # not replaced by a further draw
    advantage: float = 0.0  # of the completion as a whole
    token_advantages: Array = field(default_factory=lambda: np.zeros(0))  # (T,)
    is_live: bool = False  # is learned from


def reward_weights(reward: RewardConfig, method: GRPOConfig) -> dict[str, float]:
    """Weights of all parts of the reward, that of the length limit among them."""
    return reward.weights | ({"overlong": 1.0} if method.truncation == "penalise" else {})


def add_penalties(experience: Sequence[Experience], method: GRPOConfig) -> None:
    """Add the reward that depends on the length limit."""
    if method.truncation == "penalise":
        for one in experience:
            one.rewards["overlong"] = overlong_penalty(
                len(one.rollout), method.max_new_tokens, method.overlong_buffer
            )


def dead_groups(
    experience: Sequence[Experience], reward: RewardConfig, method: GRPOConfig
) -> Flags:
    """Say which groups teach nothing, (P,): all of their completions earn the same."""
    if not experience:
        return np.zeros(0, bool)
    return _compare(_table(experience, method.group_size), reward, method).is_dead


def _table(experience: Sequence[Experience], group_size: int) -> dict[str, Array]:
    """Arrange rewards by part, each (P, G)."""
    names = list(experience[0].rewards) if experience else []
    return {
        name: np.array([one.rewards[name] for one in experience], float).reshape(-1, group_size)
        for name in names
    }


def _compare(parts: Mapping[str, Array], reward: RewardConfig, method: GRPOConfig) -> Advantages:
    return group_advantages(
        parts,
        reward_weights(reward, method),
        aggregation=reward.aggregation,
        baseline=method.baseline,
        scaling=method.scaling,
        epsilon=method.std_epsilon,
        tolerance=method.dead_tolerance,
    )


def assign_advantages(
    experience: Sequence[Experience], reward: RewardConfig, method: GRPOConfig, ranks: Ranks
) -> dict[str, float]:
    """Fill in advantages and what is learned from; returns figures of the rewards of all ranks.

    Groups lie on one rank as a whole, so only rewards travel: spreads over the batch come out as on
    a single rank. Advantages compare the groups that are kept; the figures count all that were
    drawn.
    """
    size = method.group_size
    mine = (_table(experience, size), [one.is_kept for one in experience[::size]])
    shares = ranks.gather(mine)
    everything = {
        name: np.concatenate([rewards[name] for rewards, _ in shares]) for name in shares[0][0]
    }
    is_kept = np.concatenate([np.array(kept, bool) for _, kept in shares])  # (P,)
    found = _compare({name: part[is_kept] for name, part in everything.items()}, reward, method)
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
    is_unknown = spread(np.isnan(found.rewards)).astype(bool)
    for index, one in enumerate(experience):
        rollout = one.rollout
        one.advantage = float(totals[index])
        one.token_advantages = token_advantages(
            one.advantage,
            {name: float(part[index]) for name, part in parts.items()},
            np.arange(len(rollout)) < rollout.num_plan_tokens,
            method.credit,
            amplification=method.plan_amplification,
        )
        one.is_live = (
            len(rollout) > 0
            and one.is_kept
            and not is_unknown[index]
            and not (method.drop_dead_groups and is_dead[index])
            and not (method.truncation == "mask" and rollout.is_truncated)
        )
    num_dead = int(found.is_dead.sum() + (~is_kept).sum())  # only dead groups are replaced
    return summarize(everything, reward_weights(reward, method)) | {
        "dead_rate": num_dead / len(is_kept),
        "drawn_groups": float(len(is_kept)),
        "dead_groups": float(num_dead),
        "kept_groups": float(is_kept.sum()),
        "advantage": float(np.abs(found.total).mean()),
    }


def subtract_kl(experience: Sequence[Experience], beta: float) -> None:
    """Take the KL to the reference, as a reward of each token, off the advantages.

    The advantages stay those of the task's rewards otherwise: what the KL does to a group neither
    revives a dead one nor is blown up by dividing by the group's spread.
    """
    for one in experience:
        old, reference = one.old_log_probs, one.reference_log_probs
        if one.is_live and old is not None and reference is not None:
            cost = kl_to_go(old.numpy(), reference.numpy())
            one.token_advantages = one.token_advantages - beta * cost


def completion_rows(
    step: int, experience: Sequence[Experience], weights: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Describe a step's completions: problem, text, plan, answer, rewards, advantage, finish.

    Args:
        step: of the training.
        experience: of one rank.
        weights: of the parts of the reward; their sum is ``reward_total``, None where a part is
            unknown.
    """
    return [_row(step, one, one.rollout, weights) for one in experience]


def _row(
    step: int, one: Experience, rollout: Rollout, weights: Mapping[str, float]
) -> dict[str, Any]:
    total = sum(weight * one.rewards[name] for name, weight in weights.items())
    rewards = {
        f"reward_{name}": None if math.isnan(value) else round(value, 6)
        for name, value in {**one.rewards, "total": total}.items()
    }
    return {
        "step": step,
        "problem_id": rollout.problem.id,
        "sample": rollout.sample,
        "text": rollout.completion.text,
        "plan": rollout.plan,
        "teacher_plan": rollout.teacher_plan,
        "answer": parse_output(split_thoughts(rollout.completion.text).text),
        "gold": rollout.problem.answer,
        **rewards,
        "advantage": round(one.advantage, 6),
        "is_learned": one.is_live,
        "tokens": len(rollout),
        "finish": rollout.completion.finish_reason,
        **({"weight_version": version} if (version := rollout.completion.weight_version) else {}),
    }
