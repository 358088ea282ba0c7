"""What a job shows of itself on a terminal, which it may share with other jobs."""

from __future__ import annotations

import logging
import sys

_shared_terminal: list[str] = []  # label of this process's job, where others write there too


def has_terminal() -> bool:
    """Whether a bar may be drawn: on a terminal that this job has to itself."""
    return sys.stderr.isatty() and not _shared_terminal


def label_lines(label: str) -> None:
    """Write a job's label into its lines on the terminal, which other jobs write to as well.

    Args:
        label: what tells the job from the others; empty: it runs alone.
    """
    _shared_terminal[:] = [label] if label else []
    if not label:
        return
    line = f"%(asctime)s [{label.replace('%', '%%')}] %(levelname)s %(message)s"
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(
            handler, logging.FileHandler
        ):
            handler.setFormatter(logging.Formatter(line, "%H:%M:%S"))
