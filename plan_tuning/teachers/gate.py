"""Rate limits: when the next request may go out, by concurrency and requests or tokens a minute.

One gate stands before one endpoint, at the only place that calls it. A 429 makes its own request
wait for as long as the provider asked; three 429s in a row mean that the endpoint itself is closed
until then: everybody waits, the number in flight is cut once for the whole burst, and afterwards
requests are let go one by one. Successes raise the number again, by one a round.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

WINDOW_S = 60.0
_MARGIN = 1.01  # requests are paced one per cent below the limit, for clocks that differ
_CUT = 0.75
_BURST = 3  # 429s in a row: fewer are their own requests' matter
_STAGGER_S = 0.02
_STAGGER_FOR_S = 1.0
_TOLERANCE_S = 0.005  # how much of a late timer may be caught up


@dataclass(slots=True)
class Ticket:
    """A place of one request, and the tokens that are counted for it."""

    start: float
    tokens: int
    is_counted: bool = True  # still inside the window of a minute


class Gate:
    """Paces the requests to one endpoint; for one event loop.

    Args:
        concurrency: requests in flight at most.
        requests_per_minute: None: no limit. Requests are spread evenly, never sent as a burst.
        tokens_per_minute: prompt and completion tokens; None: no limit.
    """

    def __init__(
        self,
        *,
        concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        self._most = concurrency
        self._limit = float(concurrency)
        self.has_succeeded = False
        self._interval = WINDOW_S / requests_per_minute * _MARGIN if requests_per_minute else 0.0
        self._requests = max(1, int(requests_per_minute)) if requests_per_minute else 0
        self._tokens_per_minute = tokens_per_minute
        self._waiters: deque[tuple[asyncio.Future[Ticket], int]] = deque()
        self._starts: deque[float] = deque()
        self._tickets: deque[Ticket] = deque()
        self._token_sum = 0
        self._due = 0.0  # when the next request would start at exactly the permitted pace
        self._paused_until = 0.0
        self._staggered_until = 0.0
        self._cut_at = -1.0
        self._burst = 0
        self._successes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed_by: Exception | None = None
        self.in_flight = 0
        self.max_in_flight = 0

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return max(1, int(self._limit))

    async def enter(self, tokens: int = 0) -> Ticket:
        """Wait for a place; :meth:`leave` gives it back.

        Args:
            tokens: estimate of what the request will consume.

        Raises:
            Exception: what :meth:`close` was given.
        """
        if self._closed_by is not None:
            raise self._closed_by
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._waiters and self.in_flight < self.limit and self._delay(now, tokens) <= 0:
            return self._start(now, tokens)
        waiter: asyncio.Future[Ticket] = loop.create_future()
        self._waiters.append((waiter, tokens))
        self._release()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.leave(waiter.result(), 0)  # given while the cancellation was under way
            raise

    def leave(self, ticket: Ticket, tokens: int | None = None) -> None:
        """Give the place back.

        Args:
            ticket: what :meth:`enter` returned.
            tokens: what was really consumed; None: the estimate stands.
        """
        self.in_flight -= 1
        if tokens is not None and ticket.is_counted:
            self._token_sum += tokens - ticket.tokens
            ticket.tokens = tokens
        self._release()

    def close(self, error: Exception) -> None:
        """Let nobody in any more: waiting and later requests end in ``error``."""
        self._closed_by = error
        if self._timer is not None:
            self._timer.cancel()
        while self._waiters:
            waiter, _ = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)

    def on_success(self) -> None:
        """Note an answer: the number in flight may grow again."""
        self._burst = 0
        self.has_succeeded = True
        if self._limit < self._most:
            self._successes += 1
            if self._successes >= self._limit:  # one more for each full round
                self._successes = 0
                self._limit = min(float(self._most), self._limit + 1)

    def on_rate_limit(self, started: float, wait_s: float) -> None:
        """Note a 429.

        Args:
            started: loop time at which the request went out.
            wait_s: seconds that the endpoint asked for.
        """
        now = asyncio.get_running_loop().time()
        self._burst += 1
        if self._burst < _BURST:
            return
        if started > self._cut_at:  # requests of the same burst went out before the cut
            self._cut_at = now
            self._successes = 0
            self._limit = max(1.0, self._limit * _CUT)
        self._paused_until = max(self._paused_until, now + wait_s)
        self._staggered_until = self._paused_until + _STAGGER_FOR_S

    def _start(self, now: float, tokens: int) -> Ticket:
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        spacing = self._interval
        if now < self._staggered_until:
            spacing = max(spacing, _STAGGER_S)
        self._due = max(now, self._due) + spacing
        if self._requests:
            self._starts.append(now)
        ticket = Ticket(now, tokens)
        if self._tokens_per_minute:
            self._tickets.append(ticket)
            self._token_sum += tokens
        return ticket

    def _delay(self, now: float, tokens: int) -> float:
        """Seconds until a request of this size may start, concurrency aside."""
        ready = max(self._paused_until, self._due - _TOLERANCE_S)
        if self._requests and len(self._starts) >= self._requests:
            while len(self._starts) > self._requests:
                self._starts.popleft()
            ready = max(ready, self._starts[0] + WINDOW_S)
        if self._tokens_per_minute:
            ready = max(ready, self._tokens_ready(now, self._tokens_per_minute - tokens))
        return ready - now

    def _tokens_ready(self, now: float, allowance: float) -> float:
        """When at most ``allowance`` tokens of the last minute remain (or none at all)."""
        while self._tickets and self._tickets[0].start <= now - WINDOW_S:
            old = self._tickets.popleft()
            old.is_counted = False
            self._token_sum -= old.tokens
        left, ready = self._token_sum, now
        for ticket in self._tickets:
            if left <= allowance:
                break
            left -= ticket.tokens
            ready = ticket.start + WINDOW_S
        return ready

    def _release(self) -> None:
        if self._closed_by is not None:
            return
        loop = asyncio.get_running_loop()
        while self._waiters and self.in_flight < self.limit:
            waiter, tokens = self._waiters[0]
            if waiter.done():  # cancelled while it waited
                self._waiters.popleft()
                continue
            now = loop.time()
            delay = self._delay(now, tokens)
            if delay > 0:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = loop.call_at(now + delay, self._release)
                return
            self._waiters.popleft()
            waiter.set_result(self._start(now, tokens))
