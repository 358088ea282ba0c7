"""Decoding in families beyond the tiny presets: equal to forward passes without a cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from plan_tuning.students.generation.native_engine import generate
from plan_tuning.students.generation.shared_prefix import FAMILIES
from plan_tuning.students.loading import Student
from plan_tuning.students.tiny import build_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

SHARED: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = 16  # shorter than the longest prompts
# A cap as small as 0.5 leaves padding that is masked before it a fair share of the attention.
MODELS = {
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **SHARED, head_dim=16, sliding_window=WINDOW, query_pre_attn_scalar=1,
            attn_logit_softcapping=0.5, final_logit_softcapping=5.0,
            attn_implementation="eager",
        )
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHARED, sliding_window=WINDOW)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHARED)),
}  # fmt: skip


@pytest.mark.parametrize("family", MODELS)
def test_log_probs_of_a_padded_batch_are_those_of_forward_passes(family: str) -> None:
    torch.manual_seed(0)
    model = MODELS[family]().eval()
    assert model.config.model_type in FAMILIES
    student = Student(model, build_tokenizer("qwen3"), (2,), (2,))
    draw = np.random.default_rng(0)
    prompts = [draw.integers(10, 1000, size).tolist() for size in (3, 9, 30, 40)]
    knobs = {"max_new_tokens": 24, "temperature": 1.0, "seed": 5}
    keys = [(f"p{i}", k) for i in range(len(prompts)) for k in range(2)]
    doubled = [prompt for prompt in prompts for _ in range(2)]
    found = generate(student, doubled, keys=keys, return_log_probs=True, **knobs)
    for prompt, completion in zip(doubled, found, strict=True):
        ids = torch.tensor([[*prompt, *completion.token_ids]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        tokens = torch.tensor(completion.token_ids)
        expected = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.log_probs), expected, atol=5e-5, rtol=0)
