"""Tracking: one W&B run per job, always finished; nothing at all with ``logger=csv``.

A comparison never reads what is written here: it reads result.json. W&B is for looking at curves
and tables while and after a job runs, offline by default. Beside it stands what a job shows of
itself on a terminal, which it may share with other jobs.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from plan_tuning.artifacts import MANIFEST
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import LoggerConfig

logger = logging.getLogger(__name__)

ARTIFACT_TYPES = {"corpora": ("corpus", "dataset"), "students": ("student", "model")}
_DATA_DIR = "WANDB_DATA_DIR"
_STEP = "trainer/global_step"  # as Lightning calls it
MAX_NAME, MAX_TAG = 128, 64  # what W&B takes

_shared_terminal: list[str] = []  # label of this process's job, where others write there too


def has_terminal() -> bool:
    """Whether a bar may be drawn: on a terminal that this job has to itself."""
    return sys.stderr.isatty() and not _shared_terminal


def label_lines(label: str) -> None:
    """Write a job's label into its lines on the terminal, which other jobs write to as well.

    Args:
        label: what tells the job from the others; empty: it runs alone.
    """
    _shared_terminal[:] = [label] if label else []
    if not label:
        return
    line = f"%(asctime)s [{label.replace('%', '%%')}] %(levelname)s %(message)s"
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(
            handler, logging.FileHandler
        ):
            handler.setFormatter(logging.Formatter(line, "%H:%M:%S"))


# Curves of two runs lie over each other only where both count in optimizer steps.
_CURVES = ("train/*", "val/*", "lr-*", "start/*")


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
    """What a job reports to W&B; every method does nothing without a run."""

    def __init__(self, run: Any | None, config: LoggerConfig, prefix: str = "") -> None:
        self.run = run
        self._config = config
        self._prefix = prefix  # of the names of curves and tables: empty, or a word and "/"
        self._max_table_rows = config.max_table_rows
        self._upload_artifacts = config.upload_artifacts

    def under(self, word: str) -> Tracker:
        """Report to the same run with all curves and tables below ``word/``."""
        return Tracker(self.run, self._config, f"{word}/")

    def log_results(self, values: Mapping[str, float | None]) -> None:
        """Log final numbers, for example ``test/gsm8k/accuracy``: one row of history, and summary.

        W&B's bar charts read the history's last row, its table of runs the summary.
        """
        known = {name: value for name, value in values.items() if value is not None}
        if self.run is not None and known:
            self.run.log(known)
            self.run.summary.update(known)

    def log_config(self, values: Mapping[str, Any]) -> None:
        """Add facts that are known only while the job runs, for example fingerprints."""
        if self.run is not None:
            self.run.config.update(dict(values), allow_val_change=True)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show the first ``max_table_rows`` rows as a table; all rows have the same keys."""
        if self.run is None or not rows:
            return
        import wandb

        columns = list(rows[0])
        shown = [[row[key] for key in columns] for row in rows[: self._max_table_rows]]
        self.run.log({self._prefix + name: wandb.Table(columns=columns, data=shown)})

    def log_curves(self, path: Path) -> None:
        """Repeat the training curves of a student that another job has trained."""
        if self.run is None:
            return
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                step = float(row.pop("step", None) or 0.0)
                values = {self._prefix + key: float(text) for key, text in row.items() if text}
                values[_STEP] = step
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


@contextmanager
def track(
    config: LoggerConfig,
    *,
    folder: Path,
    run_id: str,
    name: str,
    group: str | None,
    job_type: str,
    tags: Sequence[str],
    values: Mapping[str, Any],
) -> Iterator[Tracker]:
    """Open one run for one job and finish it, whatever happens in between.

    Args:
        config: the logger group.
        folder: the job's output folder; W&B's files go below it.
        run_id: stable across resumes, so that a resumed job continues the same run online.
        name: shown in tables; the job's overrides.
        group: see :func:`group_of`.
        job_type: the method.
        tags: free words.
        values: the full configuration with flat choices.

    Raises:
        ConfigError: there is no account to log to.
    """
    if config.name == "csv":
        yield Tracker(None, config)
        return
    mode: Any = "offline" if config.name == "wandb_offline" else "online"
    mode = os.environ.get("WANDB_MODE", mode)
    data_folder = folder / "wandb_data"
    data_folder.mkdir(parents=True, exist_ok=True)
    # A run folder that is moved to another machine keeps its staged files.
    before = os.environ.get(_DATA_DIR)
    os.environ[_DATA_DIR] = str(data_folder.resolve())
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    try:
        run = wandb.init(
            project=config.project,
            entity=config.entity,
            dir=str(folder),
            id=run_id,
            resume="allow" if mode == "online" else None,
            name=name[:MAX_NAME],
            group=group,
            job_type=job_type,
            tags=[tag[:MAX_TAG] for tag in tags],
            config=dict(values),
            mode=mode,
            reinit="finish_previous",
            settings=wandb.Settings(
                console="off",
                quiet=True,
                # What result.json and the manifests say already; W&B's own look takes a third of
                # a second a job, in a sweep of short jobs more than anything else beside the work.
                disable_git=True,
                disable_job_creation=True,
                save_code=False,
                x_save_requirements=False,
                x_disable_machine_info=not config.system_metrics,
                x_disable_stats=not config.system_metrics,
            ),
        )
    except wandb.errors.UsageError as error:
        raise ConfigError(
            "logger",
            config.name,
            f"W&B cannot be used as asked ({str(error).splitlines()[0]})",
            "logger=wandb_offline, or run `wandb login` first",
        ) from error
    for curves in _CURVES:
        run.define_metric(curves, step_metric=_STEP)
    exit_code = 1
    try:
        tracker = Tracker(run, config)
        yield tracker
        exit_code = 0
        command = tracker.sync_command
    finally:
        run.finish(exit_code=exit_code)
        if before is None:
            del os.environ[_DATA_DIR]
        else:
            os.environ[_DATA_DIR] = before
    if command is not None:
        logger.info("W&B run written offline; upload it with: %s", command)
