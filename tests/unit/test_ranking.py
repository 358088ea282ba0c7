"""Ranking right above wrong: pair by pair counts, DeLong, scipy, and simulated clusters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from plan_tuning.statistics.intervals import largest_share
from plan_tuning.statistics.ranking import auc, auc_difference, kendall_within, spread

FIGURES = [0.9, 0.8, 0.8, 0.6, 0.5, 0.5, 0.3, 0.2]
LABELS = [True, True, False, True, False, True, False, False]


def test_auc_counts_pairs_and_halves_ties() -> None:
    rights = [f for f, label in zip(FIGURES, LABELS, strict=True) if label]
    wrongs = [f for f, label in zip(FIGURES, LABELS, strict=True) if not label]
    wins = sum((r > w) + (r == w) / 2 for r in rights for w in wrongs)
    found = auc(FIGURES, LABELS, range(8))
    assert found.value == pytest.approx(wins / 16)
    assert found.n == 8
    assert auc([-f for f in FIGURES], LABELS, range(8)).value == pytest.approx(1 - wins / 16)


def delong_variance(figures: list[float], labels: list[bool]) -> float:
    """DeLong et al. 1988, from the placements as the paper writes them."""
    x = np.array([f for f, label in zip(figures, labels, strict=True) if label])
    y = np.array([f for f, label in zip(figures, labels, strict=True) if not label])
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    return float(wins.mean(1).var(ddof=1) / len(x) + wins.mean(0).var(ddof=1) / len(y))


def test_the_interval_is_delongs_where_every_cluster_has_one_row() -> None:
    found = auc(FIGURES, LABELS, range(8))
    half = 1.959963984540054 * math.sqrt(delong_variance(FIGURES, LABELS))
    logit = math.log(found.value / (1 - found.value))
    width = half / (found.value * (1 - found.value))
    low, high = (1 / (1 + math.exp(-(logit + sign * width))) for sign in (-1, 1))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_rows_that_are_repeated_within_their_cluster_bring_no_certainty() -> None:
    """Every row thrice in its own cluster: clusters with one kind of row, as many as before."""
    once = auc(FIGURES, LABELS, range(8))
    thrice = auc(FIGURES * 3, LABELS * 3, [*range(8)] * 3)
    blind = auc(FIGURES * 3, LABELS * 3, range(24))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert blind.high - blind.low < 0.7 * (once.high - once.low)


def test_the_difference_is_delongs_for_two_correlated_figures() -> None:
    other = [0.7, 0.9, 0.6, 0.8, 0.5, 0.1, 0.4, 0.2]
    x, y = (np.array([[f[i] for f in (FIGURES, other)] for i in range(8) if LABELS[i] == kind])
            for kind in (True, False))  # fmt: skip
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)  # (right, wrong, figure)
    change = wins[..., 1] - wins[..., 0]
    variance = change.mean(1).var(ddof=1) / 4 + change.mean(0).var(ddof=1) / 4
    found = auc_difference(FIGURES, other, LABELS, range(8))
    assert found.value == pytest.approx(change.mean())
    assert found.high - found.value == pytest.approx(1.959963984540054 * math.sqrt(variance))
    same = auc_difference(FIGURES, FIGURES, LABELS, range(8))
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_two_figures_that_never_err_have_a_difference_without_bounds() -> None:
    """No variance is no certainty: four rows without a mistake say little of a fifth."""
    labels = [True, False, True, False]
    perfect, turned = [1.0, 0.0, 0.9, 0.2], [0.0, 1.0, 0.0, 1.0]
    for first, value in ((perfect, 0.0), (turned, 1.0), ([0.5] * 4, 0.5)):
        found = auc_difference(first, perfect, labels, ["a", "a", "b", "b"])
        assert found.value == value
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    erring = auc_difference([1.0, 0.0, 0.1, 0.2], perfect, labels, range(4))
    assert not math.isnan(erring.low)


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, 0.0)])
def test_a_perfect_separation_has_the_bound_of_as_many_pairs(sign: int, expected: float) -> None:
    labels = [True] * 5 + [False] * 8
    found = auc([sign * float(label) for label in labels], labels, range(13))
    miss = largest_share(0, 5, 0.975)
    assert found.value == expected
    assert (found.low, found.high) == pytest.approx((1 - miss, 1) if expected else (0, miss))
    # clusters that hold several right rows are one chance each
    few = auc([float(label) for label in labels], labels, [0, 0, 0, 1, 1, *range(2, 10)])
    assert few.low == pytest.approx(1 - largest_share(0, 2, 0.975))


def test_what_cannot_be_ranked_is_nan_and_what_cannot_be_meant_is_refused() -> None:
    assert math.isnan(auc([1.0, 2.0], [True, True], [1, 2]).value)
    assert math.isnan(auc([], [], []).value)
    one = auc([1.0, 0.0, 1.0, 0.5], [True, False, True, False], [1, 1, 1, 1])
    assert one.value == 1.0
    assert math.isnan(kendall_within([1.0, 2.0], [1, 1], ["a", "a"]).value)
    with pytest.raises(ValueError, match="a figure is nan"):
        auc([math.nan, 1.0], [True, False], [1, 2])
    with pytest.raises(ValueError, match="one a row"):
        auc([1.0], [True, False], [1, 2])


def clustered(rng: np.random.Generator, count: int) -> tuple[list[float], list[bool], list[int]]:
    """Three rows a problem; figures share the problem's own level, so rows are no free draws."""
    problems = np.repeat(np.arange(count), 3)
    labels = rng.random(3 * count) < np.repeat(rng.beta(2, 2, count), 3)
    figures = labels * 0.8 + np.repeat(rng.normal(size=count), 3) + rng.normal(size=3 * count)
    return figures.tolist(), labels.tolist(), problems.tolist()


