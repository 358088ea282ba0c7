"""Plan values of runs -> what plans are worth, row by row, with the tests of accuracy.

All figures are differences of log-probabilities of the same reference executions, in nats a token,
paired by problem and crossed with seeds. Across rows only executions of equally many tokens are
compared: nats a token of other tokenizers are other units.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from plan_tuning.comparison.choices import is_seedless, seed_of
from plan_tuning.comparison.differences import (
    Difference,
    corrected,
    mean_difference,
    pair_seeds,
    seeds_of,
)
from plan_tuning.comparison.runs import Run
from plan_tuning.comparison.tables import Row, Table
from plan_tuning.config.evaluation import PLAN_CONDITIONS
from plan_tuning.job_record import FollowedFigures
from plan_tuning.statistics.intervals import mean_interval, wilson
from plan_tuning.statistics.tests import RankCorrelation, spearman

_KEYS = frozenset({"problem_id", "condition", "log_prob", "tokens"})
SUBJECT = "its plan"  # in the names of contrasts: that of the row's own subject
LIKELIHOOD = "log-probability"
WORTH = f"{SUBJECT} - other"

Values = Mapping[str, Mapping[str, tuple[float, int]]]
"""condition -> problem id -> (log-probability of the reference execution, its tokens)."""


@dataclass(frozen=True)
class Likelihood:
    """How likely a row's students find the reference executions, asked in their own way."""

    per_token: float  # nats, mean over seeds
    low: float  # 95 %: over seeds (Student), for one seed over problems
    high: float
    log_prob: float  # of a whole execution, mean over problems and seeds
    num_problems: int
    num_seeds: int
    is_single_seed: bool
    difference: Difference | None = None  # to the row's baseline, per token


@dataclass(frozen=True)
class Worth:
    """What plans are worth to one row's students on one benchmark."""

    row: int  # index in the table
    label: str
    benchmark: str
    subject: str  # whose plans; empty: the method takes none
    way: str  # own, none: with which plan the students are asked in their own way
    likelihood: Likelihood
    contrasts: Mapping[str, Difference] = field(default_factory=dict)
    followed: FollowedFigures = field(default_factory=FollowedFigures)  # over all seeds
    left_out: int = 0  # problems without a reference execution


@dataclass(frozen=True)
class Correlation:
    """How the arms of a comparison rank by a measure and by accuracy."""

    benchmark: str
    measure: str  # LIKELIHOOD, WORTH
    found: RankCorrelation


@dataclass(frozen=True)
class PlanWorth:
    """All of it; empty where no job was asked for plan values."""

    rows: tuple[Worth, ...] = ()
    correlations: tuple[Correlation, ...] = ()

    @property
    def contrasts(self) -> list[str]:
        """The contrasts that some row has, in their order."""
        present = {name for worth in self.rows for name in worth.contrasts}
        after = [f"{SUBJECT} - {name}" for name in PLAN_CONDITIONS]
        before = [f"{name} - {SUBJECT}" for name in PLAN_CONDITIONS]
        return [name for name in (*after, *before) if name in present]


class ValueReader:
    """Reads each file of plan values once."""

    def __init__(self) -> None:
        self._read: dict[Path, Values] = {}

    def values(self, run: Run, benchmark: str) -> Values:
        """A run's log-probabilities; empty where the file is absent or broken."""
        path = run.plan_values.get(benchmark)
        if path is None:
            return {}
        if path not in self._read:
            self._read[path] = _read(path)
        return self._read[path]


def _read(path: Path) -> Values:
    if not path.is_file():
        return {}
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, EOFError, zlib.error, ValueError):
        return {}
    if not all(isinstance(row, dict) and row.keys() >= _KEYS for row in rows):
        return {}
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for row in rows:
        found.setdefault(row["condition"], {})[row["problem_id"]] = row["log_prob"], row["tokens"]
    return found


