"""Linear layers by oneDNN: the same products, for large float32 layers on a CPU and while asked."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from plan_tuning.students import onednn
from plan_tuning.students.generation.native_engine import generate
from plan_tuning.students.loading import Student
from plan_tuning.students.tiny import build_tokenizer

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not onednn._is_built(), reason="this PyTorch is built without oneDNN"),
]


def layers(dtype: torch.dtype = torch.float32) -> torch.nn.ModuleDict:
    torch.manual_seed(0)
    return torch.nn.ModuleDict({
        "large": torch.nn.Linear(300, 400, dtype=dtype),
        "plain": torch.nn.Linear(300, 400, bias=False, dtype=dtype),
        "small": torch.nn.Linear(30, 40, dtype=dtype),
    })  # fmt: skip


@pytest.mark.parametrize("name", ["large", "plain", "small"])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5)])
def test_products_are_those_of_float64(name: str, shape: tuple[int, ...]) -> None:
    model = layers()
    layer: Any = model[name]
    states = torch.randn(*shape, layer.in_features)
    exact = torch.nn.Linear.forward(layer.double(), states.double())
    layer.float()
    with torch.inference_mode(), onednn.linears(model):
        found = layer(states)
    assert found.shape == exact.shape
    np.testing.assert_allclose(found, exact.detach(), rtol=1e-4, atol=1e-5)


def product_of_wrong_width(model: torch.nn.ModuleDict) -> None:
    with torch.inference_mode(), onednn.linears(model):
        model["large"](torch.zeros(2, 7))


def test_layers_are_changed_for_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layers()
    with torch.inference_mode(), onednn.linears(model):
        assert [name for name in model if "forward" in vars(model[name])] == ["large", "plain"]
    assert not [name for name in model if "forward" in vars(model[name])]
    with pytest.raises(RuntimeError):
        product_of_wrong_width(model)
    assert not [name for name in model if "forward" in vars(model[name])]
    short = layers(torch.bfloat16)
    with onednn.linears(short):
        assert not [name for name in short if "forward" in vars(short[name])]
    monkeypatch.setattr(onednn, "_is_built", lambda: False)
    with onednn.linears(model):
        assert not [name for name in model if "forward" in vars(model[name])]


@pytest.mark.parametrize("name", ["large", "plain", "small"])
@pytest.mark.parametrize("trained", [("weight", "states"), ("weight",), ("states",)])
def test_gradients_are_those_of_float64(
    name: str, trained: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "MIN_PRODUCTS", 0)
    model = layers()
    layer: Any = model[name]
    layer.weight.requires_grad_("weight" in trained)
    states = torch.randn(3, 7, layer.in_features, requires_grad="states" in trained)
    asked = torch.randn(3, 7, layer.out_features)
    exact = copy.deepcopy(layer).double()
    wide = states.detach().double().requires_grad_("states" in trained)
    exact(wide).backward(asked.double())
    with onednn.trained_linears(model):
        product = layer(states)
        product.backward(asked)
    assert "_Linear" in type(product.grad_fn).__name__
    pairs = [(states, wide), *zip(layer.parameters(), exact.parameters(), strict=True)]
    for ours, theirs in pairs:
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            np.testing.assert_allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_products_of_few_rows_and_other_types_stay_with_torch() -> None:
    model = layers()
    layer: Any = model["large"]
    with onednn.trained_linears(model):
        rows = onednn.MIN_PRODUCTS // layer.weight.numel()
        assert "_Linear" not in type(layer(torch.randn(rows, 300)).grad_fn).__name__
        assert "_Linear" in type(layer(torch.randn(rows + 1, 300)).grad_fn).__name__
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(torch.randn(rows + 1, 300)).dtype == torch.bfloat16
        with torch.inference_mode(), onednn.linears(model):  # answers at a validation
            assert layer.forward.func is onednn._written
        assert layer.forward.func is onednn._trained
    assert not [name for name in model if "forward" in vars(model[name])]


def test_a_student_writes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=1024, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, pad_token_id=0,
    )  # fmt: skip
    student = Student(Qwen3ForCausalLM(config).eval(), build_tokenizer("qwen3"), (2,), (2,))
    prompts = [[5, 6, 7, 8], [9, 10], [11] * 20]
    common: dict[str, Any] = {"keys": [(str(i), 0) for i in range(3)], "max_new_tokens": 24,
                              "temperature": 1.0, "return_log_probs": True}  # fmt: skip
    found = generate(student, prompts, **common)
    monkeypatch.setattr(onednn, "_is_built", lambda: False)
    for one, two in zip(found, generate(student, prompts, **common), strict=True):
        assert one.token_ids == two.token_ids
        np.testing.assert_allclose(one.log_probs, two.log_probs, atol=2e-5)
