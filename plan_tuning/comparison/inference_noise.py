"""Differences beside what rounding alone changes, counted by the generation benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plan_tuning.comparison.runs import ComparisonError
from plan_tuning.comparison.table_text import percent
from plan_tuning.comparison.tables import Table

_COMMAND = (
    "python experiments/benchmarks/generation.py --weights STUDENT --problems predictions.jsonl "
    "--noise noise.json"
)


@dataclass(frozen=True)
class InferenceNoise:
    """How many greedy answers hang on batch shape and engine, for equal weights."""

    problems: int
    answers: Mapping[str, int]  # by precision: the most that another way of computing changes


def read_noise(path: Path) -> InferenceNoise:
    """Read the file of the benchmark.

    Raises:
        ComparisonError: it cannot be read, or is no such file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        answers = {name: int(part["answers"]) for name, part in found["precisions"].items()}
        problems = int(found["problems"])
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ComparisonError(
            f"--noise {path}: not a file of counts ({error}); this writes one: {_COMMAND}"
        ) from error
    if problems < 1 or not all(0 <= count <= problems for count in answers.values()):
        raise ComparisonError(f"--noise {path}: its counts are impossible; again: {_COMMAND}")
    return InferenceNoise(problems, answers)


def noise_lines(noise: InferenceNoise, table: Table) -> list[str]:
    """Name the differences that are smaller than the noise of each precision, a line each."""
    differences = {
        f"{table.label(row)} on {name} {percent(cell.difference.value, sign=True)}": abs(
            cell.difference.value
        )
        for row in table.rows
        for name, cell in row.cells.items()
        if cell.difference is not None
    }
    lines = []
    for precision, count in noise.answers.items():
        share = count / noise.problems
        smaller = [text for text, value in differences.items() if value < share]
        lines.append(
            f"Inference noise, {precision}: for equal weights {count} of {noise.problems} greedy "
            f"answers ({percent(share)} %) change with batch shape or engine. "
            + (f"Smaller differences: {'; '.join(smaller)}." if smaller else "All differences "
               "of the table are at least as large.")
        )  # fmt: skip
    return lines
