"""What plans are worth -> the figure of it: contrasts by row, likelihood beside accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from plan_tuning.comparison.drawing import Figure, dress, new_canvas, short, style_of, svg_of
from plan_tuning.comparison.plan_value_text import contrast_title
from plan_tuning.comparison.plan_values import PlanWorth, Worth
from plan_tuning.comparison.tables import Table

_MAX_BENCHMARKS = 4
_SPREAD = 0.7  # of a row's height that its contrasts take up


def worth_figure(table: Table, found: PlanWorth) -> Figure | None:
    """Draw one line of panels a benchmark; None where no job was asked for plan values."""
    benchmarks = list(dict.fromkeys(worth.benchmark for worth in found.rows))[:_MAX_BENCHMARKS]
    if not benchmarks:
        return None
    planned = [worth for worth in found.rows if worth.contrasts]
    names = found.contrasts
    most = max((len(_of(planned, name)) for name in benchmarks), default=0)
    height = 0.9 + max(2.2, 0.22 * len(names) * most)
    columns = 2 if planned else 1
    canvas, axes = new_canvas(
        5.2 * columns, height * len(benchmarks) + 0.5, columns, len(benchmarks)
    )
    for place, benchmark in enumerate(benchmarks):
        if planned:
            _contrasts(axes[2 * place], _of(planned, benchmark), names, benchmark)
        _likelihood(axes[columns * place + columns - 1], table, _of(found.rows, benchmark))
    handles, labels = axes[0].get_legend_handles_labels()
    if planned:
        canvas.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=4)
    caption = (
        "Left: nats a token by which the reference execution is likelier behind the row's plan "
        "than behind another one, 95 % intervals; white: one seed. Right: the same execution's "
        "log-probability a token, asked in the row's own way, beside its accuracy."
    )
    return Figure("plan_value", "What a plan is worth", caption, svg_of(canvas))


def _of(rows: Sequence[Worth], benchmark: str) -> list[Worth]:
    return [worth for worth in rows if worth.benchmark == benchmark]


def _contrasts(axis: Any, rows: Sequence[Worth], names: Sequence[str], title: str) -> None:
    for number, name in enumerate(names):
        style = style_of(number)
        label = contrast_title(name)
        for position, worth in enumerate(rows):
            item = worth.contrasts.get(name)
            if item is None:
                continue
            low, high = (
                0.0 if math.isnan(bound) else abs(bound - item.value)
                for bound in (item.low, item.high)
            )
            offset = _SPREAD * ((number + 0.5) / len(names) - 0.5)
            axis.errorbar(
                item.value,
                position + offset,
                xerr=[[low], [high]],
                fmt=style["marker"],
                color=style["color"],
                mfc="white" if item.is_single_seed else style["color"],
                ms=4,
                lw=1,
                capsize=2,
                label=label,
            )
            label = "_"  # named once
    dress(axis, f"{title}: its plan against others", "nats a token", grid="x")
    axis.axvline(0.0, color="0.4", lw=0.8, zorder=0)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_yticks(range(len(rows)), [short(w.label) for w in rows])


def _likelihood(axis: Any, table: Table, rows: Sequence[Worth]) -> None:
    for number, worth in enumerate(rows):
        cell, item = table.rows[worth.row].cells[worth.benchmark], worth.likelihood
        bounds = (item.low, item.high)
        low, high = (0.0 if math.isnan(b) else abs(b - item.per_token) for b in bounds)
        style = style_of(number)
        axis.errorbar(
            item.per_token,
            100 * cell.accuracy,
            xerr=[[low], [high]],
            fmt=style["marker"],
            color=style["color"],
            ms=5,
            lw=1,
            capsize=2,
            label=short(worth.label),
        )
    dress(axis, f"{rows[0].benchmark}: by likelihood", "log-probability a token (nats)")
    axis.set_ylabel("accuracy (%)", fontsize=8)
    axis.set_ylim(-4, 104)
    axis.legend(fontsize=6)
