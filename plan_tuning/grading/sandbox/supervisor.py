"""The process that runs strangers' programs, one after another, each in fresh processes.

Started by :mod:`plan_tuning.grading.sandbox.runner`. A request is a line with two lengths, then a
program, then its tests. This process reads the line alone: a child of it, the keeper, takes the
program, and another, the judge, takes the tests after it. So no process that a program descends
from has ever held tests, of its own problem or of earlier ones, and what a fork copies holds none.

The keeper's child executes the program and answers calls of its functions, the judge's child
executes the tests. What does not answer has failed. Whatever is left of a program is killed when
its request ends, and also when this process is killed.
"""

from __future__ import annotations

import contextlib
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
_TAKEN, _RAN_OUT = b"t", b"r"  # what a keeper tells: the program is read; its time was used up


def request_bytes(program: str, tests: Mapping[str, Any]) -> bytes:
    """Write a request.

    Args:
        program: source.
        tests: setup, entry_points and test.
    """
    # A lone surrogate is a text's, not a file's: Python refuses it as source, in its own process.
    source, rest = program.encode("utf-8", "surrogatepass"), json.dumps(tests).encode()
    return json.dumps([len(source), len(rest)]).encode() + b"\n" + source + rest


def serve(confinement: Confinement, requests: int, replies: int) -> bool:
    """Have one program run with its tests; the judge sends the reply.

    Args:
        confinement: what keeps the program in.
        requests: descriptor that the request is read from.
        replies: descriptor that takes ``passed`` and, where it is false, ``failure``, which is
            TIMEOUT where time ran out.

    Returns:
        False where the input has ended.

    Raises:
        RuntimeError: there is no reply, and the input may stand anywhere.
    """
    line = b""
    while not line.endswith(b"\n"):  # by the byte: what is behind the line is not ours to read
        byte = os.read(requests, 1)
        if not byte:
            return False
        line += byte
    size, rest = json.loads(line)
    asked, ask = os.pipe()
    answered, answer = os.pipe()
    told, tell = os.pipe()
    leash, hold = os.pipe()
    keeper = _forked(_keep_program, confinement, size, requests, asked, answer, leash, tell)
    for descriptor in (asked, answer, leash, tell):
        os.close(descriptor)
    judge = _forked(_judge, confinement, rest, requests, replies, answered, ask, told, hold)
    for descriptor in (answered, ask, told, hold):
        os.close(descriptor)
    status = os.waitpid(judge, 0)[1]
    os.waitpid(keeper, 0)
    if status:
        raise RuntimeError("a judge ended without a reply")
    return True


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
    confinement: Confinement,
    size: int,
    requests: int,
    incoming: int,
    outgoing: int,
    leash: int,
    tell: int,
) -> NoReturn:
    """Let a child execute the program, and kill all of it when the leash is cut."""
    source = _exactly(requests, size).decode("utf-8", "surrogatepass")
    os.write(tell, _TAKEN)
    confinement.close_all_but(incoming, outgoing, leash, tell)
    confinement.prepare_program()
    child = _forked(_execute, confinement, source, incoming, outgoing, leash, tell)
    os.close(incoming)
    os.close(outgoing)
    select.select([leash], [], [])  # ends with the request, or with whoever holds the other end
    ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)  # the first of its pid namespace takes all others along
        os.waitpid(child, 0)
    confinement.clear_user()
    # The kernel has killed it, at the limit of its time.
    if ended and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        with contextlib.suppress(BrokenPipeError):  # the supervisor was killed, and its judge
            os.write(tell, _RAN_OUT)
    os._exit(0)


def _execute(
    confinement: Confinement, source: str, incoming: int, outgoing: int, leash: int, tell: int
) -> NoReturn:
    os.close(leash)
    os.close(tell)
    confinement.enter_program()
    answer_calls(source, Channel(incoming, outgoing, confinement.limits["output_kb"] * 1024))
    os._exit(0)


def _judge(
    confinement: Confinement,
    size: int,
    requests: int,
    replies: int,
    incoming: int,
    outgoing: int,
    told: int,
    hold: int,
) -> NoReturn:
    """Have a child execute the tests, end the program, and reply."""
    confinement.die_with_parent()
    _exactly(told, len(_TAKEN))
    tests = json.loads(_exactly(requests, size))
    result, decide = os.pipe()
    tester = _forked(_decide, confinement, tests, incoming, outgoing, decide)
    for descriptor in (incoming, outgoing, decide):
        os.close(descriptor)
    seconds = confinement.limits["time_s"]
    text, is_late = _read_all(result, seconds * WAIT_FACTOR)
    os.kill(tester, signal.SIGKILL)  # before the program: its end is not what the tests saw
    _, _, used = os.wait4(tester, 0)
    found: dict[str, Any] = json.loads(text) if text else {"passed": False, "failure": "no result"}
    if found.pop("is_gone", False):
        time.sleep(_GONE_S)  # its pipes are closed before its end can be collected
    os.close(hold)
    is_late = is_late or os.read(told, 1) == _RAN_OUT or used.ru_utime + used.ru_stime >= seconds
    reply = found if found["passed"] or not is_late else {"passed": False, "failure": TIMEOUT}
    _write(replies, json.dumps(reply).encode() + b"\n")
    os._exit(0)


def _decide(
    confinement: Confinement, tests: Mapping[str, Any], incoming: int, outgoing: int, result: int
) -> NoReturn:
    confinement.close_all_but(incoming, outgoing, result)
    confinement.enter_tests()
    channel = Channel(incoming, outgoing, confinement.limits["output_kb"] * 1024)
    _write(result, json.dumps(run_tests(tests, channel)).encode())
    os._exit(0)


def _write(descriptor: int, text: bytes) -> None:
    while text:
        text = text[os.write(descriptor, text) :]


def _exactly(descriptor: int, size: int) -> bytes:
    """Read so many bytes.

    Raises:
        EOFError: there are fewer.
    """
    parts = []
    while size:
        parts.append(os.read(descriptor, min(size, 1 << 16)))
        if not parts[-1]:
            raise EOFError("a request ended in its middle")
        size -= len(parts[-1])
    return b"".join(parts)


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
    requests, replies = os.dup(0), os.dup(1)
    confinement = Confinement(
        settings["limits"], settings["namespaces"], is_filtered=settings["refuses_calls"]
    )
    confinement.close_all_but(requests, replies, confinement.nowhere)
    _write(replies, json.dumps({"ready": True, **confinement.facts}).encode() + b"\n")
    while serve(confinement, requests, replies):
        continue
