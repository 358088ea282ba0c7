"""Rows → which of them each other row is compared with, and why.

A difference is only as good as what two rows share: it is over the seeds and problems of both. So
among the rows that could be a baseline, the nearest in its choices is taken, of equally near ones
that which shares most, and one that shares nothing only where there is no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plan_tuning.comparison.choices import distance
from plan_tuning.comparison.differences import OutcomeReader, pair_seeds
from plan_tuning.comparison.runs import Run

_SHOWN = 6


@dataclass(frozen=True, order=True)
class Share:
    """What two rows have in common."""

    seeds: int = 0  # on the benchmark where they share most
    problems: int = 0  # over all benchmarks, of equal gold answers

    def __bool__(self) -> bool:
        """Whether a difference of the two can be computed at all."""
        return self.seeds > 0

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.seeds} seed{'s' if self.seeds != 1 else ''} and {self.problems:,} problems"


class Baselines:
    """Chooses a baseline for each row.

    Args:
        values: of the rows: their choices, with ``-`` where one cannot matter.
        runs: of each row by benchmark, one per seed.
        reader: of predictions.
    """

    def __init__(
        self,
        values: Sequence[tuple[str, ...]],
        runs: Sequence[Mapping[str, Sequence[Run]]],
        reader: OutcomeReader,
    ) -> None:
        self._values = values
        self._runs = runs
        self._reader = reader
        self._shares: dict[tuple[int, int], Share] = {}

    def share(self, first: int, second: int) -> Share:
        """Count the seeds and problems that two rows share."""
        key = (min(first, second), max(first, second))
        if key not in self._shares:
            seeds = [0]
            problems = 0
            for name, runs in self._runs[first].items():
                pairs = pair_seeds(runs, self._runs[second].get(name, ()))
                seeds.append(len(pairs))
                if pairs:
                    problems += len(self._problems(pairs[0][0], name, pairs[0][1]))
            self._shares[key] = Share(max(seeds), problems)
        return self._shares[key]

    def _problems(self, first: Run, benchmark: str, second: Run) -> set[tuple[str, str]]:
        found = [
            {(problem, gold) for (problem, _), (gold, _) in outcomes.items()}
            for outcomes in (self._reader.outcomes(run, benchmark) for run in (first, second))
        ]
        return found[0] & found[1]

    def are_useful(self, candidates: Sequence[int], measured: Sequence[int]) -> bool:
        """Whether any of the candidates shares a seed with any row beside them."""
        others = [index for index in measured if index not in candidates]
        return any(self.share(base, other) for base in candidates for other in others)

    def most_shared(self, measured: Sequence[int]) -> list[int]:
        """Choose the row that shares most with all others; of equal ones the first."""

        def total(index: int) -> tuple[int, int]:
            shares = [self.share(index, other) for other in measured if other != index]
            return sum(s.seeds for s in shares), sum(s.problems for s in shares)

        return [max(measured, key=total)] if measured else []

    def nearest(self, index: int, candidates: Sequence[int]) -> int:
        """Choose the baseline of one row."""

        def order(base: int) -> tuple[bool, int, int, int]:
            share = self.share(base, index)
            return (not share, self._distance(base, index), -share.seeds, -share.problems)

        return min(candidates, key=order)

    def _distance(self, first: int, second: int) -> int:
        return distance(self._values[first], self._values[second])

    def reason(
        self, against: Mapping[int, int], candidates: Sequence[int], labels: Sequence[str]
    ) -> str:
        """Say which rows are baselines, why, and how another one is asked for.

        Args:
            against: row → its baseline.
            candidates: the rows that could be one.
            labels: of all rows.
        """
        parts = []
        for base in dict.fromkeys(against.values()):
            rows = [row for row, other in against.items() if other == base]
            shares = [self.share(base, row) for row in rows]
            least, most = min(shares), max(shares)
            common = str(least) if least == most else f"{least} up to {most}"
            parts.append(
                f"{labels[base]} (shares {common} with {len(rows)} "
                f"row{'s' if len(rows) > 1 else ''})"
            )
        text = f"Baseline{'s' if len(parts) > 1 else ''}: {'; '.join(parts[:_SHOWN])}"
        if len(candidates) > 1:
            text += ", the nearest in choices and of those the one that shares most"
        for row, base in list(against.items())[:_SHOWN]:
            passed = min(candidates, key=lambda i, row=row: self._distance(i, row))  # type: ignore[misc]
            if self._distance(passed, row) < self._distance(base, row):
                text += (
                    f"; {labels[row]} is compared with {labels[base]}, for {labels[passed]} "
                    "shares no seed with it"
                )
        return text + "."
