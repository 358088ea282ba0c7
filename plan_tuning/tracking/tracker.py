"""What is reported to a run of W&B: curves, tables, final numbers, artifacts, pages.

A comparison never reads what is written here: it reads result.json. A run is for looking at curves
and tables while and after a job runs.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from plan_tuning.artifacts import MANIFEST
from plan_tuning.config.run import LoggerConfig

ARTIFACT_TYPES = {"corpora": ("corpus", "dataset"), "students": ("student", "model")}
STEP = "trainer/global_step"  # as Lightning calls it
MAX_NAME = 128  # characters that W&B takes


def group_of(config: LoggerConfig, sweep: str | None, row: str) -> str | None:
    """Name the runs whose curves W&B averages when it groups: one arm's seeds, or a whole sweep.

    >>> group_of(LoggerConfig(), "quickstart", "method=m1 filter=none")
    'quickstart: method=m1 filter=none'
    """
    if config.group == "sweep":
        return sweep
    name = row if sweep is None else f"{sweep}: {row}"
    if len(name) <= MAX_NAME:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]  # what is cut off may tell two arms apart
    return f"{name[: MAX_NAME - 9]}-{mark}"


class Tracker:
    """What a job reports, here to W&B; every method does nothing without a run."""

    def __init__(self, run: Any | None, config: LoggerConfig, prefix: str = "") -> None:
        self.run = run
        self._config = config
        self._prefix = prefix  # of the names of curves and tables: empty, or a word and "/"
        self._max_table_rows = config.max_table_rows
        self._upload_artifacts = config.upload_artifacts

    def under(self, word: str) -> Tracker:
        """Report to the same run with all curves and tables below ``word/``."""
        return type(self)(self.run, self._config, f"{word}/")

    def log_results(self, values: Mapping[str, float | None]) -> None:
        """Log final numbers, for example ``test/gsm8k/accuracy``: one row of history, and summary.

        W&B's bar charts read the history's last row, its table of runs the summary.
        """
        known = {name: value for name, value in values.items() if value is not None}
        if self.run is not None and known:
            self.run.log(known)
            self.run.summary.update(known)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show the first ``max_table_rows`` rows as a table; all rows have the same keys."""
        if self.run is None or not rows:
            return
        columns = list(rows[0])
        shown = [[row[key] for key in columns] for row in rows[: self._max_table_rows]]
        self._show_table(self._prefix + name, columns, shown)

    def _show_table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        if self.run is not None:
            import wandb

            self.run.log({name: wandb.Table(columns=columns, data=rows)})

    def log_curves(self, path: Path) -> None:
        """Repeat the training curves of a student that another job has trained."""
        if self.run is None:
            return
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                step = float(row.pop("step", None) or 0.0)
                values = {self._prefix + key: float(text) for key, text in row.items() if text}
                values[STEP] = step
                self.run.log(values)

    def log_rows(self, name: str, path: Path) -> None:
        """Repeat the tables of a training that took place in other processes, step by step."""
        if self.run is None or not path.is_file():
            return
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        for _, group in itertools.groupby(rows, key=lambda row: row["step"]):
            self.log_table(name, list(group))

    def lightning_loggers(self) -> list[Any]:
        """Loggers for a Lightning trainer that write into this run."""
        if self.run is None:
            return []
        from pytorch_lightning.loggers import WandbLogger

        logger = WandbLogger(experiment=self.run, prefix=self._prefix.removesuffix("/"))
        logger.LOGGER_JOIN_CHAR = "/"  # Lightning's own is "-"
        return [logger]

    def log_artifact(
        self,
        folder: Path,
        *,
        kind: str,
        key: str,
        upstream: Mapping[str, str],
        is_input: bool,
    ) -> None:
        """Record a finished artifact and its lineage.

        By default W&B is given its manifest and where it lies; with ``logger.upload_artifacts`` all
        its files. Both stay in the run's folder until an offline run is uploaded.

        Args:
            folder: of the artifact.
            kind: corpora or students.
            key: fingerprint; the artifact is called ``corpus-KEY`` or ``student-KEY``.
            upstream: fingerprints of what went in, by role.
            is_input: taken over rather than made by this job. W&B links inputs online only.
        """
        if self.run is None or (is_input and not self._is_online):
            return
        import wandb

        noun, type_name = ARTIFACT_TYPES[kind]
        artifact = wandb.Artifact(
            name=f"{noun}-{key}",
            type=type_name,
            metadata={"fingerprint": key, "upstream": dict(upstream), "folder": str(folder)},
        )
        if self._upload_artifacts:
            artifact.add_dir(str(folder))
        else:
            artifact.add_file(str(folder / MANIFEST))
            artifact.add_reference(folder.resolve().as_uri(), name="folder", checksum=False)
        if is_input:
            self.run.use_artifact(artifact)
        else:
            self.run.log_artifact(artifact)

    def log_pages(self, pages: Mapping[str, str]) -> None:
        """Show HTML, by the name of the panel, in one row of history."""
        if self.run is not None and pages:
            import wandb

            shown = {name: wandb.Html(io.StringIO(html), inject=False)
                     for name, html in pages.items()}  # fmt: skip
            self.run.log(shown)

    def log_files(self, name: str, paths: Sequence[Path]) -> None:
        """Keep files as one artifact."""
        if self.run is not None:
            import wandb

            artifact = wandb.Artifact(name=name, type="comparison")
            for path in paths:
                artifact.add_file(str(path))
            self.run.log_artifact(artifact)

    def link(self, run_id: str, *, project: str, entity: str | None) -> str | None:
        """Give the address of another run; None where this one is offline and knows none.

        Args:
            run_id: of W&B.
            project: of W&B.
            entity: W&B team; None: this run's.
        """
        if self.run is None or not self._is_online:
            return None
        site = self.run.url.partition(f"/{self.run.entity}/")[0]
        return f"{site}/{quote(entity or self.run.entity)}/{quote(project)}/runs/{quote(run_id)}"

    @property
    def _is_online(self) -> bool:
        return self.run is not None and self.run.settings.mode == "online"

    @property
    def sync_command(self) -> str | None:
        """The command that uploads an offline run."""
        if self.run is None or self._is_online:
            return None
        return f"wandb sync {shlex.quote(str(Path(self.run.settings.sync_dir)))}"  # pastes as it is


def last_run(folder: Path) -> tuple[str, Path] | None:
    """Find the id and the folder of the last W&B run of a job; None where it has none.

    W&B calls the folder ``run-TIME-ID``, with ``offline-`` before it where that is so.
    """
    marked = re.compile(r"(?:offline-)?run-(\d{8}_\d{6})-(.+)")
    found = [(match[1], match[2], path) for path in (folder / "wandb").glob("*run-*")
             if (match := marked.fullmatch(path.name)) and path.is_dir()]  # fmt: skip
    return max(found)[1:] if found else None
