"""The table -> files for other programs: CSV, JSON and lines of numbers. Pure functions."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from typing import Any

from plan_tuning.comparison.choices import IRRELEVANT, row_label
from plan_tuning.comparison.claims import NOT_PUBLIC, Finding
from plan_tuning.comparison.compute_table import COLUMNS, compute_columns, compute_json
from plan_tuning.comparison.differences import Difference
from plan_tuning.comparison.tables import Cell, Row, Table

_DIFFERENCE_FIELDS = ("value", "low", "high", "num_problems", "gained", "lost", "p", "p_holm")


def to_csv(table: Table, found: Sequence[Finding]) -> str:
    """Render one line per row and benchmark; shares are 0..1, what is unknown is empty.

    ``claims`` holds the verdicts of all claims in which the row stands first, ``published`` the
    paper's numbers beside them.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [*table.swept, "benchmark", "accuracy", "low", "high", "interval", "seeds", "failed"]
        + ["problems", "baseline"]
        + [f"difference_{name}" for name in _DIFFERENCE_FIELDS]
        + ["difference_seeds", "direction", "resolved", "claims", "published"]
        + ["wall_s", "teacher_calls", "cost_usd", "corpus_calls", "corpus_usd"]
        + [*COLUMNS, "row"]
    )
    for row in table.rows:
        base = "" if row.baseline is None else table.label(table.rows[row.baseline])
        for name in table.benchmarks:
            cell = row.cells.get(name)
            item = cell.difference if cell else None
            figures: list[Any] = [""] * 3
            if cell:
                figures = [cell.accuracy, cell.low, cell.high]
            writer.writerow(
                [*row.values, name]
                + [_plain(value) for value in figures]
                + [_interval_over(cell) if cell else "", cell.num_seeds if cell else 0]
                + [row.num_failed, cell.num_problems if cell else 0, base]
                + [_plain(getattr(item, field)) if item else "" for field in _DIFFERENCE_FIELDS]
                + [" ".join(str(seed) for seed in item.seeds) if item else ""]
                + [item.direction if item else "", item.resolved if item else ""]
                + _claims(table, row, name, found)
                + [round(row.wall_s, 3), row.teacher_calls]
                + ["" if row.cost_usd is None else row.cost_usd]
                + [row.corpus_calls, "" if row.corpus_usd is None else row.corpus_usd]
                + [*compute_columns(table, row), effective_row(table, row)]
            )
    return text.getvalue()


def _interval_over(cell: Cell) -> str:
    return "seeds" if cell.num_seeds > 1 else "problems"


def _claims(table: Table, row: Row, benchmark: str, found: Sequence[Finding]) -> list[str]:
    """Verdicts and published numbers of a row's findings on one benchmark."""
    label = table.label(row)
    own = [item for item in found if (item.row, item.benchmark) == (label, benchmark)]
    numbers = dict.fromkeys(item.published for item in own if item.published != NOT_PUBLIC)
    verdicts = (f"{item.id} (against {item.against}): {item.verdict}" for item in own)
    return ["; ".join(verdicts), "; ".join(numbers)]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else round(value, 6)
    return value


def to_json(table: Table, found: Sequence[Finding]) -> dict[str, Any]:
    """Turn the table and the findings into JSON values; what is unknown is null."""
    return {
        "schema": 1,
        "swept": list(table.swept),
        "benchmarks": list(table.benchmarks),
        "rows": [_row_json(table, row) for row in table.rows],
        "claims": [
            vars(item) | {"difference": _difference_json(item.difference)} for item in found
        ],
        "notes": list(table.notes),
        "basis": table.basis,
    }


def numeric_rows(table: Table) -> list[dict[str, Any]]:
    """List a row's figures on a benchmark as numbers, a line each; what is unknown is None.

    Shares are 0..1: ``mean`` [``low``, ``high``] of ``n`` problems and ``seeds``, ``sd`` between
    those seeds, ``p`` of the difference to the baseline, corrected by Holm.
    """
    lines = []
    for row in table.rows:
        base = None if row.baseline is None else table.label(table.rows[row.baseline])
        for name, cell in row.cells.items():
            item = cell.difference
            lines.append(
                {
                    "row": table.label(row),
                    **dict(zip(table.swept, row.values, strict=True)),
                    "benchmark": name,
                    **{"mean": cell.accuracy, "low": _null(cell.low), "high": _null(cell.high)},
                    "sd": _spread(cell),
                    **{"n": cell.num_problems, "seeds": cell.num_seeds, "baseline": base},
                    **_numeric_difference(item),
                }
            )
    return lines


