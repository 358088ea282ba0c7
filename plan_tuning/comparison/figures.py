"""A finished comparison -> figures of accuracy, readable in black and white."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from plan_tuning.comparison.choices import IRRELEVANT
from plan_tuning.comparison.diagnostics import (
    ThresholdPoint,
    curves_figure,
    length_figure,
    verifier_figure,
)
from plan_tuning.comparison.drawing import Figure, dress, new_canvas, short, style_of, svg_of
from plan_tuning.comparison.runs import finite_number
from plan_tuning.comparison.tables import Cell, Row, Table

_MAX_ROWS = 40
_MIN_POINTS = 3  # of a curve
_DARK = 65  # percent: from here on a cell of the transfer figure is labelled in white


def draw_figures(
    table: Table,
    *,
    corpora: Mapping[str, Sequence[ThresholdPoint]],
    rates: Mapping[str, Mapping[str, float]],
) -> list[Figure]:
    """Draw every figure that the comparison has data for.

    Args:
        table: the comparison's table.
        corpora: threshold curves by corpus.
        rates: leak rates by row label.
    """
    rows = _shown(table)
    if not rows:
        return []
    drawn: list[Figure | None] = [_accuracy(table, rows)]
    drawn += [_numeric(table, rows, key) for key in numeric_choices(table)]
    drawn.append(verifier_figure(corpora) if corpora else None)
    drawn.append(_transfer(table, rows) if len(table.benchmarks) > 1 and len(rows) > 1 else None)
    drawn += [length_figure(table, rows, rates), curves_figure(table, rows)]
    return [figure for figure in drawn if figure is not None]


def accuracy_figure(table: Table) -> Figure | None:
    """Draw accuracy by choice for a file of its own, one panel a benchmark; None without any."""
    rows = _shown(table)
    return _accuracy(table, rows, letters="none") if rows else None


def _shown(table: Table) -> list[Row]:
    return [row for row in table.rows if row.cells][:_MAX_ROWS]


def numeric_choices(table: Table) -> list[str]:
    """Swept choices with enough numeric values to be drawn as curves, and no other ones."""
    found = []
    for i, key in enumerate(table.swept):
        values = {row.values[i] for row in table.rows if row.values[i] != IRRELEVANT}
        if len(values) >= _MIN_POINTS and all(finite_number(value) is not None for value in values):
            found.append(key)
    return found


def _bars(cell: Cell) -> list[list[float]]:
    """Lengths of the error bars in percent, 0 where there is no interval."""
    if math.isnan(cell.low):
        return [[0.0], [0.0]]
    return [[100 * (cell.accuracy - cell.low)], [100 * (cell.high - cell.accuracy)]]


def _accuracy(table: Table, rows: Sequence[Row], *, letters: str = "path") -> Figure:
    shown = table.benchmarks
    columns = min(len(shown), 4)
    lines = math.ceil(len(shown) / columns)
    canvas, axes = new_canvas(3.0 + 2.3 * columns, lines * (1.1 + 0.27 * len(rows)), columns, lines)
    for index, axis in enumerate(axes):
        if index >= len(shown):
            axis.set_visible(False)
            continue
        name = shown[index]
        for position, row in enumerate(rows):
            cell = row.cells.get(name)
            if cell is None:
                continue
            axis.errorbar(
                100 * cell.accuracy,
                position,
                xerr=_bars(cell),
                fmt="o" if row.baseline is not None else "D",
                mfc="white" if cell.is_single_seed else "black",
                color="black",
                capsize=3,
                ms=5,
                lw=1,
            )
        for base in {row.baseline for row in rows if row.baseline is not None}:
            cell = table.rows[base].cells.get(name)
            if cell is not None:
                axis.axvline(100 * cell.accuracy, color="0.6", ls="--", lw=0.8, zorder=0)
        dress(axis, name, "accuracy (%)", grid="x")
        axis.set_xlim(-2, 102)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_yticks(range(len(rows)))
        has_labels = index % columns == 0
        axis.set_yticklabels([short(table.label(row)) for row in rows] if has_labels else [])
    caption = (
        "Mean over seeds with its 95 % interval. Diamond and dashed line: baseline. White: one "
        "seed only, the interval is over problems."
    )
    return Figure("accuracy", "Accuracy by choice", caption, svg_of(canvas, letters=letters))


def _numeric(table: Table, rows: Sequence[Row], key: str) -> Figure:
    """Accuracy against a numeric choice, and beside it how many rows the student learned from.

    The values stand at equal distances: thresholds and fractions crowd at one end.
    """
    at = table.swept.index(key)
    lines: dict[str, list[tuple[float, Row]]] = {}
    for row in rows:
        value = finite_number(row.values[at])
        if value is not None:
            others = (*row.values[:at], IRRELEVANT, *row.values[at + 1 :])
            label = table.label(Row(others, row.runs, row.cells))
            is_only = len(table.swept) == 1
            lines.setdefault("all" if is_only else label, []).append((value, row))
    ticks = sorted({value for points in lines.values() for value, _ in points})
    has_yield = any(_training_rows(row) for row in rows)
    columns = len(table.benchmarks) + has_yield
    canvas, axes = new_canvas(1.0 + 3.0 * columns, 3.4, columns)
    for number, (label, points) in enumerate(lines.items()):
        points.sort(key=lambda point: point[0])
        style = style_of(number)
        for axis, name in zip(axes, table.benchmarks, strict=False):
            present = [(ticks.index(x), row.cells[name]) for x, row in points if name in row.cells]
            bars = [[_bars(cell)[side][0] for _, cell in present] for side in (0, 1)]
            axis.errorbar(
                [x for x, _ in present],
                [100 * cell.accuracy for _, cell in present],
                yerr=bars,
                capsize=3,
                label=short(label),
                **style,
            )
            axis.set_title(name, fontsize=9)
            axis.set_ylabel("accuracy (%)", fontsize=8)
        if has_yield:
            axes[-1].plot(
                [ticks.index(x) for x, _ in points],
                [_training_rows(row) for _, row in points],
                **style,
            )
            axes[-1].set_title("training rows", fontsize=9)
            axes[-1].set_ylim(bottom=0)
    for axis in axes:
        axis.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
        axis.set_xlabel(key, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(color="0.9", lw=0.6)
    if len(lines) > 1:
        axes[0].legend(fontsize=7)
    caption = f"Accuracy with 95 % intervals against {key}; right: rows that the filter kept."
    return Figure(f"by_{key.replace('.', '_')}", f"By {key}", caption, svg_of(canvas))


def _training_rows(row: Row) -> float:
    counts = [run.training_rows for run in row.runs]
    return sum(counts) / len(counts) if counts else 0.0


def _transfer(table: Table, rows: Sequence[Row]) -> Figure:
    grid = [
        [100 * row.cells[name].accuracy if name in row.cells else math.nan
         for name in table.benchmarks]
        for row in rows
    ]  # fmt: skip
    width = 3.6 + 1.15 * len(table.benchmarks)
    canvas, axes = new_canvas(width, 1.2 + 0.28 * len(rows), 1)
    axis = axes[0]
    axis.imshow(grid, cmap="Greys", vmin=0, vmax=100, aspect="auto")
    for y, line in enumerate(grid):
        for x, value in enumerate(line):
            text = "–" if math.isnan(value) else f"{value:.1f}"
            color = "white" if value > _DARK else "black"  # on grey neither is read well
            axis.text(x, y, text, ha="center", va="center", fontsize=8, color=color)
    names = [short(name).replace("_", "\n", 1) for name in table.benchmarks]
    axis.set_xticks(range(len(names)), names, fontsize=7)
    axis.set_yticks(range(len(rows)), [short(table.label(row)) for row in rows], fontsize=8)
    return Figure(
        "transfer",
        "Transfer",
        "Accuracy in percent: what a student was trained on (rows) against test sets (columns).",
        svg_of(canvas),
    )
