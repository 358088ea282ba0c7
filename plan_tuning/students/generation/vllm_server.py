"""A folder of weights → a vLLM server of this job's own, which ends with the job.

``vllm serve`` is a child behind a guardian (:mod:`plan_tuning.students.generation.guardian`), so
that nothing of it survives the job, however that ends. It listens on a free port of the loopback
interface under a name and behind a key that only this job knows: a foreign server that took the
port is not asked, and nobody else on the machine asks this one (in a container the key is there
only if the command hands on VLLM_API_KEY, and what outlives the command's own processes, nobody
ends). vLLM itself need not be installed
beside this project: the command may name another environment's program, a container or srun.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from plan_tuning import interruption
from plan_tuning.students.generation import guardian
from plan_tuning.students.generation.protocol import EngineError

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
_LOOKS_EVERY_S = 0.2
_SPEAKS_EVERY_S = 15.0
_ANSWERS_S = 10.0  # a busy server may be slow to say that it is well
_TRIES = 4  # of ports
_SHOWN = 160  # characters of a line of the log
_LAST_BYTES = 65_536  # of a log, in which its end is looked for
_TAKEN = re.compile(r"address already in use|errno 98\b", re.IGNORECASE)
_FAULT = re.compile(r"\b[A-Za-z]\w*(?:Error|Exception)\b: .+|\berror: .+")
_CAUSE_ABOVE = "See root cause above"  # what the front of a server says when its core fails
_MARKS = re.compile(r"\x1b\[[0-9;]*m|^(?:\([^)]*\)\s*)?(?:[A-Z]+ \d\d-\d\d [\d:]+ \[[^\]]*\]\s*)?")
# Of a process group of this job's own training, which a server must not take for its own.
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Serving:
    """What is served, and how.

    Args:
        weights: folder or hub id of whole weights.
        command: words that run vLLM's program; ``serve`` and its options come behind them.
        options: of ``vllm serve``, by name with dashes or underscores; true is a flag, false and
            null leave the option out.
        environment: variables of the server beside those of this process.
        start_timeout_s: seconds until it has to be ready.
    """

    weights: str
    command: tuple[str, ...] = ("vllm",)
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    start_timeout_s: float = 1800.0

    def words(self) -> Iterator[str]:
        """The options as words of a command line.

        >>> list(Serving("w", options={"max_loras": 2, "enable-lora": True, "x": None}).words())
        ['--max-loras', '2', '--enable-lora']
        """
        for name, value in self.options.items():
            if value is None or value is False:
                continue
            yield f"--{name.replace('_', '-')}"
            if isinstance(value, dict | list):
                yield json.dumps(value)
            elif value is not True:
                yield str(value)


class VLLMServer:
    """One ``vllm serve``, from entering the context to leaving it; it may be entered again.

    Args:
        serving: what is served.
        log: file that everything it says is added to.
    """

    def __init__(self, serving: Serving, log: Path) -> None:
        self.serving = serving
        self.log = log
        self.served_model = f"student-{secrets.token_hex(4)}"
        self.api_key = secrets.token_hex(16)
        self.version = ""  # of vLLM, once it runs
        self._port = 0
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def api_base(self) -> str:
        """The address that it answers at, up to and including ``/v1``."""
        return f"http://{HOST}:{self._port}/v1"

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._guard is not None and self._guard.poll() is None

    def __enter__(self) -> Self:
        """Start it and wait until it answers.

        Raises:
            EngineError: its program is not there, or it ended or was not ready in time.
        """
        program = self.serving.command[0]
        if shutil.which(program) is None:
            raise EngineError(missing_program(program))
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as started:
            started.callback(self.close)
            for _ in range(_TRIES):
                begins_at = self.log.stat().st_size if self.log.is_file() else 0
                self._start()
                if self._await(begins_at):
                    started.pop_all()
                    return self
                logger.info("port %d was taken meanwhile: vLLM starts on another one", self._port)
            raise EngineError(
                f"vLLM found {_TRIES} free ports taken as it came to them; see {self.log}"
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it and everything that it started."""
        self.close()

    def close(self) -> None:
        """End it and everything that it started."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        if guard.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended already
                guard.stdin.close()
        try:
            guard.wait(timeout=2 * guardian.GRACE_S)
        except subprocess.TimeoutExpired:  # a process that this one forked holds the pipe, too
            guard.terminate()
            try:
                guard.wait(timeout=2 * guardian.GRACE_S)
            except subprocess.TimeoutExpired:
                guard.kill()
                logger.warning("the vLLM server did not end; its guardian %d is killed", guard.pid)

    def last_words(self, begins_at: int = 0) -> str:
        """Say in one line what its log ends with: the last fault in it, else its last line."""
        lines = self._lines(begins_at)
        faults = [found[0] for line in lines if (found := _FAULT.search(line))]
        causes = [fault for fault in faults if _CAUSE_ABOVE not in fault]
        chosen = causes[-1:] or faults[-1:] or lines[-1:] or ["it said nothing"]
        return chosen[0][:_SHOWN]

    def _start(self) -> None:
        self.close()
        serving = self.serving
        self._port = _free_port()
        command = [
            *serving.command, "serve", serving.weights, "--host", HOST, "--port", str(self._port),
            "--served-model-name", self.served_model, *serving.words(),
        ]  # fmt: skip
        environment = {key: value for key, value in os.environ.items() if key not in _RANKS}
        environment.setdefault("VLLM_NO_USAGE_STATS", "1")  # it reports itself otherwise
        environment |= {**serving.environment, "VLLM_API_KEY": self.api_key}
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        logger.info("vLLM is starting, half a minute to some minutes; its log: %s", self.log)

    def _await(self, begins_at: int) -> bool:
        """Wait until it answers; returns False where another process has its port.

        Args:
            begins_at: bytes of the log that are of earlier servers.

        Raises:
            EngineError: it ended, or was not ready in time.
        """
        began = spoke = time.monotonic()
        while True:
            interruption.check()
            now = time.monotonic()
            if self._guard is None or self._guard.poll() is not None:
                return self._has_ended(begins_at)
            if self._is_ready():
                logger.info("vLLM %s answers after %.0f s", self.version, now - began)
                return True
            if now - began > self.serving.start_timeout_s:
                raise EngineError(
                    f"vLLM was not ready after evaluation.vllm.start_timeout_s="
                    f"{self.serving.start_timeout_s:g}: {self.last_words(begins_at)} (whole log: "
                    f"{self.log})"
                )
            if now - spoke > _SPEAKS_EVERY_S:
                spoke = now
                lines = self._lines(begins_at)
                said = lines[-1][:_SHOWN] if lines else ""
                logger.info("vLLM is starting (%.0f s): %s", now - began, said)
            time.sleep(_LOOKS_EVERY_S)

    def _has_ended(self, begins_at: int) -> bool:
        """Say why it ended before it answered; returns False where its port was taken.

        Raises:
            EngineError: it ended for another reason.
        """
        if any(_TAKEN.search(line) for line in self._lines(begins_at)):
            return False
        code = None if self._guard is None else self._guard.returncode
        said = self.last_words(begins_at)
        is_short = "memory" in said.lower() or code == 128 + signal.SIGKILL
        cure = (
            "; give it other room by evaluation.batch_tokens, or by "
            "'evaluation.vllm.options={gpu_memory_utilization: 0.5}'"
            if is_short
            else ""
        )
        raise EngineError(
            f"vLLM ended as it started (exit code {code}): {said} (whole log: {self.log}){cure}. "
            "Nothing is lost, the same command goes on; evaluation.engine=native needs no vLLM"
        )

    def _is_ready(self) -> bool:
        """Whether this server, and no other one on its port, answers."""
        if self._ask("/health") is None:
            return False
        listed = self._ask("/v1/models")
        cards = listed.get("data") if isinstance(listed, dict) else None
        names = [card.get("id") for card in cards or () if isinstance(card, dict)]
        if self.served_model not in names:
            return False
        told = self._ask("/version")
        self.version = str(told.get("version", "")) if isinstance(told, dict) else ""
        return True

    def _ask(self, path: str) -> Any:
        """Ask for a page of the server; None where it does not answer well."""
        request = urllib.request.Request(f"http://{HOST}:{self._port}{path}")
        request.add_header("Authorization", f"Bearer {self.api_key}")
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=_ANSWERS_S) as response:
                body = response.read()
        except (OSError, HTTPException):
            return None
        try:
            return json.loads(body) if body else {}
        except ValueError:
            return None

    def _lines(self, begins_at: int) -> list[str]:
        """The last lines of the log that say something, without colours and marks of their origin.

        The first line of each server is the command that started it.
        """
        if not self.log.is_file():
            return []
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(begins_at, size - _LAST_BYTES))
            text = log.read().decode(errors="replace")
        lines = (_MARKS.sub("", line).strip() for line in text.splitlines())
        return [line for line in lines if line and not line.startswith("$ ")]


def missing_program(program: str) -> str:
    """Say that the program of a command is not there, and how another one is named."""
    return (
        f"evaluation.vllm.command={program}: there is no such program here. Name vLLM's in its own "
        "environment (evaluation.vllm.command=/ENV/bin/vllm, after `python -m venv /ENV && "
        "/ENV/bin/pip install vllm`), or a container; evaluation.engine=native needs none"
    )


def _free_port() -> int:
    """A port of the loopback interface that nobody listens at; another process may yet take it."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def lora_options(rank: int) -> dict[str, Any]:
    """Options with which adapters are loaded at run time, an old and a new one at a time.

    Args:
        rank: of the largest adapter; vLLM takes powers of two from 8 on.
    """
    room = next((size for size in _RANKS_OF_VLLM if size >= rank), None)
    if room is None:
        raise EngineError(
            f"vLLM takes adapters of rank {_RANKS_OF_VLLM[-1]} at the most, not {rank}: "
            "adapter.export=merged writes whole weights"
        )
    return {"enable-lora": True, "max-loras": 2, "max-lora-rank": room}


_RANKS_OF_VLLM: Sequence[int] = (8, 16, 32, 64, 128, 256, 320, 512)
LORA_ENVIRONMENT = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
