"""What asking a reward takes: calls, generated texts, forward passes, money and time.

The means that a reward is handed are wrapped, so that all that it does with them is counted; in a
second round they draw anew, so that a reward's own noise shows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from plan_tuning.records import Ask, Completion, Reply, Request
from plan_tuning.rewards.plan_cases import Generate, Key, LogProbs, Means
from plan_tuning.text.formats import Conditioned

_AGAIN = 1000  # added to the salt of a request: another address in the store of paid answers


@dataclass(frozen=True, slots=True)
class Expense:
    """What so many plans took."""

    plans: int
    seconds: float  # of wall time, answers from the store among it
    calls: int = 0  # of a large model
    cached: int = 0  # of them, answered from the store
    usd: float | None = 0.0  # of all calls, also of stored ones; None: a price is unknown
    generated: int = 0  # texts that a frozen model wrote
    passes: int = 0  # texts that a frozen model read for their log-probabilities

    def per_thousand(self, figure: float) -> float:
        """Scale one of the figures to a thousand plans."""
        return 1000 * figure / self.plans if self.plans else 0.0


@dataclass
class Meter:
    """Counts what the means are used for while it is entered.

    Args:
        means: what a reward is handed.
        is_again: draw anew what was drawn before.
    """

    means: Means
    is_again: bool = False
    _replies: list[Reply] = field(default_factory=list)
    _generated: int = 0
    _passes: int = 0
    _seconds: float = 0.0
    _started: float = 0.0

    def __enter__(self) -> Means:
        """Start the clock.

        Returns:
            The means to hand over; where draws are new, baselines are found anew.
        """
        self._started = time.perf_counter()
        means = self.means
        return replace(
            means,
            ask=None if means.ask is None else self._asking(means.ask),
            generate=None if means.generate is None else self._generating(means.generate),
            log_probs=None if means.log_probs is None else self._reading(means.log_probs),
            baselines={} if self.is_again else means.baselines,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._seconds += time.perf_counter() - self._started

    def expense(self, plans: int) -> Expense:
        """Sum up what ``plans`` plans took."""
        prices = [reply.cost_usd for reply in self._replies]
        known = [price for price in prices if price is not None]
        return Expense(
            plans=plans,
            seconds=self._seconds,
            calls=len(self._replies),
            cached=sum(reply.is_cached for reply in self._replies),
            usd=sum(known) if len(known) == len(prices) else None,
            generated=self._generated,
            passes=self._passes,
        )

    def _asking(self, ask: Ask) -> Ask:
        async def asked(request: Request) -> Reply:
            if self.is_again:
                request = replace(request, attempt_salt=request.attempt_salt + _AGAIN)
            reply = await ask(request)
            self._replies.append(reply)
            return reply

        return asked

    def _generating(self, generate: Generate) -> Generate:
        def generated(texts: Sequence[Conditioned], keys: Sequence[Key]) -> list[Completion]:
            self._generated += len(texts)
            if self.is_again:
                keys = [(f"{name}/again", sample) for name, sample in keys]
            return generate(texts, keys)

        return generated

    def _reading(self, log_probs: LogProbs) -> LogProbs:
        def read(texts: Sequence[Conditioned]) -> list[list[float]]:
            self._passes += len(texts)
            return log_probs(texts)

        return read
