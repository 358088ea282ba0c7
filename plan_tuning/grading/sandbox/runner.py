"""Programs with their tests -> passed or not: the grader's side of the sandbox.

Before anything is run a program of ours tries what a hostile one would: to fork without end, to
reach the network, to signal and to make files outside. What it could do decides. Where processes
cannot be bounded, signals reach others or anything outside can be made, nothing is run at all; an
open network, and files of others that can be read, are the lesser isolation that is accepted, said
and recorded.
"""

from __future__ import annotations

import ast
import json
import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.grading import SandboxConfig
from plan_tuning.grading.pool import PACKAGE_ROOT, WorkerError, WorkerPool
from plan_tuning.grading.programs import UnitTests
from plan_tuning.grading.sandbox.confinement import NAMESPACES, SHOWN
from plan_tuning.grading.sandbox.supervisor import TIMEOUT, WAIT_FACTOR, request_bytes

logger = logging.getLogger(__name__)

KEY = "evaluation.grading.run_code"
_GRACE_S = 10.0  # beyond what the supervisor waits for a program
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}  # the order of a set must not decide
_MAIN = (
    "import sys; sys.path.insert(0, {root!r}); "
    "from plan_tuning.grading.sandbox.supervisor import main; main()"
)
_SYSTEM = "the system's files"
_BOUND = 8  # processes that the probe starts beyond the limit, if it can

_PROBE = """
import os, signal, socket, sys, time

def made(path):
    # A file is one as soon as it is opened, whatever may be written into it.
    could = False
    for make, remove in ((lambda: open(path, "x").close(), os.unlink),
                         (lambda: os.mkdir(path), os.rmdir),
                         (lambda: os.symlink("/", path), os.unlink)):
        try:
            make()
        except OSError:
            continue
        could = True
        remove(path)
    return could

def probe(most, shown):
    found = {"environment": len(os.environ), "started": 0, "signals": [], "writes": [],
             "reads": []}
    for reached in (socket.AF_INET, socket.AF_INET6):
        try:
            one = socket.socket(reached, socket.SOCK_DGRAM)
            one.connect(("192.0.2.1" if reached == socket.AF_INET else "2001:db8::1", 9))
            found["network"] = "open"
        except OSError:
            pass
    for other in {os.getppid(), 1} - {os.getpid(), 0}:
        try:
            os.kill(other, 0)
            found["signals"].append(other)
        except OSError:
            pass
    library = [name for name in sys.path if name.startswith("/")]
    for folder in ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run", "/run/lock", "/var/lock",
                   "/", "/usr", "/etc", "/home", "/root"):
        if folder == os.getcwd() and folder != "/":
            continue
        if made(os.path.join(folder, "sandbox_probe_" + os.urandom(8).hex())):
            found["writes"].append(folder)
    for name in os.listdir("/"):
        folder = "/" + name
        if name in shown or os.path.islink(folder) or folder == os.getcwd():
            continue
        try:
            held = os.listdir(folder) if os.path.isdir(folder) else open(folder).read(1)
        except (OSError, ValueError):
            continue
        if held and not any(one.startswith(folder + "/") for one in library):
            found["reads"].append(folder)
    try:
        with open("probe", "w") as file:
            file.write("x")
        found["folder"] = os.getcwd() != "/"
    except OSError:
        found["folder"] = False
    for _ in range(most):
        try:
            child = os.fork()
        except OSError:
            break
        if child == 0:
            time.sleep(60)
            os._exit(0)
        found["started"] += 1
    return found
"""
# The tests' side hands what was found over by failing with it.
_REPORT = "class Report(Exception): pass\n\ndef report(found):\n    raise Report(found)"


@dataclass(frozen=True, slots=True)
class Isolation:
    """What keeps programs in on this machine, as a probe has found it."""

    user: str  # one of its own, or ours in a namespace of users
    namespaces: tuple[str, ...]
    network: str  # none, open
    files: str  # a folder of its own, none
    reads: str  # the system's, or whose files beside them
    processes: int  # that a program can be, at the most
    refused_calls: bool  # whether the kernel refuses it sockets and reaching into processes

    def __str__(self) -> str:
        """Say it in a line."""
        shown = ", ".join(self.namespaces) or "none"
        return (
            f"programs run under {self.user.replace('ours', 'this user')}, namespaces: {shown}; "
            f"network: {self.network}; files: {self.files}; it can read: {self.reads}; "
            f"processes: {self.processes}; "
            f"system calls: {'some refused' if self.refused_calls else 'all'}"
        )


