"""What filters do to plans, against counts by hand and sets of equal size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plan_tuning.config.filter import FilterConfig
from plan_tuning.distillation.filter_effects import (
    BLOCK,
    FilterEffects,
    effect_rows,
    filter_effects,
    usable_filters,
)
from plan_tuning.records import Trajectory, Verdict
from plan_tuning.text.plans import distinct_n, self_bleu, strategy, strategy_entropy

PROBLEM = "Ann has 16 eggs and sells 7."
LONG = "1. Find the eggs that are left.\n2. Find the money.\n3. Add both days."
SHORT = "1. Find the eggs.\n2. Find the eggs."


def row(problem: int, candidate: int, plan: str, score: int, *, right: bool) -> Trajectory:
    return Trajectory(
        f"p{problem:03}", candidate, PROBLEM, "9", "", plan, plan_score=score,
        score_status="parsed", execution="run", execution_status="ok",
        verdict=Verdict.CORRECT if right else Verdict.WRONG, style="gsm8k",
    )  # fmt: skip


def effects(rows: list[Trajectory]) -> dict[str, FilterEffects]:
    return {one.name: one for one in filter_effects(rows)}


@pytest.fixture(scope="module")
def corpus() -> list[Trajectory]:
    """45 problems: the first plan is short and scores low, the second one is long and good."""
    return [
        made
        for i in range(45)
        for made in (
            row(i, 0, SHORT, 10, right=True),
            row(i, 1, f"{LONG}\n4. Report {i}.", 90, right=i % 3 == 0),
        )
    ]


def test_a_filter_is_compared_with_the_unfiltered_plans_of_the_same_problems(
    corpus: list[Trajectory],
) -> None:
    found = effects(corpus)
    steps = found["plan_only"].effects["steps"]
    assert (steps.before, steps.after, steps.difference.value) == (2, 4, 2)
    assert (found["plan_only"].problems, found["two_stage"].problems) == (45, 15)
    two_stage = found["two_stage"].effects["steps"]
    assert (two_stage.before, two_stage.difference.n) == (2, 15)
    # repeating a step word for word is ROSCOE's worst: 0; the long plan's steps differ
    repetition = found["plan_only"].effects["repetition_step"]
    assert repetition.before == pytest.approx(0.0, abs=1e-6)
    assert repetition.difference.low > 0.1
    none = found["none"].effects
    assert {name for name, one in none.items() if one.difference.value != 0} <= {
        "candidates_distinct_2", "candidates_self_bleu"
    }  # fmt: skip
    assert all(one.before == one.after for name, one in none.items() if "candidates" not in name)


def test_the_choice_of_problems_has_an_interval_too() -> None:
    """One plan a problem: nothing changes but which problems are left; against a bootstrap."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(2, 9, size=120)
    kept = rng.random(120) < lengths / 12
    rows = [
        row(
            i,
            0,
            "\n".join(f"{k}. Do {k}." for k in range(1, size + 1)),
            90 if good else 10,
            right=True,
        )
        for i, (size, good) in enumerate(zip(lengths, kept, strict=True))
    ]
    effect = effects(rows)["plan_only"].effects["steps"]
    assert (effect.difference.value, effect.difference.high) == (0, 0)
    assert effect.overall is not None
    assert effect.overall.value == pytest.approx(lengths[kept].mean() - lengths.mean())
    draws = rng.integers(0, 120, size=(4000, 120))
    drawn = (lengths[draws] * kept[draws]).sum(1) / kept[draws].sum(1) - lengths[draws].mean(1)
    width = 2 * 1.98 * drawn.std()
    assert effect.overall.high - effect.overall.low == pytest.approx(width, rel=0.05)


def test_sets_are_compared_in_blocks_of_equal_size(corpus: list[Trajectory]) -> None:
    effect = effects(corpus)["plan_only"].effects["distinct_1"]
    assert effect.difference.n == 45 // BLOCK
    first = distinct_n([SHORT] * BLOCK, 1)
    assert effect.before == pytest.approx(first)
    second = distinct_n([f"{LONG}\n4. Report {i}." for i in range(BLOCK)], 1)
    assert effect.difference.value == pytest.approx(second - first, abs=1e-3)
    few = effects(corpus[: 2 * BLOCK - 2])["plan_only"].effects["distinct_1"]
    assert math.isnan(few.before)


def test_candidates_are_compared_with_as_many_of_all() -> None:
    """Of three candidates two pass, which are alike: of all pairs one of three is alike."""
    alike, other = "1. Find the eggs.", "1. Count money twice."
    rows = [
        made
        for i in range(3)
        for made in (
            row(i, 0, alike, 90, right=True),
            row(i, 1, alike, 90, right=True),
            row(i, 2, other, 10, right=True),
        )
    ]
    effect = effects(rows)["plan_only"].effects["candidates_self_bleu"]
    expected = (self_bleu([alike, alike]) + 2 * self_bleu([alike, other])) / 3
    assert effect.after == pytest.approx(self_bleu([alike, alike])) == pytest.approx(1.0)
    assert effect.difference.value == pytest.approx(1.0 - expected)
    assert effect.before == pytest.approx(self_bleu([alike, alike, other]))


def test_filters_are_those_that_the_corpus_can_answer() -> None:
    plain = [
        Trajectory("p", 0, PROBLEM, "9", "", SHORT, score_status="unscored",
                   execution_status="absent", style="gsm8k")
    ]  # fmt: skip
    assert [config.name for config in usable_filters(plain)] == ["none"]
    head, rows = effect_rows(filter_effects(plain))
    assert head == ["figure", "unfiltered"]
    assert ["steps", "2.000"] in rows


def test_rows_are_laid_out_a_figure_a_line(corpus: list[Trajectory]) -> None:
    head, rows = effect_rows(filter_effects(corpus))
    assert head[:3] == ["figure", "unfiltered", "plan_only (45 kept)"]
    steps = next(line for line in rows if line[0] == "steps")
    assert steps[1:3] == ["2.000", "4.000, Δ +2.000 [+2.000, +2.000] *"]
    own = FilterConfig(name="mine", plan=True, answer=False, plan_score_threshold=50)
    assert effect_rows(filter_effects(corpus, [own]))[0][2] == "mine (45 kept)"


def test_strategies_are_first_words_and_their_entropy_that_of_a_count() -> None:
    problem = "Ann has 16 eggs."
    assert strategy("1. Find Ann's eggs.\n2. Eggs are sold.\n3. add", problem) == (
        "find",
        "·",
        "add",
    )
    assert strategy("Bob's Eve's ;", "2-more-than Eve is Bob's .") == ("·", "·")
    plans = [("1. Add.\n2. Halve.", "")] * 3 + [("1. Halve.\n2. Add.", "")]
    assert strategy_entropy(plans) == pytest.approx(
        -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    )
    assert strategy_entropy(plans[:3]) == 0
    assert strategy_entropy([]) == 0
