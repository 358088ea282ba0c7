"""The micro-world's base: built, saved, resumed, refused; opened as any pretrained model is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from plan_tuning.config.microworld import MicroBaseConfig, MicroworldConfig
from plan_tuning.config.model import MicroModelConfig
from plan_tuning.students.templates import prompt_ids, turn_end_ids
from plan_tuning.tasks.microworld_problems import load_microworld
from plan_tuning.text.formats import executor_messages, render_completion, student_messages
from plan_tuning.training.microworld_base import BaseTrainingError, train_base

pytestmark = pytest.mark.integration

TINY = {"hidden_size": 16, "num_heads": 2, "head_dim": 8, "intermediate_size": 16, "probe_size": 4}


def config_of(**knobs: float) -> MicroModelConfig:
    base = MicroBaseConfig(**{**TINY, **knobs})  # type: ignore[arg-type]
    return MicroModelConfig(name="micro", kind="micro", base=base)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    facts = train_base(path, config_of(), max_steps=3)
    assert facts["is_capped"]
    assert facts["steps"] == {"lookup": 3, "mixture": 3}
    return path


def test_folder_is_an_ordinary_pretrained_model(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not any("training_state" in name for name in names)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.config.layer_types[0] == "sliding_attention"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.convert_ids_to_tokens(turn_end_ids(tokenizer)) == ["<eos>"]


def test_texts_of_the_formats_round_trip(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for problem in load_microworld(MicroworldConfig(train_size=30, test_size=30), "train", seed=0):
        for method in ("sft", "m1", "m2"):
            parts = render_completion(
                method,
                plan=problem.true_plan,
                execution=problem.solution,
                solution=problem.solution,
                answer=problem.answer,
            )
            text = "".join(part.text for part in parts)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            decoded = tokenizer.decode(ids, skip_special_tokens=True)
            assert decoded.split() == text.split()
            pieces = [
                i
                for part in parts
                for i in tokenizer(part.text, add_special_tokens=False)["input_ids"]
            ]
            assert pieces == ids


@pytest.mark.parametrize("token", ["<plan>", "</plan>", "<output>", "\\boxed{", "}", "<input>"])
def test_tags_are_ordinary_single_tokens(folder: Path, token: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(f"Eve's{token}23", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["Eve's", token, "23"]
    assert token in tokenizer.decode(ids, skip_special_tokens=True)
    assert token not in tokenizer.all_special_tokens


def test_prompts_hold_no_unknown_word(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    problem = load_microworld(MicroworldConfig(test_size=3), "test")[0]
    asked = student_messages(problem.problem, method="m1", prompt="matched", style="microworld")
    thought = student_messages(
        problem.problem, method="zero_shot_cot", prompt="matched", style="microworld"
    )
    executed = executor_messages(problem.problem, problem.true_plan, style="microworld")
    for messages in (asked, thought, executed):
        tokens = tokenizer.convert_ids_to_tokens(prompt_ids(tokenizer, messages))
        assert tokens[:3] == ["<bos>", "<user>", "<input>"]
        assert tokens[-1] == "<assistant>"
        assert "<unk>" not in tokens
    assert "Execute" in tokens


def test_base_is_the_same_again_and_another_seed_another(folder: Path, tmp_path: Path) -> None:
    train_base(tmp_path / "again", config_of(), max_steps=3)
    other = config_of()
    other.seed = 1
    train_base(tmp_path / "other", other, max_steps=3)
    first, again, second = (
        AutoModelForCausalLM.from_pretrained(path).get_input_embeddings().weight
        for path in (folder, tmp_path / "again", tmp_path / "other")
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_interrupted_build_goes_on_to_the_same_base(tmp_path: Path) -> None:
    config = config_of(lookup_max_steps=4, mixture_steps=270, lookup_gate=100.0, probe_gate=0.0)

    class InterruptedBuildError(Exception):
        pass

    def interrupt(stage: str, step: int, last: int) -> None:
        if stage == "mixture" and step == 255:
            raise InterruptedBuildError

    with pytest.raises(InterruptedBuildError):
        train_base(tmp_path / "cut", config, progress=interrupt)
    seen: list[tuple[str, int]] = []
    train_base(
        tmp_path / "cut", config, progress=lambda stage, step, last: seen.append((stage, step))
    )
    assert seen[0] == ("mixture", 251)
    facts = train_base(tmp_path / "whole", config)
    assert facts["steps"] == {"lookup": 1, "mixture": 270}
    cut, whole = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("cut", "whole")
    )
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"lookup_max_steps": 3}, "model.base.lookup_max_steps=6"),
        ({"lookup_gate": 100.0, "mixture_steps": 3}, "model.base.mixture_steps=6"),
    ],
)
def test_base_that_misses_a_gate_is_refused(
    tmp_path: Path, knobs: dict[str, float], named: str
) -> None:
    with pytest.raises(BaseTrainingError, match=named):
        train_base(tmp_path, config_of(**knobs))
    assert not (tmp_path / "model.safetensors").exists()
