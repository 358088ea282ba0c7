"""Memory that a small model's passes free and ask for again, thousands of times a minute."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT = 256 * 2**20  # bytes at the end of the heap that stay with the process
_LARGE = 32 * 2**20  # bytes; larger pieces go back to the system at once


def keep_freed_memory() -> None:
    """Have the C library keep what is freed.

    By default glibc gives pieces from 128 KiB on back to the system, which then clears every page
    anew: a tenth of a training step of a small model. Other C libraries are left alone.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
