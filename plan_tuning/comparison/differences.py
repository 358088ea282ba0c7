"""Predictions of two rows -> their difference, paired by problem, sample and seed.

The estimate is the mean over seeds of the difference in accuracy on the shared problems. With two
seeds or more its interval and its test take both the problems and the seeds as samples; with one
seed they know the problems only, and the difference is marked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from plan_tuning.comparison.choices import is_seedless
from plan_tuning.comparison.runs import Run, read_predictions
from plan_tuning.statistics.intervals import (
    UNKNOWN,
    Crossed,
    Precision,
    crossed,
    largest_share,
    paired_bootstrap,
)
from plan_tuning.statistics.power import LEVEL
from plan_tuning.statistics.tests import holm, holm_levels, mcnemar, permutation_test

_FEW_PAIRS = 5

Outcomes = Mapping[tuple[str, int], tuple[str, bool]]
"""(problem id, sample) -> (gold answer, whether the prediction is right)."""


class OutcomeReader:
    """Reads each predictions file once."""

    def __init__(self) -> None:
        self._read: dict[Path, Outcomes] = {}

    def outcomes(self, run: Run, benchmark: str) -> Outcomes:
        """Right or wrong for every answer of ``run``; empty where the file is absent."""
        path = run.predictions.get(benchmark)
        if path is None:
            return {}
        key = path.resolve()
        if key not in self._read:
            self._read[key] = {
                (row["problem_id"], row["sample"]): (row["gold"], bool(row["is_correct"]))
                for row in read_predictions(run, benchmark)
            }
        return self._read[key]


@dataclass(frozen=True)
class Difference:
    """``value`` = accuracy of the row minus that of its baseline, in 0..1 units."""

    value: float
    low: float  # 95 %, nan without paired predictions
    high: float
    num_problems: int  # shared by both, with equal gold answers
    gained: int  # right here and wrong in the baseline, over all pairs
    lost: int
    p: float  # two-sided; nan without pairs
    p_holm: float
    by_seed: tuple[float, ...]  # one figure per pair of runs
    seeds: tuple[int, ...]  # of those pairs; empty where no seed can change either row
    is_partial: bool = False  # a seed of one of the rows found no partner, or no predictions
    precision: Precision = UNKNOWN
    level: float = LEVEL  # at which Holm's procedure tests it
    smallest_effect: float | None = None  # of interest, 0..1 units; None: nobody said

    @property
    def is_single_seed(self) -> bool:
        """Whether the interval and the test know nothing about other seeds."""
        return len(self.seeds) == 1

    @property
    def direction(self) -> str:
        """``higher`` or ``lower`` where test and interval agree, else ``undecided``."""
        if math.isnan(self.p_holm) or self.p_holm >= LEVEL:
            return "undecided"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "undecided"

    @property
    def corrected_interval(self) -> tuple[float, float]:
        """The interval at the level that Holm's correction leaves; nan where nothing is tested.

        Where fewer than five pairs of answers differ, which decide nothing in McNemar's test,
        there is no error to estimate either: the interval then holds every difference that the
        share of problems which may differ leaves possible.
        """
        half = self.precision.corrected_half_width(1 - self.level)
        low, high = self.value - half, self.value + half
        differ = self.gained + self.lost
        if math.isnan(half) or differ >= _FEW_PAIRS:
            return low, high
        share = largest_share(differ, self.num_problems, 1 - self.level)
        return min(low, -share), max(high, share)

    @property
    def resolved(self) -> str:
        """Whether the question of a difference is settled, from intervals alone.

        ``yes``: it is decided, and the corrected interval excludes 0. ``equivalent``: that interval
        lies within ± the smallest effect of interest. ``no``: neither, so that the runs cannot say.
        Empty where nothing was tested.
        """
        if math.isnan(self.p_holm) or math.isnan(self.precision.error):
            return ""
        low, high = self.corrected_interval
        if self.direction != "undecided" and (low > 0 or high < 0):
            return "yes"
        bound = self.smallest_effect
        return "equivalent" if bound is not None and -bound < low and high < bound else "no"

    @property
    def needs_seeds(self) -> bool:
        """Whether it is undecided though the interval, which is not corrected, excludes 0."""
        return self.direction == "undecided" and (self.low > 0 or self.high < 0)


def pair_seeds(first: Sequence[Run], second: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Pair runs of equal seed; a run that no seed can change is paired with every seed."""
    if len(first) == 1 and is_seedless(first[0]):
        return [(first[0], run) for run in second]
    if len(second) == 1 and is_seedless(second[0]):
        return [(run, second[0]) for run in first]
    by_seed = {run.seed: run for run in second}
    return [(run, by_seed[run.seed]) for run in first if run.seed in by_seed]


