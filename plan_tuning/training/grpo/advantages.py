"""Rewards of groups to advantages: how much better a completion is than its siblings.

Pure functions over arrays ``(P, G)``: P problems, G completions each. NaN marks a reward that could
not be determined; it is left out of means and spreads and moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Advantages:
    """Advantages of a step.

    ``parts`` sum to ``total``: each says what one reward contributes, for credit by segment.
    """

    total: Array  # (P, G)
    parts: Mapping[str, Array]  # each (P, G)
    rewards: Array  # (P, G) weighted sums; NaN where nothing is known
    is_dead: Flags  # (P,) groups that teach nothing; their advantages are exactly 0


def group_advantages(
    rewards: Mapping[str, Array],
    weights: Mapping[str, float],
    *,
    aggregation: str = "sum_then_normalise",
    baseline: str = "mean",
    scaling: str = "group",
    epsilon: float = 1e-4,
    tolerance: float = 1e-6,
) -> Advantages:
    """Compare each completion with its group (DeepSeekMath, arXiv 2402.03300, section 4.1).

    A part of the reward that is unknown for a completion counts as the group's mean of that part,
    so it neither helps nor harms; with every part known that changes nothing.

    Args:
        rewards: by part, each (P, G); NaN: unknown.
        weights: of the parts.
        aggregation: sum_then_normalise divides the weighted sum by its spread; normalise_then_sum
            divides each part by its own first, so that a part with a small spread is not drowned,
            and the sum by its spread over the batch (GDPO, arXiv 2601.05242).
        baseline: mean of the group, or mean of the others (leave_one_out).
        scaling: group: spread of the group; batch: of all rewards of the step; none: no division
            (Dr. GRPO, arXiv 2503.20783). Only for sum_then_normalise.
        epsilon: added to a spread before dividing.
        tolerance: a group whose largest and smallest reward differ by no more is dead.

    Returns:
        Advantages, all zero for dead groups and for completions without any known part.

    >>> found = group_advantages(
    ...     {"correct": np.array([[1.0, 0.0], [1.0, 1.0]])}, {"correct": 2.0}, scaling="none")
    >>> found.total.tolist(), found.is_dead.tolist()
    ([[1.0, -1.0], [0.0, 0.0]], [False, True])
    """
    columns = {name: weights[name] * np.asarray(rewards[name], float) for name in weights}
    shape = next(iter(columns.values())).shape
    is_known = np.zeros(shape, bool)
    for column in columns.values():
        is_known |= ~np.isnan(column)
    filled = {name: _impute(column) for name, column in columns.items()}
    total = np.where(is_known, sum(filled.values()), np.nan)
    if aggregation == "normalise_then_sum":
        parts, is_dead = _normalise_parts(columns, filled, weights, baseline, epsilon, tolerance)
    else:
        is_dead = _spread(total) <= tolerance
        divisor = _divisor(total, scaling, epsilon)
        parts = {
            name: _centre(column, is_known, baseline) / divisor for name, column in filled.items()
        }
    silent = is_dead[:, None] | ~is_known
    parts = {name: np.where(silent, 0.0, part) for name, part in parts.items()}
    return Advantages(np.sum(list(parts.values()), axis=0), parts, total, is_dead)


def _normalise_parts(
    columns: Mapping[str, Array],
    filled: Mapping[str, Array],
    weights: Mapping[str, float],
    baseline: str,
    epsilon: float,
    tolerance: float,
) -> tuple[dict[str, Array], Flags]:
    """Divide each part by its own spread in the group, then all by the batch's of the sum."""
    parts = {}
    is_dead = np.ones(len(next(iter(columns.values()))), bool)
    for name, column in columns.items():
        unweighted = column / weights[name]
        is_flat = _spread(unweighted) <= tolerance
        is_dead &= is_flat
        known = ~np.isnan(column)
        centred = _centre(filled[name] / weights[name], known, baseline)
        scaled = weights[name] * centred / (_std(unweighted)[:, None] + epsilon)
        parts[name] = np.where(is_flat[:, None] | ~known, 0.0, scaled)
    is_known = ~np.all([np.isnan(column) for column in columns.values()], axis=0)
    summed = np.sum(list(parts.values()), axis=0)[is_known & ~is_dead[:, None]]
    if summed.size > 1:
        spread = summed.std(ddof=1) + epsilon
        parts = {name: part / spread for name, part in parts.items()}
    return parts, is_dead


