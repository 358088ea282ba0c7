"""An interpreter that has the heavy third parties loaded and forks into the command.

Loading them takes most of a short job's processor time. A fork has them at once and is otherwise
what ``python -m plan_tuning.main`` is: a process with its own arguments, environment, working
directory, output, exit code and children, which imports ``plan_tuning`` itself. Tests of what a
start costs, of kills and of other environments start fresh interpreters.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PRELOADED = (
    "hydra", "rich.table", "pandas", "pyarrow.parquet", "pytorch_lightning",
    "transformers.modeling_layers", "transformers.models.qwen3.modeling_qwen3", "scipy.stats",
    "matplotlib.pyplot", "peft",
)  # fmt: skip
_MESSAGE_BYTES = 65_536
_START_S = 300.0


class WarmCommand:
    """The client: starts the interpreter, then runs one command at a time in forks of it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=self.environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._receive(_START_S)

    def run(
        self, arguments: Sequence[str], folder: Path, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run the command in a folder.

        Raises:
            subprocess.TimeoutExpired: it took too long and was killed.
        """
        request = json.dumps({"arguments": list(arguments), "folder": str(folder)}).encode()
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            socket.send_fds(self._socket, [request], [output.fileno(), errors.fileno()])
            pid = self._receive(_START_S)
            try:
                status = self._receive(timeout)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._receive(_START_S)
                raise subprocess.TimeoutExpired(list(arguments), timeout) from None
            texts = []
            for file in (output, errors):
                file.seek(0)
                texts.append(file.read().decode())
        code = os.waitstatus_to_exitcode(status)
        return subprocess.CompletedProcess(list(arguments), code, *texts)

    def _receive(self, timeout: float) -> int:
        self._socket.settimeout(timeout)
        message = self._socket.recv(_MESSAGE_BYTES)
        if not message:
            raise RuntimeError(f"the warm interpreter ended with {self._process.wait()}")
        return int(message)

    def close(self) -> None:
        """End the interpreter."""
        self._socket.close()
        self._process.wait()


def serve(descriptor: int) -> dict[str, Any] | None:
    """Fork for every request; returns the request in the fork, and None when nobody asks more."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page
    with socket.socket(fileno=descriptor) as connection:
        connection.set_inheritable(False)
        connection.send(b"0")
        while True:
            message, files, *_ = socket.recv_fds(connection, _MESSAGE_BYTES, 2)
            if not message:
                return None
            pid = os.fork()
            if pid == 0:
                for number, file in enumerate(files, start=1):
                    os.dup2(file, number)
                    os.close(file)
                return dict(json.loads(message))
            for file in files:
                os.close(file)
            connection.send(str(pid).encode())
            connection.send(str(os.waitpid(pid, 0)[1]).encode())


def become(request: dict[str, Any]) -> None:
    """Be ``python -m plan_tuning.main …`` from here on."""
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    sys.argv = ["plan_tuning.main", *request["arguments"]]
    runpy.run_module("plan_tuning.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    asked = serve(int(sys.argv[1]))
    if asked is not None:
        become(asked)
