"""Every paid answer, once: an append-only SQLite file that all roles and all processes share.

A reply is addressed by the hash of what determines it (:func:`call_fingerprint`); it is committed
as it arrives, so a kill loses at most what was in flight. ``calls`` holds the replies with all that
explains them, ``attempts`` every failed try, ``spend`` the running total by teacher.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock

from plan_tuning.records import Reply, Request
from plan_tuning.teachers.errors import TeacherError
from plan_tuning.teachers.failures import CallFailure
from plan_tuning.teachers.leases import Leases
from plan_tuning.teachers.replies import settled

logger = logging.getLogger(__name__)

FILE_NAME = "calls.sqlite"
SCHEMA_VERSION = 1
KEY_VERSION = 1

_NETWORK_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "fuse",
    "lustre",
    "gpfs",
    "afs",
    "ceph",
    "beegfs",
)
_BUSY_S = 60.0
_BATCH_ROWS = 4000
_BATCH_S = 1.0
_TABLES = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, teacher TEXT NOT NULL, role TEXT NOT NULL, problem_id TEXT NOT NULL,
    sample_index INTEGER NOT NULL, attempt_salt INTEGER NOT NULL, request BLOB NOT NULL,
    text TEXT NOT NULL, status TEXT NOT NULL, finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    is_usage_estimated INTEGER NOT NULL, cost_usd REAL, price_source TEXT NOT NULL,
    requested_model TEXT NOT NULL, served_model TEXT NOT NULL, latency_s REAL NOT NULL,
    attempts INTEGER NOT NULL, created REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS calls_of_problem ON calls (problem_id);
CREATE TABLE IF NOT EXISTS attempts (
    key TEXT NOT NULL, teacher TEXT NOT NULL, role TEXT NOT NULL, problem_id TEXT NOT NULL,
    kind TEXT NOT NULL, status INTEGER NOT NULL, wait_s REAL, message TEXT NOT NULL,
    latency_s REAL NOT NULL, created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS teachers (teacher TEXT PRIMARY KEY, identity TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS leases (
    key TEXT PRIMARY KEY, host TEXT NOT NULL, process INTEGER NOT NULL, until REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spend (
    teacher TEXT PRIMARY KEY, calls INTEGER NOT NULL, usd REAL NOT NULL
);
"""
_SPEND = (
    "INSERT INTO spend VALUES (?, 1, ?) ON CONFLICT (teacher) "
    "DO UPDATE SET calls = calls + 1, usd = usd + excluded.usd"
)
_INSERT = f"INSERT OR IGNORE INTO calls VALUES ({','.join('?' * 20)})"
_REPLY = "text, status, finish_reason, prompt_tokens, completion_tokens, cost_usd, served_model"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is known of a purchase beside the reply itself."""

    latency_s: float
    attempts: int
    price_source: str
    is_usage_estimated: bool
    requested_model: str


def teacher_fingerprint(spec: Mapping[str, Any]) -> str:
    """Hash a teacher's spec to 16 hex digits."""
    return hashlib.sha256(_sorted_json(spec).encode()).hexdigest()[:16]


def _sorted_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def call_fingerprint(teacher: str, request: Request) -> str:
    """Address a request's reply: teacher, messages, sampling parameters, sample and salt.

    Not in it: the role, the problem's id, ports, keys, pace, thresholds. The order of problems
    and the name of a run therefore change nothing.
    """
    spec = _sorted_json(
        [
            KEY_VERSION,
            teacher,
            [[message["role"], message["content"]] for message in request.messages],
            float(request.temperature),
            float(request.top_p),
            request.max_tokens,
            request.seed,
            request.sample_index,
            request.attempt_salt,
            *([request.extra] if request.extra else []),
        ]
    )
    return hashlib.sha256(spec.encode()).hexdigest()[:40]


