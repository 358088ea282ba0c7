"""A job's run in trackio: a folder ``trackio/`` in the job's own, written by a second process.

trackio fixes its folder when it is imported, while one process may run all jobs of a sweep; so a
process of its own holds it (:mod:`plan_tuning.tracking.trackio_writer`), and reads from a pipe. No
server and no dashboard is started and nothing leaves the machine. Curves count in optimizer steps
and bear the names that they have in metrics.csv and in W&B; tables, final numbers and the
configuration are there too. Left out are artifacts: trackio would copy whole students, and the
fingerprints of a run stand in its configuration.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import LoggerConfig
from plan_tuning.tracking.tracker import STEP, Tracker

logger = logging.getLogger(__name__)

FOLDER = "trackio"  # in the job's
_END_S = 60  # trackio itself waits 30 s for its last rows


class TrackioRun:
    """The pipe to the process that writes a run."""

    def __init__(self, folder: Path, init: Mapping[str, Any]) -> None:
        """Start the process.

        Args:
            folder: of trackio's files.
            init: arguments of ``trackio.init``, as JSON values.

        Raises:
            ConfigError: the process ends before it has opened the run.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # Nothing of the user's own settings may send the run elsewhere.
        kept = {key: text for key, text in os.environ.items() if not key.startswith("TRACKIO_")}
        own = {"TRACKIO_DIR": str(folder.resolve()), "TRACKIO_STORAGE_MODE": "sqlite"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "plan_tuning.tracking.trackio_writer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=kept | own | {"HF_HUB_OFFLINE": "1"},
            start_new_session=True,  # Ctrl-C ends the job, which then ends its run
        )
        is_open = False
        try:
            self._send(init)
            assert self._process.stdout is not None
            is_open = self._process.stdout.readline().strip() == "open"
        except BrokenPipeError:
            pass
        if not is_open:
            self._process.kill()
            self._end()
            raise ConfigError(
                "logger",
                "trackio",
                "trackio does not start, its message is above",
                "logger=csv",
            )

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _report(self, message: Mapping[str, Any]) -> None:
        try:
            self._send(message)
        except BrokenPipeError:
            raise RuntimeError("trackio's process has ended, its message is above") from None

    def log(self, values: Mapping[str, Any]) -> None:
        """Log numbers, at the optimizer step that they name or else behind all others.

        Raises:
            RuntimeError: the process has ended.
        """
        numbers = dict(values)
        step = numbers.pop(STEP, None)
        self._report({"values": numbers, "step": None if step is None else int(step)})

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table.

        Raises:
            RuntimeError: the process has ended.
        """
        self._report({"table": name, "columns": list(columns), "rows": list(rows)})

    def finish(self) -> int:
        """Let the process write what it holds; returns its exit code, 0 where all is written."""
        # Said in words: a forked worker may hold the pipe open longer than this process does.
        with suppress(BrokenPipeError):  # ended already: its exit code tells
            self._send({"finish": True})
        return self._end()

    def _end(self) -> int:
        try:
            return self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):  # what the process did not read
                    pipe.close()


class TrackioTracker(Tracker):
    """What a job reports to trackio: curves, tables and final numbers, no artifacts."""

    def log_results(self, values: Mapping[str, float | None]) -> None:
        """Log final numbers as the run's last row; trackio has no summary beside it."""
        known = {name: value for name, value in values.items() if value is not None}
        if self.run is not None and known:
            self.run.log(known)

    def _show_table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        if self.run is not None:
            self.run.log_table(name, columns, rows)

    def lightning_loggers(self) -> list[Any]:
        """The Lightning logger that writes into this run."""
        return [] if self.run is None else [_curve_logger(self.run, self._prefix)]

    def log_artifact(
        self,
        folder: Path,
        *,
        kind: str,
        key: str,
        upstream: Mapping[str, str],
        is_input: bool,
    ) -> None:
        """Do nothing: the run's configuration holds the fingerprints."""

    def log_pages(self, pages: Mapping[str, str]) -> None:
        """Do nothing: comparisons go to W&B."""

    def log_files(self, name: str, paths: Sequence[Path]) -> None:
        """Do nothing: comparisons go to W&B."""

    def link(self, run_id: str, *, project: str, entity: str | None) -> str | None:
        """None: a folder has no address."""
        return None

    @property
    def sync_command(self) -> str | None:
        """None: nothing is uploaded."""
        return None


def _curve_logger(run: TrackioRun, prefix: str) -> Any:
    """Make a Lightning logger; Lightning is imported where a student is trained."""
    from pytorch_lightning.loggers.logger import Logger

    class TrackioCurves(Logger):
        @property
        def name(self) -> str:
            return "trackio"

        @property
        def version(self) -> str:
            return ""

        def log_hyperparams(
            self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
        ) -> None:
            pass

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            named = {prefix + key: float(value) for key, value in metrics.items()}
            run.log(named | {STEP: step})

    return TrackioCurves()


@contextmanager
def open_trackio(
    config: LoggerConfig, *, folder: Path, name: str, group: str | None, values: Mapping[str, Any]
) -> Iterator[TrackioRun]:
    """Open a run, continue it where the folder holds one of this name, and finish it.

    Args:
        config: the logger group.
        folder: the job's output folder; trackio's files go into ``trackio/`` below it.
        name: by which trackio finds a run again.
        group: see :func:`plan_tuning.tracking.tracker.group_of`.
        values: the run's configuration.

    Raises:
        ConfigError: trackio does not start.
        RuntimeError: the process could not write what was reported.
    """
    place = folder / FOLDER
    run = TrackioRun(
        place,
        {
            **{"project": config.project, "name": name, "group": group, "config": dict(values)},
            **{"auto_log_cpu": config.system_metrics, "auto_log_gpu": config.system_metrics},
        },
    )
    is_done = False
    try:
        yield run
        is_done = True
    finally:
        code = run.finish()
        if code and is_done:
            raise RuntimeError(f"trackio's process ended with code {code}, its message is above")
    logger.info(
        "trackio run written; look at it with: TRACKIO_DIR=%s trackio show --project %s",
        shlex.quote(str(place)),
        shlex.quote(config.project),
    )
