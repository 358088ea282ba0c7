"""What servers get of a student: the base's processor files, a smaller copy, its image tower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.students import export, loading
from plan_tuning.students.loading import load_for_inference, load_student
from plan_tuning.students.tiny import make_tiny
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.sft.fit import SFTSettings, train_student

from .sft_world import make_rows
from .test_students_multimodal import base as multimodal

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]
__all__ = ["multimodal"]

FILES = {"preprocessor_config.json": {"size": 896}, "processor_config.json": {"tokens": 256}}


def model_of(family: str) -> ModelConfig:
    return ModelConfig(name="tiny", kind="tiny", family=family)


def train(base: Path, folder: Path, family: str, **adapter: Any) -> None:
    train_student(
        TrainingRun(folder, folder.parent / "run"),
        SFTSettings(
            model=model_of(family),
            adapter=AdapterConfig(rank=4, **adapter),
            trainer=TrainerConfig(learning_rate=1e-2, precision="fp32", accelerator="cpu",
                                  val_fraction=0.0, max_steps=2),
            method=MethodConfig(name="m1"),
            seed=0,
        ),
        base,
        make_rows(8),
    )  # fmt: skip


@pytest.fixture
def seeing(multimodal: Path, tmp_path: Path) -> Path:
    """A base that sees images, with the files that say how."""
    folder = tmp_path / "seeing"
    folder.mkdir()
    for path in multimodal.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for name, content in FILES.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "adapter", [{"name": "full"}, {"name": "lora"}, {"name": "lora", "export": "merged"}]
)
def test_exports_carry_the_processor_files_of_their_base(
    seeing: Path, tmp_path: Path, adapter: dict[str, str]
) -> None:
    train(seeing, tmp_path / "student", "gemma3", **adapter)
    for name, content in FILES.items():
        assert json.loads((tmp_path / "student" / name).read_text()) == content
    if adapter["name"] == "lora":  # a student of a student has them as well
        train(tmp_path / "student", tmp_path / "second", "gemma3", name="lora")
        assert (tmp_path / "second" / "processor_config.json").is_file()


def test_a_base_of_text_has_none(tmp_path: Path) -> None:
    make_tiny(tmp_path / "base", "qwen3", 0)
    assert export.processor_files(tmp_path / "base") == []
    assert export.processor_files("some/model") == [], "the hub is asked for models with images"


def test_the_hub_is_asked_for_the_files_of_a_model_that_sees(
    seeing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def cached(repo: str, name: str, *, revision: str | None, **_: Any) -> str | None:
        asked.append((repo, revision))
        return str(seeing / name) if (seeing / name).is_file() else None

    monkeypatch.setattr("transformers.utils.cached_file", cached)
    found = export.processor_files("some/model", "abc", is_asked=True)
    assert [path.name for path in found] == list(FILES)
    assert set(asked) == {("some/model", "abc")}


def test_no_image_tower_is_moved_or_computed_with(
    multimodal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the machine's memory while whole weights are trained, for the export alone."""
    student = load_student(multimodal, model_of("gemma3"))
    assert not [name for name, _ in student.model.named_parameters() if "language" not in name]
    assert set(student.tower) == {"vision_tower", "multi_modal_projector"}
    assert student.origin["parameters"] > sum(p.numel() for p in student.model.parameters())
    train(multimodal, tmp_path / "full", "gemma3", name="full", export_dtype="bfloat16")
    before = load_file(multimodal / "model.safetensors")
    for folder, dtype in ((tmp_path / "full", torch.float32),
                          (tmp_path / "full" / "serving", torch.bfloat16)):  # fmt: skip
        (file,) = folder.glob("*.safetensors")
        after = load_file(file)
        assert after.keys() == before.keys()
        for name, weight in before.items():
            if "language_model" not in name:
                assert torch.equal(weight.to(dtype), after[name]), name


@pytest.mark.parametrize("family", ["gemma3", "llama"])
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_copy_for_servers_is_smaller_and_the_student_keeps_its_precision(
    tmp_path: Path, family: str, adapter: str
) -> None:
    make_tiny(tmp_path / "base", family, 0)
    folder, export_form = tmp_path / "student", "merged" if adapter == "lora" else "auto"
    train(tmp_path / "base", folder, family, name=adapter, export=export_form,
          export_dtype="bfloat16")  # fmt: skip
    (whole,), (small,) = (
        list(place.glob("*.safetensors")) for place in (folder, folder / "serving")
    )
    exact, rounded = load_file(whole), load_file(small)
    assert exact.keys() == rounded.keys()
    for name, weight in exact.items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight.to(torch.bfloat16), rounded[name]), name
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    loaded = AutoModelForCausalLM.from_pretrained(folder / "serving")
    assert loaded.dtype == torch.bfloat16
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    student = load_student(folder / "serving", model_of(family))
    assert student.end_ids == load_student(folder, model_of(family)).end_ids


def test_an_adapter_for_servers_names_its_base(tmp_path: Path) -> None:
    make_tiny(tmp_path / "base", "llama", 0)
    train(tmp_path / "base", tmp_path / "s", "llama", name="lora", export_dtype="bfloat16")
    exact, rounded = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (tmp_path / "s", tmp_path / "s" / "serving")
    )
    assert exact.keys() == rounded.keys()
    assert {weight.dtype for weight in rounded.values()} == {torch.bfloat16}
    settings = json.loads((tmp_path / "s" / "serving" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str((tmp_path / "base").resolve())


@pytest.mark.parametrize("form", ["published", "float32", "adapter", "adapter_of_adapter"])
def test_inference_on_a_card_never_meets_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Weights are moved in their last precision, and are those of a merge that is rounded once."""
    make_tiny(tmp_path / "plain", "qwen3", 0)
    student = load_student(tmp_path / "plain", model_of("qwen3"))
    folder = tmp_path / "plain"
    if form != "float32":
        folder = tmp_path / "published"
        student.model.to(torch.bfloat16).save_pretrained(folder)
        student.tokenizer.save_pretrained(folder)
    for depth in range({"adapter": 1, "adapter_of_adapter": 2}.get(form, 0)):
        trained = tmp_path / f"adapter{depth}"
        train(folder, trained, "qwen3", name="lora", export="adapter")
        folder = trained
    exact = loading.merge_for_inference(load_student(folder, model_of("qwen3"))).model.state_dict()
    moved: list[set[torch.dtype]] = []
    read: list[torch.dtype] = []
    move, reading = torch.nn.Module.to, AutoModelForCausalLM.from_pretrained

    def to(self: Any, *where: Any, **kwargs: Any) -> Any:
        if where == ("cuda:0",):
            moved.append({p.dtype for p in self.parameters()})
            return self
        return move(self, *where, **kwargs)

    def from_pretrained(source: Any, **kwargs: Any) -> Any:
        read.append(kwargs["dtype"])
        return reading(source, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(loading, "has_bfloat16", lambda: True)
    found = load_for_inference(folder, model_of("qwen3"), device="cuda:0")
    assert moved == [{torch.bfloat16}]
    assert read == [torch.float32 if form == "adapter_of_adapter" else torch.bfloat16]
    for name, weight in found.model.state_dict().items():
        assert torch.equal(weight, exact[name].to(torch.bfloat16)), name
    moved.clear()
    load_for_inference(folder, model_of("qwen3"), device="cuda:0", waits=True)
    assert not moved, "it waits in the machine's memory"
