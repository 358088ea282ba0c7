"""Runs -> the table: a row per combination of swept choices, a cell per benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from plan_tuning.comparison.baselines import Baselines
from plan_tuning.comparison.choices import (
    IRRELEVANT,
    conflicts,
    group_runs,
    is_seedless,
    method_of,
    seed_of,
    swept_choices,
)
from plan_tuning.comparison.differences import Difference, OutcomeReader, corrected, difference
from plan_tuning.comparison.runs import ComparisonError, Results, Run, finite_number
from plan_tuning.config.extensions import BASELINE, names
from plan_tuning.statistics.intervals import mean_interval, wilson


@dataclass(frozen=True)
class Cell:
    """Accuracy of one row on one benchmark; all figures are shares, 0..1."""

    accuracy: float
    low: float  # 95 %: over seeds (Student) or, for a single seed, over problems (Wilson)
    high: float
    num_seeds: int
    num_problems: int
    by_seed: Mapping[int, float]
    is_seedless: bool = False  # no seed can change it: the interval is one over problems
    difference: Difference | None = None  # to the row's baseline; None for a baseline itself

    @property
    def is_single_seed(self) -> bool:
        """Whether the interval is one over problems, which says nothing about other seeds."""
        return self.num_seeds == 1 and not self.is_seedless


@dataclass(frozen=True)
class Row:
    """One combination of the swept choices."""

    values: tuple[str, ...]  # in the order of Table.swept; "-" where a choice cannot matter
    runs: tuple[Run, ...]
    cells: Mapping[str, Cell]  # benchmark -> cell
    num_failed: int = 0
    baseline: int | None = None  # index of the row it is compared with
    wall_s: float = 0.0  # mean per job
    is_cached: bool = False  # finished stages were taken over: less time than work
    teacher_calls: int = 0
    cost_usd: float | None = 0.0
    corpus_calls: int = 0  # that the row's corpora rest on, each corpus once
    corpus_usd: float | None = 0.0
    rests_on_calls: int = 0  # those, and what the row's jobs bought beside: judge, executor
    rests_on_usd: float | None = 0.0

    def runs_for(self, benchmark: str) -> list[Run]:
        """The row's runs with a figure for ``benchmark``, one per seed."""
        by_seed: dict[int, Run] = {}
        for run in self.runs:
            if run.accuracy(benchmark) is not None:
                by_seed.setdefault(seed_of(run), run)
        return list(by_seed.values())


@dataclass(frozen=True)
class Table:
    """The comparison's table, with what is missing from it."""

    swept: tuple[str, ...]
    benchmarks: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    basis: str = ""  # which rows are baselines and why, where that was a choice
    smallest_effect: float | None = None  # of interest, 0..1 units

    def label(self, row: Row) -> str:
        """Describe a row in one line: the choices that matter to it."""
        last = [key.rpartition(".")[2] for key in self.swept]
        parts = [
            value if key == "method" else f"{key if last.count(short) > 1 else short}={value}"
            for key, short, value in zip(self.swept, last, row.values, strict=True)
            if value != IRRELEVANT
        ]
        return " ".join(parts) or (row.runs[0].name if row.runs else "all jobs")


def build_table(
    results: Results,
    *,
    baseline: str | None = None,
    reader: OutcomeReader | None = None,
    smallest_effect: float | None = None,
) -> Table:
    """Build the table of the completed runs, with differences to the baseline.

    Args:
        results: what was loaded; failed runs appear as counts beside the row they belong to.
        baseline: a method, or ``key=value`` pairs joined by commas; ``None``: method sft where
            there is one, else the answer's reward where nothing but rewards and starts of GRPO
            is compared, else the row that shares most seeds and problems with the others.
        reader: shared with other parts of a comparison, so that no file is read twice.
        smallest_effect: a difference that would matter, 0..1 units; None: nobody said.

    Raises:
        ComparisonError: no row matches ``baseline``.
    """
    reader = reader or OutcomeReader()
    runs = [*results.completed, *(run for run in results.failed if run.settings or run.choices)]
    swept = swept_choices(runs)
    groups = group_runs(runs, swept)
    benchmarks = tuple(
        dict.fromkeys(name for run in results.completed for name in run.result.metrics)
    )
    ordered = sorted(groups.items(), key=lambda item: _order(swept, item[0]))
    rows = [_row(values, members, benchmarks) for values, members in ordered]
    table = Table(
        tuple(swept),
        benchmarks,
        tuple(rows),
        tuple(_notes(rows)),
        smallest_effect=smallest_effect,
    )
    chosen = Baselines(
        [row.values for row in rows],
        [{name: row.runs_for(name) for name in row.cells} for row in rows],
        reader,
    )
    candidates = _candidates(table, baseline, chosen)
    compared = _with_differences(table, candidates, chosen, reader)
    sweeps = {run.folder.parent for run in results.completed}
    is_open = len(candidates) > 1 or len(sweeps) > 1 or not _are_sft(table, candidates)
    if baseline is None and is_open:
        compared = replace(compared, basis=_basis(compared, candidates, chosen))
    return compared