def plan_worth(table: Table, reader: ValueReader | None = None) -> PlanWorth:
    """Say what plans are worth to the rows of a table.

    Args:
        table: of accuracies; its baselines are those of the log-probabilities too.
        reader: shared with other parts of a comparison.
    """
    reader = reader or ValueReader()
    found = [
        worth
        for index, row in enumerate(table.rows)
        for name in table.benchmarks
        if (worth := _worth(table, index, row, name, reader)) is not None
    ]
    tested = corrected(
        {
            (place, name): item
            for place, worth in enumerate(found)
            for name, item in worth.contrasts.items()
        }
    )
    compared = corrected(
        {
            place: item
            for place, worth in enumerate(found)
            if (item := _difference(table, worth, reader)) is not None
        }
    )
    rows = tuple(
        replace(
            worth,
            contrasts={name: tested[place, name] for name in worth.contrasts},
            likelihood=replace(worth.likelihood, difference=compared.get(place)),
        )
        for place, worth in enumerate(found)
    )
    return PlanWorth(rows, tuple(_correlations(table, rows, reader)))


def _valued(row: Row, benchmark: str, reader: ValueReader) -> list[Run]:
    """The row's runs with plan values, one per seed: a job may also have been run without them."""
    by_seed: dict[int, Run] = {}
    for run in row.runs:
        if run.accuracy(benchmark) is not None and reader.values(run, benchmark):
            by_seed.setdefault(seed_of(run), run)
    return list(by_seed.values())


def _own_way(values: Values) -> dict[str, tuple[float, int]]:
    """Log-probabilities behind the student's own plan, or behind none where it wrote none."""
    return {**values.get("none", {}), **values.get("own", {})}


