"""Figures -> how exactly they are known: intervals of shares, means and paired differences.

Plain functions of plain numbers. Every interval here has a reference in the tests: scipy, a
published table, or the enumeration of all outcomes of a small case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate with its interval; ``low`` and ``high`` are nan where none exists."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int, *, confidence: float = 0.95) -> Interval:
    """Estimate a proportion with Wilson's interval (Wilson 1927).

    Args:
        successes: 0..n; a sum of per-problem means need not be whole.
        n: trials; 0 gives nan.
        confidence: coverage, in (0, 1).

    Raises:
        ValueError: successes is outside 0..n, or the confidence outside (0, 1).

    >>> round(wilson(8, 10).low, 4), round(wilson(8, 10).high, 4)
    (0.4902, 0.9433)
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes={successes} is outside 0..n={n}")
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    z = normal_quantile(confidence)
    p = successes / n
    denominator = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / denominator
    half = z / denominator * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # rounding must not push the bounds past the estimate at 0 and at n successes
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n)


def normal_quantile(confidence: float) -> float:
    """Two-sided quantile z of the standard normal distribution.

    Raises:
        ValueError: the confidence is outside (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence} is outside (0, 1); try 0.95")
    if confidence == 0.95:
        return _Z95
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + confidence / 2)


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Estimate a mean over seeds with Student's t interval.

    A single value has no interval: its bounds are nan. Equal values have one of width zero, which
    says that the seeds made no difference, not that the mean is known exactly.

    Raises:
        ValueError: the confidence is outside (0, 1).

    >>> interval = mean_interval([0.5, 0.6, 0.7])
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.3516, 0.8484)
    """
    normal_quantile(confidence)
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    from scipy.special import stdtrit

    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n)


def paired_bootstrap(
    first: Sequence[float],
    second: Sequence[float],
    *,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Estimate the mean of ``second - first`` over problems, with a percentile bootstrap interval.

    Problems are resampled, both systems together (Efron 1979; Koehn 2004 for system comparison).

    Args:
        first: one figure per problem, for example 0/1 correctness or a mean over samples.
        second: the other system's, in the same order.
        num_resamples: at least 1.
        confidence: coverage, in (0, 1).
        seed: of the resampling; equal seeds give equal intervals.

    Raises:
        ValueError: lengths differ, there are no problems, or an option is out of range.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} outcomes cannot be paired")
    if not first:
        raise ValueError("there are no outcomes to resample")
    if num_resamples < 1:
        raise ValueError(f"num_resamples={num_resamples} is not allowed: 1 or more; try 10000")
    normal_quantile(confidence)
    import numpy as np

    difference = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    n = len(difference)
    # Equal differences are interchangeable: drawing how often each value occurs is the same
    # resampling, and 0/1 outcomes have only three values.
    values, counts = np.unique(difference, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=num_resamples)
    means = draws @ values / n
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(difference.mean()), float(low), float(high), n)


@dataclass(frozen=True, slots=True)
class Precision:
    """How exactly a mean is known, for an interval of any confidence.

    Attributes:
        error: standard error of the mean, with its degrees of ``freedom``.
        seeds_error: that of the means over seeds alone, with ``seeds_freedom``; 0 where seeds are
            no sample.
    """

    error: float
    freedom: float
    seeds_error: float = 0.0
    seeds_freedom: float = 1.0

    def half_width(self, confidence: float) -> float:
        """Half of the interval's width: Student's, the wider one of the two; nan if unknown.

        Raises:
            ValueError: the confidence is outside (0, 1).
        """
        of_seeds = _student_half(self.seeds_error, self.seeds_freedom, confidence)
        half = _student_half(self.error, self.freedom, confidence)
        return half if math.isnan(half) else max(half, of_seeds)

    def corrected_half_width(self, confidence: float) -> float:
        """Half of the width at the confidence that a correction for many comparisons asks for.

        The interval excludes 0 where the corrected test and the plain 95 % interval both decide:
        the seeds alone are held to 95 %, because the test is not theirs; nan if unknown.

        Raises:
            ValueError: the confidence is outside (0, 1).
        """
        half = _student_half(self.error, self.freedom, confidence)
        return half if math.isnan(half) else max(half, self.half_width(0.95))