def test_intervals_cover_what_many_problems_show() -> None:
    """95 % intervals of simulated clusters; the truth is that of a sample 125 times as large.

    Figures say .8 for a right row, with a variance of 1 between problems and of 1 inside them.
    """
    rng = np.random.default_rng(1)
    large = clustered(rng, 5_000)
    truth = auc(*large).value
    assert truth == pytest.approx(0.5 * (1 + math.erf(0.4 / math.sqrt(2))), abs=0.02)
    ordered = kendall_within(*large).value
    samples = [clustered(rng, 40) for _ in range(150)]
    covered = [one.low <= truth <= one.high for one in (auc(*sample) for sample in samples)]
    assert 0.90 <= np.mean(covered) <= 0.99
    found = [kendall_within(*sample) for sample in samples]
    assert 0.90 <= np.mean([one.low <= ordered <= one.high for one in found]) <= 0.99


def test_kendall_is_scipys_tau_b_in_one_cluster() -> None:
    labels = [3, 1, 2, 2, 1, 3, 1, 2]
    found = kendall_within(FIGURES, labels, ["a"] * 8)
    assert found.value == pytest.approx(kendalltau(FIGURES, labels).statistic)
    assert math.isnan(found.low)  # one problem is no sample


def test_kendall_compares_no_rows_of_different_problems() -> None:
    # inside both problems the order is right; between them everything is upside down
    figures, labels = [0.2, 0.1, 0.9, 0.8], [True, False, False, False]
    found = kendall_within(figures, labels, ["a", "a", "b", "b"])
    assert found.value == pytest.approx(1 / math.sqrt(2))  # the pair of b is ranked, not labelled
    assert auc(figures, labels, ["a", "a", "b", "b"]).value == pytest.approx(1 / 3)
    assert kendall_within([1.0, 1.0], [True, False], ["a", "a"]).value == 0


def test_kendalls_interval_is_the_jackknifes() -> None:
    figures = [0.9, 0.1, 0.4, 0.6, 0.7, 0.2]
    labels, problems = [True, False] * 3, [0, 0, 1, 1, 2, 2]
    # pairs: concordant, discordant, concordant; tau of all is 1/3, without each one 0, 1, 0
    found = kendall_within(figures, labels, problems)
    assert found.value == pytest.approx(1 / 3)
    error = math.sqrt(2 / 3 * (2 * (1 / 3) ** 2 + (2 / 3) ** 2))
    assert found.high == pytest.approx(min(1.0, 1 / 3 + 4.302652729911275 * error))
    assert found.low == pytest.approx(max(-1.0, 1 / 3 - 4.302652729911275 * error))
    assert found.n == 3


def test_spread_is_that_of_groups() -> None:
    found = spread([1.0, 3.0, 5.0, 5.0, 9.0], ["a", "a", "b", "b", "c"])
    assert found.within == pytest.approx(1.0)  # squares 2 + 0 over one freedom each
    assert found.dead == 0.5
    assert found.n == 2
    assert found.total == pytest.approx(np.std([1, 3, 5, 5, 9], ddof=1))
    assert math.isnan(spread([1.0], ["a"]).within)
