"""What is told of a distillation while it runs."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from plan_tuning.config.grading import GradingConfig
from plan_tuning.config.teacher import DistillationConfig
from plan_tuning.distillation.synthesis import distil
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Problem, Reply, Request, Trajectory

REPLIES = {"constraints": "- none", "plan": "1. Add.", "verify": "Poor.\nScore: 10"}
CONFIG = DistillationConfig(num_candidates=1, execution="retained")
Rows = tuple[Trajectory, ...]


def problem(index: int) -> Problem:
    return Problem(id=str(index), problem="What is 1 + 1?", answer="2", solution="2")


@pytest.mark.parametrize("turns", list(itertools.product(range(3), repeat=3)), ids=str)
def test_every_problem_is_told_before_it_is_yielded(turns: tuple[int, ...]) -> None:
    told: list[str] = []

    async def ask(request: Request) -> Reply:
        if request.role == "verify":  # problems are finished in the same turn, or one turn apart
            for _ in range(turns[int(request.problem_id)]):
                await asyncio.sleep(0)
        return Reply(REPLIES[request.role])

    async def run(grader: Grader) -> None:
        problems = [problem(index) for index in range(3)]
        async for rows in distil(
            problems,
            ask,
            grader,
            CONFIG,
            window=3,
            on_progress=lambda rows: told.append(rows[0].problem_id),
        ):
            assert rows[0].problem_id in told

    with Grader(GradingConfig()) as grader:
        asyncio.run(run(grader))
    assert sorted(told) == ["0", "1", "2"]


def test_an_error_while_telling_is_not_lost() -> None:
    async def ask(request: Request) -> Reply:
        return Reply(REPLIES[request.role])

    def fail(rows: Rows) -> None:
        raise ZeroDivisionError(rows[0].problem_id)

    async def run(grader: Grader) -> None:
        async for _ in distil([problem(0)], ask, grader, CONFIG, window=1, on_progress=fail):
            pass

    with Grader(GradingConfig()) as grader, pytest.raises(ZeroDivisionError):
        asyncio.run(run(grader))
