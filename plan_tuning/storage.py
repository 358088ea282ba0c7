"""Full disks and read-only folders: one line that names the path.

What is written there is written whole or not at all (:func:`plan_tuning.artifacts.write_atomic`),
so the same command goes on once there is room.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from pathlib import Path

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
