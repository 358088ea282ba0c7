"""Pace: in virtual time, so that minutes pass at once and bounds are exact."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from plan_tuning.teachers.gate import Gate

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Instead of sleeping, moves the clock on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout:
            self.now += timeout
        return super().select(0)


def run(main: Coroutine[Any, Any, T]) -> T:
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)


async def calls(
    gate: Gate, count: int, latency: float, tokens: int = 0, used: int | None = None
) -> list[float]:
    """Make calls that all want to start at once; returns when each started."""
    starts: list[float] = []

    async def call() -> None:
        ticket = await gate.enter(tokens)
        starts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(latency)
        gate.on_success()
        gate.leave(ticket, used)

    await asyncio.gather(*(call() for _ in range(count)))
    return starts


def most_in_window(starts: list[float], seconds: float) -> int:
    return max(bisect.bisect_left(starts, s + seconds) - i for i, s in enumerate(starts))


def test_concurrency_is_a_bound_and_is_used() -> None:
    async def main() -> tuple[list[float], int]:
        gate = Gate(concurrency=4)
        return await calls(gate, 20, 1.0), gate.max_in_flight

    starts, most = run(main())
    assert most == 4
    assert starts == [float(i // 4) for i in range(20)]


@pytest.mark.parametrize("limit", [1, 7, 60, 90.5, 1200])
def test_requests_per_minute_hold_in_every_window(limit: float) -> None:
    async def main() -> list[float]:
        gate = Gate(concurrency=10_000, requests_per_minute=limit)
        return await calls(gate, int(3 * limit) + 2, 0.5)

    starts = run(main())
    assert most_in_window(starts, 60.0) <= limit
    assert most_in_window(starts, 6.0) <= max(1, limit / 10 + 1), "spread evenly, not in bursts"
    ideal = (len(starts) - 1) / limit * 60
    assert starts[-1] <= 1.03 * ideal, "and the limit is used"


def test_tokens_per_minute_hold_and_are_settled() -> None:
    async def main(used: int) -> list[float]:
        gate = Gate(concurrency=100, tokens_per_minute=1000)
        return await calls(gate, 40, 0.1, tokens=100, used=used)

    full = run(main(100))
    assert most_in_window(full, 60.0) == 10
    assert full[-1] == pytest.approx(180.0, abs=1.0)
    frugal = run(main(50))
    assert 15 <= most_in_window(frugal, 60.0) <= 20, "what was not used can be used by others"


def test_a_request_above_the_token_limit_goes_out_alone() -> None:
    async def main() -> list[float]:
        gate = Gate(concurrency=10, tokens_per_minute=100)
        return await calls(gate, 3, 0.1, tokens=500, used=500)

    assert run(main()) == pytest.approx([0.0, 60.0, 120.0])


def test_one_429_is_its_own_matter_three_close_the_endpoint() -> None:
    async def main() -> tuple[list[float], list[int]]:
        gate = Gate(concurrency=16)
        loop = asyncio.get_running_loop()
        tickets = [await gate.enter() for _ in range(16)]
        limits = []
        for _ in range(8):  # one burst: all of them went out before the first cut
            gate.on_rate_limit(0.0, 5.0)
            limits.append(gate.limit)
            await asyncio.sleep(0.01)
        for ticket in tickets:
            gate.leave(ticket)
        starts = await calls(gate, 6, 0.0)
        return [start - loop.time() + 5.0 for start in starts], limits

    starts, limits = run(main())
    assert limits == [16, 16, 12, 12, 12, 12, 12, 12], "a burst cuts once"
    assert starts[0] >= 4.5, "everybody waits"
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert min(gaps) >= 0.0149, "released one by one"


def test_the_limit_recovers_a_call_a_round() -> None:
    async def main() -> list[int]:
        gate = Gate(concurrency=8)
        for _ in range(3):
            gate.on_rate_limit(1.0, 0.0)
        limits = [gate.limit]
        for _ in range(40):
            gate.on_success()
            limits.append(gate.limit)
        return limits

    limits = run(main())
    assert limits[0] == 6
    assert limits[6] == 7
    assert limits[-1] == 8


def test_closing_wakes_everybody() -> None:
    async def main() -> list[BaseException | None]:
        gate = Gate(concurrency=1)
        ticket = await gate.enter()
        waiting = [asyncio.create_task(gate.enter()) for _ in range(3)]
        await asyncio.sleep(0.1)
        gate.close(ValueError("closed"))
        gate.leave(ticket)
        results = await asyncio.gather(*waiting, gate.enter(), return_exceptions=True)
        return [result if isinstance(result, BaseException) else None for result in results]

    errors = run(main())
    assert [str(error) for error in errors] == ["closed"] * 4


def test_a_cancelled_waiter_frees_its_place() -> None:
    async def main() -> int:
        gate = Gate(concurrency=1)
        ticket = await gate.enter()
        waiting = [asyncio.create_task(gate.enter()) for _ in range(3)]
        await asyncio.sleep(0.1)
        gate.leave(ticket)  # gives the place to the first one, which is cancelled before it runs
        waiting[0].cancel()
        waiting[1].cancel()
        second = await waiting[2]
        gate.leave(second)
        return gate.in_flight

    assert run(main()) == 0
