"""Corpora, answers and training curves of a comparison -> figures that explain its accuracies."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plan_tuning.comparison.drawing import Figure, dress, new_canvas, short, style_of, svg_of
from plan_tuning.comparison.runs import read_curves
from plan_tuning.comparison.tables import Row, Table
from plan_tuning.text.plans import has_box, leaks

THRESHOLDS = (-100, *range(0, 100, 5))
_LEFT_EDGE = -10  # where the threshold -100 is drawn: nothing happens between it and 0
_MAX_CORPORA = 6
_MAX_PLANS = 1000  # per row; of more plans every k-th is looked at


@dataclass(frozen=True)
class ThresholdPoint:
    """What the Plan Verifier keeps of one corpus at one threshold; rates are 0..1."""

    threshold: int
    kept_rate: float  # problems with at least one candidate that scores enough
    correct_rate: float  # of the kept candidates that were executed; nan where there are none


def threshold_curve(trajectories: Sequence[Mapping[str, Any]]) -> list[ThresholdPoint]:
    """Apply every threshold to the stored scores of a corpus."""
    problems = {row["problem_id"] for row in trajectories}
    points = []
    for threshold in THRESHOLDS:
        kept = [
            row
            for row in trajectories
            if row["plan_score"] is not None and row["plan_score"] >= threshold
        ]
        judged = [row["verdict"] == "correct" for row in kept if row["verdict"] is not None]
        points.append(
            ThresholdPoint(
                threshold=threshold,
                kept_rate=len({row["problem_id"] for row in kept}) / max(1, len(problems)),
                correct_rate=sum(judged) / len(judged) if judged else math.nan,
            )
        )
    return points


def leak_rates(predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of the written plans that give the answer away, and that hold a box: 0..1."""
    planned = [row for row in predictions if row.get("plan")]
    if not planned:
        return {}
    planned = planned[:: math.ceil(len(planned) / _MAX_PLANS)]
    leaked = sum(leaks(row["plan"], row["gold"], row.get("prompt", "")) for row in planned)
    return {
        "plan_leak_rate": leaked / len(planned),
        "plan_box_rate": sum(has_box(row["plan"]) for row in planned) / len(planned),
    }


def verifier_figure(corpora: Mapping[str, Sequence[ThresholdPoint]]) -> Figure:
    """Draw what the Plan Verifier's threshold alone does to each corpus."""
    canvas, axes = new_canvas(8.0, 3.2, 2)
    for number, (label, points) in enumerate(list(corpora.items())[:_MAX_CORPORA]):
        style = style_of(number) | {"ms": 3}
        thresholds = [max(p.threshold, _LEFT_EDGE) for p in points]
        axes[0].plot(thresholds, [100 * p.kept_rate for p in points], label=short(label), **style)
        axes[1].plot(thresholds, [100 * p.correct_rate for p in points], **style)
    for axis, title in zip(axes, ("problems kept (%)", "kept plans with a right answer (%)"),
                           strict=True):  # fmt: skip
        dress(axis, title, "plan score threshold")
    if len(corpora) > 1:
        axes[0].legend(fontsize=7)
    for axis in axes:
        axis.set_xticks([_LEFT_EDGE, 0, 20, 40, 60, 80], ["all", "0", "20", "40", "60", "80"])
    caption = (
        "What the Plan Verifier's threshold alone does to the stored corpus: its yield and, among "
        "the kept candidates, the share whose execution is right."
    )
    return Figure("threshold", "Threshold, yield and correctness", caption, svg_of(canvas))


_RATES = ("no_answer_rate", "truncated_rate", "timeout_rate")
_LEAKS = ("plan_leak_rate", "plan_box_rate")


