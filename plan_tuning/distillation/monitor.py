"""A running distillation -> what a person sees: a live table, or log lines off a terminal."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import TYPE_CHECKING

from plan_tuning.distillation.funnel import FUNNEL, Tally
from plan_tuning.teachers.caller import Caller
from plan_tuning.teachers.pricing import shown_usd
from plan_tuning.tracking.shared_terminal import has_terminal

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

logger = logging.getLogger(__name__)

_LINE_EVERY_S = 30.0
_TABLE_EVERY_S = 0.5
_COLUMNS = tuple(name for name in FUNNEL if name != "candidates")


class Monitor:
    """Shows how far a distillation is; use it as a context manager.

    Args:
        total: problems of the corpus.
        tally: what was counted so far.
        caller: whose calls and costs are shown.
        is_shown: False: stay silent.
    """

    def __init__(self, total: int, tally: Tally, caller: Caller, *, is_shown: bool) -> None:
        self._total, self._tally, self._caller = total, tally, caller
        self._is_shown = is_shown
        self._live: Live | None = None
        self._started = self._last = time.monotonic()

    def __enter__(self) -> Monitor:
        if self._is_shown and has_terminal():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(self._table(), console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()
        elif self._is_shown and (self._tally.problems or self._caller.usage.bought):
            logger.info("%s", self.line())

    def update(self) -> None:
        """Refresh what is shown, where it is time to."""
        if not self._is_shown:
            return
        now = time.monotonic()
        if now - self._last < (_LINE_EVERY_S if self._live is None else _TABLE_EVERY_S):
            return
        self._last = now
        if self._live is None:
            logger.info("%s", self.line())
        else:
            self._live.update(self._table(), refresh=True)

    def line(self) -> str:
        """The state in one line."""
        counts = ", ".join(f"{name} {count}" for name, count in self._counts()[1:])
        usage = self._caller.usage
        return (
            f"distillation {self._tally.problems}/{self._total} problems: {counts}; "
            f"calls {usage.bought} asked, {usage.cached} from the store, "
            f"{usage.failed_attempts} failed attempts; cost: {shown_usd(usage.usd)}"
        )

    def _counts(self) -> list[tuple[str, int]]:
        funnel = self._tally.funnel
        values = {"problems": self._tally.problems, "selected": self._tally.kept["two_stage"]}
        return [(name.replace("_", " "), values.get(name, funnel[name])) for name in _COLUMNS]

    def _table(self) -> Table:
        from rich.table import Table

        table = Table(title=f"distillation of {self._total} problems", title_justify="left")
        for name, _ in self._counts():
            table.add_column(name, justify="right")
        table.add_row(*(str(count) for _, count in self._counts()))
        caller = self._caller
        elapsed = max(1e-9, time.monotonic() - self._started)
        usage = caller.usage
        table.caption = (
            f"{usage.bought} calls asked ({usage.bought / elapsed:.1f}/s), {caller.in_flight} in "
            f"flight, {usage.cached} from the store, {usage.failed_attempts} failed attempts, "
            f"cost: {shown_usd(usage.usd)}"
        )
        return table
