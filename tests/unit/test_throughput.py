"""Arithmetic of a step: dense, adapter, attention."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from plan_tuning.students.flops import ModelSize, Passes
from plan_tuning.training.sft.metrics import (
    pass_overhead,
    peak_flops,
    utilisation,
)

SIZES = {"vocab_size": 50, "num_hidden_layers": 1, "num_attention_heads": 2}
STEP = Passes(tokens=10, pairs=10 * 100 / 2)  # in rows of 100 tokens


def test_a_step_costs_six_operations_a_trained_weight_and_four_a_frozen_one() -> None:
    none, full, frozen = (
        ModelSize(weights, trained, 0, 0, layers=2, width=8)
        for weights, trained in ((0, 0), (50, 50), (50, 0))
    )
    attention = none.training(STEP)
    assert attention == 10 * 6 * 2 * 8 * 100
    assert full.training(STEP) - attention == 10 * 6 * 50
    assert frozen.training(STEP) - attention == 10 * 4 * 50
    assert none.reading(STEP) == attention / 3
    assert full.reading(STEP) - none.reading(STEP) == 10 * 2 * 50


@pytest.mark.parametrize(
    ("card", "tera"), [("NVIDIA H200", 989), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA L40S", 362)]
)
def test_cards_are_found_by_their_names(card: str, tera: float) -> None:
    assert peak_flops(card) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize("is_tied", [True, False])
def test_embeddings_that_are_looked_up_do_not_count(is_tied: bool) -> None:
    config = LlamaConfig(
        vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=is_tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    weights, head = 4 * 8 * 8 + 3 * 8 * 16, 50 * 8
    flops = 20 * (6 * weights + 6 * 1 * 8 * 10)
    flops += 6 * head * 7  # only supervised tokens are projected onto the vocabulary
    step = {"tokens": 20, "supervised": 7, "rows": 2, "seconds": 0.5}
    found = utilisation(model, "NVIDIA H200", **step)
    assert found == pytest.approx(flops / 0.5 / 989e12)
    assert utilisation(model, "unknown", **step) is None


def test_a_pass_costs_a_small_model_more_tokens() -> None:
    small, large = (
        LlamaForCausalLM(LlamaConfig(**SIZES, hidden_size=width, intermediate_size=2 * width))
        for width in (16, 256)
    )
    for device in ("cpu", "cuda"):
        assert pass_overhead(small, device) > pass_overhead(large, device) > 0
    assert pass_overhead(large, "cuda") > pass_overhead(large, "cpu")


def test_the_grpo_benchmark_says_what_a_card_was_used_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``--work gpu`` prints after its measurement, of a card that is there by name only."""
    folder = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    work = __import__("grpo_work")
    monkeypatch.setitem(sys.modules, "grpo_work", work)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")
    causal_lm, _ = work.build("plain")
    size = work.WORKS["plain"]
    found = work.card_shares(causal_lm, size, {"rollout": 0.1, "train": 0.2})
    rows = work.PROMPTS * work.GROUP
    expected = utilisation(
        causal_lm,
        "NVIDIA H100 80GB HBM3",
        tokens=work.PROMPTS * (size.prompt_tokens + work.GROUP * size.new_tokens),
        supervised=rows * size.new_tokens,
        rows=rows,
        seconds=0.2,
    )
    assert found["training_mfu"] == pytest.approx(expected)
    assert 0.0 < found["bandwidth_share"] < 1.0
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a card of tomorrow")
    assert work.card_shares(causal_lm, size, {"rollout": 0.1, "train": 0.2}) == {}