def _spread(cell: Cell) -> float | None:
    """The standard deviation of the seeds' accuracies, 0..1; None where one seed is all."""
    return statistics.stdev(cell.by_seed.values()) if len(cell.by_seed) > 1 else None


def summary_numbers(table: Table) -> dict[str, float | None]:
    """Name what each row comes to on each benchmark, for the summary of one run.

    Returns:
        ``test/<benchmark>/<row>/{mean,sd,seeds,n}``: shares 0..1, ``sd`` between ``seeds`` seeds,
        None for a single one; ``n`` problems.
    """
    return {
        f"test/{line['benchmark']}/{line['row']}/{key}": line[key]
        for line in numeric_rows(table)
        for key in ("mean", "sd", "seeds", "n")
    }


def numeric_findings(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """List the comparisons behind the paper's claims as numbers, a line each."""
    return [
        {
            **{"ablation": item.ablation, "claim": item.claim},
            **{"row": item.row, "against": item.against},
            **{"is_confirmatory": item.is_confirmatory},
            **{"benchmark": item.benchmark, "verdict": item.verdict, "published": item.published},
            **_numeric_difference(item.difference),
        }
        for item in found
    ]


def _numeric_difference(item: Difference | None) -> dict[str, Any]:
    return {
        "difference": None if item is None else item.value,
        "difference_low": None if item is None else _null(item.low),
        "difference_high": None if item is None else _null(item.high),
        "difference_n": None if item is None else item.num_problems,
        "p": None if item is None else _null(item.p_holm),
        "direction": "" if item is None else item.direction,
        "resolved": "" if item is None else item.resolved,
    }


def effective_row(table: Table, row: Row) -> str:
    """Give the label that the row's jobs bear in W&B and result.json; else its swept choices."""
    labels = {row_label(run) for run in row.runs}
    if len(labels) == 1:
        return labels.pop()
    return " ".join(f"{key}={value}" for key, value in zip(table.swept, row.values, strict=True))


def _row_json(table: Table, row: Row) -> dict[str, Any]:
    chosen = zip(table.swept, row.values, strict=True)
    return {
        "choices": {key: None if value == IRRELEVANT else value for key, value in chosen},
        "label": table.label(row),
        "row": effective_row(table, row),
        "jobs": [run.name for run in row.runs],
        "failed_seeds": row.num_failed,
        "baseline": None if row.baseline is None else table.label(table.rows[row.baseline]),
        "wall_s": row.wall_s,
        "is_cached": row.is_cached,
        "teacher_calls": row.teacher_calls,
        "cost_usd": row.cost_usd,
        "corpus_calls": row.corpus_calls,
        "corpus_usd": row.corpus_usd,
        "compute": compute_json(table, row),
        "benchmarks": {
            name: {
                "accuracy": cell.accuracy,
                "low": _null(cell.low),
                "high": _null(cell.high),
                "interval_over": _interval_over(cell),
                "is_seedless": cell.is_seedless,
                "seeds": {str(seed): value for seed, value in cell.by_seed.items()},
                "problems": cell.num_problems,
                "difference": _difference_json(cell.difference),
            }
            for name, cell in row.cells.items()
        },
    }


def _difference_json(item: Difference | None) -> dict[str, Any] | None:
    if item is None:
        return None
    figures = {name: _null(getattr(item, name)) for name in _DIFFERENCE_FIELDS}
    return figures | {
        "num_seeds": len(item.seeds),
        "seeds": list(item.seeds),
        "by_seed": list(item.by_seed),
        "direction": item.direction,
        "corrected_low": _null(item.corrected_interval[0]),
        "corrected_high": _null(item.corrected_interval[1]),
        "resolved": item.resolved,
    }


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
