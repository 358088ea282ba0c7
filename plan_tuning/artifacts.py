"""Artifacts: what one stage hands to the next, addressed by the hash of what determines it.

``build(root, kind, fingerprint, make)`` makes an artifact where it is absent. A folder
appears under its final name only when it is complete; until then it is
worked on under ``.partial/``, where an interrupted builder leaves what its successor can resume
from. One process builds at a time, the others wait and use the result.
"""

from __future__ import annotations

import dataclasses
import datetime
import errno
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import filelock

logger = logging.getLogger(__name__)

KINDS = ("bases", "corpora", "students", "predictions", "plan_values")
MANIFEST = "manifest.json"
MANIFEST_SCHEMA = 1
_FINGERPRINT_LENGTH = 16
_SAMPLED_BYTES = 2**22  # of each end of a large file
_PROVENANCE_PACKAGES = (
    "plan-tuning",
    "torch",
    "transformers",
    "peft",
    "pytorch-lightning",
    "litellm",
    "math-verify",
)

_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM}
# Writers in other languages say it in words only: safetensors, torch's checkpoints, sqlite, arrow.
_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|Read-only file system|File too large|"
    r"Permission denied|disk is full|readonly database|unable to open database file|"
    r"PytorchStreamWriter failed writing file|file write failed|unexpected pos"
)
_TORCH = re.compile(r"PytorchStreamWriter|file write failed|unexpected pos")
_SHORT = "it took a part of the file only: is the disk full?"
_SQLITE = re.compile(r"disk is full|readonly database|unable to open database|disk I/O error")


class ArtifactError(ValueError):
    """An artifact that was asked for is absent, half-written or of another kind."""


def hashed_values(value: Any) -> Any:
    """Reduce a Spec to the plain values that are hashed.

    A field of a dataclass that equals the default it had when it was introduced is left out, so a
    new knob does not orphan old artifacts. That default is the field's own default, unless the
    field's metadata carries another one under ``hash_default`` (needed once a default changes).
    Fields with metadata ``runtime=True`` are left out altogether. A field that was renamed is
    hashed by its first name, under ``hash_name``.

    Raises:
        TypeError: the value is none that can be hashed.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        out: dict[str, Any] = {}
        for f in dataclasses.fields(value):
            if f.metadata.get("runtime", False):
                continue
            item = getattr(value, f.name)
            default: Any = f.metadata.get("hash_default", f.default)
            if f.default_factory is not dataclasses.MISSING and default is dataclasses.MISSING:
                default = f.default_factory()
            if default is not dataclasses.MISSING and hashed_values(item) == hashed_values(default):
                continue
            out[f.metadata.get("hash_name", f.name)] = hashed_values(item)
        return out
    if isinstance(value, Enum):
        return hashed_values(value.value)
    if isinstance(value, Mapping):
        return {str(key): hashed_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hashed_values(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)  # 1 and 1.0 on a command line mean the same
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{type(value).__name__} is nothing that can be hashed: {value!r}")


def fingerprint_of(spec: Any, *, stage: str, version: int) -> str:
    """Address the content that ``spec`` determines: 16 hex digits.

    Args:
        spec: dataclass or mapping of plain values; see :func:`hashed_values`.
        stage: name of the stage, so that equal specs of two stages differ.
        version: the stage's hand-bumped STAGE_VERSION.
    """
    text = json.dumps(
        {"stage": stage, "version": version, "spec": hashed_values(spec)},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:_FINGERPRINT_LENGTH]


def file_fingerprint(path: Path) -> str:
    """Hash a data file's bytes: 16 hex digits of SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_FINGERPRINT_LENGTH]


def folder_fingerprint(folder: Path) -> str:
    """Hash what lies in a folder that is no artifact: 16 hex digits, the same after a move.

    Of large files (weights) the size, the beginning and the end count, so that this stays quick.
    """
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        size = path.stat().st_size
        whole.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            whole.update(file.read(_SAMPLED_BYTES))
            if size > _SAMPLED_BYTES:
                file.seek(max(_SAMPLED_BYTES, size - _SAMPLED_BYTES))
                whole.update(file.read(_SAMPLED_BYTES))
    return whole.hexdigest()[:_FINGERPRINT_LENGTH]


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old file or the new one, never a part.

    Raises:
        OSError: it cannot be written; names ``path``.
    """
    write_together({path: text})


def write_together(texts: Mapping[Path, str]) -> None:
    """Write several files of which each is the old or the new one; all stay old where one fails.

    Args:
        texts: by path. A name that is no UTF-8 is written as the bytes that it is.

    Raises:
        OSError: one cannot be written; names its path.
    """
    written: dict[Path, str] = {}
    try:
        for path, text in texts.items():
            with _named(path):
                written[path] = _write_beside(path, text)
        for path, name in written.items():
            with _named(path):
                os.replace(name, path)
    except BaseException:
        for name in written.values():
            Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let an error of the system name the file that was meant."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_beside(path: Path, text: str) -> str:
    """Write a temporary file in the folder of ``path`` and name it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return name


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class StorageError(ValueError):
    """Something cannot be written: the disk is full, or a folder is read-only."""

    exit_code = 1


