"""How far an evaluation is: a bar on a terminal, log lines with tokens/s elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from plan_tuning.evaluation.writers import Progress
from plan_tuning.tracking.shared_terminal import has_terminal

logger = logging.getLogger(__name__)

_EVERY_S = 30.0  # between two log lines


@contextmanager
def shown(benchmark: str, *, is_wanted: bool) -> Iterator[Progress | None]:
    """Show the progress of one benchmark while the context is open.

    Args:
        benchmark: its name.
        is_wanted: ``evaluation.progress``.
    """
    if not is_wanted:
        yield None
    elif has_terminal():
        with _bar(benchmark) as tell:
            yield tell
    else:
        yield log_lines(benchmark)


def log_lines(benchmark: str, *, every_s: float = _EVERY_S) -> Progress:
    """Make a progress function that logs at the end of a phase, and now and then before.

    Args:
        benchmark: its name.
        every_s: seconds between two lines of one phase.
    """
    started: dict[str, float] = {}
    told: dict[str, float] = {}
    first = time.perf_counter()

    def tell(phase: str, rows: int, total: int, tokens: int) -> None:
        now = time.perf_counter()
        # A phase begins when the one before it has ended, not when its first batch is done.
        begun = started.setdefault(phase, max(told.values(), default=first))
        if rows < total and now - told.get(phase, begun) < every_s:
            return
        told[phase] = now
        rate = tokens / max(now - begun, 1e-9)
        logger.info(
            "%s, %s: %d of %d, %d tokens, %.0f tokens/s",
            benchmark,
            phase,
            rows,
            total,
            tokens,
            rate,
        )

    return tell


@contextmanager
def _bar(benchmark: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}
        starts: dict[str, float] = {}
        opened = time.perf_counter()

        def tell(phase: str, rows: int, total: int, tokens: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(f"{benchmark} {phase}", total=total, speed="")
                starts[phase] = opened if len(tasks) == 1 else time.perf_counter()
            seconds = time.perf_counter() - starts[phase]
            speed = f"{tokens / seconds:.0f} tokens/s" if seconds > 0 else ""
            bars.update(tasks[phase], completed=rows, speed=speed)

        yield tell
