"""Gradients before clipping, and what is logged, of two gloo processes equal those of one."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file, save_file

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.students.tiny import make_tiny
from plan_tuning.text.formats import render_completion, student_messages
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.sft.batches import TrainingRow
from plan_tuning.training.sft.fit import SFTSettings, train_student

pytestmark = pytest.mark.integration


def train(folder: Path, base: Path, devices: int):
    """Train three steps on rows of very different lengths; the last step has a single row.

    The gradients of each step, before they are clipped, are left in ``folder``. The learning rate
    is so small that the weights stand still: AdamW would hide a gradient's scale and blow up its
    rounding.
    """
    gradients: list[dict[str, torch.Tensor]] = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy(parameters, *args, **kwargs):
        gradients.append({str(k): p.grad.clone() for k, p in enumerate(parameters)})
        return clip(parameters, *args, **kwargs)

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
    log = CSVLogger(folder, name="log", version="", flush_logs_every_n_steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
        facts = fit(folder, base, devices, rows, log)
    rank = os.environ.get("LOCAL_RANK", "0")
    for step, found in enumerate(gradients):
        save_file(found, folder / f"gradients{step}.rank{rank}.safetensors")
    return facts


def fit(folder: Path, base: Path, devices: int, rows: list[TrainingRow], log: CSVLogger):
    return train_student(
        TrainingRun(folder, folder, [log]),
        SFTSettings(
            model=ModelConfig(name="tiny_qwen3", kind="tiny", family="qwen3"),
            adapter=AdapterConfig(name="full"),
            trainer=TrainerConfig(
                learning_rate=1e-9,
                log_every_n_steps=1,
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
        ),
        base,
        rows,
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
        "from pathlib import Path; import test_sft_gradients\n"
        "test_sft_gradients.train(Path(sys.argv[2]), Path(sys.argv[3]), 2)\n"
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
    for step in range(3):
        whole = load_file(tmp_path / "one" / f"gradients{step}.rank0.safetensors")
        for rank in range(2):
            shared = load_file(tmp_path / "two" / f"gradients{step}.rank{rank}.safetensors")
            for name, gradient in whole.items():
                assert gradient.abs().max() > 0
                torch.testing.assert_close(shared[name], gradient, rtol=1e-3, atol=1e-6)
    # What is logged is of all ranks too.
    alone, together = (read_log(tmp_path / name) for name in ("one", "two"))
    assert len(alone) == len(together) == 3
    for first, second in zip(alone, together, strict=True):
        for key in ("train/loss", "train/loss/plan", "train/accuracy/plan", "train/tokens/plan"):
            assert float(first[key]) == pytest.approx(float(second[key]), rel=1e-4), key


def read_log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log" / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_job_does_not_start_itself_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"trainer\.devices=1"):
        train(tmp_path / "two", tmp_path / "base", 2)