_SHOWN_ROWS = 6


def _order(swept: Sequence[str], values: Sequence[str]) -> list[tuple[float, str]]:
    order = []
    for key, value in zip(swept, values, strict=True):
        known = names(key) if key in ("method", "filter") else ()
        rank = known.index(value) if value in known else finite_number(value)
        rank = -math.inf if value == IRRELEVANT else rank
        order.append((math.inf if rank is None else rank, value))
    return order


def _row(values: tuple[str, ...], runs: Sequence[Run], benchmarks: Sequence[str]) -> Row:
    done = [run for run in runs if run.is_completed]
    failed = {seed_of(run) for run in runs if not run.is_completed}
    corpora = {
        run.result.fingerprints.corpus: run.result.corpus
        for run in done
        if run.result.corpus and run.result.corpus.teacher_answers
    }.values()
    beside = [_beside_corpus(run) for run in done]
    corpus_calls = sum(corpus.teacher_answers or 0 for corpus in corpora)
    corpus_usd = [corpus.cost_usd for corpus in corpora]
    row = Row(
        values=values,
        runs=tuple(done),
        cells={},
        num_failed=len(failed - {seed_of(run) for run in done}),
        wall_s=math.fsum(run.result.wall_s for run in done) / len(done) if done else 0.0,
        is_cached=any(stage.is_cached for run in done for stage in run.result.stages.values()),
        teacher_calls=sum(run.result.teacher_calls for run in done),
        cost_usd=_total([run.result.cost_usd for run in done]),
        corpus_calls=corpus_calls,
        corpus_usd=_total(corpus_usd),
        rests_on_calls=corpus_calls + sum(calls for calls, _ in beside),
        rests_on_usd=_total([*corpus_usd, *(usd for _, usd in beside)]),
    )
    cells = {name: _cell(row.runs_for(name), name) for name in benchmarks if row.runs_for(name)}
    return replace(row, cells=cells)


def _beside_corpus(run: Run) -> tuple[int, float | None]:
    """Count the teacher calls that a job bought for anything but its corpus, and their cost."""
    result = run.result
    distilled = result.stages.get("distill")
    if result.corpus is None or distilled is None or distilled.is_cached:
        return result.teacher_calls, result.cost_usd
    calls = max(0, result.teacher_calls - (result.corpus.teacher_answers or 0))
    if result.cost_usd is None or result.corpus.cost_usd is None:
        return calls, result.cost_usd
    return calls, max(0.0, result.cost_usd - result.corpus.cost_usd)


def _total(costs: Sequence[float | None]) -> float | None:
    return None if None in costs else math.fsum(cost for cost in costs if cost is not None)


def _cell(runs: Sequence[Run], benchmark: str) -> Cell:
    by_seed = {run.seed: share for run in runs if (share := run.accuracy(benchmark)) is not None}
    interval = mean_interval(list(by_seed.values()))
    figures = runs[0].result.metrics[benchmark]
    low, high = interval.low, interval.high
    if len(by_seed) == 1:
        over_problems = wilson(round(interval.value * figures.n), figures.n)
        low = over_problems.low if figures.low is None else figures.low
        high = over_problems.high if figures.high is None else figures.high
    return Cell(
        accuracy=interval.value,
        low=max(low, 0.0),  # in this order nan stays nan
        high=min(high, 1.0),
        num_seeds=len(by_seed),
        num_problems=figures.n,
        by_seed=by_seed,
        is_seedless=len(runs) == 1 and is_seedless(runs[0]),
    )


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = []
    doubled = sum(conflicts(row.runs) for row in rows)
    if doubled:
        notes.append(
            f"{doubled} results have the same choices and seed as another one but other "
            "predictions (other code or paths?); the newest of them counts."
        )
    return notes


