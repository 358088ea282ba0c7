"""Paired outcomes -> p-values, and their correction for the number of comparisons.

Plain functions of plain numbers. Every test here has a reference in the tests: scipy, a published
table, or the enumeration of all outcomes of a small case.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

_MAX_ENUMERATED = 16  # pairs that differ: 2^16 assignments of signs
_MAX_ORDERED = 8  # pairs whose 40,320 orders are all tried
_ROUNDING = 1e-9  # totals this close are equal: they differ by the order of their sums


@dataclass(frozen=True, slots=True)
class McNemar:
    """Paired test of two classifiers on the same problems.

    ``only_first`` and ``only_second`` count the problems that just one of the two got right.
    """

    only_first: int
    only_second: int
    p_exact: float
    p_mid: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Compare two systems on the same problems (McNemar 1947; mid-p: Fagerland et al. 2013).

    Both p-values are two-sided. The exact one is conservative; the mid-p one keeps its level in
    practice and is the one to report for small numbers of disagreements.

    Raises:
        ValueError: the two sequences differ in length.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} outcomes cannot be paired")
    only_first = sum(1 for a, b in zip(first, second, strict=True) if a and not b)
    only_second = sum(1 for a, b in zip(first, second, strict=True) if b and not a)
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return McNemar(0, 0, 1.0, 1.0)
    tail, point = _binomial_cdf(k, n), _binomial_pmf(k, n)
    mid = 1 - point / 2 if only_first == only_second else 2 * tail - point
    return McNemar(only_first, only_second, min(1.0, 2 * tail), min(1.0, mid))


def _binomial_pmf(k: int, n: int) -> float:
    return math.exp(
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    )


def _binomial_cdf(k: int, n: int) -> float:
    return math.fsum(_binomial_pmf(i, n) for i in range(k + 1))


def permutation_test(
    first: Sequence[float], second: Sequence[float], *, num_resamples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p-value of the mean paired difference under random swaps of each pair.

    Up to 16 pairs that differ are enumerated exactly; beyond that signs are drawn, and the observed
    assignment counts as one of the draws, so that p is never 0.

    Raises:
        ValueError: lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} outcomes cannot be paired")
    import numpy as np

    differences = np.array([b - a for a, b in zip(first, second, strict=True) if a != b])
    n = len(differences)
    if n == 0:
        return 1.0
    observed = abs(float(differences.sum())) - _ROUNDING
    if n <= _MAX_ENUMERATED:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float(np.mean(np.abs(signs @ differences) >= observed))
    # Equal sizes are interchangeable: drawing how many of them turn positive is the same.
    sizes, counts = np.unique(np.abs(differences).round(12), return_counts=True)
    positive = np.random.default_rng(seed).binomial(counts, 0.5, size=(num_resamples, len(counts)))
    totals = np.abs((2 * positive - counts) @ sizes)
    return float((1 + np.sum(totals >= observed)) / (num_resamples + 1))


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Spearman's rho of two lists, with its two-sided p; nan where one of them is constant."""

    rho: float
    p: float
    n: int


def spearman(
    first: Sequence[float], second: Sequence[float], *, num_resamples: int = 10_000, seed: int = 0
) -> RankCorrelation:
    """Correlate ranks (Spearman 1904); equal values share the mean of their ranks.

    ``p`` is that of a permutation test: up to eight pairs all orders are tried, beyond that orders
    are drawn, and the observed one counts as one of the draws.

    Raises:
        ValueError: lengths differ.

    >>> spearman([1, 2, 3], [10, 20, 15]).rho
    0.5
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} figures cannot be paired")
    import numpy as np
    from scipy.stats import rankdata

    n = len(first)
    one, two = (np.asarray(rankdata(values)) - (n + 1) / 2 for values in (first, second))
    scale = math.sqrt(float(one @ one) * float(two @ two))
    if n < 2 or scale == 0:
        return RankCorrelation(math.nan, math.nan, n)
    observed = float(one @ two)
    if n <= _MAX_ORDERED:
        orders = np.array(list(itertools.permutations(range(n))))
    else:
        generator = np.random.default_rng(seed)
        orders = np.array([generator.permutation(n) for _ in range(num_resamples)])
    is_extreme = np.abs(two[orders] @ one) >= abs(observed) - _ROUNDING
    drawn = 0 if n <= _MAX_ORDERED else 1
    p = (drawn + float(is_extreme.sum())) / (drawn + len(orders))
    return RankCorrelation(round(observed / scale, 12), p, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the family-wise error rate (Holm 1979), in the order given.

    Raises:
        ValueError: a p-value is outside 0..1.

    >>> [round(p, 6) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    _check_p(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def holm_levels(p_values: Sequence[float], *, level: float = 0.05) -> list[float]:
    """The level at which Holm's procedure tests each p-value, in the order given.

    The smallest is tested at level / m, the next at level / (m - 1), and so on; after the first
    that is not rejected all others are tested at its level, for the procedure has stopped. An
    interval of confidence 1 - level excludes 0 where the p-value is rejected.

    Raises:
        ValueError: a p-value is outside 0..1.

    >>> [round(level, 4) for level in holm_levels([0.01, 0.04, 0.03])]
    [0.0167, 0.025, 0.025]
    """
    _check_p(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    levels = [0.0] * len(p_values)
    stopped_at: float | None = None
    for rank, i in enumerate(order):
        levels[i] = stopped_at or level / (len(order) - rank)
        if stopped_at is None and p_values[i] >= levels[i]:
            stopped_at = levels[i]
    return levels


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the false discovery rate (Benjamini & Hochberg 1995), in the order given.

    Raises:
        ValueError: a p-value is outside 0..1.

    >>> [round(p, 6) for p in benjamini_hochberg([0.01, 0.04, 0.03])]
    [0.03, 0.04, 0.04]
    """
    _check_p(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i], reverse=True)
    adjusted = [0.0] * len(p_values)
    lowest = 1.0
    for rank, i in enumerate(order):
        lowest = min(lowest, p_values[i] * len(order) / (len(order) - rank))
        adjusted[i] = lowest
    return adjusted


def _check_p(p_values: Sequence[float]) -> None:
    for p in p_values:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p={p} is outside 0..1")
