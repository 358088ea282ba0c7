"""Mixed training: what each source loses by it, and how much of that a mitigation brings back.

Definitions: experiments/METHOD.md section 12. The rows are found by their choices: a student
of one source alone, the plain mixture, and rows that differ from it in a mitigation alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from plan_tuning.comparison.choices import distance, values_of
from plan_tuning.comparison.compute_table import mean_of
from plan_tuning.comparison.differences import OutcomeReader, by_problem, mean_difference
from plan_tuning.comparison.runs import Run
from plan_tuning.comparison.tables import Row, Table
from plan_tuning.config.mixture import MICRO_SOURCES
from plan_tuning.statistics.intervals import Crossed
from plan_tuning.statistics.power import LEVEL
from plan_tuning.statistics.tests import holm

ALL = "all"  # the benchmarks of all sources together
# What is done against interference, and its value where nothing is.
MITIGATIONS: Mapping[str, str] = {
    "merge": "none",
    "data.mixing.strategy": "concatenate",
    "data.mixing.domain_tag": "false",
    "trainer.order": "shuffled",
    "trainer.replay": "0",
    "trainer.pcgrad": "none",
}
# Choices in which sources and mixtures differ, and those of a mitigation's own.
_OF_SOURCES = re.compile(r"data(\.(name|family|sources|mixing)(\..*)?)?|merge(\..*)?")
_TOLERANCE = 0.02  # by which trained tokens differ at most that count as equal

Differences = Mapping[int, Mapping[str, float]]
"""By seed and problem; a problem's key begins with its benchmark."""


@dataclass(frozen=True)
class Effect:
    """A difference in accuracy on the test problems of one source, or of all; 0..1 units."""

    source: str
    value: float
    low: float  # 95 %
    high: float
    p: float
    p_holm: float
    num_seeds: int

    @property
    def direction(self) -> str:
        """``higher`` or ``lower`` where test and interval agree, else ``undecided``."""
        if math.isnan(self.p_holm) or self.p_holm >= LEVEL:
            return "undecided"
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "undecided"


@dataclass(frozen=True)
class Share:
    """The part of an interference that comes back; 1: all of it."""

    value: float
    low: float  # 95 %, with the interference itself as it was found
    high: float


@dataclass(frozen=True)
class Mitigation:
    """One row beside the plain mixture."""

    label: str
    row: Row
    effects: tuple[Effect, ...]  # this row minus the mixture: of each source, and of all
    shares: Mapping[str, Share]  # by source; only where an interference is shown
    tokens: float | None  # that its training read, mean over its jobs


@dataclass(frozen=True)
class Interference:
    """A plain mixture beside the students of its sources."""

    label: str  # of what else was swept; empty: nothing
    benchmarks: Mapping[str, str]  # by source
    singles: Mapping[str, Row]  # by source
    mixed: Row
    effects: tuple[Effect, ...]  # the source's own student minus the mixture, and of all
    mitigations: tuple[Mitigation, ...] = ()
    tokens: Mapping[str, float | None] = field(
        default_factory=dict
    )  # by source; ALL: the mixture's

    @property
    def total(self) -> Effect:
        """That of all sources' problems together."""
        return self.effects[-1]

    @property
    def has_equal_tokens(self) -> bool | None:
        """Whether the mixture read as many tokens as its sources' students together; None: unknown.

        Only then does a source give the mixture what it gives its own student.
        """
        apart = [self.tokens[source] for source in self.singles]
        mixed, known = self.tokens[ALL], [tokens for tokens in apart if tokens is not None]
        if mixed is None or len(known) < len(apart):
            return None
        return abs(mixed - math.fsum(known)) <= _TOLERANCE * mixed


def sources_of(run: Run) -> tuple[str, ...]:
    """Name the sources that a run's student has learned from."""
    prefix = "data.sources."
    named = [
        key.removeprefix(prefix).partition(".")[0] for key in run.settings if key.startswith(prefix)
    ]
    if named:
        return tuple(dict.fromkeys(named))
    family = run.settings.get("data.family")
    micro = next((name for name, one in MICRO_SOURCES.items() if one == family), None)
    return (micro or str(run.settings.get("data.name", "")),)


def interferences(table: Table, reader: OutcomeReader) -> list[Interference]:
    """Find every plain mixture of the table whose sources' own students are in it too.

    The tests of a mixture and its mitigations are corrected together (Holm).
    """
    found = []
    for row in table.rows:
        if not row.cells or len(sources := sources_of(row.runs[0])) < 2 or mitigation_of(row):
            continue
        singles = {source: _single(table, row, source) for source in sources}
        known = {source: single for source, single in singles.items() if single is not None}
        benchmarks = _benchmarks(table, row, sources)
        if set(known) == set(sources) == set(benchmarks):
            found.append(_interference(table, row, known, benchmarks, reader))
    return found


def mitigation_of(row: Row) -> str:
    """Say what a row does against interference; empty: nothing."""
    values = values_of(row.runs[0])
    changed = [key for key, plain in MITIGATIONS.items() if values.get(key, plain) != plain]
    words = [f"{key.rpartition('.')[2]}={values[key]}" for key in changed]
    if values.get("merge") == "router":
        words.append(values.get("merge.router", ""))
    elif "merge" in changed:
        knobs = ("weights", "density", "scale", "rank")
        overridden = " ".join(row.runs[0].result.overrides)
        words += [
            f"{knob}={values[f'merge.{knob}']}" for knob in knobs if f"merge.{knob}=" in overridden
        ]
    return " ".join(words)


