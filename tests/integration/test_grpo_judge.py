"""R_plan by a judge: over real HTTP with faults, from the store, and never a 0 for a failure."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.config.reward import PlanRewardConfig, RewardConfig
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Ask, Completion, Problem, Reply, Request
from plan_tuning.teachers.errors import TeacherError
from plan_tuning.teachers.factory import open_caller
from plan_tuning.training.grpo.reward import RewardError, RewardWorker
from plan_tuning.training.grpo.rollout import Rollout

from .teacher_server import load_server

pytestmark = pytest.mark.integration

PROBLEM = Problem("p1", "Tom has 3 apples and buys 4 more. How many apples has he?", "7")
TEACHER_PLAN = "1. Find how many apples he buys.\n2. Add both numbers of apples."
PLANS = (
    "1. Find how many apples he buys.\n2. Add both numbers of apples.",
    "1. Add the apples that he has to the apples that he buys.",
    "1. Subtract something.\n2. Sing a song.",
    "1. So the answer is 7.",
    "",
)
OpenAsk = Callable[[], AbstractAsyncContextManager[Ask]]


def rollouts() -> list[Rollout]:
    made = []
    for sample, plan in enumerate(PLANS):
        text = f"<plan>\n{plan}\n</plan>\n<output>\n\\boxed{{7}}\n</output>" if plan else "7"
        completion = Completion(text, (3, 4), "stop", 2)
        made.append(Rollout(PROBLEM, TEACHER_PLAN, sample, (1, 2), completion, plan, 0))
    return made


def rewards(
    open_ask: OpenAsk | None, *, answer_weight: float = 2.0, **plan: Any
) -> tuple[list[dict[str, float]], RewardWorker]:
    settings = {"weight": 1.0, "kind": "judge"} | plan
    reward = RewardConfig(answer_weight=answer_weight, plan=PlanRewardConfig(**settings))
    with (
        Grader() as grader,
        RewardWorker(reward, grader, max_new_tokens=9, open_ask=open_ask) as worker,
    ):
        return worker.submit(rollouts()).result(), worker


def answering(
    *texts: str, status: str = "ok", delay_s: float = 0.0
) -> tuple[OpenAsk, list[Request]]:
    """A judge that gives these replies in turn."""
    asked: list[Request] = []

    async def ask(request: Request) -> Reply:
        asked.append(request)
        await asyncio.sleep(delay_s)
        return Reply(texts[min(len(asked), len(texts)) - 1], status=status)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Ask]:
        yield ask

    return opened, asked


def test_a_judge_over_http_survives_faults_and_is_paid_once(shared: Path, tmp_path: Path) -> None:
    tool = load_server(shared)
    rows = [{"id": PROBLEM.id, "question": PROBLEM.problem, "answer": PROBLEM.answer}]
    faults = {"500": 0.2, "reset_mid": 0.1, "malformed_score": 0.3, "empty": 0.1}
    with tool.FaultyTeacher(rows, faults=faults) as server:
        teacher = TeacherConfig(
            backend="http",
            model="judge",
            provider="openai_compatible",
            api_base=server.base_url,
            timeout_s=10,
        )

        @asynccontextmanager
        async def opened() -> AsyncIterator[Ask]:
            async with open_caller(teacher, tmp_path) as caller:
                yield caller.ask

        first, worker = rewards(opened)
        calls = server.stats()["by_stage"]
        again, _ = rewards(opened)
        assert server.stats()["by_stage"] == calls
    assert set(calls) == {"similarity"}
    assert [row["correct"] for row in first] == [1.0, 1.0, 1.0, 1.0, 0.0]
    for index, plan in enumerate(PLANS[:3]):
        meant = tool.similarity(TEACHER_PLAN, plan)
        found = first[index]["plan"]
        assert math.isnan(found) or found == pytest.approx(meant, abs=0.006)
    assert first[3]["plan"] == first[4]["plan"] == 0.0  # a pasted answer, no plan: nobody is asked
    assert worker.guarded_plans == 2
    assert repr(again) == repr(first)


def test_what_the_judge_fails_at_is_unknown() -> None:
    for status in ("failed", "rejected", "truncated", "refused"):
        opened, asked = answering("Similarity: 1.00", status=status)
        found, worker = rewards(opened)
        assert all(math.isnan(row["plan"]) for row in found[:3])
        assert [row["correct"] for row in found[:3]] == [1.0, 1.0, 1.0]
        assert worker.unknown_plans == 3
        assert len(asked) == 3  # whoever answers has tried again already


def test_an_unreadable_reply_is_asked_for_once_more_with_a_reminder() -> None:
    opened, asked = answering("They are alike.", status="ok")
    found, _ = rewards(opened)
    assert all(math.isnan(row["plan"]) for row in found[:3])
    assert len(asked) == 6
    texts = {request.messages[-1]["content"] for request in asked}
    assert len(texts) == 6
    assert len({request.attempt_salt for request in asked}) == 2


def test_a_slow_judge_does_not_hold_the_training_up() -> None:
    opened, _ = answering("Similarity: 1.00", delay_s=30.0)
    found, _ = rewards(opened, wait_s=0.05)
    assert all(math.isnan(row["plan"]) for row in found[:3])


def test_votes_and_both_orders_are_averaged() -> None:
    opened, asked = answering("Similarity: 0.2", "Similarity: 0.6", "Similarity: 0.4")
    found, _ = rewards(opened, votes=2, swap=True, temperature=0.7)
    assert len(asked) == 12
    values = [row["plan"] for row in found[:3]]
    assert all(0.2 <= value <= 0.6 for value in values)


def test_what_ends_the_teacher_ends_the_training() -> None:
    async def ask(request: Request) -> Reply:
        raise TeacherError("the budget is spent")

    @asynccontextmanager
    async def opened() -> AsyncIterator[Ask]:
        yield ask

    with pytest.raises(TeacherError, match="the budget is spent"):
        rewards(opened)


def test_being_right_is_known_where_only_the_plan_is_rewarded() -> None:
    found, worker = rewards(None, answer_weight=0.0, kind="steps")
    assert worker.weights == {"plan": 1.0}
    assert [row["correct"] for row in found] == [1.0, 1.0, 1.0, 1.0, 0.0]


def test_a_judge_has_to_be_there() -> None:
    with pytest.raises(RewardError, match=r"reward\.plan\.kind=steps"):
        rewards(None)
