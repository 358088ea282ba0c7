"""Weights that are spread over ranks: read once a machine; a checkpoint is never copied."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.students.loading import load_student
from plan_tuning.students.skeleton import load_skeleton
from plan_tuning.students.tiny import make_tiny
from plan_tuning.training.distributed import ShardedStrategy
from plan_tuning.training.sft import fit
from plan_tuning.training.sft.fit import SFTSettings

pytestmark = pytest.mark.integration

SHARDED = TrainerConfig(devices=2, strategy="fsdp", precision="fp32", accelerator="cpu")


def model_of(family: str) -> ModelConfig:
    return ModelConfig(name="tiny", kind="tiny", family=family)


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "llama"])
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_skeleton_is_the_student_without_its_weights(
    tmp_path: Path, family: str, adapter: str
) -> None:
    make_tiny(tmp_path / "base", family, 0)
    chosen = AdapterConfig(name=adapter, rank=4)
    student = load_student(tmp_path / "base", model_of(family), for_training=True, adapter=chosen)
    found = load_skeleton(tmp_path / "base", model_of(family), adapter=chosen)
    parameters = dict(found.model.named_parameters())
    for name, weight in student.model.named_parameters():
        other = parameters.pop(name)
        assert other.is_meta
        assert (other.shape, other.dtype) == (weight.shape, weight.dtype)
        assert other.requires_grad == weight.requires_grad
    assert not parameters
    buffers = dict(found.model.named_buffers())
    for name, buffer in student.model.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    assert found.turn_end == student.turn_end


@pytest.mark.parametrize(("rank", "reads"), [("0", 1), ("1", 0)])
def test_the_first_rank_alone_reads_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, reads: int
) -> None:
    make_tiny(tmp_path / "base", "qwen3", 0)
    read: list[str] = []
    reading = AutoModelForCausalLM.from_pretrained

    def from_pretrained(source: str, **kwargs: object) -> object:
        read.append(source)
        return reading(source, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setenv("LOCAL_RANK", rank)
    settings = SFTSettings(
        model_of("qwen3"), AdapterConfig(name="full"), SHARDED, MethodConfig(name="m1"), 0
    )
    fit._load(tmp_path / "base", settings)
    assert len(read) == reads


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_checkpoint_is_mapped_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.ckpt"
    torch.save({"state_dict": {"a": torch.arange(10_000.0)}, "n": 3}, path)
    found = ShardedStrategy(SHARDED).load_checkpoint(path)
    assert torch.equal(found["state_dict"]["a"], torch.arange(10_000.0))
    assert found["n"] == 3
    assert str(path) in Path("/proc/self/maps").read_text(encoding="utf-8")
