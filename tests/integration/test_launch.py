"""Workers that die: what is unfinished is launched again, and who keeps dying is known."""

from __future__ import annotations

import json
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest
from composition import jobs_of
from hydra.core.utils import JobReturn, JobStatus

from plan_tuning.sweep.launch import Survivor, failed_returns

pytestmark = pytest.mark.integration


class Launcher:
    """Returns what joblib would; a job of ``deadly`` ends every job that is launched with it."""

    def __init__(self, deadly: str, times: int) -> None:
        self.deadly, self.times = deadly, times
        self.launched: list[int] = []

    def launch(self, batch: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        self.launched.append(len(batch))
        if self.times and any(self.deadly in job for job in batch):
            self.times -= 1
            raise BrokenExecutor("A worker process was killed\nwith details")
        return [JobReturn(overrides=job, status=JobStatus.COMPLETED) for job in batch]


def launched_by(tmp_path: Path, times: int) -> tuple[Launcher, Survivor]:
    launcher: Any = Launcher("seed=1", times)
    survivor = Survivor(launcher, tmp_path / "mine")
    survivor.launch(jobs_of(tmp_path, "method=sft", "seed=0,1,2", "sweep_name=mine"), 0)
    return launcher, survivor


@pytest.mark.parametrize(("times", "launched"), [(0, [3]), (1, [3, 3]), (2, [3, 3, 1, 1, 1])])
def test_a_death_that_does_not_come_back_costs_nothing(
    tmp_path: Path, times: int, launched: list[int]
) -> None:
    launcher, survivor = launched_by(tmp_path, times)
    assert launcher.launched == launched
    assert len(survivor.returns) == 3
    assert failed_returns(survivor.returns) == []


def test_a_job_that_always_dies_is_recorded_and_the_others_end(tmp_path: Path) -> None:
    _, survivor = launched_by(tmp_path, times=9)
    (failed,) = failed_returns(survivor.returns)
    assert "seed=1" in failed.overrides
    assert len(survivor.returns) == 3
    (path,) = (tmp_path / "mine").glob("*/result.json")
    result = json.loads(path.read_text())
    assert result["status"] == "failed"
    assert result["error"] == {
        "type": "WorkerDiedError",
        "message": "the job's process was killed: A worker process was killed",
    }
    assert result["choices"]["method"] == "sft"
