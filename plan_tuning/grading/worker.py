"""The grader's worker process: reads comparisons as JSON lines, answers in JSON lines.

Started by :mod:`plan_tuning.grading.pool` as ``python -m plan_tuning.grading.worker``. It holds
no state that matters and may be killed at any moment. It ends by itself when its input closes or
its parent is gone, and the kernel ends it when one comparison outlives its limit, whoever still
lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
from typing import Any

_GRACE_S = 1.0  # beyond the parent's limit: the parent kills first where it is alive
_PARENT_CHECK_S = 2.0


def main() -> None:
    """Serve comparisons until the input closes."""
    memory_mb, wall_s, parent = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    # The default action of SIGALRM ends the process inside the kernel, whatever it computes.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    from plan_tuning.grading.equivalence import compare_fields
    from plan_tuning.grading.symbolic import equal, warm_up

    limit = memory_mb * 2**20
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warm_up()  # before the clock of a request starts
    _write(answers, {"ready": True})
    for line in _lines(parent):
        signal.setitimer(signal.ITIMER_REAL, wall_s + _GRACE_S)
        try:
            reply: dict[str, Any] = {"equal": compare_fields(json.loads(line), equal)}
        except MemoryError:
            reply = {"failure": "memory"}
        except RecursionError:
            reply = {"failure": "recursion"}
        except Exception as error:
            reply = {"failure": f"{type(error).__name__}: {error}"[:200]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(answers, reply)
        if reply.get("failure") == "memory":
            return  # the heap may be torn: the parent starts a fresh worker


def _lines(parent: int) -> Any:
    """Yield request lines; end with the input, or with a parent whose pipe somebody else holds."""
    buffer = b""
    while True:
        ready, _, _ = select.select([0], [], [], _PARENT_CHECK_S)
        if os.getppid() != parent:
            return
        if not ready:
            continue
        chunk = os.read(0, 1 << 16)
        if not chunk:
            return
        buffer += chunk
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            yield line


def _write(stream: Any, reply: dict[str, Any]) -> None:
    stream.write(json.dumps(reply) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
