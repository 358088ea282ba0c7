"""Merged adapters as peft loads them, against peft's own exact merge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from plan_tuning.config.merge import MergeConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.students.adapter_merging import merge_adapters
from plan_tuning.students.adapters import wrap
from plan_tuning.students.loading import load_for_inference
from plan_tuning.students.merge_rules import ties
from plan_tuning.students.routing import read_router, write_router

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("one_thread"),
    # peft reads a property that transformers has renamed
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]

MODEL = ModelConfig(name="tiny_qwen3", kind="tiny", family="qwen3")
WEIGHTS = [0.7, 0.3]
IDS = torch.tensor([[5, 9, 2, 7, 11]])


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of one base whose updates are far from nothing."""
    folders = []
    for place, rank in enumerate((2, 3)):
        model = AutoModelForCausalLM.from_pretrained(base)
        wrapped = wrap(model, MODEL, AdapterConfig(name="lora", rank=rank, alpha=8))
        noise = torch.Generator().manual_seed(place)
        with torch.no_grad():
            for name, weight in wrapped.named_parameters():
                if "lora_" in name:
                    weight.copy_(0.2 * torch.randn(weight.shape, generator=noise))
        folders.append(tmp_path_factory.mktemp("students") / f"adapter{place}")
        wrapped.save_pretrained(folders[-1])
        AutoTokenizer.from_pretrained(base).save_pretrained(folders[-1])
    return folders


def merge(adapters: list[Path], out: Path, knobs: MergeConfig, rule: object = None) -> Path:
    out.mkdir()
    merge_adapters(out, adapters, knobs.shares_of(2), knobs, rule)
    return out


def updates(model: PeftModel, name: str) -> dict[str, torch.Tensor]:
    return {
        key: module.get_delta_weight(name).detach()
        for key, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def test_a_linear_merge_is_peft_s_cat(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    knobs = MergeConfig("linear", ["one", "two"], WEIGHTS)
    ours = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), merge(adapters, tmp_path / "out", knobs)
    )
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), adapters[0], adapter_name="one"
    )
    theirs.load_adapter(adapters[1], adapter_name="two")
    theirs.add_weighted_adapter(["one", "two"], WEIGHTS, "cat", combination_type="cat")
    found, meant = updates(ours, "default"), updates(theirs, "cat")
    apart = [updates(theirs, name) for name in ("one", "two")]
    assert len(found) == len(meant) > 6
    for name, update in found.items():
        torch.testing.assert_close(update, meant[name], rtol=1e-4, atol=1e-6)
        exact = sum(w * part[name].double() for w, part in zip(WEIGHTS, apart, strict=True))
        torch.testing.assert_close(update.double(), exact, rtol=1e-4, atol=1e-6)


def test_a_frozen_encoder_routes_by_the_nearest_problem(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    texts = {"sums": ["1 + 1 = ?", "2 + 5 = ?"], "names": ["Who is Ann ?", "Who is Bob ?"]}
    knobs = MergeConfig("router", router="nearest", neighbours=1, encoder=str(base))
    write_router(tmp_path / "out", dict(zip(texts, adapters, strict=True)), knobs, texts)
    router = read_router(tmp_path / "out")
    asked = [text for part in texts.values() for text in part]
    assert router.choose(asked, [""] * 4) == ["sums", "sums", "names", "names"]
    student = load_for_inference(router.folders["names"], MODEL)
    alone = load_for_inference(adapters[1], MODEL)
    with torch.no_grad():
        assert torch.equal(student.model(input_ids=IDS).logits, alone.model(input_ids=IDS).logits)


def test_merged_adapters_load_as_students(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    """Loaded as any student, at the rank of the sum and cut by TIES at full rank."""
    plain = AutoModelForCausalLM.from_pretrained(base)
    for name, rule in (("linear", None), ("ties", ties)):
        knobs = MergeConfig(name, ["one", "two"], WEIGHTS, density=1.0, rank=None)
        folder = merge(adapters, tmp_path / name, knobs, rule)
        student = load_for_inference(folder, MODEL)
        with torch.no_grad():
            found = student.model(input_ids=IDS).logits
            untrained = plain(input_ids=IDS).logits
        assert not torch.allclose(found, untrained, atol=1e-2)
        assert torch.isfinite(found).all()
