"""A command, its output and everything that it starts, ended with the process that wanted it.

Run as a program of its own, with nothing but Python's library: ``guardian.py COMMAND…``. Its input
is a pipe whose other end a job holds. When that closes, be it that the job closes it or that the
job was killed, the command and all that came of it are asked to end and then killed. When the
command ends by itself, the guardian ends with its exit code.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

GRACE_S = 8.0  # from the question to end to the end
_LOOKS_EVERY_S = 0.25
_NOT_FOUND = 127  # as shells have it
_PDEATHSIG, _CHILD_SUBREAPER = 1, 36  # of prctl(2)


def main(command: list[str]) -> int:
    """Run a command until it ends or the input closes; returns its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who holds the pipe says when it is time
    job = os.getppid()
    on_linux = sys.platform == "linux"
    if on_linux:  # what the command leaves behind becomes a child of this process
        ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent if on_linux else None,  # noqa: PLW1509 - there is one thread
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return _NOT_FOUND
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _stop)
        while child.poll() is None and not _has_ended(job):
            pass
    finally:
        _end(child)
    code = child.returncode
    return code if code >= 0 else 128 - code


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _has_ended(job: int) -> bool:
    """Wait a moment for the end of the input, or of the process that holds it.

    A process that the job has forked may hold the pipe too and outlive it for a while.
    """
    readable, _, _ = select.select([sys.stdin], [], [], _LOOKS_EVERY_S)
    is_closed = bool(readable) and not os.read(sys.stdin.fileno(), 1)
    return is_closed or os.getppid() != job


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask a command and its group to end, and kill what is left of them."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # a second one must not cut this short
        signal.signal(number, signal.SIG_IGN)
    _signal_group(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()
    for _ in range(100):  # what began a group of its own is an orphan by now
        orphans = _children()
        if not orphans:
            return
        for orphan in orphans:
            _kill(orphan)
        time.sleep(0.05)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # all of it has ended
        return


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, os.WNOHANG)
    except (ProcessLookupError, ChildProcessError):
        return


def _children() -> list[int]:
    """The children of this process, as far as the system lists them."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(word) for word in listed.read_text().split()] if listed.is_file() else []


def _end_with_parent() -> None:
    """Have a command ended where its guardian is killed."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
