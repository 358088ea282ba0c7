"""GRPO with real parts: it learns, says how it goes, and guards itself."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import AdapterConfig
from plan_tuning.config.reward import PlanRewardConfig, RewardConfig
from plan_tuning.config.training import PromptConfig, TrainerConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.students.loading import load_student
from plan_tuning.training.grpo import fit as grpo_fit
from plan_tuning.training.grpo.fit import GRPOSettings, train_grpo
from plan_tuning.training.grpo.policy import Policy
from plan_tuning.training.grpo.rollout import Rollout
from plan_tuning.training.lightning import TrainingError, TrainingRun

from .grpo_world import (
    MODEL,
    PROBLEMS,
    DigitRewards,
    HalfDeadRewards,
    metrics,
    train,
    weights,
)

pytestmark = pytest.mark.integration


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_tiny_policy_learns_a_trivial_reward(start: Path, tmp_path: Path, adapter: str) -> None:
    settings = {"steps": 25, "beta": 0.0, "learning_rate": 5e-3, "group_size": 8}
    facts = train(tmp_path / "s", start, adapter=adapter, **settings)
    assert facts["final_reward"] > facts["first_reward"] + 0.3
    rows = metrics(tmp_path / "s")
    assert len(rows) == 25
    assert all(row["train/sampler_gap"] < 1e-3 for row in rows)
    assert load_student(tmp_path / "s", MODEL).model is not None


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch_tokens": 60},
        {"shared_prompt": False},
        {"shared_prompt": False, "micro_batch_tokens": 100},
    ],
)
def test_how_a_step_is_computed_does_not_change_it(
    start: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """One step with every part of the loss; later ones would amplify rounding by sampling."""
    train(tmp_path / "one", start, steps=1, micro_batch_tokens=10**6)
    train(tmp_path / "two", start, steps=1, **changes)
    first, second = (metrics(tmp_path / name)[0] for name in ("one", "two"))
    for key in ("train/loss", "train/grad_norm", "train/entropy", "train/reward/total"):
        assert first[key] == pytest.approx(second[key], rel=1e-4, abs=1e-6), key


@pytest.mark.usefixtures("digits")
def test_the_first_step_from_a_trained_adapter_has_ratio_one_and_no_kl(
    start: Path, tmp_path: Path
) -> None:
    train(tmp_path / "first", start, adapter="lora", steps=3, beta=0.0, learning_rate=2e-2)
    assert (tmp_path / "first" / "adapter_config.json").is_file()
    train(tmp_path / "second", tmp_path / "first", adapter="lora", steps=3, learning_rate=2e-2,
          buffer_epochs=2)  # fmt: skip
    rows = metrics(tmp_path / "second")
    assert rows[0]["train/ratio_max"] >= 1.0
    assert rows[-1]["train/kl"] > 0.0


@pytest.mark.usefixtures("digits")
def test_a_reference_that_is_not_the_start_stops_the_run(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plan_tuning.training.grpo import policy

    copied = policy.frozen_copy

    def wrong(student: Any, *where: Any) -> Any:
        model = copied(student, *where)
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(1.3)
        return model

    monkeypatch.setattr(policy, "frozen_copy", wrong)
    with pytest.raises(TrainingError, match="the KL to the start is not 0"):
        train(tmp_path / "s", start)


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_sampler_that_is_not_the_policy_stops_the_run(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The adapter's updates never reach the sampler: a bug that is easy to make and hard to see."""
    monkeypatch.setattr(Policy, "sampler", lambda self: self._sampler)
    with pytest.raises(TrainingError, match="the sampler's log-probabilities differ"):
        train(tmp_path / "s", start, adapter="lora", learning_rate=5e-2, steps=6, beta=0.0,
              precision=precision)  # fmt: skip