def _student_half(error: float, freedom: float, confidence: float) -> float:
    normal_quantile(confidence)
    if not error > 0:  # 0, or nan
        return error
    from scipy.special import stdtrit

    return error * float(stdtrit(freedom, 0.5 + confidence / 2))


UNKNOWN = Precision(math.nan, math.nan)


def largest_share(count: int, n: int, confidence: float) -> float:
    """The largest share that ``count`` of ``n`` leaves possible (Clopper and Pearson 1934).

    Args:
        count: of the trials that came out so; more than ``n`` count as ``n``.
        n: trials, one or more.
        confidence: of the one-sided bound, in (0, 1).

    Raises:
        ValueError: the confidence is outside (0, 1).

    >>> round(largest_share(0, 48, 0.95), 3)  # about 3/n
    0.061
    """
    normal_quantile(confidence)
    if count >= n:
        return 1.0
    from scipy.special import betaincinv

    return float(betaincinv(count + 1, n - count, confidence))


@dataclass(frozen=True, slots=True)
class Crossed:
    """A mean difference over problems and seeds, both taken as samples of more."""

    interval: Interval  # 95 %, or as asked for
    p: float  # two-sided
    precision: Precision = UNKNOWN


def crossed(differences: Sequence[Sequence[float]], *, confidence: float = 0.95) -> Crossed:
    """Estimate a mean difference whose problems and whose seeds are both samples.

    The differences vary with the problem, with the seed and with the two together; the variance of
    their mean is that of the means over problems plus that of the means over seeds, less the part
    that both contain (the quasi-F of crossed random effects: Clark 1973), with Satterthwaite's
    degrees of freedom. As these are too many where few seeds happen to lie close together, the
    interval is at least as wide as Student's over the means of the seeds alone.

    ``p`` is that of the crossed variance, so that it can be corrected for many comparisons; a
    difference is decided where it is small *and* the interval excludes 0.

    Args:
        differences: one sequence per seed (two at least), with one figure per problem in an order
            that all seeds share; nan where a seed lacks a problem.
        confidence: coverage, in (0, 1).

    Returns:
        nan for the bounds and for p where fewer than two problems or seeds are left.

    Raises:
        ValueError: the seeds differ in their number of problems, or the confidence is outside
            (0, 1).
    """
    normal_quantile(confidence)
    if len({len(line) for line in differences}) > 1:
        raise ValueError("all seeds must list the same problems; write nan where one is missing")
    import numpy as np
    from scipy.special import stdtr

    table = np.atleast_2d(np.array(differences, dtype=np.float64))  # (seeds, problems)
    table = table[:, ~np.isnan(table).all(axis=0)]
    table = table[~np.isnan(table).all(axis=1)] if table.size else table
    if table.size == 0:
        return Crossed(Interval(math.nan, math.nan, math.nan, 0), math.nan)
    by_seed, by_problem = np.nanmean(table, axis=1), np.nanmean(table, axis=0)
    value = float(by_seed.mean())
    num_seeds, n = table.shape
    if min(num_seeds, n) < 2:
        return Crossed(Interval(value, math.nan, math.nan, n), math.nan)
    rest = table - by_problem - by_seed[:, None] + by_problem.mean()
    of_problems = float(by_problem.var(ddof=1)) / n
    of_seeds = float(by_seed.var(ddof=1)) / num_seeds
    of_rest = float(np.nansum(rest**2)) / ((n - 1) * (num_seeds - 1)) / (n * num_seeds)
    variance = max(of_problems + of_seeds - of_rest, of_problems, of_seeds)
    if variance == 0:
        known = Precision(0.0, math.inf)
        return Crossed(Interval(value, value, value, n), 0.0 if value else 1.0, known)
    freedom = variance**2 / (of_problems**2 / (n - 1) + of_seeds**2 / (num_seeds - 1))
    error = math.sqrt(variance)
    precision = Precision(error, freedom, math.sqrt(of_seeds), num_seeds - 1)
    half = precision.half_width(confidence)
    p = min(1.0, 2 * float(stdtr(freedom, -abs(value) / error)))
    return Crossed(Interval(value, value - half, value + half, n), p, precision)
