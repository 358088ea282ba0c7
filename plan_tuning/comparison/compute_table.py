"""Rows by what their training cost: are differences between rows of equal compute?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from plan_tuning.comparison.runs import Run
from plan_tuning.comparison.table_text import difference_text, duration
from plan_tuning.comparison.tables import Row, Table
from plan_tuning.job_record import Compute, JobCompute

TOLERANCE = 0.1  # by which the operations of two rows differ at most that count as equal
UNEQUAL, UNKNOWN = "≠", "(compute unknown)"
COMPUTE_LEGEND = (
    "Means over a row's jobs, from the untrained model on: the start's training is counted in. "
    "Operations by the formula of plan_tuning/students/flops.py; × is relative to the row's "
    f"baseline. A difference is marked {UNEQUAL} where the two rows' operations differ by more "
    f"than {TOLERANCE:.0%}: more training may be its reason. Validations, the teacher and the base "
    "are not counted in."
)


def part_of(run: Run, part: str) -> Compute | None:
    """What a part (training, start, base, evaluation) of a job computed; None: not recorded."""
    found: Compute | None = getattr(run.result.compute or JobCompute(), part)
    return found


def mean_of(row: Row, part: str, figure: str) -> float | None:
    """The mean of a figure of a part over a row's jobs; None where one is not known."""
    parts = [part_of(run, part) for run in row.runs]
    values = [None if found is None else getattr(found, figure) for found in parts]
    known = [float(value) for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def ratio(table: Table, row: Row) -> float | None:
    """The operations of a row's training by those of its baseline's.

    None where there is no baseline, or one of the two is not known; infinite beside a baseline
    that was not trained.
    """
    if row.baseline is None:
        return None
    own, others = (mean_of(one, "training", "flops") for one in (row, table.rows[row.baseline]))
    if own is None or others is None:
        return None
    if others == 0:
        return 1.0 if own == 0 else math.inf
    return own / others


def is_equal(ratio: float | None) -> bool | None:
    """Whether two rows cost nearly the same; None: not known.

    >>> is_equal(1.08), is_equal(0.5), is_equal(None)
    (True, False, None)
    """
    return None if ratio is None else 1 / (1 + TOLERANCE) <= ratio <= 1 + TOLERANCE


def compute_table(table: Table) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the table by equal compute."""
    rows = []
    for row in table.rows:
        if not row.runs:
            continue
        found = ratio(table, row)
        mark = {True: "", False: f" {UNEQUAL}", None: f" {UNKNOWN}"}[is_equal(found)]
        differences = [
            row.cells[n].difference if n in row.cells else None for n in table.benchmarks
        ]
        is_baseline = row.baseline is None
        rows.append(
            [
                table.label(row),
                _shown(row, "training", "trained_tokens", _count),
                _shown(row, "training", "generated_tokens", _count),
                _shown(row, "training", "flops", _operations),
                _shown(row, "start", "flops", _operations),
                "baseline" if is_baseline else "?" if found is None else f"{found:.2f}",
                _shown(row, "training", "seconds", duration),
                _shown(row, "evaluation", "generated_tokens", _count),
                _shown(row, "evaluation", "flops", _operations),
                *("–" if item is None else difference_text(item) + mark for item in differences),
            ]
        )
    head = ["row", "trained tokens", "rollout tokens", "training operations", "of these the start"]
    head += ["×", "training time", "answer tokens", "answer operations"]
    return [*head, *(f"Δ {name}" for name in table.benchmarks)], rows


def base_lines(table: Table) -> list[str]:
    """Name beside the table what the untrained models that were made here cost."""
    bases = {
        run.result.fingerprints.base: part_of(run, "base") for row in table.rows for run in row.runs
    }
    return [
        f"Base {key}, made once: "
        + (
            "its compute is not recorded."
            if found is None
            else f"{found.trained_tokens:,} tokens, {_operations(found.flops or math.nan)} "
            f"operations, {duration(found.seconds)}."
        )
        for key, found in bases.items()
        if key
    ]


def compute_json(table: Table, row: Row) -> dict[str, Any]:
    """The figures of a row for other programs; what is not known is null."""
    parts = ("training", "start", "base", "evaluation")
    figures = ("trained_tokens", "generated_tokens", "read_tokens", "flops", "seconds")
    found = ratio(table, row)
    return {
        **{part: {name: mean_of(row, part, name) for name in figures} for part in parts},
        "training_flops_ratio": None if found is None or math.isinf(found) else found,
        "is_equal": is_equal(found),
    }


def _shown(row: Row, part: str, figure: str, text: Callable[[float], str]) -> str:
    value = mean_of(row, part, figure)
    return "unknown" if value is None else text(value)


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _operations(value: float) -> str:
    """Print a number of operations.

    >>> _operations(1.2345e12), _operations(0.0)
    ('1.23e+12', '0')
    """
    return f"{value:.3g}"


COLUMNS = (
    *("train_flops", "train_flops_ratio", "start_flops", "trained_tokens", "rollout_tokens"),
    *("train_s", "evaluation_flops", "evaluation_tokens"),
)


def compute_columns(table: Table, row: Row) -> Sequence[Any]:
    """The values of :data:`COLUMNS` of a row; what is not known is empty."""
    found = ratio(table, row)
    values = [
        mean_of(row, "training", "flops"),
        None if found is None or math.isinf(found) else round(found, 6),
        mean_of(row, "start", "flops"),
        mean_of(row, "training", "trained_tokens"),
        mean_of(row, "training", "generated_tokens"),
        mean_of(row, "training", "seconds"),
        mean_of(row, "evaluation", "flops"),
        mean_of(row, "evaluation", "generated_tokens"),
    ]
    return ["" if value is None else value for value in values]
