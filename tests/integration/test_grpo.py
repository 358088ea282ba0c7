"""GRPO with real parts: it learns, resumes bit-equal, survives a kill, and guards itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.grpo import GRPOConfig, PlanRewardConfig, RewardConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import PromptConfig, TrainerConfig
from plan_tuning.records import Problem
from plan_tuning.students.loading import load_student, without_bars
from plan_tuning.students.tiny import make_tiny
from plan_tuning.tasks.grading import Grader
from plan_tuning.training import grpo_fit
from plan_tuning.training.curves import CurveFile
from plan_tuning.training.grpo import GRPOModule, collapse
from plan_tuning.training.grpo_fit import train_grpo
from plan_tuning.training.rollouts import GoldenProblem, Rollout
from plan_tuning.training.scoring import Scorer
from plan_tuning.training.sft import TrainingError

pytestmark = pytest.mark.integration

CASES = [
    GoldenProblem(
        Problem(f"p{i}", f"Ada has {i} cups and finds {i + 1} more. How many?", str(2 * i + 1)),
        "1. Find the number of cups.\n2. Add both amounts.",
    )
    for i in range(6)
]
MODEL = ModelConfig(name="tiny", kind="tiny", family="qwen3")


class DigitScorer(Scorer):
    """Rewards the share of digits: something that a random model can learn within seconds."""

    async def _score(self, rollout: Rollout) -> dict[str, float]:
        text = rollout.completion.text
        return {"correct": sum(c.isdigit() for c in text) / max(len(text), 1)}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("students") / "tiny"
    make_tiny(folder, "qwen3", 0)
    student = load_student(folder, MODEL)
    with torch.no_grad():  # random embeddings are so small that every token would be equally likely
        student.model.get_input_embeddings().weight.mul_(8.0)
    with without_bars():
        student.model.save_pretrained(folder)
    return folder


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(grpo_fit, "Scorer", DigitScorer)
    return


def train(
    folder: Path,
    start: Path,
    *,
    adapter: str = "full",
    reward: RewardConfig | None = None,
    open_ask: Any = None,
    checkpoint_every_n_steps: int = 2,
    micro_batch_tokens: int = 400,
    **method: Any,
) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "steps": 4,
        "prompts_per_step": 2,
        "group_size": 4,
        "max_new_tokens": 12,
        "learning_rate": 2e-3,
        "scheduler": "constant",
        "log_completions_every_n_steps": 1,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with Grader() as grader:
        return train_grpo(
            folder,
            start=start,
            cases=CASES,
            model=MODEL,
            adapter=AdapterConfig(name=adapter, rank=4),
            trainer=TrainerConfig(
                precision="fp32",
                accelerator="cpu",
                checkpoint_every_n_steps=checkpoint_every_n_steps,
                micro_batch_tokens=micro_batch_tokens,
                progress=False,
            ),
            method=GRPOConfig(**(settings | method)),
            reward=reward or RewardConfig(),
            prompt=PromptConfig(),
            evaluation=EvaluationConfig(max_new_tokens=12),
            grader=grader,
            open_ask=open_ask,
            seed=1,
            loggers=[CurveFile(folder / "metrics.csv")],
            run_dir=folder,
        )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def assert_equal_weights(first: Path, second: Path) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def metrics(folder: Path) -> list[dict[str, float]]:
    import csv

    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


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


VARIANTS: dict[str, dict[str, Any]] = {
    "kl": {"adapter": "full"},
    "lora": {"adapter": "lora", "kl_weighting": "ratio", "loss": "dapo"},
    "off_policy": {"mini_batches": 2, "buffer_epochs": 2, "loss": "gspo", "epsilon_low": 3e-4},
    "redraws": {"max_redraws": 2, "beta": 0.0, "loss": "dr_grpo", "scaling": "none"},
    "kl_in_reward": {"kl_in": "reward", "baseline": "leave_one_out", "truncation": "mask"},
    "penalised": {"truncation": "penalise", "overlong_buffer": 4, "credit": "segment"},
    "cispo": {"loss": "cispo", "importance_cap": 2.0, "entropy_bonus": 0.01, "beta": 0.0},
}


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("name", VARIANTS)
def test_two_and_two_steps_are_four_bit_by_bit(
    start: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", start, **VARIANTS[name])
    assert whole["steps"] == 4
    assert whole["resumed_from_step"] == 0
    step = GRPOModule.training_step

    def interrupted(self: GRPOModule, batch: int, batch_idx: int) -> None:
        if self.finished_steps == 3:
            raise KeyboardInterrupt
        step(self, batch, batch_idx)

    monkeypatch.setattr(GRPOModule, "training_step", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path / "parts", start, **VARIANTS[name])
    monkeypatch.setattr(GRPOModule, "training_step", step)
    resumed = train(tmp_path / "parts", start, **VARIANTS[name])
    assert resumed["resumed_from_step"] == 2
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")
    files = [(tmp_path / part / "completions.jsonl").read_text() for part in ("whole", "parts")]
    assert files[0] == files[1]
    assert not (tmp_path / "parts" / "checkpoints").exists()


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
    from plan_tuning.training import collection

    copied = collection.frozen_copy

    def wrong(student: Any) -> Any:
        model = copied(student)
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(1.3)
        return model

    monkeypatch.setattr(collection, "frozen_copy", wrong)
    with pytest.raises(TrainingError, match="the KL to the start is not 0"):
        train(tmp_path / "s", start)


@pytest.mark.usefixtures("digits")
def test_a_sampler_that_is_not_the_policy_stops_the_run(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter's updates never reach the sampler: a bug that is easy to make and hard to see."""
    from plan_tuning.training.sampler import Sampler

    monkeypatch.setattr(Sampler, "student", lambda self: self._copy)
    with pytest.raises(TrainingError, match="the sampler's log-probabilities differ"):
        train(tmp_path / "s", start, adapter="lora", learning_rate=5e-2, steps=6, beta=0.0)


