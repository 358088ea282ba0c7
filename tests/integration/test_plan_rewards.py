"""Plan rewards in a training: each resumes bit-equal, and who is handed over says what it says."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.config import extensions, outside
from plan_tuning.config.reward import PlanRewardConfig, RewardConfig
from plan_tuning.config.training import PromptConfig
from plan_tuning.evaluation.frozen_executor import FrozenExecutor
from plan_tuning.evaluation.plan_value import target_tokens
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Ask, Completion, Problem, Reply, Request
from plan_tuning.students.loading import load_for_inference
from plan_tuning.students.log_probs import last_token_log_probs
from plan_tuning.text.formats import conditioned
from plan_tuning.training.grpo import fit as grpo_fit
from plan_tuning.training.grpo import rollout
from plan_tuning.training.grpo.module import GRPOModule
from plan_tuning.training.grpo.reward import RewardWorker
from plan_tuning.training.grpo.rollout import Rollout

from .grpo_world import MODEL, PROBLEMS, DigitRewards, assert_equal_weights, metrics, train

pytestmark = pytest.mark.integration

KINDS = ("judge", "verifier", "roscoe", "executability", "uplift", "likelihood")
FROZEN = KINDS[3:]


class Rewards(DigitRewards):
    """An execution of this world's model is right where its length is even."""

    async def _is_right(self, execution: Completion, problem: Problem) -> bool | None:
        return len(execution.text) % 2 == 0


@asynccontextmanager
async def opened() -> AsyncIterator[Ask]:
    """A large model whose numbers hang on what it is asked."""

    async def ask(request: Request) -> Reply:
        said = hashlib.sha256(request.messages[-1]["content"].encode()).digest()[0]
        return Reply(f"Score: {said % 90}\nSimilarity: 0.{said % 10}")

    yield ask


