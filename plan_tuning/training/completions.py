"""What a student wrote while it was trained: JSON lines in its folder, a table in W&B."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import write_atomic

LogTable = Callable[[str, Sequence[Mapping[str, Any]]], None]


class CompletionLog:
    """Appends the completions of every n-th step; a resumed run drops what it will write again."""

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
        self._log_table = log_table

    def rewind(self, step: int) -> None:
        """Forget steps from ``step`` on."""
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and _step_of(line) < step]
            write_atomic(self.path, "".join(kept))

    def is_due(self, step: int) -> bool:
        """Whether this step's completions are kept."""
        return bool(self._every_n_steps) and step % self._every_n_steps == 0

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a step's rows, of all ranks."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if self._log_table is not None and rows:
            self._log_table(self._table, rows)


def _step_of(line: str) -> int:
    return int(json.loads(line)["step"])
