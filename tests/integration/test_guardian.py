"""What a guardian's command starts ends with the process that wanted it, killed or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from plan_tuning.students.generation import guardian

pytestmark = pytest.mark.integration

GUARDED = [sys.executable, "-I", "-S", guardian.__file__]
# A command with a child of its group, one of a session of its own, and one that ignores SIGTERM.
COMMAND = r"""
import os, signal, subprocess, sys, time
sleeping = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
found = [subprocess.Popen(sleeping), subprocess.Popen(sleeping, start_new_session=True),
         subprocess.Popen([sys.executable, "-S", "-c", stubborn])]
pids = [os.getpid(), *(one.pid for one in found)]
open(sys.argv[1] + ".partial", "w").write(" ".join(map(str, pids)))
os.rename(sys.argv[1] + ".partial", sys.argv[1])
time.sleep(60)
"""
# A job that holds the pipe, and has handed it to a child that outlives it.
JOB = r"""
import os, subprocess, sys, time
guard = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
if os.fork() == 0:
    os.close(1)
    time.sleep(5)
    os._exit(0)
print(guard.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A job with a guarded command, and all processes that hang on it."""
    told = tmp_path / "processes"
    words = [*GUARDED, sys.executable, "-S", "-c", COMMAND, str(told)]
    with subprocess.Popen(
        [sys.executable, "-S", "-c", JOB, *words], stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout is not None
        guard = int(job.stdout.readline())
        wait_until(told.is_file)
        yield job, [guard, *map(int, told.read_text().split())]
        job.kill()


def wait_until(holds: object, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


def alive(processes: list[int]) -> list[int]:
    def runs(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [pid for pid in processes if runs(pid)]


def test_nothing_outlives_a_job_that_is_killed(
    started: tuple[subprocess.Popen[str], list[int]],
) -> None:
    job, processes = started
    assert alive(processes) == processes
    os.kill(job.pid, signal.SIGKILL)
    wait_until(lambda: not alive(processes))


def test_nothing_outlives_a_guardian_that_is_asked_to_end(
    started: tuple[subprocess.Popen[str], list[int]],
) -> None:
    _, processes = started
    os.kill(processes[0], signal.SIGTERM)
    wait_until(lambda: not alive(processes))


def test_a_command_that_ends_gives_its_exit_code() -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*GUARDED, *command], stdin=subprocess.PIPE, text=True, capture_output=True, check=False
        )  # an input that closes at once ends a command that is still running

    with subprocess.Popen([*GUARDED, "sh", "-c", "exit 7"], stdin=subprocess.PIPE) as ended:
        assert ended.wait() == 7
    assert run("sleep", "60").returncode == 128 + signal.SIGTERM
    missing = run("/no/such/program")
    assert missing.returncode == 127
    assert missing.stderr == "/no/such/program: No such file or directory\n"
