"""A figure that should rank what is right above what is wrong -> how well it does, and how surely.

Rows come in clusters, the candidates of one problem, which are no independent draws; every
interval here takes the clusters as the sample. Plain functions of plain numbers, checked against
pair by pair counts, DeLong's variance, scipy and simulated clusters.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plan_tuning.statistics.intervals import Interval, largest_share, normal_quantile

_NOTHING = Interval(math.nan, math.nan, math.nan, 0)

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class _Placements:
    """Where each right row stands among the wrong ones, and the reverse, summed by cluster.

    ``of_right`` and ``of_wrong`` are centred: their sums are 0.
    """

    auc: float
    of_right: Array  # (I,)
    of_wrong: Array  # (I,)
    num_right: int
    num_wrong: int
    with_right: int  # clusters that hold a right row
    with_wrong: int


def auc(
    figures: Sequence[float],
    labels: Sequence[bool],
    clusters: Sequence[Hashable],
    *,
    confidence: float = 0.95,
) -> Interval:
    """Estimate the chance that a right row gets a higher figure than a wrong one; ties are a half.

    The variance is Obuchowski's (1997) for clustered data, which is DeLong's (1988) where every
    cluster has one row; the interval is taken on the logit, so that it stays inside 0..1. A perfect
    separation has no variance: its bound is Clopper and Pearson's, of as many pairs as can be
    formed without using a cluster twice on a side.

    Args:
        figures: one a row.
        labels: whether the row is right.
        clusters: the problem of the row.
        confidence: coverage, in (0, 1).

    Returns:
        nan where there is no right row or no wrong one; ``n`` counts the rows.

    Raises:
        ValueError: the lengths differ, a figure is nan, or the confidence is outside (0, 1).

    >>> auc([0.9, 0.8, 0.3, 0.8], [True, True, False, False], [1, 2, 3, 4]).value
    0.875
    """
    z = normal_quantile(confidence)
    found = _placements(figures, labels, clusters)
    if found is None:
        return _NOTHING
    value, n = found.auc, len(figures)
    if value in (0.0, 1.0):
        pairs = min(found.with_right, found.with_wrong)
        miss = largest_share(0, pairs, 0.5 + confidence / 2)
        low, high = (1 - miss, 1.0) if value else (0.0, miss)
        return Interval(value, low, high, n)
    variance = _variance(found, found.of_right, found.of_wrong)
    if math.isnan(variance):
        return Interval(value, math.nan, math.nan, n)
    half = z * math.sqrt(variance) / (value * (1 - value))
    logit = math.log(value / (1 - value))
    return Interval(value, _expit(logit - half), _expit(logit + half), n)


def auc_difference(
    first: Sequence[float],
    second: Sequence[float],
    labels: Sequence[bool],
    clusters: Sequence[Hashable],
    *,
    confidence: float = 0.95,
) -> Interval:
    """Estimate ``second``'s AUC minus ``first``'s on the same rows.

    Args:
        first: one figure a row.
        second: the other figures of the same rows.
        labels: whether the row is right.
        clusters: the problem of the row.
        confidence: coverage, in (0, 1).

    Returns:
        nan where there is no right row or no wrong one. The bounds alone are nan where neither AUC
        varies, as two perfect ones do not: such rows say nothing of how far others would differ.

    Raises:
        ValueError: the lengths differ, a figure is nan, or the confidence is outside (0, 1).
    """
    z = normal_quantile(confidence)
    one, two = (_placements(figures, labels, clusters) for figures in (first, second))
    if one is None or two is None:
        return _NOTHING
    variance = _variance(one, two.of_right - one.of_right, two.of_wrong - one.of_wrong)
    value = two.auc - one.auc
    own = [_variance(found, found.of_right, found.of_wrong) for found in (one, two)]
    if math.isnan(variance) or not any(own):
        return Interval(value, math.nan, math.nan, len(first))
    half = z * math.sqrt(variance)
    return Interval(value, max(-1.0, value - half), min(1.0, value + half), len(first))


def kendall_within(
    figures: Sequence[float],
    labels: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    confidence: float = 0.95,
) -> Interval:
    """Correlate ranks inside the clusters: Kendall's tau-b over pairs of rows of one cluster.

    Concordant less discordant pairs, divided by the geometric mean of the pairs that differ in
    their figures and of those that differ in their labels, each summed over clusters (with one
    cluster this is Kendall's tau-b of 1945). Clusters of one row count nothing. The interval is
    that of a jackknife over clusters.

    Args:
        figures: one a row.
        labels: one a row; whatever can be ordered, also right (1) and wrong (0).
        clusters: the problem of the row.
        confidence: coverage, in (0, 1).

    Returns:
        nan where no pair differs in its labels; 0 where some do and no pair differs in its figures;
        ``n`` counts the clusters in which labels differ.

    Raises:
        ValueError: the lengths differ, a figure is nan, or the confidence is outside (0, 1).

    >>> kendall_within([3, 1, 2], [1, 0, 0], ["a", "a", "a"]).value.__round__(4)
    0.8165
    """
    normal_quantile(confidence)
    x, y, codes = _checked(figures, labels, clusters)
    parts = _pairs(x, y, codes)  # (I, 3)
    labelled = float(parts[:, 2].sum())
    n = int((parts[:, 2] > 0).sum())
    if labelled == 0:
        return _NOTHING
    value = _tau(parts.sum(axis=0))
    counted = parts[(parts != 0).any(axis=1)]  # a cluster without pairs changes nothing
    left = [_tau(parts.sum(axis=0) - part) for part in counted]
    if len(counted) < 2 or any(math.isnan(one) for one in left):
        return Interval(value, math.nan, math.nan, n)
    from scipy.special import stdtrit

    count = len(left)
    mean = math.fsum(left) / count
    error = math.sqrt((count - 1) / count * math.fsum((one - mean) ** 2 for one in left))
    half = float(stdtrit(count - 1, 0.5 + confidence / 2)) * error
    return Interval(value, max(-1.0, value - half), min(1.0, value + half), n)


@dataclass(frozen=True, slots=True)
class Spread:
    """How far figures lie apart, inside their clusters and altogether.

    Attributes:
        within: standard deviation inside clusters, pooled; nan where no cluster has two rows.
        total: standard deviation of all rows.
        dead: share of the clusters of two rows or more in which all figures are equal.
        n: clusters of two rows or more.
    """

    within: float
    total: float
    dead: float
    n: int


def spread(figures: Sequence[float], clusters: Sequence[Hashable]) -> Spread:
    """Say how far figures lie apart inside their clusters.

    Raises:
        ValueError: the lengths differ, or a figure is nan.

    >>> spread([0.0, 1.0, 0.5, 0.5], ["a", "a", "b", "b"]).dead
    0.5
    """
    x, _, codes = _checked(figures, [0.0] * len(figures), clusters)
    groups = [x[rows] for rows in _rows_of(codes)]
    several = [group for group in groups if len(group) > 1]
    total = float(x.std(ddof=1)) if len(x) > 1 else math.nan
    if not several:
        return Spread(math.nan, total, math.nan, 0)
    squares = math.fsum(float(((group - group.mean()) ** 2).sum()) for group in several)
    freedom = sum(len(group) - 1 for group in several)
    dead = sum(float(np.ptp(group)) == 0.0 for group in several) / len(several)
    return Spread(math.sqrt(squares / freedom), total, dead, len(several))


def _checked(
    figures: Sequence[float], labels: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[Array, Array, np.ndarray[Any, np.dtype[np.int64]]]:
    """Turn rows into arrays; clusters become whole numbers in the order of their first row."""
    if not len(figures) == len(labels) == len(clusters):
        raise ValueError(
            f"{len(figures)} figures, {len(labels)} labels and {len(clusters)} clusters: one a row"
        )
    x, y = np.asarray(figures, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if np.isnan(x).any():
        raise ValueError("a figure is nan: leave the rows out of which nothing is known")
    numbers: dict[Hashable, int] = {}
    codes = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    return x, y, np.asarray(codes, dtype=np.int64)


def _rows_of(codes: np.ndarray[Any, np.dtype[np.int64]]) -> list[Any]:
    """Row numbers of each cluster."""
    if not len(codes):
        return []
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))[:-1]
    return np.split(order, ends)


def _pairs(x: Array, y: Array, codes: np.ndarray[Any, np.dtype[np.int64]]) -> Array:
    """Count pairs of rows of one cluster, (I, 3).

    Concordant less discordant ones, those that differ in x, those that differ in y. Clusters of
    equal size are counted together.
    """
    groups = _rows_of(codes)
    sizes = np.array([len(rows) for rows in groups], dtype=np.int64)
    found = np.zeros((len(groups), 3))
    for size in np.unique(sizes[sizes > 1]):
        places = np.flatnonzero(sizes == size)
        rows = np.stack([groups[place] for place in places])  # (C, k)
        dx, dy = (np.sign(v[rows][:, :, None] - v[rows][:, None, :]) for v in (x, y))  # (C, k, k)
        for column, signs in enumerate((dx * dy, np.abs(dx), np.abs(dy))):
            found[places, column] = signs.sum(axis=(1, 2)) / 2
    return found


def _tau(parts: Sequence[float] | Array) -> float:
    agreeing, ranked, labelled = (float(part) for part in parts)
    if labelled <= 0:
        return math.nan
    return agreeing / math.sqrt(ranked * labelled) if ranked > 0 else 0.0


def _placements(
    figures: Sequence[float], labels: Sequence[bool], clusters: Sequence[Hashable]
) -> _Placements | None:
    x, y, codes = _checked(figures, [float(label) for label in labels], clusters)
    is_right = y > 0
    right, wrong = x[is_right], x[~is_right]
    if not len(right) or not len(wrong):
        return None
    above = _shares_below(wrong, right)  # of the wrong ones, below each right row
    below = 1.0 - _shares_below(right, wrong)
    value = float(above.mean())
    size = int(codes.max()) + 1
    of_right: Array = np.zeros(size)
    of_wrong: Array = np.zeros(size)
    np.add.at(of_right, codes[is_right], above - value)
    np.add.at(of_wrong, codes[~is_right], below - value)
    return _Placements(
        value, of_right, of_wrong, len(right), len(wrong),
        len(np.unique(codes[is_right])), len(np.unique(codes[~is_right])),
    )  # fmt: skip


def _shares_below(sample: Array, values: Array) -> Array:
    """Share of a sample that lies below each value; what equals it counts as a half."""
    ordered = np.sort(sample)
    lower = np.searchsorted(ordered, values, side="left")
    upper = np.searchsorted(ordered, values, side="right")
    return np.asarray((lower + upper) / (2 * len(sample)), dtype=np.float64)


def _variance(found: _Placements, of_right: Array, of_wrong: Array) -> float:
    """Obuchowski's variance of the sum of both parts; nan where a side has but one cluster."""
    if found.with_right < 2 or found.with_wrong < 2:
        return math.nan
    rights, wrongs, count = found.num_right, found.num_wrong, len(of_right)
    s10 = found.with_right / (found.with_right - 1) * float(of_right @ of_right) / rights**2
    s01 = found.with_wrong / (found.with_wrong - 1) * float(of_wrong @ of_wrong) / wrongs**2
    s11 = count / (count - 1) * float(of_right @ of_wrong) / (rights * wrongs)
    return max(0.0, s10 + s01 + 2 * s11)


def _expit(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else 1 - 1 / (1 + math.exp(logit))
