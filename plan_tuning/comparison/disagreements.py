"""Predictions of a row and its baseline -> the problems that only one of the two solves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plan_tuning.comparison.differences import OutcomeReader, pair_seeds
from plan_tuning.comparison.runs import Run
from plan_tuning.comparison.tables import Table

THRESHOLD = 0.5


@dataclass(frozen=True)
class Disagreement:
    """Problems of one benchmark on which a row and its baseline differ, the clearest first."""

    row: str
    baseline: str
    benchmark: str
    num_seeds: int
    only_row: tuple[str, ...]  # problem ids that the row solves and the baseline does not
    only_baseline: tuple[str, ...]


def disagreements(table: Table, reader: OutcomeReader) -> list[Disagreement]:
    """List them for every row that has a baseline."""
    found = []
    for row in table.rows:
        if row.baseline is None:
            continue
        base = table.rows[row.baseline]
        for name in row.cells:
            pairs = pair_seeds(base.runs_for(name), row.runs_for(name))
            margins = _margins(pairs, name, reader)
            if not margins:
                continue
            found.append(
                Disagreement(
                    row=table.label(row),
                    baseline=table.label(base),
                    benchmark=name,
                    num_seeds=len(pairs),
                    only_row=_beyond(margins, +1),
                    only_baseline=_beyond(margins, -1),
                )
            )
    return found


def _margins(
    pairs: Sequence[tuple[Run, Run]], benchmark: str, reader: OutcomeReader
) -> dict[str, float]:
    """Problem -> mean over seeds and samples of (row right) - (baseline right)."""
    values: dict[str, list[int]] = {}
    for base, run in pairs:
        first = reader.outcomes(base, benchmark)
        for (problem, sample), (gold, right) in reader.outcomes(run, benchmark).items():
            other = first.get((problem, sample))
            if other is not None and other[0] == gold:
                values.setdefault(problem, []).append(int(right) - int(other[1]))
    return {problem: sum(listed) / len(listed) for problem, listed in values.items()}


def _beyond(margins: dict[str, float], sign: int) -> tuple[str, ...]:
    """Problems whose margin is above a half of the seeds in the direction of ``sign``."""
    picked = [problem for problem, margin in margins.items() if sign * margin > THRESHOLD]
    return tuple(sorted(picked, key=lambda problem: (-abs(margins[problem]), problem)))
