"""Rows of a user's own plans, and the command that imports them as a corpus."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from typer.testing import CliRunner, Result

from plan_tuning.distillation.corpus_command import app

Rows = list[dict[str, Any]]

# Two plans for one problem, in one of which the execution goes wrong; one problem without one.
ROWS: Rows = [
    {"question": "What is 1 + 1?", "gold": "2", "plan": "1. Add.", "work": "It is \\boxed{2}.",
     "rating": 90, "writer": "a"},
    {"question": "What is  1 + 1?", "gold": "2", "plan": "1. Count.", "work": "It is \\boxed{3}.",
     "rating": 40, "writer": "b"},
    {"question": "What is 2 + 3?", "gold": "5", "plan": "1. Add them.", "work": None,
     "rating": None, "writer": "b"},
]  # fmt: skip
KEYS = ("--problem-key", "question", "--answer-key", "gold")
ALL_KEYS = (*KEYS, "--execution-key", "work", "--score-key", "rating")
SET = [
    {"id": "p1", "problem": "What is $1 + 1$?", "answer": "2"},
    {"id": "p2", "problem": "What is 2 + 3?", "answer": "5", "solution": "2 + 3 = 5"},
]


def write(file: Path, rows: Rows) -> Path:
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        with file.open("w", encoding="utf-8", newline="") as lines:
            table = csv.DictWriter(lines, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    return file


def run(folder: Path, *words: str | Path) -> Result:
    outputs = ("--outputs", str(folder / "out"))
    arguments = ["import", *map(str, words), *outputs]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})


def imported(folder: Path, *words: str | Path) -> Path:
    """Import into ``folder/out`` and give the corpus that the command names last."""
    result = run(folder, *words)
    assert result.exit_code == 0, result.output + str(result.exception)
    line = next(one for one in result.output.splitlines() if one.startswith("folder: "))
    return Path(line.removeprefix("folder: "))
