"""A pool of worker processes that can be killed: what runs in it can neither hang nor fill memory.

Workers are started as fresh interpreters (no fork: the parent may hold CUDA and threads), on
demand, and speak JSON lines over pipes. The limits of a request start when its worker is ready, not
when it is started. The pool is safe to use from any thread and never touches the caller's signals.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

Start = Callable[[], tuple[list[str], Mapping[str, str]]]
"""The command of a worker, and its environment; asked for each worker anew."""

PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_WORKER = "plan_tuning.grading.worker"
_FATAL = ("timeout", "crash", "memory")  # after these a worker is not used again
_START_S = 120.0  # imports take half a second, on a loaded machine many times that


class WorkerError(RuntimeError):
    """The pool is closed, or a worker does not start."""


class WorkerPool:
    """At most ``num_workers`` processes, each serving one request at a time.

    Args:
        num_workers: of them.
        wall_s: seconds until a request is ended by force.
        start: how a worker is started, which says ``ready`` in its first line.
        advice: what to look at where none starts.
    """

    def __init__(self, num_workers: int, wall_s: float, start: Start, advice: str) -> None:
        self.num_workers = num_workers
        self.wall_s = wall_s
        self.num_killed = 0  # requests that were ended by force, for the logs and the tests
        self.told: Mapping[str, Any] = {}  # by the worker that started last
        self._start, self._advice = start, advice
        self._reset()

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._condition = threading.Condition()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._num_alive = 0
        self._closed = False
        self._finalizer = weakref.finalize(self, _stop, self._all, self._owner)

    def call(self, request: dict[str, Any] | bytes) -> dict[str, Any]:
        """Have a worker answer a request, waiting for a free one.

        Args:
            request: sent as a JSON line; bytes are sent as they are.

        Returns:
            The worker's reply, or ``{"failure": reason}`` with the reason ``timeout`` where the
            wall limit passed, ``memory`` where the limit of memory did, ``crash`` where the worker
            died, and the error's text where the request raised one.

        Raises:
            WorkerError: the pool is closed, or no worker can be started.
        """
        if os.getpid() != self._owner:
            self._reset()  # a forked child must not read the pipes of its parent's workers
        worker = self._acquire()
        reply: dict[str, Any] | None = None
        try:
            reply = worker.ask(request, self.wall_s)
        finally:
            # also after Ctrl-C: a worker with an answer under way cannot be used again
            self._release(worker, keep=reply is not None and reply.get("failure") not in _FATAL)
        return reply

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that live."""
        with self._condition:
            return [worker.process.pid for worker in self._all]

    def close(self) -> None:
        """Kill the workers; requests under way end as crashes."""
        with self._condition:
            self._closed = True
            self._idle.clear()
            self._condition.notify_all()
        self._finalizer()

    def _acquire(self) -> _Worker:
        with self._condition:
            while not self._closed and not self._idle and self._num_alive >= self.num_workers:
                self._condition.wait()
            if self._closed:
                raise WorkerError("the grader is closed: use it inside its with block")
            if self._idle:
                return self._idle.pop()
            self._num_alive += 1
        try:
            worker = _Worker(*self._start(), self._advice)
        except BaseException:
            with self._condition:
                self._num_alive -= 1
                self._condition.notify()
            raise
        with self._condition:
            self._all.add(worker)
            self.told = worker.told
        return worker

    def _release(self, worker: _Worker, *, keep: bool) -> None:
        if not keep:
            worker.kill()
        with self._condition:
            if keep and not self._closed:
                self._idle.append(worker)
            else:
                self.num_killed += not keep
                self._num_alive -= 1
                self._all.discard(worker)
            self._condition.notify()


def comparing_pool(num_workers: int, wall_s: float, memory_mb: int) -> WorkerPool:
    """Make the pool that compares answers by algebra.

    Args:
        num_workers: of it.
        wall_s: seconds that one comparison may take.
        memory_mb: address space of a worker in MiB.
    """
    advice = (
        f"check that math-verify is installed for {sys.executable}, and that grading.memory_mb is "
        "large enough"
    )

    def start() -> tuple[list[str], Mapping[str, str]]:
        search_path = [PACKAGE_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(search_path),
            "OMP_NUM_THREADS": "1",
        }
        asked = [str(memory_mb), str(wall_s), str(os.getpid())]
        return [sys.executable, "-m", _WORKER, *asked], environment

    return WorkerPool(num_workers, wall_s, start, advice)


def _stop(workers: set[_Worker], owner: int) -> None:
    if os.getpid() != owner:
        return
    for worker in list(workers):
        worker.kill()
    workers.clear()


class _Worker:
    """One process with its two pipes."""

    def __init__(self, command: list[str], environment: Mapping[str, str], advice: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is the parent's affair
        )
        self._buffer = b""
        try:
            self.told = self._read(_START_S)
        except BaseException:
            self.kill()
            raise
        if not self.told.get("ready"):
            self.kill()
            raise WorkerError(
                f"a grading worker did not start ({self.told.get('failure')}, exit code "
                f"{self.process.returncode}): {advice}"
            )

    def ask(self, request: dict[str, Any] | bytes, wall_s: float) -> dict[str, Any]:
        """Send a request and wait for its reply, at most ``wall_s`` seconds."""
        if self.process.stdin is None:
            return {"failure": "crash"}
        text = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
        try:
            self.process.stdin.write(text)
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):  # died while idle, or killed by close()
            return {"failure": "crash"}
        return self._read(wall_s)

    def _read(self, wall_s: float) -> dict[str, Any]:
        stream = self.process.stdout
        if stream is None or stream.closed:
            return {"failure": "crash"}
        deadline = time.monotonic() + wall_s
        poller = select.poll()  # select() fails above 1024 open files
        poller.register(stream, select.POLLIN)
        while b"\n" not in self._buffer:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return {"failure": "timeout"}
            if not poller.poll(remaining * 1000 + 1):
                continue
            chunk = os.read(stream.fileno(), 1 << 16)
            if not chunk:
                return {"failure": "crash"}
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def kill(self) -> None:
        """End the process for certain and collect it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # unsent bytes of a request that nobody waits for
                    continue
