"""Ranks that a job starts itself: what they return, log, raise, and that they never outlive it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import rank_jobs

from plan_tuning.teachers.errors import BreakerError
from plan_tuning.training.processes import RankError, train_in_ranks

pytestmark = pytest.mark.integration

TWO = rank_jobs.trainer(2)


def test_the_first_rank_answers_and_is_heard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = dict(os.environ)
    with caplog.at_level(logging.INFO):
        facts = train_in_ranks(rank_jobs.greet, TWO, tmp_path / "metrics.csv")
    assert facts == {"rank": 0, "loggers": 1}
    assert [r.message for r in caplog.records if r.name == "ranks"] == ["hello from 0"]
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("how", "kind", "message", "code"),
    [
        ("teacher", BreakerError, "the judge is down", 4),
        ("killed", RankError, "SIGKILL.*last checkpoint", 1),
        ("lambda", RankError, "RuntimeError: .*cannot be sent", 1),
    ],
)
def test_a_failing_rank_ends_the_others_and_says_why(
    tmp_path: Path, how: str, kind: type[ValueError], message: str, code: int
) -> None:
    started = time.monotonic()
    with pytest.raises(kind, match=message) as raised:
        train_in_ranks(partial(rank_jobs.fail, how), TWO, tmp_path / "metrics.csv")
    assert raised.value.exit_code == code
    assert time.monotonic() - started < 60
    assert not multiprocessing.active_children()


def test_ranks_end_with_a_job_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from functools import partial; from pathlib import Path; import rank_jobs\n"
        "from plan_tuning.training.processes import train_in_ranks\n"
        "if __name__ == '__main__':\n"
        "    job = partial(rank_jobs.wait, Path(sys.argv[1]))\n"
        "    train_in_ranks(job, rank_jobs.trainer(2), Path(sys.argv[1]) / 'metrics.csv')\n"
    )
    script = tmp_path / "job.py"
    script.write_text(code, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    job = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment)
    until = time.monotonic() + 60
    places = [tmp_path / "0", tmp_path / "1"]
    while not all(place.is_file() and place.read_text() for place in places):
        assert time.monotonic() < until
        assert job.poll() is None
        time.sleep(0.1)
    ranks = [psutil.Process(int(place.read_text())) for place in places]
    job.send_signal(signal.SIGKILL)
    job.wait()
    _, alive = psutil.wait_procs(ranks, timeout=15)
    assert not alive
