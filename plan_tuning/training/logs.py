"""What a training writes down: metrics by step, and what its student wrote.

Both are files in the student's folder that go on where a resumed run goes on.
"""

from __future__ import annotations

import csv
import io
import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from plan_tuning.artifacts import write_atomic

LogTable = Callable[[str, Sequence[Mapping[str, Any]]], None]
"""Shows rows under the name of a table, for example in W&B."""

_STEP = "step"


class CurveFile(Logger):
    """Writes ``metrics.csv``: a row per logged step, a column per metric.

    After a resume the rows from the resumed step on are written anew and the earlier ones stay.
    """

    def __init__(self, path: Path, *, flush_every: int = 50) -> None:
        super().__init__()
        self.path = path
        self._flush_every = flush_every
        self._rows: list[dict[str, str]] = []
        self._given: dict[str, float] = {}
        self._is_first = True
        self._unsaved = 0

    @property
    def name(self) -> str:
        """Lightning's name of the logger."""
        return "curves"

    @property
    def version(self) -> str:
        """One file, one version."""
        return ""

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Hyper-parameters stand in the manifest."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values to the row of ``step``."""
        if metrics == self._given:  # Lightning repeats a step's figures until there are others
            return
        self._given = dict(metrics)
        at = 0 if step is None else step
        if self._is_first:
            self._is_first = False
            self._rows = [row for row in _read(self.path) if int(row[_STEP]) < at]
        if not self._rows or int(self._rows[-1][_STEP]) != at:
            self._rows.append({_STEP: str(at)})
        self._rows[-1].update({key: repr(float(value)) for key, value in metrics.items()})
        self._unsaved += 1
        if self._unsaved >= self._flush_every:
            self.save()

    def save(self) -> None:
        """Write the file."""
        if not self._unsaved:  # Lightning asks after every step
            return
        self._unsaved = 0
        names = sorted({key for row in self._rows for key in row} - {_STEP, "epoch"})
        epoch = ["epoch"] if any("epoch" in row for row in self._rows) else []
        text = io.StringIO()
        writer = csv.DictWriter(text, [_STEP, *epoch, *names], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomic(self.path, text.getvalue())

    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


class CompletionLog:
    """Appends the completions of every n-th step; a resumed run drops what it will write again.

    A file keeps the columns that it began with, also where an earlier version had fewer.

    Args:
        path: JSON lines, each with its ``step``.
        every_n_steps: 0: nothing is written.
        log_table: also shows them.
        table: under this name.
    """

    def __init__(
        self,
        path: Path,
        *,
        every_n_steps: int,
        log_table: LogTable | None = None,
        table: str = "completions",
    ) -> None:
        self.path = path
        self._table = table
        self._every_n_steps = every_n_steps
        self._columns: frozenset[str] | None = None  # of the rows that a resumed run found
        self._log_table = log_table

    def rewind(self, step: int) -> None:
        """Forget steps from ``step`` on."""
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and _step_of(line) < step]
            write_atomic(self.path, "".join(kept))
            if kept:
                self._columns = frozenset(json.loads(kept[0]))

    def is_due(self, step: int) -> bool:
        """Whether this step's completions are kept."""
        return bool(self._every_n_steps) and step % self._every_n_steps == 0

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a step's rows, of all ranks."""
        if self._columns is not None:
            rows = [{k: v for k, v in row.items() if k in self._columns} for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if self._log_table is not None and rows:
            self._log_table(self._table, rows)


def _step_of(line: str) -> int:
    return int(json.loads(line)[_STEP])