class Sandbox:
    """Runs programs; the supervisors start with the first one.

    Args:
        limits: of one program.
        num_workers: programs that run side by side.
        namespaces: that are tried; the others count as absent.
        refuses_calls: whether system calls are refused where the architecture is known.
    """

    def __init__(
        self,
        limits: SandboxConfig,
        num_workers: int,
        *,
        namespaces: Sequence[str] = tuple(NAMESPACES),
        refuses_calls: bool = True,
    ) -> None:
        self.limits = limits
        settings = {
            "limits": asdict(limits),
            "namespaces": list(namespaces),
            "refuses_calls": refuses_calls,
        }
        command = [sys.executable, "-P", "-s", "-S", "-c", _MAIN.format(root=PACKAGE_ROOT)]
        self.pool = WorkerPool(
            num_workers,
            limits.time_s * WAIT_FACTOR + _GRACE_S,
            lambda: ([*command, json.dumps(settings)], _ENVIRONMENT),
            f"{KEY} needs Linux, and root or namespaces of users",
        )
        self._lock = threading.Lock()
        self._isolation: Isolation | None = None

    def close(self) -> None:
        """Stop the supervisors, and with them what they run."""
        self.pool.close()

    def isolation(self) -> Isolation:
        """Find out, once, what keeps programs in.

        Raises:
            ConfigError: it is not enough; nothing is run then.
        """
        with self._lock:
            if self._isolation is None:
                self._isolation = self._probed()
                is_full = (self._isolation.network, self._isolation.reads) == ("none", _SYSTEM)
                told = logger.info if is_full else logger.warning
                told("sandbox: %s", self._isolation)
            return self._isolation

    def failure(self, program: str, tests: UnitTests) -> str | None:
        """Run a program with its tests.

        Args:
            program: source.
            tests: of it.

        Returns:
            None where it passes, else why not: TIMEOUT, or the error in words.

        Raises:
            ConfigError: nothing is run on this machine.
            SandboxError: the supervisor failed, which says nothing about the program.
        """
        self.isolation()
        return self._failure(program, tests)

    def _failure(self, program: str, tests: UnitTests) -> str | None:
        reply = self.pool.call(request_bytes(program, asdict(tests)))
        if "passed" not in reply:
            raise SandboxError(str(reply.get("failure")))
        return None if reply["passed"] else str(reply["failure"])

    def _probed(self) -> Isolation:
        if not sys.platform.startswith("linux"):
            raise _refused(f"{sys.platform} has no sandbox", "Linux")
        most = self.limits.processes + _BOUND
        keys = ("started", "signals", "writes", "reads", "folder", "network", "environment")
        test = f"found = probe({most}, {SHOWN})\nreport({{key: found.get(key) for key in {keys}}})"
        try:
            failure = self._failure(_PROBE, UnitTests(_REPORT, ("probe",), test)) or ""
        except (SandboxError, WorkerError) as error:
            raise _refused(f"the sandbox does not start here ({error})", "root or namespaces, and "
                           "a machine that answers in time") from error  # fmt: skip
        told, _, text = failure.partition(": ")
        if told != "Report":
            raise _refused(f"a harmless program fails in the sandbox ({failure})", "an interpreter "
                           "whose library every user may read, or namespaces")  # fmt: skip
        found: Mapping[str, Any] = ast.literal_eval(text)
        if found["started"] >= most - 1:
            raise _refused("processes of a program cannot be bounded here", "root with more than "
                           "one id mapped (/proc/self/uid_map), or namespaces")  # fmt: skip
        if found["signals"]:
            raise _refused("a program could signal others here", "root or a pid namespace")
        if found["writes"] or found["environment"]:
            places = ", ".join(found["writes"]) or "the environment"
            raise _refused(f"a program would reach {places}", "a mount namespace: in Docker with "
                           "--cap-add SYS_ADMIN --security-opt apparmor=unconfined")  # fmt: skip
        told_by = self.pool.told
        return Isolation(
            user=str(told_by["user"]),
            namespaces=tuple(told_by["namespaces"]),
            network=str(found["network"] or "none"),
            files="a folder of its own" if found["folder"] else "none",
            reads=", ".join([_SYSTEM, *sorted(found["reads"])]),
            processes=int(found["started"]) + 1,
            refused_calls=bool(told_by["refused_calls"]),
        )


class SandboxError(RuntimeError):
    """A supervisor ended or hung; the program that it ran is not judged by that."""


def _refused(why: str, needed: str) -> ConfigError:
    return ConfigError(KEY, True, f"{why}, and no program is run less well kept: it needs {needed}",
                       f"{KEY}=false, with problems whose answers are no programs")  # fmt: skip


__all__ = ["KEY", "TIMEOUT", "Isolation", "Sandbox", "SandboxError"]