@pytest.mark.usefixtures("digits")
def test_a_sampler_that_is_one_step_behind_stops_a_run_in_float32(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(self: Policy) -> Any:
        behind = self._sampler
        assert behind is not None
        found = {name: p.clone() for name, p in behind.model.named_parameters()}
        fresh(self)
        if not getattr(self, "was_asked", False):
            self.was_asked = True
            return behind
        with torch.no_grad():
            for name, p in behind.model.named_parameters():
                found[name], _ = p.clone(), p.copy_(found[name])
        return behind

    fresh = Policy.sampler
    monkeypatch.setattr(Policy, "sampler", stale)
    with pytest.raises(TrainingError, match=r"GRPO step 1: .* method\.max_log_prob_gap=0\.002"):
        train(tmp_path / "s", start, adapter="lora", learning_rate=5e-3, steps=3, beta=0.0)


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("settings", [{"beta": 0.04}, {"buffer_epochs": 2, "beta": 0.0}])
def test_bfloat16_runs_and_says_how_far_the_sampler_is(
    start: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Single tokens differ by more than a mean may; with float32's bound the run would stop."""
    train(tmp_path / "s", start, precision="bf16", learning_rate=1e-3, **settings)
    rows = metrics(tmp_path / "s")
    assert len(rows) == 4
    for row in rows:
        assert 0.0 < row["train/sampler_gap"] < 0.05
        assert row["train/sampler_gap_max"] > 2 * row["train/sampler_gap"]
    with pytest.raises(TrainingError, match="the sampler's log-probabilities differ"):
        train(tmp_path / "t", start, precision="bf16", max_log_prob_gap=1e-4)


@pytest.mark.usefixtures("digits")
def test_the_second_update_of_a_step_sees_the_weights_of_the_first(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether autocast keeps its casts of the weights or not: they are of one update only."""
    from pytorch_lightning.plugins.precision.amp import MixedPrecision

    def cast(self: MixedPrecision) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, cache_enabled=is_kept)

    monkeypatch.setattr(MixedPrecision, "autocast_context_manager", cast)
    for is_kept in (False, True):
        train(tmp_path / str(is_kept), start, steps=1, precision="bf16", buffer_epochs=2,
              learning_rate=1e-2, beta=0.0)  # fmt: skip
    first, second = (metrics(tmp_path / name)[0] for name in ("False", "True"))
    assert first["train/ratio_max"] > 1.05
    assert second["train/ratio_max"] == pytest.approx(first["train/ratio_max"], rel=1e-3)


class LateRewards(DigitRewards):
    """All groups of the first step are dead."""

    calls = 0

    async def _rewards_of(self, rollout: Rollout) -> dict[str, float]:
        LateRewards.calls += 1
        return {"correct": 0.0} if LateRewards.calls <= 8 else await super()._rewards_of(rollout)


def test_the_policies_are_checked_at_the_first_update_whenever_it_comes(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plan_tuning.training.grpo import policy

    copied = policy.frozen_copy

    def wrong(student: Any, *where: Any) -> Any:
        model = copied(student, *where)
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(1.3)
        return model

    monkeypatch.setattr(policy, "frozen_copy", wrong)
    monkeypatch.setattr(grpo_fit, "RewardWorker", LateRewards)
    LateRewards.calls = 0
    with pytest.raises(TrainingError, match="the KL to the start is not 0"):
        train(tmp_path / "s", start)
    assert LateRewards.calls == 16


def test_what_was_drawn_and_replaced_is_counted_and_not_learned_from(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo_fit, "RewardWorker", HalfDeadRewards)
    facts = train(tmp_path / "s", start, steps=3, prompts_per_step=4, max_redraws=3, beta=0.0)
    text = (tmp_path / "s" / "completions.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    for step, found in enumerate(metrics(tmp_path / "s")):
        of_step = [row for row in rows if row["step"] == step]
        dead = [row for row in of_step if row["problem_id"] in ("p1", "p3", "p5")]
        assert len(of_step) == 4 * found["train/drawn_groups"]
        assert len(dead) == 4 * found["train/dead_groups"]
        assert found["train/dead_rate"] == pytest.approx(len(dead) / len(of_step))
        assert found["train/reward/total"] == pytest.approx(
            sum(2 * row["reward_correct"] for row in of_step) / len(of_step), abs=1e-6
        )
        assert [row["reward_total"] for row in of_step] == pytest.approx(
            [2 * row["reward_correct"] for row in of_step], abs=1e-5
        )
        assert all(row["text"] for row in of_step), "what was written, and not only what was read"
        assert found["train/kept_groups"] == 4
        assert not any(row["is_learned"] or row["advantage"] for row in dead)
        assert found["tokens/rollout"] == sum(row["tokens"] for row in of_step)
        assert found["train/trained_tokens"] == sum(
            row["tokens"] for row in of_step if row["is_learned"]
        )
    assert facts["completion_tokens"] == sum(row["tokens"] for row in rows)
    assert any(row["train/redraws"] > 0 for row in metrics(tmp_path / "s"))


@pytest.mark.usefixtures("digits")
def test_the_start_of_a_run_says_what_a_step_costs_and_what_will_not_work(
    start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train(tmp_path / "s", start, steps=1, loss="gspo", importance_cap=1.0)
    assert "forward and backward passes" in caplog.text
    assert "method.epsilon_low=3e-4" in caplog.text
    assert "method.importance_cap=1 only ever lowers" in caplog.text


def test_dropout_is_refused(start: Path, tmp_path: Path) -> None:
    with Grader() as grader, pytest.raises(ConfigError, match=r"adapter\.dropout"):
        train_grpo(
            TrainingRun(tmp_path, tmp_path),
            GRPOSettings(
                model=MODEL,
                adapter=AdapterConfig(name="lora", dropout=0.1),
                trainer=TrainerConfig(precision="fp32", accelerator="cpu"),
                method=GRPOConfig(),
                reward=RewardConfig(),
                prompt=PromptConfig(),
                evaluation=EvaluationConfig(),
                seed=0,
            ),
            start,
            PROBLEMS,
            grader,
        )


def test_all_dead_groups_change_nothing(
    start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A random model never answers right: all groups are dead and the weights stay as they are."""
    with caplog.at_level(logging.WARNING):
        facts = train(
            tmp_path / "s", start, steps=2, reward=RewardConfig(plan=PlanRewardConfig(weight=1.0))
        )
    assert facts["dead_rate"] == 1.0
    assert caplog.text.count("most groups are dead (100 %)") == 1
    assert facts["final_reward"] == 0.0
    before = weights(start)
    for name, value in weights(tmp_path / "s").items():
        assert torch.equal(value, before[name])


@pytest.mark.usefixtures("digits")
def test_held_out_problems_are_solved_and_never_trained_on(start: Path, tmp_path: Path) -> None:
    facts = train(tmp_path / "s", start, val_problems=2, val_every_n_steps=2)
    assert facts["problems"] == 4
    assert facts["val_accuracy"] == facts["start_val_accuracy"] == 0.0
    text = (tmp_path / "s" / "completions.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len({row["problem_id"] for row in rows}) == 4
    assert {row["step"] for row in rows} == {0, 1, 2, 3}
    assert ["val/accuracy" in row for row in metrics(tmp_path / "s")] == [True, True, False, True]


@pytest.mark.usefixtures("digits")
def test_a_lost_policy_ends_the_training_with_its_reason(start: Path, tmp_path: Path) -> None:
    facts = train(tmp_path / "s", start, steps=30, learning_rate=2e-2, stop_kl=0.01, beta=1e-6)
    assert facts["steps"] < 30
    assert "method.stop_kl" in facts["stopped"]
    assert (tmp_path / "s" / "model.safetensors").is_file()
