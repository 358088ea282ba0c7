"""Training curves as one CSV file that goes on where a resumed run goes on."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from plan_tuning.artifacts import write_atomic

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
        self._unsaved = 0
        if not self._rows:
            return
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
