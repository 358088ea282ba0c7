"""Who holds a claim on a call: a process, told apart from a later one with the same number."""

from __future__ import annotations

import socket

import psutil

_CLOCK_S = 2.0  # by how much a process's start may be read differently


def this_process() -> tuple[str, int]:
    """Name this process: its machine and its start, and its number there."""
    process = psutil.Process()
    return f"{socket.gethostname()} {process.create_time():.2f}", process.pid


def is_alive(machine: str, number: int) -> bool | None:
    """Say whether a process that :func:`this_process` named still runs.

    Args:
        machine: its machine and its start.
        number: its number there.

    Returns:
        None for a process of another machine, of which nothing is known.
    """
    name, _, started = machine.rpartition(" ")
    if name != socket.gethostname():
        return None
    try:
        process = psutil.Process(number)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False  # killed; whoever started it has not looked yet
        if abs(process.create_time() - float(started)) > _CLOCK_S:
            return False  # another process, to which the number was given again
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True  # somebody else's
    return True