class CallStore:
    """The store's file, opened by one process; others may have it open at the same time.

    ``leases`` says which of them buys a reply that is missing.

    Args:
        folder: where ``calls.sqlite`` lies or will lie.
        is_batched: collect rows of an instant, free teacher instead of committing each.

    Raises:
        TeacherError: the file is of a newer schema, or is no store.
    """

    def __init__(self, folder: Path, *, is_batched: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE_NAME
        self._batch_rows = _BATCH_ROWS if is_batched else 1
        self._rows: dict[str, tuple[Any, ...]] = {}
        self._last_flush = time.monotonic()
        self._db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        try:
            with filelock.FileLock(folder / f"{FILE_NAME}.lock"):  # one process creates the tables
                self._prepare(folder)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise TeacherError(
                f"{self.path} is no usable store ({error}). Move it away, for example: "
                f"mv {self.path} {self.path}.bad"
            ) from error
        self.leases = Leases(self._db)

    def _prepare(self, folder: Path) -> None:
        journal = "TRUNCATE" if _is_network_folder(folder) else "WAL"
        self._db.execute(f"PRAGMA journal_mode={journal}")
        self._db.execute(
            "PRAGMA synchronous=NORMAL" if journal == "WAL" else "PRAGMA synchronous=FULL"
        )
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            self._db.close()
            raise TeacherError(
                f"{self.path} has schema {version}, this version reads up to {SCHEMA_VERSION}: "
                "use the newer plan-tuning, or another paths.outputs"
            )
        if version == 0:
            with _transaction(self._db):
                for statement in _TABLES.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def get(self, key: str) -> Reply | None:
        """Look a reply up, without its thoughts; None where it was never bought."""
        row = self._rows.get(key)
        if row is not None:
            found = (row[7], row[8], row[9], row[10], row[11], row[13], row[16])
        else:
            found = self._db.execute(f"SELECT {_REPLY} FROM calls WHERE key=?", (key,)).fetchone()
        return settled(Reply(*found, is_cached=True, key=key)) if found is not None else None

    def add(self, key: str, teacher: str, request: Request, reply: Reply, receipt: Receipt) -> None:
        """Store a reply with its raw text; a second one under the same key is ignored."""
        self._rows[key] = (
            key,
            teacher,
            request.role,
            request.problem_id,
            request.sample_index,
            request.attempt_salt,
            zlib.compress(_request_text(request).encode("utf-8", "surrogatepass"), 1),
            reply.text,
            reply.status,
            reply.finish_reason,
            reply.prompt_tokens,
            reply.completion_tokens,
            receipt.is_usage_estimated,
            reply.cost_usd,
            receipt.price_source,
            receipt.requested_model,
            reply.served_model,
            receipt.latency_s,
            receipt.attempts,
            time.time(),
        )
        if len(self._rows) >= self._batch_rows or time.monotonic() - self._last_flush > _BATCH_S:
            self.flush()

    def flush(self) -> None:
        """Commit what was collected."""
        if self._rows:
            with _transaction(self._db):
                for key, row in self._rows.items():
                    self.leases.release(key)
                    if self._db.execute(_INSERT, row).rowcount and row[13]:
                        self._db.execute(_SPEND, (row[1], row[13]))
            self._rows.clear()
        self._last_flush = time.monotonic()

    def add_attempt(
        self, key: str, teacher: str, request: Request, failure: CallFailure, latency_s: float
    ) -> None:
        """Record a try that gave no answer."""
        self._db.execute(
            "INSERT INTO attempts VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                key,
                teacher,
                request.role,
                request.problem_id,
                failure.kind,
                failure.status,
                failure.wait_s,
                failure.message,
                latency_s,
                time.time(),
            ),
        )

    def add_teacher(self, teacher: str, spec: Mapping[str, Any]) -> None:
        """Record which spec a fingerprint stands for."""
        self._db.execute(
            "INSERT OR IGNORE INTO teachers VALUES (?, ?)", (teacher, _sorted_json(spec))
        )

    def spent_usd(self, teacher: str) -> float:
        """USD that all runs ever paid to this teacher through this store."""
        row = self._db.execute("SELECT usd FROM spend WHERE teacher=?", (teacher,)).fetchone()
        return float(row[0]) if row else 0.0

    def mean_tokens(self, teacher: str) -> dict[str, tuple[float, float, float]]:
        """Mean prompt tokens, completion tokens and latency in seconds, by role."""
        rows = self._db.execute(
            "SELECT role, avg(prompt_tokens), avg(completion_tokens), avg(latency_s) FROM calls "
            "WHERE teacher=? AND completion_tokens > 0 GROUP BY role",
            (teacher,),
        )
        return {row[0]: (row[1], row[2], row[3]) for row in rows}

    def calls(self, problem_id: str) -> Iterator[dict[str, Any]]:
        """All replies about one problem, oldest first, with their requests."""
        cursor = self._db.execute(
            "SELECT * FROM calls WHERE problem_id=? ORDER BY created", (problem_id,)
        )
        names = [column[0] for column in cursor.description]
        for row in cursor:
            call = dict(zip(names, row, strict=True))
            call["request"] = json.loads(zlib.decompress(call["request"]))
            yield call

    def summary(self) -> dict[str, Any]:
        """Counts by role and status, failed attempts by kind, USD, and replies without a price."""
        roles: dict[str, dict[str, int]] = {}
        for role, status, count in self._db.execute(
            "SELECT role, status, count(*) FROM calls GROUP BY role, status ORDER BY role, status"
        ):
            roles.setdefault(role, {})[status] = count
        attempts = dict(
            self._db.execute("SELECT kind, count(*) FROM attempts GROUP BY kind ORDER BY kind")
        )
        usd = self._db.execute("SELECT coalesce(sum(usd), 0) FROM spend").fetchone()[0]
        unpriced = self._db.execute("SELECT count(*) FROM calls WHERE cost_usd IS NULL").fetchone()
        return {"calls": roles, "failed_attempts": attempts, "usd": usd, "unpriced": unpriced[0]}

    def close(self) -> None:
        """Commit and close the file."""
        self.flush()
        self._db.close()

    def __enter__(self) -> CallStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _transaction:  # noqa: N801 - reads as a statement
    """Write lock from the start, so that two processes never deadlock on an upgrade."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _request_text(request: Request) -> str:
    return json.dumps(
        {
            "messages": [dict(message) for message in request.messages],
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            **({"extra": dict(request.extra)} if request.extra else {}),
        },
        ensure_ascii=False,
    )


def _is_network_folder(folder: Path) -> bool:
    """Whether the folder lies on a network file system, where WAL's shared memory does not work."""
    mounts = Path("/proc/mounts")
    if not mounts.is_file():
        return False
    resolved = folder.resolve()
    best, kind = "", ""
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        place = fields[1].replace("\\040", " ")
        if len(place) >= len(best) and resolved.is_relative_to(place):
            best, kind = place, fields[2]
    return kind.startswith(_NETWORK_FILE_SYSTEMS)
