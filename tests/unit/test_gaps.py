"""How far rollouts may be from the policy that is trained: what is said, and what stops a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import TrainerConfig
from plan_tuning.students.loading import load_student
from plan_tuning.students.tiny import make_tiny
from plan_tuning.training.distributed import Ranks
from plan_tuning.training.grpo.metrics import _SUMS, PassStatistics
from plan_tuning.training.grpo.policy import Policy
from plan_tuning.training.grpo.update import PolicyUpdate, StepState
from plan_tuning.training.lightning import TrainingError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("students") / "qwen3"
    make_tiny(made, "qwen3", 0)
    return made


def update_of(folder: Path, precision: str, **method: object) -> PolicyUpdate:
    model = ModelConfig(name="tiny", kind="tiny", family="qwen3")
    student = load_student(folder, model, for_training=True, adapter=AdapterConfig())
    trainer = TrainerConfig(accelerator="cpu", precision=precision)
    chosen = GRPOConfig(**method)
    return PolicyUpdate(
        Policy(student, method=chosen, trainer=trainer),
        StepState(),
        method=chosen,
        trainer=trainer,
        ranks=Ranks(),
        backward=torch.Tensor.backward,
    )


def step_with(**means: float) -> PassStatistics:
    """Figures of a step of ten tokens with these means."""
    found = PassStatistics(torch.device("cpu"))
    for name, mean in {"tokens": 1.0, **means}.items():
        found.sums[_SUMS.index(name)] = 10 * mean
    return found


@pytest.mark.parametrize(
    ("precision", "gap", "outcome"),
    [
        ("bf16", 0.03, "silent"),
        ("bf16", 0.06, "warned"),
        ("bf16", 0.19, "warned"),
        ("bf16", 0.21, "stopped"),
        ("fp32", 0.001, "silent"),
        ("fp32", 0.003, "stopped"),
    ],
)
def test_a_gap_warns_before_it_stops(
    folder: Path, caplog: pytest.LogCaptureFixture, precision: str, gap: float, outcome: str
) -> None:
    update = update_of(folder, precision, beta=0.0)
    statistics = step_with(sampler_gap=gap)
    if outcome == "stopped":
        with pytest.raises(TrainingError, match=r"differ from the trainer's by .*importance_cap"):
            update._check(statistics, 3)
        return
    for step in (3, 4):
        update._check(statistics, step)
    said = caplog.text.count("much for rounding alone")
    assert said == (1 if outcome == "warned" else 0), "once, and every step's is a metric"
    assert statistics.summary(GRPOConfig(), Ranks().reduce)["sampler_gap"] == pytest.approx(gap)


def test_a_bound_of_ones_own_and_none_at_all(folder: Path) -> None:
    with pytest.raises(TrainingError, match=r"max_log_prob_gap=0\.1:"):
        update_of(folder, "bf16", max_log_prob_gap=0.1)._check(step_with(sampler_gap=0.15), 0)
    update_of(folder, "bf16", max_log_prob_gap=0.0)._check(step_with(sampler_gap=9.0), 0)


def test_the_kl_before_the_first_update_is_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    update = update_of(folder, "bf16", reference_dtype="bfloat16")
    caplog.set_level("INFO")
    for step in (0, 1):
        update._check(step_with(kl_k3=0.0012, reference_gap=0.02), step)
    said = [line for line in caplog.messages if "KL to the start (k3)" in line]
    assert len(said) == 1
    assert "at step 1, before any update, the KL to the start (k3) is 0.0012 nats" in said[0]
