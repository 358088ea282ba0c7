"""Sweeps that another sweeper runs (``hydra/sweeper=optuna``): what is checked, and the comparison.

Such a sweeper proposes its jobs one after the other, so there is no list of all jobs before it
starts, no job is dropped for meaning the same as another one, and its returns are its own. Stages
are found by their fingerprints all the same.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import storage_error
from plan_tuning.config.run import Config
from plan_tuning.config.typed import check_outputs
from plan_tuning.sweep.devices import check_processes

logger = logging.getLogger(__name__)


class Search:
    """One search of a process: begun by Hydra's callback, ended whatever happened in between."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def begin(
        self, config: Config, folder: Path, *, launcher: Mapping[str, Any], trials: object
    ) -> None:
        """Check what all jobs share; with ``dry_run=true`` say so and end the process.

        Args:
            config: of a job that is given nothing by the sweeper.
            folder: of the sweep.
            launcher: Hydra's, see :func:`plan_tuning.sweep.devices.launcher_facts`.
            trials: how many jobs the sweeper may propose, as far as it says.

        Raises:
            ConfigError: the shared configuration cannot work.
            SystemExit: ``dry_run=true``.
        """
        from plan_tuning.job.dry_run import print_job
        from plan_tuning.job.graph import job_graph

        check_processes(config, launcher)
        graph = job_graph(config)
        check_outputs(config)
        if config.dry_run:
            sys.stdout.write(f"Search {folder}: {trials} jobs around this one\n")
            raise SystemExit(print_job(config, graph))
        self._folder = folder

    def end(self) -> None:
        """Compare what a search has left behind; one that failed too."""
        folder, self._folder = self._folder, None
        if folder is None or not any(folder.glob("*/result.json")):
            return
        from plan_tuning.comparison.comparison_files import compare

        try:
            compare([folder])
        except (ValueError, OSError) as error:  # a damaged result, a full disk
            logger.error(
                "the comparison failed (%s); again: plan-tuning compare %s --out FOLDER",
                storage_error(error, folder, "Make room there, or write elsewhere") or error,
                shlex.quote(str(folder)),
            )