RESUME = "Make room or choose another folder; the same command goes on where it stopped"


def storage_error(error: BaseException, folder: Path, advice: str) -> StorageError | None:
    """Say in one line what a full disk or a read-only folder did; None for any other error.

    Args:
        error: or one that it follows from.
        folder: named where the error itself names no path.
        advice: what can be done.
    """
    if isinstance(error, StorageError):
        return error
    reason = _reason(error)
    if reason is None:
        return None
    path, text = reason
    return StorageError(f"{path or folder} cannot be written or read ({text}). {advice}")


def _reason(error: BaseException) -> tuple[str, str] | None:
    """Find what the disk said: a path, if it was named, and the text; None for another error."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _ERRNOS:
            path = "" if seen.filename is None else os.fsdecode(seen.filename)
            return path, os.strerror(seen.errno or 0)
        if isinstance(seen, sqlite3.OperationalError) and _SQLITE.search(str(seen)):
            return "", str(seen)
        is_foreign = isinstance(seen, RuntimeError) or type(seen).__name__ == "SafetensorError"
        if is_foreign and _WORDS.search(str(seen)):
            return "", _SHORT if _TORCH.search(str(seen)) else str(seen).splitlines()[0]
        seen = seen.__cause__ or seen.__context__
    return None


def folder_of(root: Path, kind: str, fingerprint: str) -> Path:
    """Name the folder of an artifact, built or not.

    Raises:
        ArtifactError: ``kind`` is none of KINDS.
    """
    if kind not in KINDS:
        raise ArtifactError(f"artifact kind {kind!r} is none of {', '.join(KINDS)}")
    return root / kind / fingerprint


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` is a finished artifact."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read an artifact's manifest.

    Raises:
        ArtifactError: the folder holds no finished artifact, or one of a newer schema.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(
            f"{folder} holds no finished artifact: {MANIFEST} is absent. "
            "Give the folder that a finished stage wrote."
        )
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("schema", 0) > MANIFEST_SCHEMA:
        raise ArtifactError(
            f"{path} has schema {manifest['schema']}, this version reads up to {MANIFEST_SCHEMA}"
        )
    return manifest


def build(
    root: Path,
    kind: str,
    fingerprint: str,
    make: Callable[[Path], Mapping[str, Any]],
    *,
    spec: Any,
    upstream: Mapping[str, str] | None = None,
) -> bool:
    """Make an artifact where it is absent; returns whether this call made it.

    Args:
        root: the artifacts' root, usually ``multirun_outputs/artifacts``.
        kind: one of KINDS.
        fingerprint: of ``spec``.
        make: writes the artifact into the folder it is given and returns facts for the manifest
            (counts, metrics). The folder may hold what an interrupted builder left behind.
        spec: what was hashed; stored for people in the manifest.
        upstream: fingerprints of the artifacts that went in, by role.

    Raises:
        ArtifactError: the root cannot be written.
    """
    folder = folder_of(root, kind, fingerprint)
    if is_complete(folder):
        return False
    partial = root / kind / ".partial" / fingerprint
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"paths.outputs: cannot write {partial.parent} ({error.strerror}); "
            "choose another folder, for example paths.outputs=/tmp/plan_tuning"
        ) from error
    lock = filelock.FileLock(partial.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        logger.info("%s %s is being built by another process: waiting for it", kind, fingerprint)
        lock.acquire()
    try:
        if is_complete(folder):
            return False
        partial.mkdir(exist_ok=True)
        start = time.perf_counter()
        facts = make(partial)
        manifest = {
            "schema": MANIFEST_SCHEMA,
            "kind": kind,
            "fingerprint": fingerprint,
            "spec": hashed_values(spec),
            "upstream": dict(upstream or {}),
            "facts": dict(facts),
            "provenance": provenance(),
            "build_s": round(time.perf_counter() - start, 3),
        }
        write_atomic(partial / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False))
        if folder.exists():  # a folder without a manifest: something else put it there
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        lock.release()
    return True


def provenance() -> dict[str, Any]:
    """Say with what an artifact was made: versions, platform, time (UTC)."""
    versions = {}
    for package in _PROVENANCE_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
    }
