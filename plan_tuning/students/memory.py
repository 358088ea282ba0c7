"""Freed memory: kept for a small model's next pass, given back between the stages of a job."""

from __future__ import annotations

import ctypes
import sys

import torch

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


def release_card_memory() -> None:
    """Give back what a card's allocator holds for tensors that are gone."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def begin_peak_memory() -> None:
    """Count a card's peak from here: that of a stage is not that of the one before it."""
    release_card_memory()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)
