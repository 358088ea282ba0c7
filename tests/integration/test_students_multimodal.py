"""Gemma-3's larger students carry an image tower: it is loaded, left alone and exported."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.students.generation.native_engine import generate
from plan_tuning.students.loading import load_student
from plan_tuning.students.templates import prompt_ids
from plan_tuning.students.tiny import build_tiny
from plan_tuning.text.formats import render_completion, student_messages
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.sft.batches import TrainingRow
from plan_tuning.training.sft.fit import SFTSettings, train_student

pytestmark = pytest.mark.integration

MODEL = ModelConfig(name="tiny_gemma3", kind="tiny", family="gemma3")
MESSAGES = student_messages("2 + 3 = ?", method="m2", prompt="matched", style="math")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text, tokenizer = build_tiny("gemma3", 0)
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text.config.to_dict(),
            vision_config={
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            mm_tokens_per_image=4,
            image_token_index=1000,
            boi_token_index=1001,
            eoi_token_index=1002,
        )
    )
    folder = tmp_path_factory.mktemp("multimodal") / "base"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_decoding_equals_forward_passes(base: Path):
    student = load_student(base, MODEL)
    prompt = prompt_ids(student.tokenizer, MESSAGES)
    (found,) = generate(student, [prompt], keys=[("p", 0)], max_new_tokens=20)
    ids = torch.tensor([prompt])
    with torch.no_grad():
        for _ in found.token_ids:
            token = student.model(input_ids=ids).logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, token], dim=1)
    assert ids[0, len(prompt) :].tolist() == list(found.token_ids)


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_only_the_language_model_is_trained(base: Path, tmp_path: Path, adapter: str):
    rows = [
        TrainingRow(
            f"p{index}",
            MESSAGES,
            render_completion("m2", plan="Add.", execution="", solution="", answer=""),
        )
        for index in range(8)
    ]
    facts = train_student(
        TrainingRun(tmp_path / "student", tmp_path),
        SFTSettings(
            model=MODEL,
            adapter=AdapterConfig(name=adapter),
            trainer=TrainerConfig(
                learning_rate=1e-2,
                precision="fp32",
                accelerator="cpu",
                val_fraction=0.0,
                max_steps=6,
                max_length=200,
            ),
            method=MethodConfig(name="m2"),
            seed=0,
        ),
        base,
        rows,
    )
    assert facts["final_loss"] < facts["first_loss"]
    (file,) = (tmp_path / "student").glob("*.safetensors")
    after = load_file(file)
    if adapter == "lora":
        assert after
        assert all("language_model" in name for name in after)
        return
    before = load_file(base / "model.safetensors")
    for name, weight in before.items():
        is_language = "language_model" in name
        assert torch.equal(weight, after[name]) != is_language, name