def _pairing_notes(table: Table, reader: OutcomeReader) -> list[str]:
    """What the differences leave out, and why: lost predictions, seeds without a partner."""
    notes = []
    unread = {
        run.predictions[name].resolve() if name in run.predictions else run.folder / name
        for row in table.rows
        for name in row.cells
        for run in row.runs_for(name)
        if not reader.outcomes(run, name)
    }
    if unread:
        notes.append(
            f"Predictions files that are missing or unreadable: {len(unread)}. Their accuracies "
            "count in the means, but not in the differences, tests and disagreements."
        )
    alone = [row for row in table.rows if _is_alone(table, row)]
    if alone:
        notes.append(
            "Without a difference, for no seed is shared with the baseline: "
            f"{_labels(table, alone)}."
        )
    partial = [
        row
        for row in table.rows
        if any(cell.difference and cell.difference.is_partial for cell in row.cells.values())
    ]
    if partial:
        notes.append(
            "The difference is over fewer seeds than the means, for the other seeds have no "
            f"partner or no predictions (the seeds stand beside it): {_labels(table, partial)}."
        )
    return notes


def _is_alone(table: Table, row: Row) -> bool:
    base = None if row.baseline is None else table.rows[row.baseline]
    return base is not None and any(
        cell.difference is None and name in base.cells for name, cell in row.cells.items()
    )


def _labels(table: Table, rows: Sequence[Row]) -> str:
    shown = "; ".join(table.label(row) for row in rows[:_SHOWN_ROWS])
    return shown + (f" and {len(rows) - _SHOWN_ROWS} more" if rows[_SHOWN_ROWS:] else "")


def _candidates(table: Table, baseline: str | None, chosen: Baselines) -> list[int]:
    """Find the rows that others may be compared with.

    Raises:
        ComparisonError: none matches.
    """
    measured = [index for index, row in enumerate(table.rows) if row.cells]
    if baseline is None:
        sft = [i for i in measured if _are_sft(table, [i])]
        varies = len({method_of(table.rows[i].runs[0]) for i in measured}) > 1
        answer = [i for i in measured if _has(table, table.rows[i], "reward", "answer")]
        if varies and chosen.are_useful(sft, measured):
            return sft
        # Beside other methods a reward's rows are compared with what they began from.
        is_of_rewards = bool(answer) and "reward" in table.swept and not varies
        return answer if is_of_rewards else chosen.most_shared(measured)
    wanted = _wanted(baseline)
    found = [
        i
        for i in measured
        if all(_has(table, table.rows[i], key, value) for key, value in wanted.items())
    ]
    if not found and measured:
        labels = "; ".join(table.label(table.rows[i]) for i in measured)
        raise ComparisonError(
            f"baseline={baseline!r} matches no row; the rows are: {labels}. "
            "For example: --baseline method=sft"
        )
    return found


def _are_sft(table: Table, rows: Sequence[int]) -> bool:
    return all(method_of(table.rows[i].runs[0]) == BASELINE for i in rows)


def _basis(table: Table, candidates: Sequence[int], chosen: Baselines) -> str:
    against = {i: row.baseline for i, row in enumerate(table.rows) if row.baseline is not None}
    others = [i for i, row in enumerate(table.rows) if row.cells and i not in against.values()]
    if not against or not others:
        return ""
    row = table.rows[others[0]]
    pairs = zip(table.swept, row.values, strict=True)
    example = ",".join(f"{key}={value}" for key, value in pairs if value != IRRELEVANT)
    labels = [table.label(row) for row in table.rows]
    return f"{chosen.reason(against, candidates, labels)} Another one: --baseline '{example}'"


def _wanted(baseline: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in baseline.replace(" ", ",").split(",") if part]
    return {key if equals else "method": value if equals else key for key, equals, value in pairs}


def _has(table: Table, row: Row, key: str, value: str) -> bool:
    if key in table.swept:
        return row.values[table.swept.index(key)] == value
    return any(run.choices.get(key, str(run.settings.get(key, ""))) == value for run in row.runs)


def _with_differences(
    table: Table, baselines: Sequence[int], chosen: Baselines, reader: OutcomeReader
) -> Table:
    if not baselines:
        return table
    found: dict[object, Difference] = {}
    against: dict[int, int] = {}
    for index, row in enumerate(table.rows):
        if index in baselines:
            continue
        nearest = chosen.nearest(index, baselines)
        against[index] = nearest
        base = table.rows[nearest]
        for name in row.cells:
            item = difference(base.runs_for(name), row.runs_for(name), name, reader)
            if item is not None:
                found[index, name] = item
    tested = corrected(found, smallest_effect=table.smallest_effect)
    rows = [
        replace(
            row,
            baseline=against.get(index),
            cells={
                name: replace(cell, difference=tested.get((index, name)))
                for name, cell in row.cells.items()
            },
        )
        for index, row in enumerate(table.rows)
    ]
    compared = replace(table, rows=tuple(rows))
    return replace(compared, notes=(*table.notes, *_pairing_notes(compared, reader)))