def _per_token(values: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    return {problem: total / tokens for problem, (total, tokens) in values.items()}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _worth(table: Table, index: int, row: Row, benchmark: str, reader: ValueReader) -> Worth | None:
    runs = _valued(row, benchmark, reader)
    if not runs:
        return None
    records = [(run.result.plan_value or {})[benchmark] for run in runs]
    subject = records[0].subject
    return Worth(
        row=index,
        label=table.label(row),
        benchmark=benchmark,
        subject=subject,
        way=records[0].way,
        likelihood=_likelihood(runs, [_own_way(reader.values(run, benchmark)) for run in runs]),
        contrasts=_contrasts(runs, subject, [reader.values(run, benchmark) for run in runs]),
        followed=_followed([record.followed for record in records]),
        left_out=sum(records[0].left_out.values()),
    )


def _likelihood(
    runs: Sequence[Run], values: Sequence[Mapping[str, tuple[float, int]]]
) -> Likelihood:
    by_seed = [_mean(list(_per_token(line).values())) for line in values]
    is_seedless_row = len(runs) == 1 and is_seedless(runs[0])
    spread = by_seed if len(by_seed) > 1 else list(_per_token(values[0]).values())
    interval = mean_interval(spread)
    return Likelihood(
        per_token=interval.value,
        low=interval.low,
        high=interval.high,
        log_prob=_mean([_mean([total for total, _ in line.values()]) for line in values]),
        num_problems=max(map(len, values)),
        num_seeds=len(runs),
        is_single_seed=len(runs) == 1 and not is_seedless_row,
    )


def _contrasts(
    runs: Sequence[Run], subject: str, values: Sequence[Values]
) -> dict[str, Difference]:
    if not subject:
        return {}
    found = {}
    for condition in PLAN_CONDITIONS:
        if condition == subject:
            continue
        is_given = condition in ("own", "teacher", "dataset", "true")
        first, second = (condition, subject) if is_given else (subject, condition)
        name = f"{condition} - {SUBJECT}" if is_given else f"{SUBJECT} - {condition}"
        lines = [_minus(line.get(first, {}), line.get(second, {})) for line in values]
        pairs = [(run, run) for run, line in zip(runs, lines, strict=True) if line]
        if pairs:
            used = [line for line in lines if line]
            found[name] = _tested(used, pairs, is_partial=len(used) < len(runs))
    return found


def _minus(
    first: Mapping[str, tuple[float, int]], second: Mapping[str, tuple[float, int]]
) -> dict[str, float]:
    """Differences in nats a token, problem by problem, of executions of equally many tokens."""
    return {
        problem: (total - second[problem][0]) / tokens
        for problem, (total, tokens) in first.items()
        if problem in second and second[problem][1] == tokens
    }


def _tested(
    by_seed: Sequence[Mapping[str, float]],
    pairs: Sequence[tuple[Run, Run]],
    *,
    is_partial: bool,
) -> Difference:
    found = mean_difference(by_seed)
    interval, p = found.interval, found.p
    flat = [value for line in by_seed for value in line.values()]
    return Difference(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        num_problems=interval.n,
        gained=sum(value > 0 for value in flat),
        lost=sum(value < 0 for value in flat),
        p=p,
        p_holm=p,
        by_seed=tuple(_mean(list(line.values())) for line in by_seed),
        seeds=seeds_of(pairs),
        is_partial=is_partial,
        precision=found.precision,
    )


def _difference(table: Table, worth: Worth, reader: ValueReader) -> Difference | None:
    """Compare a row's log-probabilities with those of its baseline."""
    row = table.rows[worth.row]
    if row.baseline is None:
        return None
    base = _valued(table.rows[row.baseline], worth.benchmark, reader)
    runs = _valued(row, worth.benchmark, reader)
    lines, used = [], []
    for first, second in pair_seeds(base, runs):
        before, after = (_own_way(reader.values(run, worth.benchmark)) for run in (first, second))
        line = _minus(after, before)
        if line:
            lines.append(line)
            used.append((first, second))
    if not lines:
        return None
    return _tested(lines, used, is_partial=len(used) < max(len(base), len(runs)))


def _followed(found: Sequence[FollowedFigures]) -> FollowedFigures:
    """Count the edits of all seeds together; the interval is one over edits."""
    measured = [one for one in found if one.rate is not None]
    n = sum(one.n for one in measured)
    if not n:
        return found[0]
    share = wilson(math.fsum((one.rate or 0.0) * one.n for one in measured), n)
    return FollowedFigures(measured[0].edit, n, share.value, share.low, share.high)


def _correlations(table: Table, rows: Sequence[Worth], reader: ValueReader) -> list[Correlation]:
    """Rank the arms by each measure and by accuracy, each arm by its mean over seeds.

    Seeds of one arm are no independent students: ranked one by one they would make p too small.
    """
    found = []
    for benchmark in table.benchmarks:
        likely: list[tuple[float, float]] = []
        worths: list[tuple[float, float]] = []
        for worth in rows:
            if worth.benchmark != benchmark:
                continue
            of_seeds: dict[str, list[tuple[float, float]]] = {LIKELIHOOD: [], WORTH: []}
            for run in _valued(table.rows[worth.row], benchmark, reader):
                accuracy = run.accuracy(benchmark)
                values = reader.values(run, benchmark)
                if accuracy is None:
                    continue
                own = _per_token(_own_way(values))
                of_seeds[LIKELIHOOD].append((accuracy, _mean(list(own.values()))))
                line = _minus(values.get(worth.subject, {}), values.get("other", {}))
                if line:
                    of_seeds[WORTH].append((accuracy, _mean(list(line.values()))))
            for arms, pairs in ((likely, of_seeds[LIKELIHOOD]), (worths, of_seeds[WORTH])):
                if pairs:
                    one, two = zip(*pairs, strict=True)
                    arms.append((_mean(one), _mean(two)))
        for measure, arms in ((LIKELIHOOD, likely), (WORTH, worths)):
            if len(arms) > 2:
                one, two = zip(*arms, strict=True)
                found.append(Correlation(benchmark, measure, spearman(one, two)))
    return found
