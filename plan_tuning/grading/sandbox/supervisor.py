"""The process that runs strangers' programs, one after another, each in fresh processes.

Started by :mod:`plan_tuning.grading.sandbox.runner`. For each request it forks two processes: one
executes the program and answers calls of its functions, the other executes the tests and decides.
What does not answer has failed. Whatever is left of a program is killed when its request ends, and
also when this process is killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from plan_tuning.grading.sandbox.confinement import Confinement
from plan_tuning.grading.sandbox.exchange import Channel, answer_calls, run_tests

WAIT_FACTOR = 4  # seconds that may pass for one of the processor: other work, or sleep
TIMEOUT = "timeout"
_GONE_S = 0.02
_RAN_OUT = 3  # exit code of the keeper of a program that used its time up


def run(confinement: Confinement, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run one program with its tests.

    Args:
        confinement: what keeps it in.
        request: program, setup, entry_points and test.

    Returns:
        ``passed``; where it is false ``failure``, which is TIMEOUT where time ran out.
    """
    asked, ask = os.pipe()
    answered, answer = os.pipe()
    result, decide = os.pipe()
    leash, hold = os.pipe()
    keeper = _forked(_keep_program, confinement, request["program"], asked, answer, leash)
    tester = _forked(_decide, confinement, request, answered, ask, decide)
    for descriptor in (asked, answer, leash, answered, ask, decide):
        os.close(descriptor)
    seconds = confinement.limits["time_s"]
    text, is_late = _read_all(result, seconds * WAIT_FACTOR)
    os.close(result)
    os.kill(tester, signal.SIGKILL)  # before the program: its end is not what the tests saw
    _, _, used = os.wait4(tester, 0)
    found: dict[str, Any] = json.loads(text) if text else {"passed": False, "failure": "no result"}
    if found.get("is_gone"):
        time.sleep(_GONE_S)  # its pipes are closed before its end can be collected
    os.close(hold)
    kept = os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1])
    is_late = is_late or kept == _RAN_OUT or used.ru_utime + used.ru_stime >= seconds
    return found if found["passed"] or not is_late else {"passed": False, "failure": TIMEOUT}


def _forked(work: Callable[..., NoReturn], *args: Any) -> int:
    """Do something in a child, which never returns into the parent's code."""
    child = os.fork()
    if child == 0:
        try:
            work(*args)
        finally:
            os._exit(1)
    return child


def _keep_program(
    confinement: Confinement, source: str, incoming: int, outgoing: int, leash: int
) -> NoReturn:
    """Let a child execute the program, and kill all of it when the leash is cut."""
    confinement.close_all_but(incoming, outgoing, leash)
    confinement.prepare_program()
    child = _forked(_execute, confinement, source, incoming, outgoing, leash)
    os.close(incoming)
    os.close(outgoing)
    select.select([leash], [], [])  # ends with the request, or with whoever holds the other end
    ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)  # the first of its pid namespace takes all others along
        os.waitpid(child, 0)
    confinement.clear_user()
    # The kernel has killed it, at the limit of its time.
    has_run_out = ended and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    os._exit(_RAN_OUT if has_run_out else 0)


def _execute(
    confinement: Confinement, source: str, incoming: int, outgoing: int, leash: int
) -> NoReturn:
    os.close(leash)
    confinement.enter_program()
    answer_calls(source, Channel(incoming, outgoing, confinement.limits["output_kb"] * 1024))
    os._exit(0)


def _decide(
    confinement: Confinement, request: Mapping[str, Any], incoming: int, outgoing: int, result: int
) -> NoReturn:
    confinement.close_all_but(incoming, outgoing, result)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    confinement.enter_tests()
    channel = Channel(incoming, outgoing, confinement.limits["output_kb"] * 1024)
    text = json.dumps(run_tests(request, channel)).encode()
    while text:
        text = text[os.write(result, text) :]
    os._exit(0)


def _read_all(descriptor: int, seconds: float) -> tuple[bytes, bool]:
    """Read up to the end, and say whether time ran out before it."""
    found, deadline = b"", time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return b"", True
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return found, False
        found += chunk


def main() -> None:
    """Serve requests until the input closes."""
    settings = json.loads(sys.argv[1])
    os.environ.clear()
    channel = Channel(os.dup(0), os.dup(1), sys.maxsize)
    confinement = Confinement(
        settings["limits"], settings["namespaces"], is_filtered=settings["refuses_calls"]
    )
    confinement.close_all_but(*channel.descriptors, confinement.nowhere)
    channel.send({"ready": True, **confinement.facts})
    while True:
        try:
            request = channel.receive()
        except EOFError:
            return
        channel.send(run(confinement, request))
