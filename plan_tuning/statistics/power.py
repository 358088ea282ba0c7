"""Variances, problems and seeds -> which differences a comparison can see, before it is paid for.

The power is that of the comparison's own rule (``crossed`` and Holm's correction), never computed
from an observed difference. Plain functions of plain numbers; the tests simulate crossed data and
send them through the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from plan_tuning.statistics.intervals import normal_quantile

LEVEL = 0.05
POWER = 0.8  # that "can be seen" means
ASSUMED_SHARE = 0.10  # of the problems differ, where nothing is measured
_DRAWS = 400  # quantiles of the seeds' variance, over which the power is averaged
_MAX_PROBLEMS = 10_000_000
_STEP = 1.02  # between the numbers of problems that are tried
_MAX_SEEDS = 1_000


@dataclass(frozen=True, slots=True)
class Components:
    """Variances of the difference of two arms in one answer: 0/1 units, squared.

    Attributes:
        by_problem: of problem x arm: which problems suit which arm, whatever the seed.
        by_seed: of seed x arm: how far apart two trainings of an arm end.
        residual: of what is left, which problem and seed contain together.
        problem: of the problems' difficulty. Both arms share it, so it is no part of a paired
            difference; nan where it is not known.
    """

    by_problem: float
    by_seed: float
    residual: float
    problem: float = math.nan

    @property
    def share_that_differs(self) -> float:
        """The share of problems on which a pair of runs disagrees, where their means are equal."""
        return self.by_problem + self.by_seed + self.residual

    def holding(self, difference: float) -> Components:
        """The same, with as much disagreement as a difference of right and wrong answers takes.

        Answers are right or wrong, so a difference of 20 points cannot come of 10 % of problems.
        """
        least = abs(difference) - difference**2
        within = self.by_problem + self.residual
        if within >= least:
            return self
        if within == 0.0:
            return replace(self, by_problem=least)
        scale = least / within
        return replace(self, by_problem=scale * self.by_problem, residual=scale * self.residual)

    def variance(self, problems: int, seeds: int) -> float:
        """Variance of the mean difference over so many problems and seeds."""
        return (
            self.by_problem / problems
            + self.by_seed / seeds
            + self.residual / (problems * seeds)
        )  # fmt: skip


def assumed(share: float, *, seed_sd: float = 0.0, by_problem: float | None = None) -> Components:
    """State components that nobody has measured yet.

    Args:
        share: of the problems on which two runs of equal accuracy disagree, 0..1.
        seed_sd: standard deviation of one arm's accuracy over seeds, 0..1 units.
        by_problem: what of ``share`` is problem x arm; None: all of it, so that more seeds help
            only against ``seed_sd``.

    Raises:
        ValueError: a figure is out of range.
    """
    part = share if by_problem is None else by_problem
    if not 0.0 < share <= 1.0 or not 0.0 <= part <= share:
        raise ValueError(f"a share of {share} with {part} of problem x arm is outside 0..1")
    if not 0.0 <= seed_sd <= 0.5:
        raise ValueError(f"a spread of {seed_sd} between seeds is outside 0..0.5")
    return Components(part, 2 * seed_sd**2, share - part)


def components(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> Components:
    """Estimate the components from two arms by the method of moments.

    An estimate may fall below 0, so that averages of several are not biased; ``pooled`` cuts them.

    Args:
        first: one sequence a seed (two at least), one figure a problem in a common order.
        second: the other arm's, of the same seeds and problems.

    Raises:
        ValueError: the shapes differ, or there are fewer than two seeds or problems.
    """
    import numpy as np

    one, two = (np.asarray(arm, dtype=np.float64) for arm in (first, second))  # (seeds, problems)
    if one.shape != two.shape or one.ndim != 2 or min(one.shape) < 2:
        raise ValueError("two arms of the same seeds and problems are needed, two at least of each")
    seeds, problems = one.shape
    table = two - one
    by_seed, by_problem = table.mean(axis=1), table.mean(axis=0)
    rest = table - by_problem - by_seed[:, None] + table.mean()
    residual = float((rest**2).sum()) / ((seeds - 1) * (problems - 1))
    covariance = float(np.cov(one.mean(axis=0), two.mean(axis=0))[0, 1])
    return Components(
        by_problem=float(by_problem.var(ddof=1)) - residual / seeds,
        by_seed=float(by_seed.var(ddof=1)) - residual / problems,
        residual=residual,
        problem=covariance,
    )


def pooled(listed: Sequence[Components]) -> Components:
    """Average the components of several pairs of arms, cut at 0.

    Raises:
        ValueError: there are none.
    """
    if not listed:
        raise ValueError("there are no components to average")
    means = (
        math.fsum(values) / len(listed)
        for values in zip(
            *((one.by_problem, one.by_seed, one.residual, one.problem) for one in listed),
            strict=True,
        )
    )
    return Components(*(mean if math.isnan(mean) else max(0.0, mean) for mean in means))


def power(
    difference: float, parts: Components, *, problems: int, seeds: int, comparisons: int = 1
) -> float:
    """Probability that the comparison decides a true difference, in its direction.

    With one seed the rule is McNemar's test over problems (Connor 1987), which knows nothing of
    other seeds: ``by_seed`` then counts for the disagreement of the two runs and not as an error.
    With more it is ``crossed``: Satterthwaite's t of the crossed variance at the level that is left
    after the correction, and an interval at least as wide as Student's over the seeds. The mean
    and the mean squares of a balanced normal table are independent, so the power is an average
    over the seeds' mean square, whose distribution is exact; the others are taken at their
    expectation, for there are many problems.

    Args:
        difference: true difference of the arms in accuracy, 0..1 units; its sign does not matter.
            0 gives the rate of false decisions in one direction.
        parts: of one answer's difference.
        problems: two or more.
        seeds: one or more.
        comparisons: of the table; the level is that of the worst place in Holm's order.

    Raises:
        ValueError: a count is out of range.
    """
    if problems < 2 or seeds < 1 or comparisons < 1:
        raise ValueError(
            f"problems={problems}, seeds={seeds}, comparisons={comparisons}: "
            "two problems, one seed and one comparison at least"
        )
    effect, level = abs(difference), LEVEL / comparisons
    parts = parts.holding(effect)
    if seeds == 1:
        return _of_one_seed(effect, parts.share_that_differs, problems, level)
    import numpy as np
    from scipy.special import gammaincinv, ndtr, stdtrit

    expected = np.float64(parts.by_problem + parts.residual / seeds) / problems
    rest = parts.residual / (problems * seeds)
    mean_square = parts.by_seed / seeds + rest
    quantiles = (np.arange(_DRAWS) + 0.5) / _DRAWS
    of_seeds = mean_square * gammaincinv((seeds - 1) / 2, quantiles) * 2 / (seeds - 1)
    variance = np.maximum(np.maximum(expected + of_seeds - rest, expected), of_seeds)
    true = math.sqrt(parts.variance(problems, seeds))
    if true == 0.0:
        return 1.0 if effect > 0 else 0.0
    freedom = variance**2 / (expected**2 / (problems - 1) + of_seeds**2 / (seeds - 1))
    half = np.maximum(
        stdtrit(freedom, 1 - LEVEL / 2) * np.sqrt(variance),
        stdtrit(seeds - 1, 1 - LEVEL / 2) * np.sqrt(of_seeds),
    )
    bound = np.maximum(stdtrit(freedom, 1 - level / 2) * np.sqrt(variance), half)
    return float(ndtr((effect - bound) / true).mean())


def _of_one_seed(effect: float, share: float, problems: int, level: float) -> float:
    """Power of McNemar's test where ``share`` of the problems differ at equal accuracy."""
    from statistics import NormalDist

    differ = max(share, effect)  # a difference takes at least its own size in problems
    spread = differ - effect**2
    if spread <= 0:
        return 1.0 if effect > 0 else 0.0
    bound = normal_quantile(1 - level) * math.sqrt(differ)
    return NormalDist().cdf((effect * math.sqrt(problems) - bound) / math.sqrt(spread))


