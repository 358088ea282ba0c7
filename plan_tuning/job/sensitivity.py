"""Jobs -> the smallest differences that their comparison will see: a line before anything is paid.

How differences vary is taken from finished runs of the same sweep where there are some, else it is
assumed; the line says which, for each benchmark where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mode
from typing import Any

from plan_tuning.comparison.variances import Variances, assumption, points, variances
from plan_tuning.config.run import Config
from plan_tuning.job.eval_spec import benchmark_of
from plan_tuning.job.inputs import count_benchmark
from plan_tuning.statistics.power import ASSUMED_SHARE, assumed, smallest_difference
from plan_tuning.tasks.json_rows import DataError

_SHOWN = 4


def power_line(rows: Mapping[Any, Sequence[Config]], folder: Path | None = None) -> str:
    """Say which differences a sweep's comparison sees with 80 % power.

    Args:
        rows: what a job is without its seed -> its jobs, one a seed.
        folder: of the sweep; None: a job outside one.

    Returns:
        A line; empty where no job is evaluated.
    """
    jobs = [config for configs in rows.values() for config in configs]
    sizes = _sizes(jobs)
    if not sizes:
        return ""
    trained = [configs for configs in rows.values() if configs[0].method.is_trained]
    counts = [len(configs) for configs in trained]  # no seed changes the others
    seeds = mode(counts) if counts else 1
    comparisons = max(1, len(rows) - 1) * len(sizes)
    measured = {} if folder is None else _measured(folder)
    found = {name: measured.get(name, _Measured(None, 0)) for name in sizes}
    parts = [
        f"{points(_smallest(found[name].parts, size, seeds, comparisons))} points on {name}"
        for name, size in list(sizes.items())[:_SHOWN]
    ]
    more = f" and {len(sizes) - _SHOWN} more" if len(sizes) > _SHOWN else ""
    many = f"{comparisons} comparison{'s' if comparisons > 1 else ''}"
    with_seeds = f"{seeds} seeds an arm show" if seeds > 1 else "1 seed an arm shows"
    is_measured = any(item.parts is not None for item in found.values())
    advice = f"plan-tuning power {folder}" if is_measured else "plan-tuning power"
    return (
        f"Power: {with_seeds} a difference of {', '.join(parts)}{more} with 80 % power "
        f"({many}, {_sources(found)}); more: {advice}"
    )


@dataclass(frozen=True)
class _Measured:
    """What finished runs say about one benchmark."""

    parts: Variances | None  # None: nothing
    num_runs: int

    @property
    def source(self) -> str:
        if self.parts is None:
            return assumption()
        alone = ", one seed: no spread between seeds" if self.parts.seeds == 1 else ""
        return f"from {self.num_runs} finished runs{alone}"


def _sources(found: Mapping[str, _Measured]) -> str:
    """Where the figures come from: once, or by benchmark where that differs."""
    names: dict[str, list[str]] = {}
    for name, item in found.items():
        names.setdefault(item.source, []).append(name)
    if len(names) == 1:
        return next(iter(names))
    return "; ".join(f"{', '.join(listed)}: {source}" for source, listed in names.items())


def _smallest(found: Variances | None, problems: int, seeds: int, comparisons: int) -> float:
    parts = assumed(ASSUMED_SHARE) if found is None else found.parts
    return smallest_difference(parts, problems=problems, seeds=seeds, comparisons=comparisons)


def _sizes(jobs: Sequence[Config]) -> dict[str, int]:
    """Problems of each benchmark that all jobs have; unreadable files are told elsewhere."""
    sizes: dict[str, int] = {}
    for config in jobs:
        if "evaluate" not in config.stages:
            continue
        for entry in config.benchmarks:
            name = benchmark_of(entry, config)[0]
            try:
                size = count_benchmark(entry, config)
            except DataError:
                continue
            sizes[name] = min(sizes.get(name, size), size)
    return {name: size for name, size in sizes.items() if size > 1}


def _measured(folder: Path) -> dict[str, _Measured]:
    """What finished jobs of a sweep say; nothing where there are none, or one row alone."""
    from plan_tuning.comparison.differences import OutcomeReader
    from plan_tuning.comparison.runs import ComparisonError, load
    from plan_tuning.comparison.tables import build_table

    try:
        results = load([folder])
    except ComparisonError:
        return {}
    done = results.completed
    if not done:
        return {}
    reader = OutcomeReader()
    return {
        item.benchmark: _Measured(
            item, sum(run.accuracy(item.benchmark) is not None for run in done)
        )
        for item in variances(build_table(results, reader=reader), reader)
    }
