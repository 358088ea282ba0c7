"""Jobs -> the smallest differences that their comparison will see: a line before anything is paid.

How differences vary is taken from finished runs of the same sweep where there are some, else it is
assumed; the line says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mode
from typing import Any

from plan_tuning.comparison.power_command import assumption, points
from plan_tuning.comparison.variances import Variances, variances
from plan_tuning.config.run import Config
from plan_tuning.job.eval_spec import benchmark_of
from plan_tuning.job.inputs import count_benchmark
from plan_tuning.statistics.power import assumed, smallest_difference
from plan_tuning.tasks.json_rows import DataError

_SHARE = 0.10  # of the problems differ, where nothing is measured
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
    measured, num_runs = ({}, 0) if folder is None else _measured(folder)
    parts = [
        f"{points(_smallest(measured.get(name), size, seeds, comparisons))} points on {name}"
        for name, size in list(sizes.items())[:_SHOWN]
    ]
    more = f" and {len(sizes) - _SHOWN} more" if len(sizes) > _SHOWN else ""
    source = f"from {num_runs} finished runs" if measured else assumption()
    many = f"{comparisons} comparison{'s' if comparisons > 1 else ''}"
    with_seeds = f"{seeds} seeds an arm show" if seeds > 1 else "1 seed an arm shows"
    advice = "plan-tuning power" if not measured else f"plan-tuning power {folder}"
    return (
        f"Power: {with_seeds} a difference of {', '.join(parts)}{more} with 80 % power "
        f"({many}, {source}); more: {advice}"
    )


def _smallest(found: Variances | None, problems: int, seeds: int, comparisons: int) -> float:
    parts = assumed(_SHARE) if found is None else found.parts
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


def _measured(folder: Path) -> tuple[dict[str, Variances], int]:
    """What finished jobs of a sweep say; nothing where there are none, or one row alone."""
    from plan_tuning.comparison.differences import OutcomeReader
    from plan_tuning.comparison.runs import ComparisonError, load
    from plan_tuning.comparison.tables import build_table

    try:
        results = load([folder])
    except ComparisonError:
        return {}, 0
    if not results.completed:
        return {}, 0
    reader = OutcomeReader()
    found = variances(build_table(results, reader=reader), reader)
    return {item.benchmark: item for item in found}, len(results.completed)
