"""The one call site: what is asked how often, and what ends a run."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.records import Reply, Request
from plan_tuning.teachers.caller import Caller
from plan_tuning.teachers.errors import (
    BreakerError,
    BudgetError,
    FatalTeacherError,
    InterruptedByUserError,
)
from plan_tuning.teachers.failures import Fatal, RateLimited, Rejected, Transient
from plan_tuning.teachers.pricing import Price
from plan_tuning.teachers.resampling import peek
from plan_tuning.teachers.store import CallStore

REQUEST = Request(
    role="plan",
    messages=({"role": "user", "content": "Plan this."},),
    temperature=0.7,
    max_tokens=100,
    problem_id="p1",
    seed=0,
)


class Script:
    """A backend that plays a list of outcomes; the last one repeats."""

    def __init__(self, *outcomes: Reply | Exception, latency: float = 0.0) -> None:
        self.outcomes = list(outcomes)
        self.latency = latency
        self.asked: list[Request] = []

    async def complete(self, request: Request) -> Reply:
        self.asked.append(request)
        await asyncio.sleep(self.latency)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


GOOD = Reply("a plan", prompt_tokens=10, completion_tokens=5)


def config(**values: Any) -> TeacherConfig:
    defaults: dict[str, Any] = {
        "backend": "http",
        "model": "m",
        "api_base": "http://127.0.0.1:1/v1",
        "concurrency": 4,
    }
    return TeacherConfig(**(defaults | values))


def run(
    folder: Path,
    backend: Script,
    main: Callable[[Caller], Awaitable[Any]],
    *,
    price: Price | None = None,
    **values: Any,
) -> Any:
    async def inside() -> Any:
        with CallStore(folder) as store:
            caller = Caller(config(**values), store, lambda: backend, price=lambda: price)
            try:
                return await main(caller)
            finally:
                await caller.close()

    return asyncio.run(inside())


def test_a_reply_is_bought_once(tmp_path: Path) -> None:
    backend = Script(GOOD)

    async def main(caller: Caller) -> list[Reply]:
        together = await asyncio.gather(*(caller.ask(REQUEST) for _ in range(5)))
        return [*together, await caller.ask(REQUEST)]

    replies = run(tmp_path, backend, main)
    assert len(backend.asked) == 1, "equal requests under way share one call"
    assert {reply.text for reply in replies} == {"a plan"}
    assert replies[-1].is_cached
    again = run(tmp_path, backend, lambda caller: caller.ask(REQUEST))
    assert again.is_cached
    assert len(backend.asked) == 1


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (Reply(" \n"), "empty"),
        (Reply("cut", finish_reason="length"), "truncated"),
        (Reply("", finish_reason="content_filter"), "filtered"),
        (Reply("I'm sorry, but I can't help with that."), "refused"),
    ],
)
def test_an_unusable_reply_is_asked_again_as_another_sample(
    bad: Reply, status: str, tmp_path: Path
) -> None:
    backend = Script(bad, GOOD)
    assert run(tmp_path, backend, lambda caller: caller.ask(REQUEST)).status == "ok"
    assert [request.attempt_salt for request in backend.asked] == [0, 1]
    assert backend.asked[0].seed != backend.asked[1].seed
    hopeless = Script(bad)
    request = dataclasses.replace(REQUEST, sample_index=1)
    reply = run(tmp_path, hopeless, lambda caller: caller.ask(request))
    assert reply.status == status
    asked = len(hopeless.asked)
    assert asked == (2 if status == "truncated" else 3)
    assert hopeless.asked[-1].max_tokens == (200 if status == "truncated" else 100)
    again = run(tmp_path, hopeless, lambda caller: caller.ask(request))
    assert again.status == status
    assert len(hopeless.asked) == asked, "unusable replies are remembered too"
    with CallStore(tmp_path) as store:
        found = peek(store, config(), request)
    assert found is not None
    assert found.key == again.key


def test_faults_are_retried_and_recorded(tmp_path: Path) -> None:
    backend = Script(
        GOOD,
        Transient("http_500", "no", status=500, wait_s=0.01),
        RateLimited("rate_limit", "slow down", status=429, wait_s=0.01),
        GOOD,
    )

    async def main(caller: Caller) -> int:
        await caller.ask(REQUEST)
        await caller.ask(dataclasses.replace(REQUEST, sample_index=1))
        return caller.usage.failed_attempts

    assert run(tmp_path, backend, main) == 2
    with CallStore(tmp_path) as store:
        assert store.summary()["failed_attempts"] == {"http_500": 1, "rate_limit": 1}


def test_a_429_consumes_no_attempt_but_waits_are_bounded(tmp_path: Path) -> None:
    limited = RateLimited("rate_limit", "slow down", status=429, wait_s=0.005)
    backend = Script(GOOD, *[limited] * 9, GOOD)

    async def main(caller: Caller) -> Reply:
        await caller.ask(REQUEST)
        return await caller.ask(dataclasses.replace(REQUEST, sample_index=1))

    assert run(tmp_path, backend, main, max_attempts=2).status == "ok"
    long = RateLimited("rate_limit", "come back tomorrow", status=429, wait_s=9000.0)
    request = dataclasses.replace(REQUEST, sample_index=2)
    with pytest.raises(BreakerError, match="come back tomorrow"):
        run(tmp_path, Script(long), lambda caller: caller.ask(request))


def test_a_call_that_keeps_failing_is_left_out_and_not_remembered(tmp_path: Path) -> None:
    backend = Script(GOOD, Transient("http_500", "no", status=500))

    async def main(caller: Caller) -> Reply:
        await caller.ask(REQUEST)
        return await caller.ask(dataclasses.replace(REQUEST, sample_index=1))

    assert run(tmp_path, backend, main, max_attempts=2).status == "failed"
    with CallStore(tmp_path) as store:
        assert store.summary()["calls"] == {"plan": {"ok": 1}}


def test_a_refused_request_is_final(tmp_path: Path) -> None:
    backend = Script(Rejected("context", "too long", status=400))
    reply = run(tmp_path, backend, lambda caller: caller.ask(REQUEST))
    assert (reply.status, reply.finish_reason) == ("rejected", "context")
    run(tmp_path, backend, lambda caller: caller.ask(REQUEST))
    assert len(backend.asked) == 1


def test_the_first_request_goes_out_alone(tmp_path: Path) -> None:
    backend = Script(Transient("http_500", "no", wait_s=0.01), GOOD, latency=0.02)

    async def main(caller: Caller) -> None:
        requests = [dataclasses.replace(REQUEST, sample_index=i) for i in range(9)]
        await asyncio.gather(*(caller.ask(request) for request in requests))

    run(tmp_path, backend, main)
    samples = [request.sample_index for request in backend.asked]
    assert samples == [0, 0, *range(1, 9)], "all tries of the first one come before the others"


def test_a_fatal_answer_stops_everybody_and_keeps_what_was_paid(tmp_path: Path) -> None:
    backend = Script(GOOD, GOOD, Fatal("auth", "wrong key", status=401), latency=0.01)

    async def main(caller: Caller) -> list[Any]:
        await caller.ask(REQUEST)
        requests = [dataclasses.replace(REQUEST, sample_index=i) for i in range(1, 30)]
        return await asyncio.gather(*(caller.ask(r) for r in requests), return_exceptions=True)

    results = run(tmp_path, backend, main)
    assert sum(isinstance(result, FatalTeacherError) for result in results) >= 28
    assert len(backend.asked) <= 1 + 4, "no more than were in flight"


def test_an_interrupted_run_stores_what_is_in_flight(tmp_path: Path) -> None:
    backend = Script(GOOD, latency=0.05)

    async def main(caller: Caller) -> list[Any]:
        await caller.ask(REQUEST)
        requests = [dataclasses.replace(REQUEST, sample_index=i) for i in range(1, 9)]
        waiting = [asyncio.create_task(caller.ask(r)) for r in requests]
        await asyncio.sleep(0.02)
        caller.stop(InterruptedByUserError("stop"))
        return await asyncio.gather(*waiting, return_exceptions=True)

    results = run(tmp_path, backend, main)
    assert sum(isinstance(result, Reply) for result in results) == 4
    assert sum(isinstance(result, InterruptedByUserError) for result in results) == 4
    with CallStore(tmp_path) as store:
        assert store.summary()["calls"] == {"plan": {"ok": 5}}


def test_what_is_paid_for_is_stored_though_nobody_waits(tmp_path: Path) -> None:
    backend = Script(GOOD, latency=0.05)

    async def main(caller: Caller) -> None:
        asking = asyncio.create_task(caller.ask(REQUEST))
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    run(tmp_path, backend, main)
    with CallStore(tmp_path) as store:
        assert peek(store, config(), REQUEST) is not None


def test_money_is_reserved_settled_and_remembered(tmp_path: Path) -> None:
    price = Price(1e6, 1e6, "configured")  # a USD a token
    backend = Script(GOOD)  # 15 USD, estimated beforehand at 7 + 100
    requests = [dataclasses.replace(REQUEST, sample_index=i) for i in range(8)]

    async def main(caller: Caller) -> float:
        for request in requests:
            await caller.ask(request)
        return caller.usage.usd

    with pytest.raises(BudgetError, match=r"60\.0000 USD are spent"):
        run(tmp_path, backend, main, price=price, budget_usd=160.0)
    assert len(backend.asked) == 4
    assert run(tmp_path, backend, main, price=price, budget_usd=1000.0) == 60.0

    async def total(caller: Caller) -> float:
        await main(caller)
        await main(caller)
        return caller.usage.total_usd

    assert run(tmp_path, backend, total, price=price) == 120.0, "whenever it was bought, once"
    with CallStore(tmp_path) as store:
        (first, *_) = store.calls("p1")
    assert (first["cost_usd"], first["price_source"]) == (15.0, "configured")


def test_reservations_of_calls_in_flight_count(tmp_path: Path) -> None:
    price = Price(1e6, 1e6, "configured")
    backend = Script(GOOD, latency=0.02)

    async def main(caller: Caller) -> int:
        await caller.ask(REQUEST)
        requests = [dataclasses.replace(REQUEST, sample_index=i) for i in range(1, 5)]
        await asyncio.gather(*(caller.ask(r) for r in requests))
        return len(backend.asked)

    # 15 are spent; two reservations of 108 never fit at once, but one after the other do
    assert run(tmp_path, backend, main, price=price, budget_usd=200.0) == 5


def test_a_missing_usage_is_estimated_and_flagged(tmp_path: Path) -> None:
    backend = Script(Reply("a plan of 23 characters"))
    reply = run(tmp_path, backend, lambda caller: caller.ask(REQUEST))
    assert (reply.prompt_tokens, reply.completion_tokens) == (7, 6)
    with CallStore(tmp_path) as store:
        (call,) = store.calls("p1")
    assert call["is_usage_estimated"] == 1


def test_another_served_model_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Script(dataclasses.replace(GOOD, served_model="other-model"))

    async def main(caller: Caller) -> set[str]:
        await caller.ask(REQUEST)
        await caller.ask(dataclasses.replace(REQUEST, sample_index=1))
        return caller.usage.served_models

    assert run(tmp_path, backend, main) == {"other-model"}
    assert caplog.text.count("serves another model") == 1


def test_two_processes_do_not_buy_the_same_reply(tmp_path: Path) -> None:
    backends = [Script(GOOD, latency=0.3), Script(GOOD, latency=0.3)]

    async def main() -> list[Reply]:
        with CallStore(tmp_path) as first, CallStore(tmp_path) as second:
            second.leases._owner = ("another process", 1)
            callers = [
                Caller(config(), store, lambda b=backend: b, price=lambda: None)
                for store, backend in zip((first, second), backends, strict=True)
            ]
            replies = await asyncio.gather(*(caller.ask(REQUEST) for caller in callers))
            for caller in callers:
                await caller.close()
            return replies

    replies = asyncio.run(main())
    assert sum(len(backend.asked) for backend in backends) == 1
    assert sorted(reply.is_cached for reply in replies) == [False, True]


def test_a_provider_without_seeds_gets_none(tmp_path: Path) -> None:
    backend = Script(Reply(""), GOOD)
    run(tmp_path, backend, lambda caller: caller.ask(REQUEST), seeded=False)
    assert [request.seed for request in backend.asked] == [None, None]


def test_an_unknown_failure_of_our_own_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, Script(ZeroDivisionError()), lambda caller: caller.ask(REQUEST))


def test_an_unknown_price_makes_the_cost_unknown(tmp_path: Path) -> None:
    backend = Script(GOOD)

    async def main(caller: Caller) -> tuple[float | None, float | None, int, int]:
        await caller.ask(REQUEST)
        usage = caller.usage
        return usage.usd, usage.total_usd, usage.prompt_tokens, usage.completion_tokens

    assert run(tmp_path, backend, main, price=None) == (None, None, 10, 5)
    # From the store nothing is bought, but what the corpus cost stays unknown.
    assert run(tmp_path, backend, main, price=Price(1.0, 1.0, "configured")) == (0.0, None, 0, 0)
    free = tmp_path / "free"
    assert run(free, backend, main, price=Price(0.0, 0.0, "free")) == (0.0, 0.0, 10, 5)


def test_a_claim_is_renewed_while_its_call_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plan_tuning.teachers.caller._LEASE_S", 0.2)
    backends = [Script(GOOD, latency=1.0), Script(GOOD)]

    async def main() -> None:
        with CallStore(tmp_path) as first, CallStore(tmp_path) as second:
            second.leases._owner = ("another-machine 1.0", 1)
            # Neither knows whether the other lives.
            first.leases._owner = ("a-third-machine 1.0", 1)
            callers = [
                Caller(config(), store, lambda b=backend: b, price=lambda: None)
                for store, backend in zip((first, second), backends, strict=True)
            ]
            asking = asyncio.create_task(callers[0].ask(REQUEST))
            await asyncio.sleep(0.1)
            assert (await callers[1].ask(REQUEST)).is_cached
            await asking
            for caller in callers:
                await caller.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    assert [len(backend.asked) for backend in backends] == [1, 0]
