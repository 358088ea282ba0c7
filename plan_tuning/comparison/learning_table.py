"""GRPO's curves -> what each reward taught: how fast, how far, by which hacks, on how many groups.

Read off ``metrics.csv`` alone, so it stands wherever GRPO has trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from plan_tuning.comparison.runs import Run, read_curves
from plan_tuning.comparison.table_text import percent
from plan_tuning.comparison.tables import Row, Table
from plan_tuning.statistics.intervals import mean_interval

ACCURACY, DEAD, FLOPS, PROBE = "val/accuracy", "train/dead_rate", "train/flops", "train/probe/"
_EDGE = 5  # steps at the beginning and at the end whose mean is shown
_SHOWN = 0.005  # share of plans from which on a probe is named
LEARNING_LEGEND = (
    "Held-out accuracy in percent, of training problems that no row was trained on; the target "
    "lies half-way from the rows' mean start to the best row's mean end. Steps and operations: the "
    "mean over the seeds that reach the target, with their number where not all do; operations "
    "count rollouts, log-probabilities, updates and the passes of a reward's frozen executor, not "
    "those of a judge. Dead groups: mean over the steps. Hacks: share of the sampled plans that a "
    f"probe describes, mean of the first and of the last {_EDGE} steps, named from "
    f"{percent(_SHOWN)} % on; a plan may be of several kinds. [95 % interval over seeds, "
    "Student's t]"
)

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Learning:
    """What one GRPO training went through, by its curves."""

    start: float  # held-out accuracy, 0..1; nan: not measured
    end: float
    accuracies: Points  # (step, accuracy)
    flops: Mapping[float, float]  # of all steps up to one
    dead: float  # mean share of groups
    hacks: Mapping[str, tuple[float, float]]  # probe -> its first and last rate, 0..1
    steps: int

    @classmethod
    def of(cls, run: Run) -> Learning | None:
        """Read a run's curves; None where it is no GRPO training."""
        curves = read_curves(run)
        if DEAD not in curves:
            return None
        accuracies = curves.get(ACCURACY, [])
        dead = [value for _, value in curves[DEAD]]
        hacks = {
            name.removeprefix(PROBE): (_mean(points[:_EDGE]), _mean(points[-_EDGE:]))
            for name, points in curves.items()
            if name.startswith(PROBE)
        }
        return cls(
            start=accuracies[0][1] if accuracies else math.nan,
            end=accuracies[-1][1] if accuracies else math.nan,
            accuracies=accuracies,
            flops=dict(curves.get(FLOPS, [])),
            dead=math.fsum(dead) / len(dead),
            hacks=hacks,
            steps=len(dead),
        )

    def step_of(self, target: float) -> float | None:
        """The first measured step at which the held-out accuracy is so high; None: never."""
        return next((step for step, value in self.accuracies if value >= target), None)


def _mean(points: Points) -> float:
    return math.fsum(value for _, value in points) / len(points)


def learnings(table: Table) -> list[tuple[Row, list[Learning]]]:
    """Read the rows that GRPO has trained."""
    found = []
    for row in table.rows:
        own = [one for run in row.runs if (one := Learning.of(run)) is not None]
        if own:
            found.append((row, own))
    return found


def target_accuracy(rows: Sequence[tuple[Row, Sequence[Learning]]]) -> float | None:
    """Choose the accuracy to be reached: half-way from the mean start to the best row's end.

    None where nothing was held out, or no row has learned anything.
    """
    starts = [one.start for _, own in rows for one in own if not math.isnan(one.start)]
    ends = [
        math.fsum(one.end for one in own) / len(own)
        for _, own in rows
        if not any(math.isnan(one.end) for one in own)
    ]
    if not starts or not ends:
        return None
    start, best = math.fsum(starts) / len(starts), max(ends)
    return (start + best) / 2 if best > start else None


def learning_table(table: Table) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of what each reward taught; no rows where GRPO has not trained."""
    found = learnings(table)
    target = target_accuracy(found)
    named = "the target" if target is None else f"{percent(target)} %"
    head = [
        *("row", "seeds", "steps", "held-out, start", "held-out, end"),
        *(f"steps to {named}", f"operations to {named}", "dead groups", "hacks, first → last"),
    ]
    rows = []
    for row, own in found:
        reached = [(one, step) for one in own if (step := _reached(one, target)) is not None]
        spent = [one.flops[step] for one, step in reached if step in one.flops]
        rows.append(
            [
                table.label(row),
                str(len(own)),
                _plain([float(one.steps) for one in own]),
                _shares(own, lambda one: one.start),
                _shares(own, lambda one: one.end),
                _counted([step + 1 for _, step in reached], len(own), ".0f"),
                _counted(spent, len(own), ".2e"),
                _shares(own, lambda one: one.dead),
                _hacks(own),
            ]
        )
    return head, rows


def _reached(one: Learning, target: float | None) -> float | None:
    return None if target is None else one.step_of(target)


def _plain(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0f}" if low == high else f"{low:.0f}-{high:.0f}"


def _shares(own: Sequence[Learning], figure: Callable[[Learning], float]) -> str:
    values = [value for one in own if not math.isnan(value := figure(one))]
    if not values:
        return "–"
    found = mean_interval(values)
    if math.isnan(found.low):
        return f"{percent(found.value)}†"
    low, high = max(found.low, 0.0), min(found.high, 1.0)
    return f"{percent(found.value)} [{percent(low)}, {percent(high)}]"


def _counted(values: Sequence[float], seeds: int, form: str) -> str:
    if not values:
        return "never"
    shown = format(math.fsum(values) / len(values), form)
    return shown if len(values) == seeds else f"{shown} ({len(values)} of {seeds} seeds)"


def _hacks(own: Sequence[Learning]) -> str:
    names = dict.fromkeys(name for one in own for name in one.hacks)
    parts = []
    for name in names:
        pairs = [one.hacks[name] for one in own if name in one.hacks]
        first, last = (math.fsum(values) / len(pairs) for values in zip(*pairs, strict=True))
        if max(first, last) >= _SHOWN:
            parts.append(f"{name} {percent(first)} → {percent(last)}")
    return ", ".join(parts) or "none"
