"""A student that thinks aloud: its thoughts are cut before grading, alike in every engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.reward import PlanRewardConfig, RewardConfig
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.evaluation.predictions import solve
from plan_tuning.evaluation.text_writers import ServedWriter
from plan_tuning.evaluation.writers import Written
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Completion, Prediction, Problem, Reply, Request, Verdict
from plan_tuning.teachers.factory import open_caller
from plan_tuning.training.grpo.reward import RewardWorker
from plan_tuning.training.grpo.rollout import Rollout

from .answer_server import Server, said

pytestmark = pytest.mark.integration

PROBLEM = Problem("p1", "What is 2 + 3?", "5")
PLAN = "<plan>\nAdd both.\n</plan>\n"
RIGHT = PLAN + "<output>\n2+3=5, \\boxed{5}\n</output>"
CASES = [
    ("<think>Is it \\boxed{6}? <plan> no </plan></think>\n" + RIGHT, Verdict.CORRECT, "Add both."),
    ("Is it \\boxed{6}?</think>" + RIGHT, Verdict.CORRECT, "Add both."),
    (RIGHT, Verdict.CORRECT, "Add both."),
    ("<think>It is \\boxed{5}.</think>\n\\boxed{6}", Verdict.WRONG, ""),
    ("<think>It is surely \\boxed{5}", Verdict.TRUNCATED, ""),
    ("<think>It is \\boxed{5}</think>", Verdict.NO_ANSWER, ""),
]


def served(text: str, calls: Path) -> Prediction:
    """Evaluate a student behind a server that says ``text``."""
    with Server(lambda path, payload: said(text)) as server:
        config = TeacherConfig(
            backend="http",
            provider="openai_compatible",
            model="student",
            api_base=f"{server.root}/v1",
        )

        def ask_all(requests: Sequence[Request]) -> list[Reply]:
            async def ask() -> list[Reply]:
                async with open_caller(config, calls, resamples=False) as caller:
                    return [await caller.ask(request) for request in requests]

            return asyncio.run(ask())

        evaluation = EvaluationConfig()
        with Grader() as grader:
            (prediction,) = solve(
                ServedWriter(ask_all, evaluation),
                [PROBLEM],
                method="m1",
                prompt="matched",
                evaluation=evaluation,
                benchmark="sums",
                grader=grader,
            )
    return prediction


class LocalText(ServedWriter):
    """An engine of this machine as far as ``solve`` sees it: it returns what was generated."""

    def __init__(self, text: str) -> None:
        self.text = text

    def write(self, keys: Any, asked: Any, **_: Any) -> list[Written]:
        return [Written(self.text, "stop", 7) for _ in keys]


@pytest.mark.parametrize(("text", "verdict", "plan"), CASES)
def test_thoughts_are_cut_before_grading_and_kept_in_the_prediction(
    text: str, verdict: Verdict, plan: str, tmp_path: Path
) -> None:
    evaluation = EvaluationConfig()
    with Grader() as grader:
        (local,) = solve(
            LocalText(text),
            [PROBLEM],
            method="m1",
            prompt="matched",
            evaluation=evaluation,
            benchmark="sums",
            grader=grader,
        )
    for found in (local, served(text, tmp_path)):
        assert found.verdict is verdict
        assert found.plan == plan
        assert found.text == text, "the file keeps what was generated"
    assert local.completion_tokens == 7


@pytest.mark.parametrize(("text", "verdict", "plan"), CASES)
def test_thoughts_earn_nothing(text: str, verdict: Verdict, plan: str) -> None:
    reward = RewardConfig(plan=PlanRewardConfig(weight=0.0))
    rollout = Rollout(PROBLEM, "Add both.", 0, (1, 2), Completion(text, (3, 4), "stop", 2), plan, 0)
    with Grader() as grader, RewardWorker(reward, grader, max_new_tokens=9) as worker:
        (rewards,) = worker.submit([rollout]).result()
    assert (rewards["correct"] > 0) is (verdict is Verdict.CORRECT)
    assert rollout.completion.text == text
