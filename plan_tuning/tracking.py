"""Tracking: one W&B run per job, always finished; nothing at all with ``logger=csv``.

A comparison never reads what is written here: it reads result.json. W&B is for looking at curves
and tables while and after a job runs, offline by default.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plan_tuning.config.run import LoggerConfig

logger = logging.getLogger(__name__)


class Tracker:
    """What a job reports to W&B; every method does nothing without a run."""

    def __init__(self, run: Any | None, max_table_rows: int) -> None:
        self.run = run
        self._max_table_rows = max_table_rows

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Set final values, for example ``test/gsm8k/accuracy``."""
        if self.run is not None:
            self.run.summary.update(dict(values))

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
        self.run.log({name: wandb.Table(columns=columns, data=shown)})

    def lightning_loggers(self) -> list[Any]:
        """Loggers for a Lightning trainer that write into this run."""
        if self.run is None:
            return []
        from pytorch_lightning.loggers import WandbLogger

        return [WandbLogger(experiment=self.run)]

    def log_artifact(self, folder: Path, *, kind: str, name: str) -> None:
        """Upload a folder as an artifact, with its lineage; online only, as W&B requires."""
        if self.run is None or self.run.settings.mode != "online":
            return
        import wandb

        artifact = wandb.Artifact(name=name, type=kind)
        artifact.add_dir(str(folder))
        self.run.log_artifact(artifact)

    @property
    def sync_command(self) -> str | None:
        """The command that uploads an offline run."""
        if self.run is None or self.run.settings.mode == "online":
            return None
        return f"wandb sync {Path(self.run.settings.sync_dir)}"


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
        group: the sweep.
        job_type: the method.
        tags: free words.
        values: the full configuration with flat choices.
    """
    if config.name == "csv":
        yield Tracker(None, config.max_table_rows)
        return
    mode: Any = "offline" if config.name == "wandb_offline" else "online"
    mode = os.environ.get("WANDB_MODE", mode)
    data_folder = folder / "wandb_data"
    data_folder.mkdir(parents=True, exist_ok=True)
    # A run folder that is moved to another machine keeps its staged files.
    os.environ["WANDB_DATA_DIR"] = str(data_folder)
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    run = wandb.init(
        project=config.project,
        entity=config.entity,
        dir=str(folder),
        id=run_id,
        resume="allow" if mode == "online" else None,
        name=name,
        group=group,
        job_type=job_type,
        tags=[tag[:64] for tag in tags],
        config=dict(values),
        mode=mode,
        reinit="finish_previous",
        settings=wandb.Settings(console="off", quiet=True),
    )
    exit_code = 1
    try:
        tracker = Tracker(run, config.max_table_rows)
        yield tracker
        exit_code = 0
        command = tracker.sync_command
    finally:
        run.finish(exit_code=exit_code)
    if command is not None:
        logger.info("W&B run written offline; upload it with: %s", command)