def difference(
    baseline: Sequence[Run], runs: Sequence[Run], benchmark: str, reader: OutcomeReader
) -> Difference | None:
    """Compare two rows on one benchmark; ``None`` where they share no seed.

    Without predictions on disk the difference of the recorded accuracies is all there is: it has
    neither interval nor test.
    """
    pairs = pair_seeds(baseline, runs)
    if not pairs:
        return None
    num_possible = max(len(baseline), len(runs))
    used: list[tuple[Run, Run]] = []
    by_seed: list[dict[str, float]] = []  # problem -> mean difference over its samples
    first: list[bool] = []
    second: list[bool] = []
    for base, run in pairs:
        shared = _shared(reader.outcomes(base, benchmark), reader.outcomes(run, benchmark))
        if not shared:
            continue
        used.append((base, run))
        by_seed.append(_by_problem(shared))
        first += [a for _, a, _ in shared]
        second += [b for _, _, b in shared]
    if not used:
        return _recorded(pairs, benchmark, num_possible)
    counts = mcnemar(first, second)
    found = mean_difference(by_seed)
    interval, p = found.interval, found.p
    # samples of one problem are not independent: only then are the problems permuted
    is_sampled = len(first) > interval.n
    if len(used) == 1 and not is_sampled:
        p = counts.p_mid
    return Difference(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        num_problems=interval.n,
        gained=counts.only_second,
        lost=counts.only_first,
        p=p,
        p_holm=p,
        by_seed=tuple(_mean(list(line.values())) for line in by_seed),
        seeds=seeds_of(used),
        is_partial=len(used) < num_possible,
        precision=found.precision,
    )


def by_problem(
    baseline: Sequence[Run], runs: Sequence[Run], benchmark: str, reader: OutcomeReader
) -> dict[int, dict[str, float]]:
    """The difference of two rows on each shared problem, seed by seed, meaned over its samples.

    Empty where predictions are missing.
    """
    found = {}
    for base, run in pair_seeds(baseline, runs):
        shared = _shared(reader.outcomes(base, benchmark), reader.outcomes(run, benchmark))
        if shared:
            found[base.seed if is_seedless(run) else run.seed] = _by_problem(shared)
    return found


def mean_difference(by_seed: Sequence[Mapping[str, float]]) -> Crossed:
    """Estimate a mean difference and test it, over problems and, from two seeds on, over seeds.

    Args:
        by_seed: the difference on each problem, seed by seed; a seed may lack problems.

    Returns:
        The interval (95 %, ``n`` problems), its precision, and p: of one seed that of a permutation
        of problems, of several the larger one of that and of the crossed test.
    """
    problems = dict.fromkeys(problem for line in by_seed for problem in line)
    table = [[line.get(problem, math.nan) for problem in problems] for line in by_seed]
    means = [_mean([v for v in column if not math.isnan(v)]) for column in zip(*table, strict=True)]
    zeros = [0.0] * len(means)
    p = permutation_test(zeros, means)
    if len(by_seed) == 1:
        return Crossed(paired_bootstrap(zeros, means), p, _over_problems(means))
    found = crossed(table)
    interval = replace(found.interval, n=len(problems))
    return replace(found, interval=interval, p=p if math.isnan(found.p) else max(p, found.p))


def _over_problems(means: Sequence[float]) -> Precision:
    """Student's over the problems of one pair of runs."""
    mean, freedom = _mean(means), len(means) - 1
    if freedom == 0:
        return UNKNOWN
    variance = math.fsum((value - mean) ** 2 for value in means) / freedom
    return Precision(math.sqrt(variance / len(means)), freedom)


def seeds_of(pairs: Sequence[tuple[Run, Run]]) -> tuple[int, ...]:
    """Seeds of the pairs; those of two runs that no seed can change have none."""
    seeded = [next((r for r in pair if not is_seedless(r)), None) for pair in pairs]
    return tuple(run.seed for run in seeded if run is not None)


def _by_problem(shared: Sequence[tuple[str, bool, bool]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for problem, a, b in shared:
        values.setdefault(problem, []).append(float(b) - float(a))
    return {problem: _mean(listed) for problem, listed in values.items()}


def _shared(first: Outcomes, second: Outcomes) -> list[tuple[str, bool, bool]]:
    """Pair by problem and sample; equal ids with different gold answers are different problems."""
    return [
        (key[0], right, second[key][1])
        for key, (gold, right) in first.items()
        if key in second and second[key][0] == gold
    ]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _recorded(
    pairs: Sequence[tuple[Run, Run]], benchmark: str, num_possible: int
) -> Difference | None:
    used, values = [], []
    for base, run in pairs:
        first, second = base.accuracy(benchmark), run.accuracy(benchmark)
        if first is not None and second is not None:
            used.append((base, run))
            values.append(second - first)
    if not used:
        return None
    nan = math.nan
    return Difference(
        value=_mean(values),
        low=nan,
        high=nan,
        num_problems=0,
        gained=0,
        lost=0,
        p=nan,
        p_holm=nan,
        by_seed=tuple(values),
        seeds=seeds_of(used),
        is_partial=len(used) < num_possible,
    )


def corrected(
    differences: Mapping[object, Difference], *, smallest_effect: float | None = None
) -> dict[object, Difference]:
    """Correct the tests of one table for their number (Holm 1979).

    Args:
        differences: of the table, by any key.
        smallest_effect: of interest, 0..1 units; None: none was named.
    """
    tested = [key for key, item in differences.items() if not math.isnan(item.p)]
    values = [differences[key].p for key in tested]
    adjusted = dict(zip(tested, holm(values), strict=True))
    levels = dict(zip(tested, holm_levels(values, level=LEVEL), strict=True))
    return {
        key: replace(item, p_holm=adjusted[key], level=levels[key], smallest_effect=smallest_effect)
        if key in adjusted
        else item
        for key, item in differences.items()
    }
