"""GRPO with other parts than the default ones: sampler, memory, encoder; on tiny students."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import AdapterConfig
from plan_tuning.config.reward import PlanRewardConfig, RewardConfig
from plan_tuning.config.training import PromptConfig, TrainerConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.rewards.plan_cases import Means
from plan_tuning.students.loading import StudentError, load_student, without_bars
from plan_tuning.students.sentence_encoder import load_encoder
from plan_tuning.students.text_classifier import load_classifier
from plan_tuning.students.tiny import build_tokenizer
from plan_tuning.training.grpo.fit import GRPOSettings, train_grpo
from plan_tuning.training.grpo.reward import RewardWorker
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.logs import CurveFile

from .grpo_world import MODEL, PROBLEMS, metrics, weights

pytestmark = pytest.mark.integration


def train(
    folder: Path,
    start: Path,
    *,
    adapter: str = "full",
    reward: RewardConfig | None = None,
    trainer: dict[str, Any] | None = None,
    **method: Any,
) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "steps": 2,
        "prompts_per_step": 2,
        "group_size": 4,
        "max_new_tokens": 12,
        "learning_rate": 2e-3,
        "scheduler": "constant",
        "log_completions_every_n_steps": 1,
    }
    hardware: dict[str, Any] = {"precision": "fp32", "accelerator": "cpu", "progress": False}
    folder.mkdir(parents=True, exist_ok=True)
    with Grader() as grader:
        return train_grpo(
            TrainingRun(folder, folder, [CurveFile(folder / "metrics.csv")]),
            GRPOSettings(
                model=MODEL,
                adapter=AdapterConfig(name=adapter, rank=4),
                trainer=TrainerConfig(**(hardware | (trainer or {}))),
                method=GRPOConfig(**(settings | method)),
                reward=reward or RewardConfig(),
                prompt=PromptConfig(),
                evaluation=EvaluationConfig(max_new_tokens=12),
                seed=1,
            ),
            start,
            PROBLEMS,
            grader,
        )


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_recomputed_layers_give_the_same_step(
    start: Path, tmp_path: Path, adapter: str, beta: float
) -> None:
    """One step: later ones would amplify rounding by sampling."""
    settings: dict[str, Any] = {"adapter": adapter, "beta": beta, "steps": 1}
    for name, is_recomputed in (("kept", False), ("recomputed", True)):
        trainer = {"gradient_checkpointing": is_recomputed}
        train(tmp_path / name, start, trainer=trainer, **settings)
    first, second = (metrics(tmp_path / name)[0] for name in ("kept", "recomputed"))
    assert first["train/grad_norm"] > 0
    for key in ("train/loss", "train/grad_norm", "train/entropy", "train/reward/total"):
        assert first[key] == pytest.approx(second[key], rel=1e-4, abs=1e-6), key
    kept, recomputed = weights(tmp_path / "kept"), weights(tmp_path / "recomputed")
    assert kept.keys() == recomputed.keys()
    # Adam's first update is the sign of the gradient times the rate: where that is about 0,
    # rounding decides.
    close = [torch.isclose(kept[name], recomputed[name], atol=1e-5).float() for name in kept]
    assert float(torch.cat([part.flatten() for part in close]).mean()) > 0.99


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_rollouts_in_bfloat16_are_near_the_float32_policy(
    start: Path, tmp_path: Path, adapter: str
) -> None:
    settings = {"adapter": adapter, "steps": 3, "importance_cap": 2.0}
    for name in ("float32", "bfloat16"):
        train(tmp_path / name, start, sampler_dtype=name, **settings)
    exact, rounded = (metrics(tmp_path / name) for name in ("float32", "bfloat16"))
    assert max(row["train/sampler_gap"] for row in exact) < 1e-3
    assert all(1e-3 < row["train/sampler_gap"] < 1.0 for row in rounded)
    assert all(row["train/importance"] == pytest.approx(1.0, abs=0.05) for row in rounded)
    trained = load_student(tmp_path / "bfloat16", MODEL).model
    assert {p.dtype for p in trained.parameters()} == {torch.float32}, "masters stay as they are"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder as transformers has them, with random weights."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = build_tokenizer("qwen3")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with without_bars():
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_encoder_gives_one_vector_a_text_whatever_it_is_read_with(encoder: Path) -> None:
    encode: Callable[..., Any] = load_encoder(encoder)
    alone = encode(["add both numbers"])
    together = encode(["take one from the other and say what is left", "add both numbers"])
    assert together.shape == (2, 32)
    np.testing.assert_allclose(alone[0], together[1], atol=1e-5)
    fresh = load_encoder(encoder)(["a longer text before it, for padding", "add both numbers"])
    np.testing.assert_allclose(alone[0], fresh[1], atol=1e-5)


def test_plans_are_rewarded_by_an_encoder(start: Path, encoder: Path, tmp_path: Path) -> None:
    plan = PlanRewardConfig(weight=1.0, kind="embedding", encoder=str(encoder), guards=[])
    reward = RewardConfig(answer_weight=0.0, plan=plan)
    train(tmp_path / "s", start, reward=reward)
    text = (tmp_path / "s" / "completions.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert all(0.0 <= row["reward_plan"] <= 1.0 for row in rows)
    assert {row["reward_correct"] for row in rows} == {0.0}, "reported without a weight"
    with (
        Grader() as grader,
        RewardWorker(
            reward, grader, max_new_tokens=9, means=Means(embed=load_encoder(encoder))
        ) as worker,
    ):
        assert worker.weights == {"plan": 1.0}


def test_a_classifier_s_probability_is_that_of_the_label_it_names(tmp_path: Path) -> None:
    """ROSCOE's models of contradictions and grammar: random weights, whose softmax is compared."""
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = build_tokenizer("qwen3")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, pad_token_id=tokenizer.pad_token_id,
        id2label={0: "entailment", 1: "neutral", 2: "contradiction"},
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    with without_bars():
        model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    contradicts = load_classifier(tmp_path, "contradiction")
    pairs = [("add both numbers", "take one away"), ("halve it", "add all that there is to it")]
    with torch.no_grad():
        logits = [model(**tokenizer(*pair, return_tensors="pt")).logits for pair in pairs]
    alone = [float(one.softmax(-1)[0, 2]) for one in logits]
    assert contradicts(pairs) == pytest.approx(alone, abs=1e-5)
    assert len(contradicts([pairs[0]] * 40)) == 40
    with pytest.raises(StudentError, match="one has to be called 'acceptable'"):
        load_classifier(tmp_path, "acceptable")
