"""Request -> reply, the only way there is: look up, pass the gate, ask, validate, store.

This is also the only place that retries. A reply that is already in the store costs nothing; equal
requests that are under way share one call; what was paid for is stored even if whoever asked has
gone. See :mod:`plan_tuning.teachers.errors` for what ends a run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from collections import deque
from collections.abc import Callable

from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.records import Reply, Request
from plan_tuning.teachers.backend import Backend
from plan_tuning.teachers.errors import BreakerError, FatalTeacherError, TeacherError
from plan_tuning.teachers.failures import CallFailure, Fatal, RateLimited, Rejected, Transient
from plan_tuning.teachers.gate import Gate
from plan_tuning.teachers.pricing import (
    Budget,
    Price,
    estimate_prompt_tokens,
    estimate_tokens,
)
from plan_tuning.teachers.replies import settled, storable
from plan_tuning.teachers.resampling import next_sample, seeded
from plan_tuning.teachers.store import CallStore, Receipt, call_fingerprint, teacher_fingerprint
from plan_tuning.teachers.usage import Usage

logger = logging.getLogger(__name__)

_BREAKER_WINDOW = 50
_FIRST_BACKOFF_S = 0.5
_LAST_BACKOFF_S = 60.0
_DEFAULT_RATE_LIMIT_WAIT_S = 2.0
_LONGER_TIMEOUT = 1.5  # a second try may take longer than the first
_SMOOTHING = 0.1
_POLL_S = 0.2
_LEASE_S = 300.0  # how long a vanished machine's claims stand; a running process renews its own


class Caller:
    """Asks one teacher through the store; see the module's docstring.

    Args:
        config: who is asked, and how fast.
        store: where replies are kept.
        connect: makes the backend, at the first request that the store cannot answer.
        price: None: unknown.
        role_seed: shifts the samples of a role, so that two runs can draw different ones.
        max_failed_rate: share of failing calls, of the last fifty, that ends the run.
        resamples: ask for another sample where a reply is empty, cut or declined; a student that
            is tested keeps its first answer.
        usage: counters to go on with; they are whole once the caller is closed. None: new ones.
    """

    def __init__(
        self,
        config: TeacherConfig,
        store: CallStore,
        connect: Callable[[], Backend],
        *,
        price: Callable[[], Price | None],
        role_seed: int = 0,
        max_failed_rate: float = 0.5,
        resamples: bool = True,
        usage: Usage | None = None,
    ) -> None:
        self._config = config
        self._resamples = resamples
        self._store = store
        self._connect = connect
        self._find_price = price
        self._price: Price | None = None
        self._role_seed = role_seed
        self._backend: Backend | None = None
        spec = config.spec()
        self.teacher = teacher_fingerprint(spec)
        store.add_teacher(self.teacher, spec)
        self._is_instant = config.backend in ("scripted", "replay")
        self._gate = Gate(
            concurrency=config.concurrency,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
        )
        self._budget = Budget(config.budget_usd, lambda: store.spent_usd(self.teacher))
        self._flights: dict[str, asyncio.Task[Reply]] = {}
        self._outcomes: deque[bool] = deque(maxlen=_BREAKER_WINDOW)
        self._max_failed_rate = max_failed_rate
        self._stopped_by: ValueError | None = None
        self._stopping = asyncio.Event()
        # Until something was answered, one request goes out alone, with all its retries: a wrong
        # key or a closed port then costs one request and not a whole window of them.
        self._scouting = asyncio.Lock()
        self._renewing: asyncio.Task[None] | None = None
        self._completion_tokens: dict[str, float] = {}  # running mean by role
        self.usage = usage or Usage(config.model)

    @property
    def in_flight(self) -> int:
        """Calls that the teacher is answering now."""
        return self._gate.in_flight

    async def ask(self, request: Request) -> Reply:
        """Answer a request from the store or from the teacher.

        An empty, cut, declined or filtered reply is asked for again, at most twice, each time as
        another sample; the last one stands.

        Raises:
            TeacherError: the run cannot go on; see its exit code.
        """
        first = asked = seeded(request, self._config, self._role_seed)
        while True:
            reply = await self._answer(asked)
            following = next_sample(first, asked, reply, is_seeded=self._config.seeded)
            if following is None or not self._resamples:
                return reply
            asked = following

    async def _answer(self, request: Request) -> Reply:
        key = call_fingerprint(self.teacher, request)
        stored = self._store.get(key)
        if stored is not None:
            self.usage.on_stored(stored)
            return stored
        if self._stopped_by is not None:
            raise self._stopped_by
        if self._is_instant:
            return await self._buy_instantly(key, request)
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._buy(key, request))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._land(key, done))
        try:
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            if flight.cancelled() and self._stopped_by is not None:
                raise self._stopped_by from None  # given up, not whoever asked
            raise

    def _land(self, key: str, flight: asyncio.Task[Reply]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled():
            flight.exception()  # seen here in case that whoever asked has gone

    def _connected(self) -> Backend:
        if self._backend is None:
            try:
                self._price = self._find_price()  # refuses to spend what nobody agreed to
                self._backend = self._connect()
            except ValueError as error:
                raise self.stop(error) from None
        return self._backend

    async def _buy_instantly(self, key: str, request: Request) -> Reply:
        backend = self._connected()
        started = time.perf_counter()
        reply = await backend.complete(request)
        return self._keep(key, request, reply, time.perf_counter() - started, 1)

    async def _buy(self, key: str, request: Request) -> Reply:
        """Buy a reply, unless another process on the store is buying it: then wait for that."""
        while not self._store.leases.claim(key, _LEASE_S):
            await self._pause(_POLL_S)
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew_leases())
        try:
            stored = self._store.get(key)
            if stored is not None:
                self.usage.on_stored(stored)
                return stored
            if not self._gate.has_succeeded:
                async with self._scouting:
                    if not self._gate.has_succeeded:
                        return await self._retry(key, request)
            return await self._retry(key, request)
        finally:
            self._store.leases.release(key)

    async def _renew_leases(self) -> None:
        """Keep what is claimed, however long it waits at the gate or for the provider."""
        while True:
            await asyncio.sleep(_LEASE_S / 5)
            self._store.leases.renew(_LEASE_S)

    async def _retry(self, key: str, request: Request) -> Reply:
        """Ask until there is a reply, or a reason not to retry."""
        backend = self._connected()
        attempts, waited = 0, 0.0
        while True:
            outcome = await self._try(backend, key, request, attempts)
            if isinstance(outcome, Reply):
                return outcome
            if isinstance(outcome, Fatal):
                raise self.stop(FatalTeacherError(outcome.message))
            if self._stopped_by is not None:
                raise self._stopped_by
            if isinstance(outcome, RateLimited):
                wait = _DEFAULT_RATE_LIMIT_WAIT_S if outcome.wait_s is None else outcome.wait_s
            else:
                attempts += 1
                wait = _backoff(attempts, outcome.wait_s)
            waited += wait
            if attempts >= self._config.max_attempts or waited > self._config.max_wait_s:
                return self._give_up(request, outcome, attempts)
            await self._pause(wait + random.uniform(0.01, 0.02 + 0.1 * wait))

    async def _try(
        self, backend: Backend, key: str, request: Request, attempts: int
    ) -> Reply | CallFailure:
        """Ask once, inside the gate and the budget."""
        loop = asyncio.get_running_loop()
        prompt_tokens = estimate_prompt_tokens(request)
        expected = self._completion_tokens.get(request.role, request.max_tokens / 4)
        reserved = self._price.usd(prompt_tokens, request.max_tokens) if self._price else 0.0
        used: int | None = 0
        ticket = await self._gate.enter(prompt_tokens + int(expected))
        try:
            await self._reserve(reserved)
            started = loop.time()
            try:
                timeout_s = self._config.timeout_s * (_LONGER_TIMEOUT if attempts else 1.0)
                async with asyncio.timeout(timeout_s):
                    reply = await backend.complete(request)
                reply = self._keep(key, request, reply, loop.time() - started, attempts + 1)
            except TimeoutError:
                failure: CallFailure = Transient("timeout", f"no answer within {timeout_s:g} s")
            except Rejected as error:
                failure = error
                empty = Reply("", status="rejected", finish_reason=error.kind)
                reply = self._keep(key, request, empty, loop.time() - started, attempts + 1)
            except CallFailure as error:
                failure = error
            else:
                used = reply.prompt_tokens + reply.completion_tokens
                self._note_outcome(None)
                return reply
            finally:
                self._budget.settle(reserved)
            self._store.add_attempt(key, self.teacher, request, failure, loop.time() - started)
            self._note_outcome(failure, started)
            return reply if isinstance(failure, Rejected) else failure
        finally:
            self._gate.leave(ticket, used)

    async def _reserve(self, usd: float) -> None:
        try:
            await self._budget.reserve(usd)
        except TeacherError as error:
            raise self.stop(error) from None
        if self._stopped_by is not None:
            self._budget.settle(usd)
            raise self._stopped_by

    def _note_outcome(self, failure: CallFailure | None, started: float = 0.0) -> None:
        """Tell the gate and the circuit breaker how a try ended."""
        if isinstance(failure, RateLimited):
            wait = failure.wait_s if failure.wait_s is not None else _DEFAULT_RATE_LIMIT_WAIT_S
            self.usage.failed_attempts += 1
            self._gate.on_rate_limit(started, wait)
            return
        if failure is None or isinstance(failure, Rejected):
            self._outcomes.append(True)
            self._gate.on_success()
            return
        self._outcomes.append(False)
        self.usage.failed_attempts += 1
        share = self._outcomes.count(False) / _BREAKER_WINDOW
        if len(self._outcomes) == _BREAKER_WINDOW and share > self._max_failed_rate:
            self.stop(
                BreakerError(
                    f"{share:.0%} of the last {_BREAKER_WINDOW} calls to {self._config.model} "
                    f"failed (last: {failure.message}). Everything paid for is kept; run the same "
                    "command again when the provider has recovered"
                )
            )

    def _give_up(self, request: Request, failure: CallFailure, attempts: int) -> Reply:
        """End a call that keeps failing; the run goes on where only this call is affected.

        A run that resumes may have nothing left to ask but calls that always fail: that the teacher
        answered before and can be reached now is enough then.
        """
        answers = self._gate.has_succeeded or (
            self.usage.cached > 0 and failure.kind != "connection"
        )
        if isinstance(failure, RateLimited) or not answers:
            place = self._config.api_base or self._config.provider or "the provider"
            raise self.stop(
                BreakerError(
                    f"no answer from {place} for {self._config.model}: {failure.message}. "
                    "Everything paid for is kept; run the same command again later"
                )
            )
        self.usage.left_out += 1
        logger.warning(
            "%s of problem %s failed %d times and is left out (%s)",
            request.role,
            request.problem_id,
            attempts,
            failure.message,
        )
        return Reply("", status="failed", finish_reason=failure.kind)

    def _keep(
        self, key: str, request: Request, reply: Reply, latency_s: float, attempts: int
    ) -> Reply:
        """Validate a reply, price it and store it as it was sent."""
        text = storable(reply.text)
        prompt_tokens, completion_tokens = reply.prompt_tokens, reply.completion_tokens
        is_estimated = prompt_tokens + completion_tokens == 0 and reply.status != "rejected"
        if is_estimated:
            prompt_tokens, completion_tokens = (
                estimate_prompt_tokens(request),
                estimate_tokens(text),
            )
        cost = self._price.usd(prompt_tokens, completion_tokens) if self._price else None
        kept = Reply(
            text=text,
            status=reply.status,
            finish_reason=storable(reply.finish_reason),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost_usd=cost,
            served_model=storable(reply.served_model),
            key=key,
        )
        reply = settled(kept)  # what is stored has this status, and all of the text
        kept = dataclasses.replace(kept, status=reply.status)
        receipt = Receipt(
            latency_s=latency_s,
            attempts=attempts,
            price_source=self._price.source if self._price else "unknown",
            is_usage_estimated=is_estimated,
            requested_model=self._config.model,
        )
        self._store.add(key, self.teacher, request, kept, receipt)
        self.usage.on_bought(kept)
        if completion_tokens:
            mean = self._completion_tokens.get(request.role, float(completion_tokens))
            self._completion_tokens[request.role] = mean + _SMOOTHING * (completion_tokens - mean)
        return reply

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless the run is stopped meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        if self._stopped_by is not None:
            raise self._stopped_by

    def stop(self, error: ValueError) -> ValueError:
        """Admit no further call; what is in flight is waited for by :meth:`close`."""
        if self._stopped_by is None:
            self._stopped_by = error
            self._gate.close(error)
            self._stopping.set()
        return self._stopped_by

    def abort(self) -> None:
        """Give up what is in flight as well."""
        for flight in list(self._flights.values()):
            flight.cancel()

    async def close(self) -> None:
        """Wait for what is in flight, so that it is stored, and disconnect."""
        self.stop(TeacherError("the teacher was closed while it was still asked"))
        flights = list(self._flights.values())
        if flights:
            await asyncio.wait(flights, timeout=self._config.timeout_s * _LONGER_TIMEOUT)
            self.abort()
            await asyncio.gather(*flights, return_exceptions=True)
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        self._store.flush()
        disconnect = getattr(self._backend, "close", None)
        if disconnect is not None:
            await disconnect()


def _backoff(attempts: int, wait_s: float | None) -> float:
    """Full-jitter exponential wait, never shorter than what the provider asked for."""
    most = min(_LAST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0**attempts)
    return max(wait_s or 0.0, random.uniform(_FIRST_BACKOFF_S / 2, most))
