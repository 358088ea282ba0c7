"""Two gloo processes do what one does: whole groups on a rank, one denominator for all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from plan_tuning.config.model import ModelConfig
from plan_tuning.students.loading import load_student, without_bars
from plan_tuning.students.tiny import make_tiny

pytestmark = pytest.mark.integration

SCRIPT = """
import copy, json, os, sys
from pathlib import Path
import torch
from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.reward import RewardConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import PromptConfig, TrainerConfig
from plan_tuning.records import Problem
from plan_tuning.grading.grader import Grader
from plan_tuning.training.grpo import fit as grpo_fit
from plan_tuning.training.grpo import module as grpo_module
from plan_tuning.training.grpo.data import PlannedProblem
from plan_tuning.training.grpo.policy import Policy
from plan_tuning.training.grpo.reward import RewardWorker
from plan_tuning.training.lightning import TrainingRun

class Digits(RewardWorker):
    async def _rewards_of(self, rollout):
        text = rollout.completion.text
        value = sum(c.isdigit() for c in text) / max(len(text), 1)
        # The last problems' groups are dead: one rank has less to learn than the other.
        return {"correct": 0.0 if rollout.problem.id in ("p4", "p5") else value}

class Stale(Policy):
    # Of the second rank only: it samples from something else than what is trained.
    def sampler(self):
        found = copy.deepcopy(super().sampler())
        with torch.no_grad():
            found.model.get_input_embeddings().weight.mul_(1.2)
        return found

grpo_fit.RewardWorker = Digits
if "stale" in sys.argv and os.environ.get("LOCAL_RANK") == "1":
    grpo_module.Policy = Stale
start, root, devices, trainings = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
cases = [PlannedProblem(Problem(f"p{i}", f"{i} + {i + 1} = ?", "0"), "Add.") for i in range(6)]
for name, settings in json.loads(trainings).items():
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    with Grader() as grader:
        grpo_fit.train_grpo(
            TrainingRun(folder, folder),
            grpo_fit.GRPOSettings(
                model=ModelConfig(name="t", kind="tiny", family="qwen3"), adapter=AdapterConfig(),
                trainer=TrainerConfig(precision="fp32", accelerator="cpu", devices=devices,
                                      threads=1, strategy="ddp" if devices > 1 else "auto",
                                      micro_batch_tokens=90),
                method=GRPOConfig(steps=2, prompts_per_step=5, group_size=4, max_new_tokens=8,
                                  learning_rate=1e-3, warmup_ratio=0.0, scheduler="constant",
                                  log_completions_every_n_steps=1, **settings),
                reward=RewardConfig(), prompt=PromptConfig(),
                evaluation=EvaluationConfig(max_new_tokens=8), seed=1,
            ),
            start, cases, grader,
        )
"""


def start_ranks(command: list[str], count: int) -> list[subprocess.Popen[str]]:
    """Start the ranks as a launcher would."""
    base = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = []
    for rank in range(count):
        environment = dict(base)
        if count > 1:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0",
                            "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}  # fmt: skip
        ranks.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    return ranks


def run_ranks(command: list[str], count: int) -> None:
    for process in start_ranks(command, count):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]


def prepare(folder: Path) -> tuple[Path, Path]:
    """Write a start and the script that trains from it."""
    start = folder / "start"
    make_tiny(start, "qwen3", 0)
    student = load_student(start, ModelConfig(name="t", kind="tiny", family="qwen3"))
    with torch.no_grad():
        student.model.get_input_embeddings().weight.mul_(8.0)
    with without_bars():
        student.model.save_pretrained(start)
    script = folder / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    return start, script


TRAININGS: dict[str, dict[str, Any]] = {
    "grpo": {"loss": "grpo", "beta": 0.04},
    "dapo": {"loss": "dapo", "beta": 0.0, "scaling": "batch", "mini_batches": 2},
    "gspo": {"loss": "gspo", "beta": 0.0, "max_redraws": 1},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Every training by one process and by two, which do one after another."""
    root = tmp_path_factory.mktemp("ranks")
    start, script = prepare(root)
    folders = {devices: root / f"ranks{devices}" for devices in (1, 2)}
    for devices, folder in folders.items():
        command = [sys.executable, str(script), str(start), str(folder), str(devices)]
        run_ranks([*command, json.dumps(TRAININGS)], devices)
    return folders


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_equal_one(name: str, trained: dict[int, Path]) -> None:
    weights, completions = [], []
    for root in trained.values():
        weights.append(load_file(root / name / "model.safetensors"))
        lines = (root / name / "completions.jsonl").read_text(encoding="utf-8").splitlines()
        completions.append(sorted(lines))
    rows = [[json.loads(line) for line in lines] for lines in completions]
    keys = ("step", "problem_id", "sample", "answer", "reward_correct")
    assert [[row[key] for key in keys] for row in rows[0]] == [
        [row[key] for key in keys] for row in rows[1]
    ]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, atol=2e-5, rtol=1e-3)


def test_what_stops_one_rank_stops_them_all(tmp_path: Path) -> None:
    """A rank that sees nothing wrong itself must not wait for one that has stopped."""
    start, script = prepare(tmp_path)
    given = json.dumps({"s": {"beta": 0.0}})
    command = [sys.executable, str(script), str(start), str(tmp_path), "2", given, "stale"]
    for process in start_ranks(command, 2):
        _, errors = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "the sampler's log-probabilities differ" in errors
