"""A pretrained student, SmolLM2-135M-Instruct: what tiny random students cannot show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.reward import RewardConfig
from plan_tuning.config.training import MethodConfig, PromptConfig, TrainerConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.students.generation.native_engine import generate
from plan_tuning.students.gguf import dequantise
from plan_tuning.students.loading import Student, load_student, merge_for_inference
from plan_tuning.students.templates import prompt_ids
from plan_tuning.text.formats import render_completion, student_messages
from plan_tuning.training.grpo.fit import GRPOSettings, train_grpo
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.logs import CurveFile
from plan_tuning.training.sft.batches import TrainingRow, encode, tokenise
from plan_tuning.training.sft.fit import SFTSettings, train_student

from .grpo_world import PROBLEMS, assert_equal_weights, metrics

pytestmark = [
    pytest.mark.real,
    pytest.mark.integration,
    pytest.mark.usefixtures("one_thread"),
    # peft reads a property that transformers has renamed
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]

MODEL = ModelConfig(name="smollm2_135m_q4", path="given", family="llama")
TRAINER: dict[str, Any] = {
    "learning_rate": 3e-4,
    "precision": "fp32",
    "accelerator": "cpu",
    "batch_size": 2,
    "max_steps": 4,
    "max_length": 400,
    "val_fraction": 0.0,
    "log_every_n_steps": 1,
    "micro_batch_tokens": 512,
    "gradient_checkpointing": False,
    "progress": False,
}
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QUESTIONS = (
    "Natalia sold clips to 48 friends in April, and half as many in May. How many altogether?",
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total?",
    "Tom has  3 apples.\n\n1 of them is rotten. How many are left?",
)
ANSWERS = ("48 / 2 = 24 and 48 + 24 = 72", "2 / 2 = 1 and 2 + 1 = 3", "3 - 1 = 2")
PLAN = "1. Find the smaller amount.\n2. Add or subtract to get the answer."


@pytest.fixture(scope="module")
def base(real_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "bases" / "smollm2"
    folder.parent.mkdir()
    facts = dequantise(folder, real_gguf)
    assert facts["parameters"] == 134_515_008
    assert facts["rounding"] == (
        "rounded in SmolLM2-135M-Instruct.Q4_1.gguf: 78.9 % of the weights as Q4_1, 21.0 % as "
        "Q8_0; 0.0 % F32 are not rounded"
    )
    return folder


@pytest.fixture(scope="module")
def untrained(base: Path) -> Student:
    return load_student(base, MODEL)


def rows(method: str) -> list[TrainingRow]:
    return [
        TrainingRow(
            f"p{index}",
            student_messages(question, method=method, prompt="matched", style="gsm8k"),
            render_completion(
                method,
                plan=PLAN,
                execution=f"{answer}.\nThe answer is \\boxed{{{answer.split()[-1]}}}.",
                solution=f"{answer}.",
                answer=answer.split()[-1],
            ),
        )
        for index, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
    ]


def train(
    folder: Path,
    base: Path,
    *,
    method: str = "m1",
    adapter: AdapterConfig | None = None,
    loggers: list[Any] | None = None,
    **knobs: Any,
) -> dict[str, Any]:
    settings = SFTSettings(
        model=MODEL,
        adapter=adapter or AdapterConfig(),
        trainer=TrainerConfig(**(TRAINER | knobs)),
        method=MethodConfig(name=method),
        seed=3,
    )
    return train_student(
        TrainingRun(folder, folder.parent / "run", loggers or []), settings, base, rows(method)
    )


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "students" / "m1"
    facts = train(folder, base, adapter=AdapterConfig(name="lora", rank=8), learning_rate=2e-3)
    assert facts["final_loss"] < facts["first_loss"]
    return folder


def prompts(student: Student) -> list[list[int]]:
    return [
        prompt_ids(
            student.tokenizer,
            student_messages(question, method="m1", prompt="matched", style="gsm8k"),
        )
        for question in QUESTIONS
    ]


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


def test_the_template_adds_its_system_message_and_ends_a_turn(untrained: Student) -> None:
    tokenizer = untrained.tokenizer
    text = tokenizer.decode(prompts(untrained)[0])
    assert text.startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert QUESTIONS[0] in text
    assert tokenizer.convert_ids_to_tokens(untrained.turn_end) == ["<|im_end|>"]
    assert set(untrained.turn_end) <= set(untrained.end_ids)
    own = prompt_ids(
        tokenizer, ({"role": "system", "content": "Count."}, {"role": "user", "content": "1"})
    )
    assert SYSTEM not in tokenizer.decode(own)
    row = rows("m1")[0]
    [tokens] = tokenise(tokenizer, [row])
    encoded = encode(
        tokenizer, row, tokens, untrained.turn_end, method=MethodConfig(name="m1"), max_length=400
    )
    assert encoded.ids[: len(prompts(untrained)[0])].tolist() == prompts(untrained)[0]


def test_texts_are_split_as_the_vocabulary_was_learned(untrained: Student) -> None:
    tokenizer = untrained.tokenizer
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a  12\n\n1. b")["input_ids"])
    assert tokens == ["a", "ĠĠ", "1", "2", "ĊĊ", "1", ".", "Ġb"]


def test_the_native_engine_says_what_generate_says(untrained: Student, base: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    asked = prompts(untrained)
    keys = [(f"p{index}", 0) for index in range(len(asked))]
    ours = generate(untrained, asked, keys=keys, max_new_tokens=40)
    for prompt, completion in zip(asked, ours, strict=True):
        with torch.no_grad():
            theirs = plain.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=40,
                do_sample=False,
                eos_token_id=list(untrained.end_ids),
                pad_token_id=untrained.pad_id,
            )
        assert list(completion.token_ids) == theirs[0, len(prompt) :].tolist()
    assert any("clips" in completion.text for completion in ours)  # it speaks


@pytest.mark.parametrize("method", ["sft", "m1"])
def test_training_in_full_learns_and_exports_what_transformers_loads(
    base: Path, tmp_path: Path, method: str
) -> None:
    facts = train(tmp_path / "student", base, method=method)
    assert facts["steps"] == 4
    assert facts["final_loss"] < 0.8 * facts["first_loss"]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    ours = load_student(tmp_path / "student", MODEL)
    ids = prompts(ours)[0]
    messages = student_messages(QUESTIONS[0], method="m1", prompt="matched", style="gsm8k")
    assert prompt_ids(tokenizer, messages) == ids
    assert torch.equal(logits_of(plain, ids), logits_of(ours.model, ids))
    before = load_file(base / "model.safetensors")
    after = load_file(tmp_path / "student" / "model.safetensors")
    moved = sum(not torch.equal(before[name], weights) for name, weights in after.items())
    assert moved > 0.9 * len(before)


def test_merged_weights_say_what_the_adapter_says(base: Path, lora: Path, tmp_path: Path) -> None:
    settings = json.loads((lora / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base)
    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = prompts(load_student(base, MODEL))[0]
    before = logits_of(plain.eval(), ids)
    adapted = PeftModel.from_pretrained(plain, lora).eval()
    expected = logits_of(adapted, ids)
    assert (expected - before).abs().max() > 0.5
    ours = load_student(lora, MODEL)
    assert torch.equal(logits_of(ours.model, ids), expected)
    merged = merge_for_inference(load_student(lora, MODEL))
    torch.testing.assert_close(logits_of(merged.model, ids), expected, atol=2e-3, rtol=1e-4)
    keys = [(f"p{index}", 0) for index in range(len(QUESTIONS))]
    asked = prompts(ours)
    said = generate(ours, asked, keys=keys, max_new_tokens=24)
    assert generate(merged, asked, keys=keys, max_new_tokens=24) == said
    whole = AdapterConfig(name="lora", rank=8, export="merged")
    train(tmp_path / "whole", base, adapter=whole, learning_rate=2e-3)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    torch.testing.assert_close(logits_of(exported, ids), expected, atol=2e-3, rtol=1e-4)


class _StopAt(CSVLogger):
    """A logger that fails at a step, as a full disk would."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder, name="log", version="")
        self.step = step

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "train/loss" in metrics and step is not None and step >= self.step:
            raise OSError("no space left on device")


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_resumed_training_is_bit_equal(base: Path, tmp_path: Path, adapter: str) -> None:
    chosen = AdapterConfig(name=adapter, rank=8, dropout=0.1 if adapter == "lora" else 0.0)
    knobs: dict[str, Any] = {"adapter": chosen, "checkpoint_every_n_steps": 2}
    whole = train(tmp_path / "whole", base, **knobs)
    with pytest.raises(OSError, match="no space"):
        train(tmp_path / "parts", base, loggers=[_StopAt(tmp_path, 3)], **knobs)
    resumed = train(tmp_path / "parts", base, **knobs)
    assert resumed["resumed_from_step"] == 2
    assert resumed["final_loss"] == whole["final_loss"]
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.usefixtures("digits")
def test_two_grpo_steps_with_a_share_of_digits_as_the_reward(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grpo"
    folder.mkdir()
    method = GRPOConfig(
        steps=2, prompts_per_step=2, group_size=4, max_new_tokens=24, learning_rate=1e-4,
        scheduler="constant", log_completions_every_n_steps=1,
    )  # fmt: skip
    settings = GRPOSettings(
        model=MODEL,
        adapter=AdapterConfig(),
        trainer=TrainerConfig(
            precision="fp32", accelerator="cpu", micro_batch_tokens=1024, progress=False
        ),
        method=method,
        reward=RewardConfig(),
        prompt=PromptConfig(),
        evaluation=EvaluationConfig(max_new_tokens=24),
        seed=1,
    )
    run = TrainingRun(folder, folder, [CurveFile(folder / "metrics.csv")])
    with Grader() as grader:
        facts = train_grpo(run, settings, base, PROBLEMS, grader, None)
    assert facts["steps"] == 2
    steps = metrics(folder)
    assert all(row["train/grad_norm"] > 0 for row in steps if "train/grad_norm" in row)
    assert any("train/grad_norm" in row for row in steps)
    lines = (folder / "completions.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    assert len(written) == 2 * 2 * 4
    assert len({row["text"] for row in written}) > 4
    before = load_file(base / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in after)
