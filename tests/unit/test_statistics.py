"""Intervals, paired tests and corrections against scipy, published figures and enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from plan_tuning.statistics import (
    benjamini_hochberg,
    holm,
    mcnemar,
    mean_interval,
    paired_bootstrap,
    permutation_test,
    wilson,
)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 30), (7, 30), (30, 30), (1111, 1319)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_agrees_with_scipy(k: int, n: int, confidence: float) -> None:
    reference = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    ours = wilson(k, n, confidence=confidence)
    assert ours.value == k / n
    assert ours.low == pytest.approx(reference.low, abs=1e-12)
    assert ours.high == pytest.approx(reference.high, abs=1e-12)


def test_wilson_of_nothing_and_of_nonsense() -> None:
    assert math.isnan(wilson(0, 0).value)
    with pytest.raises(ValueError, match=r"outside 0\.\.n"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 2, confidence=1.0)


@pytest.mark.parametrize("values", [[0.5, 0.6, 0.7], [1.0, 1.0], [3.0, -1.0, 4.0, 1.5, 9.0]])
def test_mean_interval_agrees_with_scipy(values: list[float]) -> None:
    ours = mean_interval(values)
    if len(set(values)) == 1:
        assert (ours.low, ours.value, ours.high) == (1.0, 1.0, 1.0)
        return
    reference = stats.t.interval(
        0.95, len(values) - 1, loc=sum(values) / len(values), scale=stats.sem(values)
    )
    assert (ours.low, ours.high) == pytest.approx(reference)


def test_one_seed_has_no_interval() -> None:
    ours = mean_interval([0.5])
    assert ours.value == 0.5
    assert math.isnan(ours.low)
    assert math.isnan(ours.high)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (3, 10), (0, 8), (40, 60)])
def test_mcnemar_agrees_with_the_binomial_distribution(b: int, c: int) -> None:
    first = [True] * b + [False] * c + [True] * 7
    second = [False] * b + [True] * c + [True] * 7
    ours = mcnemar(first, second)
    assert (ours.only_first, ours.only_second) == (b, c)
    exact = stats.binomtest(min(b, c), b + c, 0.5).pvalue if b + c else 1.0
    assert ours.p_exact == pytest.approx(exact)
    point = stats.binom.pmf(min(b, c), b + c, 0.5)
    expected = 1.0 if b + c == 0 else (1 - point / 2 if b == c else exact - point)
    assert ours.p_mid == pytest.approx(expected)


def test_mcnemar_refuses_unpaired_outcomes() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        mcnemar([True], [])


def test_bootstrap_matches_the_enumeration_of_all_resamples() -> None:
    first, second = [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    means = sorted(sum(draw) / 4 for draw in itertools.product(differences, repeat=4))
    ours = paired_bootstrap(first, second, num_resamples=40_000, seed=3)
    assert ours.value == pytest.approx(0.25)
    assert ours.low == pytest.approx(means[int(0.025 * len(means))], abs=1e-9)
    assert ours.high == pytest.approx(means[int(0.975 * len(means))], abs=1e-9)


def test_bootstrap_is_repeatable_and_checks_its_input() -> None:
    first, second = [0.0, 1.0, 0.5], [1.0, 1.0, 0.0]
    assert paired_bootstrap(first, second, seed=1) == paired_bootstrap(first, second, seed=1)
    for arguments in (([1.0], []), ([], [])):
        with pytest.raises(ValueError, match=r"paired|no outcomes"):
            paired_bootstrap(*arguments)
    with pytest.raises(ValueError, match="num_resamples"):
        paired_bootstrap(first, second, num_resamples=0)


def test_permutation_test_enumerates_small_cases() -> None:
    first, second = [0, 0, 0, 1, 1], [1, 1, 1, 1, 0]
    # four pairs differ, the sum of differences is 2: |sum| >= 2 for 10 of the 16 sign patterns
    assert permutation_test(first, second) == pytest.approx(10 / 16)
    assert permutation_test([1, 0], [1, 0]) == 1.0
    many = permutation_test([0.0] * 40, [1.0] * 40, num_resamples=999)
    assert many == pytest.approx(1 / 1000)


P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@settings(deadline=None, derandomize=True)
@given(P_VALUES)
def test_benjamini_hochberg_agrees_with_scipy(p_values: list[float]) -> None:
    assert benjamini_hochberg(p_values) == pytest.approx(
        list(stats.false_discovery_control(p_values))
    )


@settings(deadline=None, derandomize=True)
@given(P_VALUES)
def test_holm_follows_its_definition(p_values: list[float]) -> None:
    ordered = sorted(p_values)
    expected = {
        p: min(1.0, max((len(p_values) - j) * q for j, q in enumerate(ordered) if q <= p))
        for p in p_values
    }
    assert holm(p_values) == pytest.approx([expected[p] for p in p_values])


def test_corrections_refuse_what_is_no_probability() -> None:
    for correct in (holm, benjamini_hochberg):
        with pytest.raises(ValueError, match=r"outside 0\.\.1"):
            correct([0.5, 1.5])
