"""What the GRPO tests share: six problems, a tiny start, a reward that is learned in seconds."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from plan_tuning.config.evaluation import EvaluationConfig, VLLMConfig
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.reward import RewardConfig
from plan_tuning.config.training import PromptConfig, TrainerConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Problem
from plan_tuning.students.loading import load_student, without_bars
from plan_tuning.students.tiny import make_tiny
from plan_tuning.training.grpo import fit as grpo_fit
from plan_tuning.training.grpo.data import PlannedProblem
from plan_tuning.training.grpo.reward import RewardWorker
from plan_tuning.training.grpo.rollout import Rollout
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.logs import CurveFile

PROBLEMS = [
    PlannedProblem(
        Problem(f"p{i}", f"Ada has {i} cups and finds {i + 1} more. How many?", str(2 * i + 1)),
        "1. Find the number of cups.\n2. Add both amounts.",
    )
    for i in range(6)
]
MODEL = ModelConfig(name="tiny", kind="tiny", family="qwen3")


class DigitRewards(RewardWorker):
    """Rewards the share of digits: something that a random model can learn within seconds."""

    async def _rewards_of(self, rollout: Rollout) -> dict[str, float]:
        text = rollout.completion.text
        return {"correct": sum(c.isdigit() for c in text) / max(len(text), 1)}


class HalfDeadRewards(DigitRewards):
    """As above for half of the problems; the others earn nothing, whatever is written."""

    async def _rewards_of(self, rollout: Rollout) -> dict[str, float]:
        is_dead = rollout.problem.id in ("p1", "p3", "p5")
        return {"correct": 0.0} if is_dead else await super()._rewards_of(rollout)


def make_start(folder: Path) -> Path:
    """Make a student whose words are not equally likely, as those of a new tiny model are."""
    make_tiny(folder, "qwen3", 0)
    student = load_student(folder, MODEL)
    with torch.no_grad():
        student.model.get_input_embeddings().weight.mul_(8.0)
    with without_bars():
        student.model.save_pretrained(folder)
    return folder


def train(
    folder: Path,
    start: Path,
    *,
    adapter: str = "full",
    reward: RewardConfig | None = None,
    open_ask: Any = None,
    load_executor: Any = None,
    micro_batch_tokens: int = 400,
    precision: str = "fp32",
    base_dtype: str = "auto",
    export: str = "auto",
    model: ModelConfig = MODEL,
    vllm: VLLMConfig | None = None,
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
        return grpo_fit.train_grpo(
            TrainingRun(folder, folder, [CurveFile(folder / "metrics.csv")]),
            grpo_fit.GRPOSettings(
                model=model,
                adapter=AdapterConfig(name=adapter, rank=4, base_dtype=base_dtype, export=export),
                trainer=TrainerConfig(
                    precision=precision,
                    accelerator="cpu",
                    micro_batch_tokens=micro_batch_tokens,
                    progress=False,
                ),
                method=GRPOConfig(**(settings | method)),
                reward=reward or RewardConfig(),
                prompt=PromptConfig(),
                evaluation=EvaluationConfig(max_new_tokens=12, vllm=vllm or VLLMConfig()),
                seed=1,
            ),
            start,
            PROBLEMS,
            grader,
            open_ask,
            load_executor,
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
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