def length_figure(
    table: Table, rows: Sequence[Row], leak: Mapping[str, Mapping[str, float]]
) -> Figure | None:
    """Draw completion lengths, and how often answers are missing, cut off or leaked by plans."""
    lengths = [_mean_metric(table, row, "mean_completion_tokens") for row in rows]
    if all(value is None for value in lengths):
        return None
    rates = {name: [_mean_metric(table, row, name) for row in rows] for name in _RATES}
    rates |= {name: [leak.get(table.label(row), {}).get(name) for row in rows] for name in _LEAKS}
    rates = {name: values for name, values in rates.items() if any(values)}
    canvas, axes = new_canvas(9.0, 1.2 + 0.3 * len(rows), 2)
    positions = range(len(rows))
    axes[0].barh(
        positions, [value or 0 for value in lengths], color="0.75", edgecolor="black", lw=0.6
    )
    dress(axes[0], "mean completion tokens", grid="x")
    for number, (name, values) in enumerate(rates.items()):
        shown = [(100 * value, y) for y, value in enumerate(values) if value is not None]
        axes[1].plot(
            [x for x, _ in shown],
            [y for _, y in shown],
            **(style_of(number) | {"ls": ""}),
            label=name.removesuffix("_rate").replace("_", " "),
        )
    dress(axes[1], "rates (%)", grid="x")
    axes[1].set_xlim(-2, 102)
    if rates:
        axes[1].legend(fontsize=7)
    for axis, labels in zip(axes, ([short(table.label(row)) for row in rows], []), strict=True):
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_yticks(list(positions))
        axis.set_yticklabels(labels or [""] * len(rows))
    caption = "Means over benchmarks and seeds: length, and answers missing, cut off or leaked."
    return Figure("length", "Length, missing answers and leaks", caption, svg_of(canvas))


def _mean_metric(table: Table, row: Row, name: str) -> float | None:
    values = [
        value
        for benchmark in table.benchmarks
        for run in row.runs_for(benchmark)
        if (value := getattr(run.result.metrics[benchmark], name)) is not None
    ]
    return sum(values) / len(values) if values else None


_CURVES = ("train/loss", "val/loss", "val/accuracy", "train/reward/total")
_AFTER_REWARDS = ("train/kl", "train/entropy", "train/length")
_MAX_CURVES = 12
_NUM_MARKS = 8  # markers on a line: enough to tell it, few enough to see it


def curve_names(present: Collection[str]) -> list[str]:
    """Choose what is drawn: losses, accuracy, the total reward and the mean of each of its parts.

    Of a reward's part there are spreads and rates as well (``train/reward/correct/std``); those
    stay in metrics.csv.
    """
    parts = sorted(name for name in present if _is_part(name))
    names = [name for name in (*_CURVES, *parts, *_AFTER_REWARDS) if name in present]
    return names[:_MAX_CURVES]


def _is_part(name: str) -> bool:
    return name.startswith("train/reward/") and name.count("/") == 2 and name not in _CURVES


def curves_figure(table: Table, rows: Sequence[Row]) -> Figure | None:
    """Draw mean training curves over the seeds of each row."""
    by_row = {
        table.label(row): _mean_curves([read_curves(run) for run in row.runs]) for row in rows
    }
    present = {name for curves in by_row.values() for name in curves}
    names = curve_names(present)
    if not names:
        return None
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    canvas, axes = new_canvas(1.0 + 3.2 * columns, 0.6 + 2.8 * lines, columns, lines)
    for axis, name in zip(axes, names, strict=False):
        for number, (label, curves) in enumerate(by_row.items()):
            if name in curves:
                steps, values = zip(*curves[name], strict=True)
                every = max(1, len(steps) // _NUM_MARKS)
                style = style_of(number) | {"ms": 3, "markevery": (number % every, every)}
                axis.plot(steps, values, label=short(label), **style)
        dress(axis, name, "step")
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    handles = {label: handle for axis in axes for handle, label in
               zip(*axis.get_legend_handles_labels(), strict=True)}  # fmt: skip
    canvas.legend(handles.values(), handles.keys(), fontsize=7, loc="outside lower center", ncols=2)
    caption = "Means over the seeds of a row; of rewards, the total and the mean of each part."
    return Figure("curves", "Training curves", caption, svg_of(canvas))


def _mean_curves(
    runs: Sequence[Mapping[str, Sequence[tuple[float, float]]]],
) -> dict[str, list[tuple[float, float]]]:
    collected: dict[str, dict[float, list[float]]] = {}
    for curves in runs:
        for name, points in curves.items():
            for step, value in points:
                collected.setdefault(name, {}).setdefault(step, []).append(value)
    return {
        name: [(step, sum(values) / len(values)) for step, values in sorted(by_step.items())]
        for name, by_step in collected.items()
    }
