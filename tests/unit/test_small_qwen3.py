"""The written-out passes of a small Qwen3 against transformers' own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from plan_tuning.students.log_probs import token_log_probs
from plan_tuning.students.small_qwen3 import is_small_qwen3

VOCABULARY = 50


def make_model(**changes: object) -> Qwen3ForCausalLM:
    settings: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "use_sliding_window": True,
        "sliding_window": 3,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
    }
    torch.manual_seed(1)
    model = Qwen3ForCausalLM(Qwen3Config(**(settings | changes)))
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):  # all ones would hide a gain in the wrong place
            weight.data.uniform_(0.5, 1.5)
    return model.train()


def gradients(
    model: Qwen3ForCausalLM, lengths: list[int], *, written_out: bool
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probabilities of each row's second half, and the gradients of a weighted sum of them."""
    torch.manual_seed(2)
    width = max(lengths)
    ids = torch.randint(0, VOCABULARY, (len(lengths), width))
    positions = torch.cat(
        [torch.arange(n // 2, n - 1) + row * width for row, n in enumerate(lengths)]
    )
    found = token_log_probs(
        model, ids, positions, ids.flatten()[positions + 1], written_out=written_out
    ).log_probs
    (found * torch.linspace(-1, 2, len(found))).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found.detach(), grads


@pytest.mark.parametrize("lengths", [[9, 7, 4], [64], [2, 31]])
@pytest.mark.parametrize("is_tied", [True, False])
def test_values_and_gradients_are_those_of_transformers(lengths: list[int], is_tied: bool) -> None:
    model = make_model(tie_word_embeddings=is_tied)
    assert is_small_qwen3(model)
    expected, expected_grads = gradients(model, lengths, written_out=False)
    found, grads = gradients(model, lengths, written_out=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert grads.keys() == expected_grads.keys()
    for name, gradient in expected_grads.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(grads[name] / scale, gradient / scale, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.half(),
        lambda model: model.model.embed_tokens.requires_grad_(False),
        lambda model: setattr(model.model.layers[0], "gradient_checkpointing", True),
        lambda model: setattr(model.config, "attention_dropout", 0.1),
    ],
)
def test_other_models_keep_their_own_pass(change: Callable[[Qwen3ForCausalLM], object]) -> None:
    model = make_model()
    change(model)
    assert not is_small_qwen3(model)


def test_grouped_keys_and_large_models_keep_their_own_pass() -> None:
    assert not is_small_qwen3(make_model(num_key_value_heads=1))
    assert not is_small_qwen3(make_model(vocab_size=100_000))
