"""The run of one job, in W&B or trackio, always finished; nothing at all with ``logger=csv``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import LoggerConfig
from plan_tuning.tracking.tracker import MAX_NAME, STEP, Tracker
from plan_tuning.tracking.trackio_run import TrackioTracker, open_trackio

logger = logging.getLogger(__name__)

_DATA_DIR = "WANDB_DATA_DIR"
_MAX_TAG = 64  # characters that W&B takes
# Curves of two runs lie over each other only where both count in optimizer steps.
_CURVES = ("train/*", "val/*", "lr-*", "start/*")


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
        folder: the job's output folder; the run's files go below it.
        run_id: stable across resumes, so that a resumed job continues the same run: in trackio, and
            online in W&B.
        name: shown in tables; the job's overrides.
        group: see :func:`plan_tuning.tracking.tracker.group_of`.
        job_type: the method.
        tags: free words.
        values: the full configuration with flat choices.

    Raises:
        ConfigError: there is no account to log to, or trackio does not start.
        RuntimeError: trackio could not write what was reported.
    """
    if config.name == "csv":
        yield Tracker(None, config)
        return
    if config.name == "trackio":
        about = {"job_type": job_type, "tags": list(tags), **values}
        with open_trackio(
            config,
            folder=folder,
            name=f"{name[: MAX_NAME - 9]} {run_id[:8]}",  # two sweeps may hold a job of one name
            group=group,
            values=about,
        ) as trackio_run:
            yield TrackioTracker(trackio_run, config)
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
            tags=[tag[:_MAX_TAG] for tag in tags],
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
        run.define_metric(curves, step_metric=STEP)
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