def test_dropout_is_refused(start: Path, tmp_path: Path) -> None:
    with Grader() as grader, pytest.raises(ConfigError, match=r"adapter\.dropout"):
        train_grpo(
            tmp_path,
            start=start,
            cases=CASES,
            model=MODEL,
            adapter=AdapterConfig(name="lora", dropout=0.1),
            trainer=TrainerConfig(precision="fp32", accelerator="cpu"),
            method=GRPOConfig(),
            reward=RewardConfig(),
            prompt=PromptConfig(),
            evaluation=EvaluationConfig(),
            grader=grader,
            open_ask=None,
            seed=0,
            loggers=[],
            run_dir=tmp_path,
        )

    """A random model never answers right: all groups are dead and the weights stay as they are."""
    facts = train(
        tmp_path / "s", start, steps=2, reward=RewardConfig(plan=PlanRewardConfig(weight=1.0))
    )
    assert facts["dead_rate"] == 1.0
    assert facts["final_reward"] == 0.0
    before = weights(start)
    for name, value in weights(tmp_path / "s").items():
        assert torch.equal(value, before[name])


@pytest.mark.usefixtures("digits")
def test_held_out_problems_are_solved_and_never_trained_on(start: Path, tmp_path: Path) -> None:
    facts = train(tmp_path / "s", start, val_problems=2, val_every_n_steps=2)
    assert facts["problems"] == 4
    assert facts["val_accuracy"] == 0.0
    text = (tmp_path / "s" / "completions.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len({row["problem_id"] for row in rows}) == 4
    assert {row["step"] for row in rows} == {0, 1, 2, 3}
    assert sum("val/accuracy" in row for row in metrics(tmp_path / "s")) == 2


@pytest.mark.usefixtures("digits")
def test_a_collapse_ends_the_training_with_its_reason(start: Path, tmp_path: Path) -> None:
    facts = train(tmp_path / "s", start, steps=30, learning_rate=2e-2, stop_kl=0.01, beta=1e-6)
    assert facts["steps"] < 30
    assert "method.stop_kl" in facts["stopped"]
    assert (tmp_path / "s" / "model.safetensors").is_file()


def test_reasons_to_stop() -> None:
    last = {"train/kl": 0.5, "train/entropy": 0.2, "train/trained_tokens": 9.0}
    rewards = [1.0] * 5 + [0.0] * 5
    assert collapse(GRPOConfig(), last, rewards) is None
    for settings in ({"stop_kl": 0.4}, {"stop_entropy": 0.3}, {"stop_reward_drop": 0.9}):
        (key,) = settings
        assert f"method.{key}" in str(collapse(GRPOConfig(**settings), last, rewards))
    for settings in ({"stop_kl": 0.6}, {"stop_entropy": 0.1}, {"stop_reward_drop": 1.1}):
        assert collapse(GRPOConfig(**settings), last, rewards) is None
    silent = last | {"train/trained_tokens": 0.0, "train/entropy": 0.0}
    assert collapse(GRPOConfig(stop_entropy=0.3), silent, rewards) is None


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_grpo
test_grpo.grpo_fit.Scorer = test_grpo.DigitScorer
test_grpo.train(Path({folder!r}), Path({start!r}), steps=12, checkpoint_every_n_steps=1)
"""


@pytest.mark.usefixtures("digits")
def test_kill_9_and_the_same_call_goes_on(start: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    code = KILLED.format(here=str(Path(__file__).parent), folder=str(folder), start=str(start))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if list((folder / "checkpoints").glob("step-*.ckpt")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = train(folder, start, steps=12, checkpoint_every_n_steps=1)
    assert resumed["resumed_from_step"] >= 1
    train(tmp_path / "whole", start, steps=12, checkpoint_every_n_steps=1)
    assert_equal_weights(folder, tmp_path / "whole")