def reward_of(kind: str, **plan: Any) -> RewardConfig:
    settings = {"weight": 1.0, "kind": kind, "guards": [], "encoder": "hashed", "samples": 2,
                "max_execution_tokens": 8}  # fmt: skip
    return RewardConfig(plan=PlanRewardConfig(**(settings | plan)))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a model writes counts as its plan, and problems have a right execution."""
    monkeypatch.setattr(grpo_fit, "RewardWorker", Rewards)
    monkeypatch.setattr(rollout, "_plan_of", lambda said: said or "nothing")
    executed = [
        type(one)(one.problem, one.teacher_plan, f"So it is {one.problem.answer}.")
        for one in PROBLEMS
    ]
    monkeypatch.setattr("tests.integration.grpo_world.PROBLEMS", executed)


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_with_each_reward_resumes_bit_by_bit(
    start: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "reward": reward_of(kind), "open_ask": opened, "steps": 3, "checkpoint_every_n_steps": 1,
        "beta": 0.0,
    }  # fmt: skip
    if kind in FROZEN:
        settings["load_executor"] = lambda: (load_for_inference(start, MODEL), "m1")
    train(tmp_path / "whole", start, **settings)
    rows = metrics(tmp_path / "whole")
    assert any(row.get("train/reward/plan/std", 0.0) > 0 for row in rows)
    assert all("train/probe/empty" in row and row["train/flops"] > 0 for row in rows)
    assert [row["train/flops"] for row in rows] == sorted(row["train/flops"] for row in rows)
    assert ("tokens/frozen" in rows[0]) == (kind in FROZEN)
    step = GRPOModule.training_step

    def interrupted(self: GRPOModule, batch: int, batch_idx: int) -> None:
        if self.finished_steps == 2:
            os.remove(tmp_path / "no such file")
        step(self, batch, batch_idx)

    monkeypatch.setattr(GRPOModule, "training_step", interrupted)
    with pytest.raises(FileNotFoundError):
        train(tmp_path / "parts", start, **settings)
    monkeypatch.setattr(GRPOModule, "training_step", step)
    assert train(tmp_path / "parts", start, **settings)["resumed_from_step"] == 2
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")
    files = [(tmp_path / part / "completions.jsonl").read_text() for part in ("whole", "parts")]
    assert files[0] == files[1]
    assert (tmp_path / "whole" / "baselines.0.jsonl").exists() == (kind in FROZEN[1:])


@pytest.mark.usefixtures("world")
def test_a_training_ends_where_its_operations_are_spent(start: Path, tmp_path: Path) -> None:
    frozen = {"load_executor": lambda: (load_for_inference(start, MODEL), "m1"), "beta": 0.0}
    plain = train(tmp_path / "plain", start, steps=3, beta=0.0)
    budget = plain["compute"]["flops"]
    dear = train(tmp_path / "dear", start, steps=9, stop_flops=budget,
                 reward=reward_of("uplift", samples=8), **frozen)  # fmt: skip
    assert dear["steps"] < 3
    assert dear["compute"]["flops"] >= budget
    assert "method.stop_flops" in dear["stopped"]
    found = train(tmp_path / "cheap", start, steps=9, stop_flops=budget, beta=0.0)
    assert found["steps"] == 3, "the same budget buys the plain training its three steps"


def test_a_frozen_executor_says_what_its_model_says(start: Path) -> None:
    student = load_for_inference(start, MODEL)
    config = PlanRewardConfig(kind="uplift", max_execution_tokens=6)
    executor = FrozenExecutor(student, asked_as="m1", config=config, seed=3, batch_tokens=60)
    texts = [
        conditioned("2+3?", plan, target, method="m1", prompt=PromptConfig(), style="math")
        for plan, target in (("1. Add.", "It is 5."), ("", "5"), ("1. Add all.", "So it is 5."))
    ]
    tokens = [target_tokens(student.tokenizer, text) for text in texts]
    alone = [last_token_log_probs(student.causal_lm, [one])[0] for one in tokens]
    for found, expected in zip(executor.log_probs(texts), alone, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    read = executor.taken()
    assert read.tokens == sum(len(ids) for ids, _ in tokens)
    assert read.projected == sum(map(len, alone))
    keys = [("x", 0), ("x", 1), ("x", 0)]
    written = executor.generate([texts[0], texts[0], texts[0]], keys)
    assert written[0] == written[2], "what is drawn hangs on the key"
    prompt = len(tokens[0][0]) - len(alone[0])
    assert written[0].prompt_tokens == prompt, "it writes on behind the plan and the opened output"
    taken = executor.taken()
    assert taken.projected == sum(len(one.token_ids) for one in written)
    assert taken.tokens == prompt + taken.projected, "equal prompts are read once"
    assert executor.taken().tokens == 0


def test_a_reward_from_outside_is_handed_a_frozen_model(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(outside.VARIABLE, raising=False)
    known = dict(extensions._RECORDS)
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "mine.yaml").write_text("{extension: mine.py}")
    (tmp_path / "reward" / "mine.py").write_text("""
from plan_tuning.config.extensions import Extension

EXTENSION = Extension("reward", "mine", needs=("generate", "log_probs"))

def mine(attempt, generate, log_probs):
    gain = sum(log_probs(attempt.plan, attempt.execution)) - sum(log_probs("", attempt.execution))
    return gain + 100 * len(generate(attempt.plan, samples=3))
""")
    outside.load_folder(tmp_path)
    try:
        reward = RewardConfig(extra={"mine": 0.5})
        student = load_for_inference(start, MODEL)
        executor = FrozenExecutor(
            student, asked_as="m1", config=reward.plan, seed=1, batch_tokens=999
        )
        completion = Completion("<plan>\n1. Add.\n</plan>\n7", (3, 4), "stop", 1)
        one = Rollout(Problem("p1", "2+3?", "5"), "1. Add.", 0, (1,), completion, "1. Add.", 0,
                      execution="It is 5.")  # fmt: skip
        with (
            Grader() as grader,
            RewardWorker(reward, grader, max_new_tokens=9, executor=executor) as worker,
        ):
            found = worker.submit([one]).result()[0]["mine"]
        texts = [
            conditioned("2+3?", plan, "It is 5.", method="m1", prompt="matched", style="math")
            for plan in ("1. Add.", "")
        ]
        with_plan, without = map(sum, executor.log_probs(texts))
        assert found == pytest.approx(300 + with_plan - without, abs=1e-4)
    finally:
        extensions._RECORDS.clear()
        extensions._RECORDS.update(known)
        extensions.task_of.cache_clear()
