"""Finished runs -> how their differences vary with the problem and the seed, by benchmark.

What :mod:`plan_tuning.statistics.power` needs to say what a sweep of the same kind can see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plan_tuning.comparison.differences import OutcomeReader, pair_seeds
from plan_tuning.comparison.runs import Results, Run
from plan_tuning.comparison.tables import Table
from plan_tuning.statistics.power import (
    ASSUMED_SHARE,
    Components,
    assumed,
    components,
    pooled,
)


@dataclass(frozen=True)
class Variances:
    """Components of one benchmark's differences, and what they were estimated from."""

    benchmark: str
    parts: Components
    problems: int  # of the smallest pair of rows
    seeds: int  # of the smallest pair of rows; 1: nothing is known about other seeds
    pairs: int


def variances(table: Table, reader: OutcomeReader) -> list[Variances]:
    """Estimate the components of every benchmark from the rows and their baselines.

    Pairs of rows that share two seeds or more count; where there is none, the share of problems
    on which two runs differ is all that is known.
    """
    found = []
    for name in table.benchmarks:
        several: list[tuple[Components, int, int]] = []
        single: list[tuple[Components, int, int]] = []
        for row in table.rows:
            if row.baseline is None or name not in row.cells:
                continue
            base = table.rows[row.baseline].runs_for(name)
            arms = _arms(base, row.runs_for(name), name, reader)
            if arms is None:
                continue
            first, second = arms
            seeds, problems = len(first), len(first[0])
            if seeds > 1 and problems > 1:
                several.append((components(first, second), problems, seeds))
            elif share := _share_that_differs(first[0], second[0]):
                single.append((assumed(share), problems, 1))
        if used := several or single:
            found.append(
                Variances(
                    benchmark=name,
                    parts=pooled([parts for parts, _, _ in used]),
                    problems=min(problems for _, problems, _ in used),
                    seeds=min(seeds for _, _, seeds in used),
                    pairs=len(used),
                )
            )
    return found


def _share_that_differs(first: Sequence[float], second: Sequence[float]) -> float:
    return sum((b - a) ** 2 for a, b in zip(first, second, strict=True)) / len(first)


def _arms(
    baseline: Sequence[Run], runs: Sequence[Run], benchmark: str, reader: OutcomeReader
) -> tuple[list[list[float]], list[list[float]]] | None:
    """Two arms as (seed, problem) tables of what all their shared seeds answered."""
    pairs = [
        (_by_problem(base, benchmark, reader), _by_problem(run, benchmark, reader))
        for base, run in pair_seeds(baseline, runs)
    ]
    pairs = [(first, second) for first, second in pairs if first and second]
    if not pairs:
        return None
    shared = [
        key for key in pairs[0][0] if all(key in first and key in second for first, second in pairs)
    ]
    if not shared:
        return None
    return (
        [[first[key] for key in shared] for first, _ in pairs],
        [[second[key] for key in shared] for _, second in pairs],
    )


def _by_problem(run: Run, benchmark: str, reader: OutcomeReader) -> dict[tuple[str, str], float]:
    """Mean correctness over the samples of each problem, by its id and gold answer."""
    answers: dict[tuple[str, str], list[bool]] = {}
    for (problem, _), (gold, is_right) in reader.outcomes(run, benchmark).items():
        answers.setdefault((problem, gold), []).append(is_right)
    return {key: sum(listed) / len(listed) for key, listed in answers.items()}


def assumption(share: float = 100 * ASSUMED_SHARE, spread: float = 0.0) -> str:
    """Say what is assumed: percent of problems that differ, points between seeds."""
    between = f"a spread of {spread:g} points" if spread else "no spread"
    return f"assuming {share:g} % of problems differ and {between} between seeds"


def points(share: float) -> str:
    """Print a difference in points; one that no power reaches is ``none``.

    >>> points(0.0241), points(float("inf"))
    ('2.4', 'none')
    """
    return f"{100 * share:.1f}" if share <= 1 else "none"


def num_comparisons(table: Table) -> int:
    """How many differences the table corrects its tests for."""
    return sum(
        cell.difference is not None for row in table.rows for cell in row.cells.values()
    )  # fmt: skip


@dataclass(frozen=True)
class JobCost:
    """What one more seed of every row would cost, by the finished jobs."""

    rows: int  # that a seed changes
    seedless_rows: int  # that none does: one job each, however many seeds the others have
    wall_s: float | None  # mean of jobs that took no stage over; None: all of them did
    calls: float  # of a teacher, that a job bought for anything but its corpus: mean
    usd: float | None  # of those; None: the price is unknown

    @classmethod
    def of(cls, table: Table, results: Results) -> JobCost:
        """Read the cost of finished jobs."""
        done = results.completed
        fresh = [
            run.result.wall_s
            for run in done
            if run.result.stages and not any(s.is_cached for s in run.result.stages.values())
        ]
        beside = [
            (row.rests_on_calls - row.corpus_calls, _less(row.rests_on_usd, row.corpus_usd))
            for row in table.rows
        ]
        count = max(1, len(done))
        costs = [usd for _, usd in beside]
        tested = [list(row.cells.values()) for row in table.rows if row.cells]
        seedless = sum(all(cell.is_seedless for cell in cells) for cells in tested)
        return cls(
            rows=len(tested) - seedless,
            seedless_rows=seedless,
            wall_s=sum(fresh) / len(fresh) if fresh else None,
            calls=sum(calls for calls, _ in beside) / count,
            usd=None if None in costs else sum(usd for usd in costs if usd is not None) / count,
        )

    def jobs(self, seeds: int) -> int:
        """How many jobs so many seeds an arm are."""
        return seeds * self.rows + self.seedless_rows


def _less(total: float | None, part: float | None) -> float | None:
    return None if total is None or part is None else max(0.0, total - part)
