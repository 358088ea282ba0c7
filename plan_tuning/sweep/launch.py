"""A sweep's jobs -> their returns, also where a worker process dies under a job.

A job that raises is recorded by itself and the launcher goes on. A worker that is killed, most
often for its memory, is no exception of a job: joblib then ends every other worker, and submitit no
longer waits for the jobs behind it. So what is unfinished is launched again; a job that another
process still runs waits for that one (main.only_runner).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from plan_tuning import interruption
from plan_tuning.job.result import JobContext, Outcome, write_result
from plan_tuning.sweep.jobs import Job

logger = logging.getLogger(__name__)


class WorkerDiedError(RuntimeError):
    """The process of a job ended without a word: killed, most often for its memory."""


class Survivor:
    """Launches jobs through a launcher and outlives the death of its workers.

    Args:
        launcher: Hydra's.
        folder: of the sweep.
        labels: of jobs that run side by side, by their names.
    """

    def __init__(
        self, launcher: Launcher, folder: Path, labels: Mapping[str, str] | None = None
    ) -> None:
        self.returns: list[JobReturn] = []
        self._labels = labels or {}
        self._launcher = launcher
        self._folder = folder

    def launch(self, jobs: Sequence[Job], first_index: int) -> None:
        """Run jobs and note their returns.

        After a worker's death the unfinished ones are launched once more together, and after
        another one by one: so it is known whose death it is, and every other job ends.

        Args:
            jobs: to run.
            first_index: Hydra's number of the first one.
        """
        left = list(jobs)
        for _ in range(2):
            fault = self._launch(left, first_index)
            if fault is None:
                return
            left = [job for job in left if not job.is_finished(self._folder)]
            logger.error(
                "a worker process died (%s); %d unfinished jobs are launched again",
                _first_line(fault),
                len(left),
            )
            if not left:
                return
        for place, job in enumerate(left):
            fault = self._launch([job], first_index + place)
            if fault is not None:
                self._record(job, fault)

    def _launch(self, jobs: Sequence[Job], first_index: int) -> BaseException | None:
        """Launch jobs; return what happened to the launcher, not to the jobs."""
        batch = [[*job.overrides, *self._label(job)] for job in jobs]
        try:
            self.returns += self._launcher.launch(batch, initial_job_idx=first_index)
        except worker_faults() as fault:
            interruption.check()  # Ctrl-C reaches the workers too
            return fault
        interruption.check()
        return None

    def _label(self, job: Job) -> list[str]:
        """Tell a worker how its lines are marked; see main.job."""
        label = self._labels.get(job.name)
        return [] if label is None else [f'hydra.job.name="{label}"']

    def _record(self, job: Job, fault: BaseException) -> None:
        """Leave a failed result where the job itself could not."""
        error = WorkerDiedError(f"the job's process was killed: {_first_line(fault)}")
        folder = self._folder / job.name
        folder.mkdir(parents=True, exist_ok=True)
        context = JobContext(
            folder=folder,
            name=job.name,
            sweep_name=job.config.sweep_name,
            overrides=job.overrides,
            choices=job.choices,
        )
        write_result(job.config, job.graph, context, Outcome(), error=error)
        logger.error("%s: %s", job.name, error)
        failed = JobReturn(overrides=list(job.overrides), status=JobStatus.FAILED)
        failed._return_value = error
        self.returns.append(failed)


def worker_faults() -> tuple[type[BaseException], ...]:
    """List what launchers raise when a worker dies; only loaded ones can have."""
    faults: list[type[BaseException]] = [BrokenExecutor]  # joblib's, and any pool's
    submitit = sys.modules.get("submitit.core.utils")
    if submitit is not None:
        faults.append(submitit.UncompletedJobError)
    return tuple(faults)


def failed_returns(returns: Sequence[JobReturn]) -> list[JobReturn]:
    """Pick the jobs that did not end well."""
    return [item for item in returns if item.status is not JobStatus.COMPLETED]


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
