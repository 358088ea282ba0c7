"""Intervals, paired tests and corrections against scipy, published figures and enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from plan_tuning.statistics.intervals import crossed, mean_interval, paired_bootstrap, wilson
from plan_tuning.statistics.tests import benjamini_hochberg, holm, mcnemar, permutation_test


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


def test_permutation_test_draws_like_it_enumerates() -> None:
    first = [0.0] * 18
    second = [1 / 3, 2 / 3, 1.0, -1 / 3, 1 / 3, 1.0] * 3
    signs = itertools.product((-1, 1), repeat=18)
    total = sum(second)
    exact = sum(abs(sum(s * d for s, d in zip(line, second, strict=True))) >= total - 1e-9
                for line in signs) / 2**18  # fmt: skip
    assert permutation_test(first, second, num_resamples=40_000) == pytest.approx(exact, abs=0.003)


def test_crossed_effects_add_the_variances_of_problems_and_seeds() -> None:
    problems, seeds = [0.5, -0.5, 0.25, -0.25, 0.0], [0.3, 0.1, 0.2]
    table = [[seed + problem for problem in problems] for seed in seeds]  # nothing left over
    ours = crossed(table)
    variance = stats.tvar(problems) / 5 + stats.tvar(seeds) / 3
    freedom = variance**2 / ((stats.tvar(problems) / 5) ** 2 / 4 + (stats.tvar(seeds) / 3) ** 2 / 2)
    assert ours.interval.value == pytest.approx(0.2)
    assert ours.p == pytest.approx(2 * stats.t.sf(0.2 / variance**0.5, freedom))
    assert ours.interval.high == pytest.approx(0.2 + stats.t.ppf(0.975, freedom) * variance**0.5)


def test_crossed_effects_are_never_surer_than_the_seeds_alone() -> None:
    seeds = [0.1, 0.3]
    ours = crossed([[seed] * 9 for seed in seeds]).interval
    alone = mean_interval(seeds)
    assert (ours.low, ours.high) == pytest.approx((alone.low, alone.high))


def test_crossed_effects_leave_out_what_is_missing_and_need_two_of_both() -> None:
    nan = math.nan
    full = crossed([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    assert crossed([[1.0, nan, 0.0, 0.0], [0.0, nan, 1.0, 1.0], [nan] * 4]) == full
    assert crossed([[1.0, nan, 0.0], [0.0, 1.0, 1.0]]).interval.value == pytest.approx(7 / 12)
    for short in ([[1.0, 0.0]], [[1.0], [0.0]], [[nan], [nan]], []):
        assert math.isnan(crossed(short).p)
    assert crossed([[1.0, 1.0], [1.0, 1.0]]).p == 0.0
    with pytest.raises(ValueError, match="same problems"):
        crossed([[1.0], [1.0, 0.0]])


def _decided(generator: np.random.Generator, *, seeds: int, sd: float, effect: float = 0.0) -> bool:
    """Whether two systems of 300 problems are told apart; ``sd``: between seeds, in points."""
    hardness = generator.normal(size=300)
    outcomes = []
    for accuracy in (0.6, 0.6 + effect / 100):
        reached = accuracy + generator.normal(0, sd / 100, size=(seeds, 1))
        noise = generator.normal(0, 0.5, size=(seeds, 300))
        outcomes.append(hardness + noise < 1.118 * stats.norm.ppf(reached))
    found = crossed((outcomes[1].astype(float) - outcomes[0]).tolist())
    return found.p < 0.05 and not found.interval.low <= 0 <= found.interval.high


@pytest.mark.parametrize(("seeds", "sd"), [(2, 4.0), (3, 4.0), (5, 4.0), (3, 0.0)])
def test_without_an_effect_few_differences_are_decided(seeds: int, sd: float) -> None:
    generator = np.random.default_rng(seeds)
    false = sum(_decided(generator, seeds=seeds, sd=sd) for _ in range(400))
    assert false <= 30  # 5 % of 400 are 20, and 99 of 100 such draws stay below 31


def test_a_real_effect_is_decided_where_seeds_allow_it() -> None:
    generator = np.random.default_rng(0)
    found = sum(_decided(generator, seeds=5, sd=2.0, effect=10.0) for _ in range(50))
    assert found >= 45