def _impute(column: Array) -> Array:
    """Replace unknown values by the mean of their group; 0 where the group has none."""
    known = ~np.isnan(column)
    count = known.sum(axis=1, keepdims=True)
    mean = np.where(known, column, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    return np.where(known, column, mean)


def _centre(values: Array, is_known: Flags, baseline: str) -> Array:
    """Subtract the group's mean over completions with a reward, or the mean of the other ones."""
    count = is_known.sum(axis=1, keepdims=True)
    mean = np.where(is_known, values, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    centred = values - mean
    if baseline == "leave_one_out":  # r - (S - r) / (n - 1) = n / (n - 1) * (r - S / n)
        centred = centred * count / np.maximum(count - 1, 1)
    return centred


def _spread(values: Array) -> Array:
    """Largest minus smallest known value of each group; 0 with fewer than two."""
    known = ~np.isnan(values)
    high = np.where(known, values, -np.inf).max(axis=1)
    low = np.where(known, values, np.inf).min(axis=1)
    return np.where(known.sum(axis=1) < 2, 0.0, high - low)


def _std(values: Array) -> Array:
    """Sample standard deviation of each group's known values; 0 with fewer than two."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    mean = np.where(known, values, 0.0).sum(axis=1) / np.maximum(count, 1)
    squares = np.where(known, (values - mean[:, None]) ** 2, 0.0).sum(axis=1)
    return np.sqrt(squares / np.maximum(count - 1, 1))


def _divisor(total: Array, scaling: str, epsilon: float) -> Array:
    if scaling == "none":
        return np.ones((len(total), 1))
    if scaling == "group":
        return _std(total)[:, None] + epsilon
    return np.full((len(total), 1), _std(total.reshape(1, -1))[0] + epsilon)


def token_advantages(
    total: float,
    parts: Mapping[str, float],
    is_plan: Flags,
    credit: str,
    *,
    amplification: float = 0.0,
) -> Array:
    """Spread a completion's advantage over its tokens.

    Args:
        total: the completion's advantage.
        parts: what each reward contributes to it.
        is_plan: (T,) whether a token belongs to the plan.
        credit: uniform: every token gets the total. segment: the plan's reward moves plan tokens
            only, the others all tokens. segment_strict: the answer's reward moves the other
            tokens only. plan_amplified: every token gets the total, and plan tokens a share of its
            size on top: good plans are praised more and bad ones blamed less (HICRA, arXiv
            2509.03646, whose planning tokens are single phrases; here they are the plan).
        amplification: plan_amplified: that share.

    Returns:
        (T,).

    >>> token_advantages(3.0, {"plan": 1.0, "correct": 2.0}, np.array([True, False]), "segment")
    array([3., 2.])
    """
    plan = parts.get("plan", 0.0)
    correct = parts.get("correct", 0.0)
    if credit == "plan_amplified":
        return np.where(is_plan, total + amplification * abs(total), total)
    if credit == "uniform" or is_plan.all() or not is_plan.any():
        return np.full(len(is_plan), total)
    if credit == "segment":
        return np.where(is_plan, total, total - plan)
    return np.where(is_plan, total - correct, total - plan)


def kl_to_go(old_log_probs: Array, reference_log_probs: Array) -> Array:
    """Sum the KL that each token and those behind it cost: the return of token rewards -k1.

    A token answers for what follows it, so this is what its reward in the end amounts to; its
    gradient is that of the sequence's KL(policy || reference).

    Args:
        old_log_probs: (T,) under the policy that sampled.
        reference_log_probs: (T,).

    Returns:
        (T,) nats.

    >>> kl_to_go(np.array([-1.0, -2.0]), np.array([-1.5, -1.0])).tolist()
    [-0.5, -1.0]
    """
    k1 = np.asarray(old_log_probs, float) - np.asarray(reference_log_probs, float)
    return np.cumsum(k1[::-1])[::-1]