def smallest_difference(
    parts: Components, *, problems: int, seeds: int, comparisons: int = 1, target: float = POWER
) -> float:
    """The smallest true difference that is decided with power ``target``, 0..1 units.

    Returns:
        inf where even a difference of 1 is not.

    Raises:
        ValueError: a count is out of range.

    >>> one_run = smallest_difference(assumed(0.10), problems=1319, seeds=1)
    >>> round(100 * one_run, 1)  # points on GSM8K where 10 % of the problems differ
    2.4
    """

    def is_seen(difference: float) -> bool:
        found = power(difference, parts, problems=problems, seeds=seeds, comparisons=comparisons)
        return found >= target

    if not is_seen(1.0):
        return math.inf
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if is_seen(middle) else (middle, high)
    return high


def problems_needed(
    difference: float,
    parts: Components,
    *,
    seeds: int,
    comparisons: int = 1,
    target: float = POWER,
) -> int | None:
    """The fewest problems that show a true difference with power ``target``.

    More are not always better: where few seeds vary much, more problems leave the test with the
    degrees of freedom of the seeds alone.

    Returns:
        None where no number does, because the seeds alone spread too far.

    Raises:
        ValueError: a count is out of range.
    """

    def is_seen(count: int) -> bool:
        found = power(difference, parts, problems=count, seeds=seeds, comparisons=comparisons)
        return found >= target

    low, high = 1, 2
    while not is_seen(high):
        low, high = high, max(high + 1, round(high * _STEP))
        if high > _MAX_PROBLEMS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_seen(middle) else (middle, high)
    return high


def seeds_needed(
    difference: float,
    parts: Components,
    *,
    problems: int,
    comparisons: int = 1,
    target: float = POWER,
) -> int | None:
    """The fewest seeds an arm, of two or more, that show a difference with power ``target``.

    Returns:
        None where a thousand do not, because the problems are too few.

    Raises:
        ValueError: a count is out of range.
    """

    def is_seen(count: int) -> bool:
        found = power(difference, parts, problems=problems, seeds=count, comparisons=comparisons)
        return found >= target

    if not is_seen(_MAX_SEEDS):
        return None
    return next(count for count in range(2, _MAX_SEEDS + 1) if is_seen(count))