def _others(table: Table) -> list[int]:
    """Places of the swept choices that are neither the data nor a mitigation."""
    return [
        place
        for place, key in enumerate(table.swept)
        if key not in MITIGATIONS and not _OF_SOURCES.fullmatch(key)
    ]


def _agree(table: Table, first: Row, second: Row) -> bool:
    others = _others(table)
    return not distance([first.values[i] for i in others], [second.values[i] for i in others])


def _single(table: Table, mixed: Row, source: str) -> Row | None:
    """The row of a source's own student with all else the same."""
    fitting = [
        row
        for row in table.rows
        if row.cells
        and sources_of(row.runs[0]) == (source,)
        and not mitigation_of(row)
        and row.runs[0].settings.get("method.name") == mixed.runs[0].settings.get("method.name")
        and _agree(table, mixed, row)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _benchmarks(table: Table, mixed: Row, sources: Sequence[str]) -> dict[str, str]:
    """The test set of each source: the first benchmark whose name begins with the source's."""
    found: dict[str, str] = {}
    for name in table.benchmarks:
        fitting = [source for source in sources if name.startswith(source)]
        source = max(fitting, key=len, default="")
        if source and name in mixed.cells:
            found.setdefault(source, name)
    return found


def _interference(
    table: Table,
    mixed: Row,
    singles: Mapping[str, Row],
    benchmarks: Mapping[str, str],
    reader: OutcomeReader,
) -> Interference:
    rows = [
        row
        for row in table.rows
        if row.cells
        and sources_of(row.runs[0]) == sources_of(mixed.runs[0])
        and mitigation_of(row)
        and _agree(table, mixed, row)
    ]
    lost = _by_source({s: (mixed, singles[s]) for s in singles}, benchmarks, reader)
    gained = [_by_source(dict.fromkeys(singles, (mixed, row)), benchmarks, reader) for row in rows]
    effects = [
        [_effect(source, found) for source, found in part.items()] for part in (lost, *gained)
    ]
    tested = _corrected(effects)
    shown = {effect.source: effect for effect in tested[0] if effect.direction == "higher"}
    mitigations = tuple(
        Mitigation(
            label=mitigation_of(row),
            row=row,
            effects=tuple(own),
            shares={source: _share(part[source], lost[source]) for source in shown},
            tokens=mean_of(row, "training", "trained_tokens"),
        )
        for row, own, part in zip(rows, tested[1:], gained, strict=True)
    )
    others = _others(table)
    return Interference(
        label=" ".join(mixed.values[place] for place in others if mixed.values[place] != "-"),
        benchmarks=benchmarks,
        singles=singles,
        mixed=mixed,
        effects=tuple(tested[0]),
        mitigations=mitigations,
        tokens={
            **{s: mean_of(row, "training", "trained_tokens") for s, row in singles.items()},
            ALL: mean_of(mixed, "training", "trained_tokens"),
        },
    )


def _by_source(
    pairs: Mapping[str, tuple[Row, Row]], benchmarks: Mapping[str, str], reader: OutcomeReader
) -> dict[str, Differences]:
    """The second row minus the first on each source's problems, and on all of them together."""
    found: dict[str, Differences] = {}
    together: dict[int, dict[str, float]] = {}
    for source, (first, second) in pairs.items():
        name = benchmarks[source]
        by_seed = by_problem(first.runs_for(name), second.runs_for(name), name, reader)
        found[source] = by_seed
        for seed, problems in by_seed.items():
            keyed = {f"{name}/{problem}": value for problem, value in problems.items()}
            together.setdefault(seed, {}).update(keyed)
    return {**found, ALL: together}


def _effect(source: str, found: Differences) -> Effect:
    if not found:
        nan = math.nan
        return Effect(source, nan, nan, nan, nan, nan, 0)
    mean = _mean(found)
    interval = mean.interval
    return Effect(
        source, interval.value, interval.low, interval.high, mean.p, mean.p, num_seeds=len(found)
    )


def _mean(found: Differences) -> Crossed:
    return mean_difference([found[seed] for seed in sorted(found)])


def _corrected(parts: Sequence[Sequence[Effect]]) -> list[list[Effect]]:
    """Correct the tests of all parts together for their number."""
    flat = [effect.p for part in parts for effect in part if not math.isnan(effect.p)]
    adjusted = iter(holm(flat))
    return [
        [
            effect if math.isnan(effect.p) else replace(effect, p_holm=next(adjusted))
            for effect in part
        ]
        for part in parts
    ]


def _share(gained: Differences, lost: Differences) -> Share:
    """Divide two paired means; the interval is that of ``gained - share * lost``, linearised.

    Problems and seeds that both have are paired, so that what moves both of them cancels.
    """
    seeds = sorted(gained.keys() & lost.keys())
    pairs = {
        seed: {
            problem: (value, lost[seed][problem])
            for problem, value in gained[seed].items()
            if problem in lost[seed]
        }
        for seed in seeds
    }
    mean_gained, mean_lost = (
        _mean({seed: {p: pair[part] for p, pair in one.items()} for seed, one in pairs.items()})
        for part in (0, 1)
    )
    if not seeds or mean_lost.interval.value == 0:
        return Share(math.nan, math.nan, math.nan)
    share = mean_gained.interval.value / mean_lost.interval.value
    rest = _mean(
        {
            seed: {problem: own - share * whole for problem, (own, whole) in one.items()}
            for seed, one in pairs.items()
        }
    )
    half = rest.precision.half_width(0.95) / abs(mean_lost.interval.value)
    return Share(share, share - half, share + half)
