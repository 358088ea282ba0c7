"""Advantages against a float64 oracle; dead groups, unknown rewards, credit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plan_tuning.rewards.combination import summarize
from plan_tuning.training.grpo.advantages import group_advantages, kl_to_go, token_advantages

CORRECT = np.array([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]])
PLAN = np.array([[0.9, 0.8, 0.1, 0.5], [0.2, 0.2, 0.2, 0.2], [0.3, 0.6, 0.6, 0.6]])
WEIGHTS = {"correct": 2.0, "plan": 1.0}
EPSILON = 1e-4


def oracle(rewards: np.ndarray[Any, Any], baseline: str, scaling: str) -> np.ndarray[Any, Any]:
    out = np.zeros_like(rewards)
    for group, row in enumerate(rewards):
        if row.max() - row.min() <= 1e-6:
            continue
        for i, reward in enumerate(row):
            others = np.delete(row, i)
            base = others.mean() if baseline == "leave_one_out" else row.mean()
            spread = {
                "group": row.std(ddof=1) + EPSILON,
                "batch": rewards.std(ddof=1) + EPSILON,
                "none": 1.0,
            }[scaling]
            out[group, i] = (reward - base) / spread
    return out


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scaling", ["group", "batch", "none"])
def test_advantages_equal_the_oracle(baseline: str, scaling: str) -> None:
    found = group_advantages(
        {"correct": CORRECT, "plan": PLAN}, WEIGHTS, baseline=baseline, scaling=scaling
    )
    expected = oracle(2 * CORRECT + PLAN, baseline, scaling)
    np.testing.assert_allclose(found.total, expected, atol=1e-12)
    np.testing.assert_allclose(sum(found.parts.values()), found.total, atol=1e-12)
    np.testing.assert_allclose(found.rewards, 2 * CORRECT + PLAN)
    assert found.is_dead.tolist() == [False, True, False]
    assert not found.total[1].any()


@pytest.mark.parametrize("aggregation", ["sum_then_normalise", "normalise_then_sum"])
def test_a_part_without_a_weight_is_reported_and_moves_nothing(aggregation: str) -> None:
    plan = PLAN.copy()
    plan[2] = 0.5  # all plans are alike, though one of the answers is wrong
    weights = {"plan": 1.0}
    alone = group_advantages({"plan": plan}, weights, aggregation=aggregation)
    found = group_advantages({"correct": CORRECT, "plan": plan}, weights, aggregation=aggregation)
    np.testing.assert_array_equal(found.total, alone.total)
    assert found.parts.keys() == {"plan"}
    assert found.is_dead.tolist() == [False, True, True]
    shown = summarize({"correct": CORRECT, "plan": plan}, weights)
    assert shown["reward/correct"] == pytest.approx(5 / 12)
    assert "reward/plan/correlation" in shown
    assert shown["reward/total"] == shown["reward/plan"]


def test_normalise_then_sum_keeps_a_small_spread_from_drowning() -> None:
    found = group_advantages(
        {"correct": CORRECT, "plan": PLAN}, WEIGHTS, aggregation="normalise_then_sum"
    )
    parts = []
    for weight, rewards in ((2.0, CORRECT), (1.0, PLAN)):
        spread = rewards.std(axis=1, ddof=1, keepdims=True)
        part = weight * (rewards - rewards.mean(axis=1, keepdims=True)) / (spread + EPSILON)
        part[rewards.max(axis=1) - rewards.min(axis=1) <= 1e-6] = 0.0
        parts.append(part)
    expected = sum(parts)
    expected = expected / (expected[[0, 2]].std(ddof=1) + EPSILON)
    np.testing.assert_allclose(found.total, expected, atol=1e-12)
    # Each part weighs as its weight says, whatever its spread is.
    narrow = {"correct": CORRECT, "plan": PLAN / 10}
    shares = []
    for aggregation in ("normalise_then_sum", "sum_then_normalise"):
        made = group_advantages(narrow, WEIGHTS, aggregation=aggregation).parts
        shares.append(float(np.abs(made["plan"][0]).sum() / np.abs(made["correct"][0]).sum()))
    assert shares[0] == pytest.approx(0.5, abs=0.1)
    assert shares[1] < 0.05


@pytest.mark.parametrize("aggregation", ["sum_then_normalise", "normalise_then_sum"])
@pytest.mark.parametrize("scaling", ["group", "batch", "none"])
def test_nearly_equal_rewards_are_dead_not_amplified(aggregation: str, scaling: str) -> None:
    third = np.array([[2 / 3, 2 / 3 + 1e-9, 2 / 3, 2 / 3 - 1e-9]])
    found = group_advantages(
        {"plan": third}, {"plan": 1.0}, aggregation=aggregation, scaling=scaling
    )
    assert found.is_dead.tolist() == [True]
    assert found.total.tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_an_unknown_part_neither_helps_nor_harms() -> None:
    plan = np.array([[0.2, 0.8, np.nan, 0.5]])
    correct = np.array([[1.0, 0.0, 1.0, 0.0]])
    found = group_advantages(
        {"correct": correct, "plan": plan}, {"correct": 2.0, "plan": 1.0}, scaling="none"
    )
    known = np.array([0.2, 0.8, 0.5])
    assert found.parts["plan"][0, 2] == 0.0
    np.testing.assert_allclose(found.parts["plan"][0, [0, 1, 3]], known - known.mean())
    assert found.parts["correct"][0, 2] == pytest.approx(1.0)


@pytest.mark.parametrize("aggregation", ["sum_then_normalise", "normalise_then_sum"])
def test_what_nobody_could_reward_is_left_out(aggregation: str) -> None:
    plan = np.array([[0.2, np.nan, 0.6, 0.4], [np.nan] * 4, [np.nan, np.nan, np.nan, 0.7]])
    found = group_advantages({"plan": plan}, {"plan": 1.0}, aggregation=aggregation)
    rest = group_advantages(
        {"plan": np.array([[0.2, 0.6, 0.4]])}, {"plan": 1.0}, aggregation=aggregation
    )
    np.testing.assert_allclose(found.total[0, [0, 2, 3]], rest.total[0])
    assert found.total[0, 1] == 0.0
    assert found.is_dead.tolist() == [False, True, True]
    assert not found.total[1:].any()


def test_rewards_that_cancel_still_say_something_part_by_part() -> None:
    """A sum that is constant is dead; normalised by part it is not."""
    first, second = np.array([[0.0, 1.0]]), np.array([[2.0, 0.0]])
    weights = {"correct": 2.0, "plan": 1.0}
    rewards = {"correct": first, "plan": second}
    assert group_advantages(rewards, weights).is_dead.tolist() == [True]
    later = group_advantages(rewards, weights, aggregation="normalise_then_sum")
    assert later.is_dead.tolist() == [False]
    assert later.total[0, 1] > 0


@pytest.mark.parametrize(
    ("credit", "expected"),
    [
        ("uniform", [3.5, 3.5, 3.5, 3.5]),
        ("segment", [3.5, 3.5, 2.5, 2.5]),
        ("segment_strict", [1.5, 1.5, 2.5, 2.5]),
    ],
)
def test_credit_by_segment(credit: str, expected: list[float]) -> None:
    is_plan = np.array([True, True, False, False])
    parts = {"plan": 1.0, "correct": 2.0, "format": 0.5}
    assert token_advantages(3.5, parts, is_plan, credit).tolist() == expected


@pytest.mark.parametrize("credit", ["uniform", "segment", "segment_strict"])
@pytest.mark.parametrize("is_plan", [[True, True], [False, False]])
def test_without_both_segments_all_tokens_share_the_total(credit: str, is_plan: list[bool]) -> None:
    found = token_advantages(3.0, {"plan": 1.0, "correct": 2.0}, np.array(is_plan), credit)
    assert found.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("total", [2.0, -2.0, 0.0])
@pytest.mark.parametrize("is_plan", [[True, False, True], [True] * 3, [False] * 3])
def test_plan_tokens_get_a_share_of_the_advantage_on_top(total: float, is_plan: list[bool]) -> None:
    found = token_advantages(total, {}, np.array(is_plan), "plan_amplified", amplification=0.25)
    assert found.tolist() == [total + 0.25 * abs(total) * flag for flag in is_plan]


def test_the_kl_to_go_is_the_sum_from_each_token_on() -> None:
    old, reference = np.random.default_rng(0).normal(size=(2, 6))
    expected = [sum(old[s] - reference[s] for s in range(t, 6)) for t in range(6)]
    np.testing.assert_allclose(kl_to_go(old, reference), expected, atol=1e-12)
