"""Two gloo processes on the CPU train the same student as one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.students.tiny import make_tiny
from plan_tuning.text.formats import render_completion, student_messages
from plan_tuning.training.batches import TrainingRow
from plan_tuning.training.fit import train_student

pytestmark = pytest.mark.integration


def train(folder: Path, base: Path, devices: int):
    """Train three steps on rows of very different lengths; the last step has a single row."""
    rows = [
        TrainingRow(
            f"p{index}",
            student_messages(f"{index} + 3 = ?", method="m2", prompt="matched", style="math"),
            render_completion(
                "m2", plan="Add. " * (index * 3 + 1), execution="", solution="", answer=""
            ),
        )
        for index in range(9)
    ]
    return train_student(
        folder,
        base=base,
        rows=rows,
        model=ModelConfig(name="tiny_qwen3", kind="tiny", family="qwen3"),
        adapter=AdapterConfig(name="full"),
        trainer=TrainerConfig(
            learning_rate=1e-3,
            precision="fp32",
            accelerator="cpu",
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            batch_size=4,
            val_fraction=0.0,
            max_length=300,
            micro_batch_tokens=128,
        ),
        method=MethodConfig(name="m2"),
        seed=3,
        loggers=[],
        run_dir=folder,
    )


def test_two_processes_equal_one(tmp_path: Path):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    base = tmp_path / "base"
    make_tiny(base, "qwen3", 0)
    facts = train(tmp_path / "one", base, 1)
    torch.set_num_threads(before)
    assert facts["steps"] == 3
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; import test_sft_ranks\n"
        "test_sft_ranks.train(Path(sys.argv[2]), Path(sys.argv[3]), 2)\n"
    )
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "two"), base],
            env={
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": "2",
                "NODE_RANK": "0",
                "LOCAL_RANK": str(rank),
            },
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    one = load_file(tmp_path / "one" / "model.safetensors")
    two = load_file(tmp_path / "two" / "model.safetensors")
    start = load_file(base / "model.safetensors")
    for name in one:
        # AdamW's first steps are the learning rate times a sign: tiny gradients may flip it
        gap = (one[name] - two[name]).abs()
        assert gap.mean() < 2e-5, name
        assert gap.mean() < 0.05 * (one[name] - start[name]).abs().mean(), name


def test_a_job_does_not_start_itself_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"trainer\.devices=1"):
        train(tmp_path / "two", tmp_path / "base", 2)
