"""A finished comparison -> the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from plan_tuning.comparison.comparison import Comparison
from plan_tuning.comparison.compute_table import COMPUTE_LEGEND, base_lines, compute_table
from plan_tuning.comparison.filter_comparison import UNNAMED
from plan_tuning.comparison.interference_text import (
    interference_table,
    transfer_matrix,
    verdict,
)
from plan_tuning.comparison.learning_table import LEARNING_LEGEND, learning_table
from plan_tuning.comparison.plan_value_text import (
    correlation_lines,
    likelihood_table,
    worth_table,
)
from plan_tuning.comparison.table_text import (
    LEGEND_LINE,
    accuracy_table,
    difference_text,
    finding_summary,
    reward_table,
)
from plan_tuning.distillation.filter_effects import effect_rows

_WIDTH_OF_LOGS = 160  # columns where the output is not a terminal
_SHOWN_HOLES = 20


def show(comparison: Comparison) -> None:
    """Print the table, what the paper claims, what is missing, and where the files are."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_LOGS)
    console.print(f"[dim]{escape(comparison.summary)}[/]")
    for line in comparison.warnings:
        console.print(f"[bold yellow]{escape(line)}[/]")
    if comparison.table.rows:
        console.print(_accuracies(comparison))
        console.print(f"[dim]{escape(_legend(comparison.files))}[/]")
        if comparison.table.basis:
            console.print(escape(comparison.table.basis))
        for line in comparison.noise:
            console.print(escape(line))
        if comparison.by_compute:
            console.print(_plain("By equal compute", *compute_table(comparison.table)))
            for line in (*base_lines(comparison.table), COMPUTE_LEGEND):
                console.print(f"[dim]{escape(line)}[/]")
        head, rows = reward_table(comparison.table)
        if rows:
            console.print(_plain("Rewards of GRPO, means over seeds", head, rows))
            title = "What each reward taught, means over seeds"
            console.print(_plain(title, *learning_table(comparison.table)))
            console.print(f"[dim]{escape(LEARNING_LEGEND)}[/]")
    for found in comparison.interferences:
        console.print(_plain("Mixed training, by test set", *transfer_matrix(found)))
        console.print(_plain("What it costs, and what comes back", *interference_table(found)))
        for line in verdict(found):
            console.print(escape(line))
    if comparison.worth.rows:
        title = "Log-probability of the reference executions, nats"
        console.print(_plain(title, *likelihood_table(comparison.worth)))
        head, rows = worth_table(comparison.worth)
        if rows:
            console.print(_plain("What a plan is worth, nats a token", head, rows))
        for line in correlation_lines(comparison.worth):
            console.print(escape(line))
    for one in comparison.effects:
        title = f"Plans before and after the filters: {one.source or UNNAMED}"
        console.print(_plain(title, *effect_rows(one.effects)))
    if comparison.findings:
        console.print(_findings(comparison))
    for line in (*comparison.registration, *comparison.silence):
        console.print(escape(line))
    for line in comparison.holes[:_SHOWN_HOLES]:
        console.print(f"[red]missing:[/] {escape(line)}")
    if len(comparison.holes) > _SHOWN_HOLES:
        console.print(f"… and {len(comparison.holes) - _SHOWN_HOLES} more in comparison.md")
    console.print(f"Written: {escape(_files(comparison.files))}")


def _accuracies(comparison: Comparison) -> RichTable:
    table = comparison.table
    head, rows = accuracy_table(table)
    rich_table = RichTable(title="Comparison", title_justify="left", show_lines=True)
    for title in head:
        rich_table.add_column(escape(title), overflow="fold")
    first = len(table.swept) + 1
    for row, texts in zip(table.rows, rows, strict=True):
        for offset, name in enumerate(table.benchmarks):
            cell = row.cells.get(name)
            if cell is not None and cell.difference is not None:
                texts[first + offset] += f"\nΔ {difference_text(cell.difference)}"
            elif cell is not None and row.baseline is None:
                texts[first + offset] += "\nbaseline"
        rich_table.add_row(*(escape(text) for text in texts))
    return rich_table


def _findings(comparison: Comparison) -> RichTable:
    title = "The paper's claims (direction only; every pair of rows is in comparison.md)"
    return _plain(title, *finding_summary(comparison.findings))


def _plain(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
    rich_table = RichTable(title=title, title_justify="left")
    for text in head:
        rich_table.add_column(escape(text), overflow="fold")
    for texts in rows:
        rich_table.add_row(*(escape(text) for text in texts))
    return rich_table


def _legend(files: tuple[Path, ...]) -> str:
    pages = [path for path in files if path.suffix == ".html"]
    return f"{LEGEND_LINE} More: {pages[0]}#reading" if pages else LEGEND_LINE


def _files(files: tuple[Path, ...]) -> str:
    if not files:
        return "nothing"
    return f"{files[0].parent}: {', '.join(path.name for path in files)}"
