"""Predictions of two rows -> their difference, paired by problem, sample and seed.

The estimate is the mean over seeds of the difference in accuracy on the shared problems; its
interval is a paired bootstrap over problems, of each problem's mean over seeds. McNemar's test
pools the outcomes of all shared seeds; as these are not independent, a difference is called
decided only where the corrected test, the interval over problems and every single seed agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from plan_tuning.comparison.choices import is_seedless
from plan_tuning.comparison.results import Run, read_predictions
from plan_tuning.statistics import holm, mcnemar, paired_bootstrap

LEVEL = 0.05

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
    num_seeds: int
    gained: int  # right here and wrong in the baseline, over all pairs
    lost: int
    p: float  # McNemar, mid-p, pooled over seeds; nan without pairs
    p_holm: float
    by_seed: tuple[float, ...]  # in the order of the seeds

    @property
    def direction(self) -> str:
        """``higher`` or ``lower`` where everything agrees, else ``undecided``."""
        if math.isnan(self.p_holm) or self.p_holm >= LEVEL:
            return "undecided"
        if self.low > 0 and all(value > 0 for value in self.by_seed):
            return "higher"
        if self.high < 0 and all(value < 0 for value in self.by_seed):
            return "lower"
        return "undecided"


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
    by_problem: dict[str, list[tuple[float, float]]] = {}
    first: list[bool] = []
    second: list[bool] = []
    by_seed: list[float] = []
    for base, run in pairs:
        shared = _shared(reader.outcomes(base, benchmark), reader.outcomes(run, benchmark))
        if not shared:
            continue
        first += [a for _, a, _ in shared]
        second += [b for _, _, b in shared]
        by_seed.append(sum(b - a for _, a, b in shared) / len(shared))
        for problem, a, b in shared:
            by_problem.setdefault(problem, []).append((float(a), float(b)))
    if not by_problem:
        return _recorded(pairs, benchmark)
    test = mcnemar(first, second)
    interval = paired_bootstrap(
        [_mean(a for a, _ in outcomes) for outcomes in by_problem.values()],
        [_mean(b for _, b in outcomes) for outcomes in by_problem.values()],
    )
    return Difference(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        num_problems=len(by_problem),
        num_seeds=len(by_seed),
        gained=test.only_second,
        lost=test.only_first,
        p=test.p_mid,
        p_holm=test.p_mid,
        by_seed=tuple(by_seed),
    )


def _shared(first: Outcomes, second: Outcomes) -> list[tuple[str, bool, bool]]:
    """Pair by problem and sample; equal ids with different gold answers are different problems."""
    return [
        (key[0], right, second[key][1])
        for key, (gold, right) in first.items()
        if key in second and second[key][0] == gold
    ]


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)


def _recorded(pairs: Sequence[tuple[Run, Run]], benchmark: str) -> Difference | None:
    values = [
        run.metrics[benchmark]["accuracy"] - base.metrics[benchmark]["accuracy"]
        for base, run in pairs
        if all(r.metrics.get(benchmark, {}).get("accuracy") is not None for r in (base, run))
    ]
    if not values:
        return None
    nan = math.nan
    return Difference(_mean(values), nan, nan, 0, len(values), 0, 0, nan, nan, tuple(values))


def corrected(differences: Mapping[object, Difference]) -> dict[object, Difference]:
    """Correct the tests of one table for their number (Holm 1979)."""
    tested = [key for key, item in differences.items() if not math.isnan(item.p)]
    adjusted = dict(zip(tested, holm([differences[key].p for key in tested]), strict=True))
    return {
        key: replace(item, p_holm=adjusted[key]) if key in adjusted else item
        for key, item in differences.items()
    }
