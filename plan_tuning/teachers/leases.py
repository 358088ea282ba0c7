"""Which process may buy a reply: leases in the store's file, each held by a living process.

A process is told apart from a later one with the same number by its start, so a claim of a killed
process is taken over at once and nothing is bought twice.
"""

from __future__ import annotations

import socket
import sqlite3
import time

import psutil

_CLOCK_S = 2.0  # by how much a process's start may be read differently
_CLAIM = (
    "INSERT INTO leases VALUES (?,?,?,?) ON CONFLICT (key) DO UPDATE SET until = excluded.until "
    "WHERE host = excluded.host AND process = excluded.process"
)
_TAKE_OVER = "DELETE FROM leases WHERE key=? AND host=? AND process=? AND until=?"
_RENEW = "UPDATE leases SET until=? WHERE host=? AND process=?"
_RELEASE = "DELETE FROM leases WHERE key=? AND host=? AND process=?"


class Leases:
    """The claims of this process on replies that it buys.

    Args:
        db: the store's file, in autocommit mode, with its table ``leases``.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._claimed: set[str] = set()
        self._owner = this_process()

    def claim(self, key: str, seconds: float) -> bool:
        """Claim the right to buy a reply; False: another living process is buying it.

        A process of this machine keeps its claim for as long as it lives; one of another machine,
        of which nothing is known, until the claim lapses.

        Args:
            key: the reply's address.
            seconds: after which the claim lapses, unless it is renewed.
        """
        claim = (key, *self._owner, time.time() + seconds)
        while not self._db.execute(_CLAIM, claim).rowcount:
            held = self._db.execute(
                "SELECT host, process, until FROM leases WHERE key=?", (key,)
            ).fetchone()
            if held is None:
                continue  # given back just now
            alive = is_alive(held[0], held[1])
            if alive or (alive is None and held[2] >= time.time()):
                return False
            self._db.execute(_TAKE_OVER, (key, *held))
        self._claimed.add(key)
        return True

    def renew(self, seconds: float) -> None:
        """Let the claims of this process lapse no earlier than in so many seconds."""
        if self._claimed:
            self._db.execute(_RENEW, (time.time() + seconds, *self._owner))

    def release(self, key: str) -> None:
        """Give a claim back, where it is held; storing the reply does so too."""
        if key in self._claimed:
            self._claimed.discard(key)
            self._db.execute(_RELEASE, (key, *self._owner))


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
