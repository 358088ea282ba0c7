"""Operations of passes, against torch's own counter; completions behind prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from plan_tuning.job_record import Compute
from plan_tuning.students.adapters import quiet_peft
from plan_tuning.students.flops import ModelSize, Passes

LENGTH, ROWS = 24, 2
# The counter multiplies every query with every key of a row, ours only those that it may see.
ALL_PAIRS = ROWS * LENGTH**2


def model(*, is_lora: bool = False) -> Any:
    torch.manual_seed(0)
    causal_lm: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=8,
            num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager",
        )
    )  # fmt: skip
    if is_lora:
        from peft import LoraConfig, get_peft_model

        kind = LoraConfig(r=4, target_modules="all-linear")
        with quiet_peft():
            causal_lm = get_peft_model(causal_lm, kind).get_base_model()
    return causal_lm


def counted(causal_lm: Any, *, is_trained: bool) -> float:
    """What torch counts of a pass with all tokens projected."""
    ids = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) % 96
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(is_trained):
        logits = causal_lm(input_ids=ids, use_cache=False).logits
        if is_trained:
            logits.sum().backward()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("is_lora", [False, True])
def test_operations_are_those_that_torch_counts_within_a_percent(is_lora: bool) -> None:
    causal_lm = model(is_lora=is_lora)
    size, tokens = ModelSize.of(causal_lm), ROWS * LENGTH
    everything = Passes(tokens, tokens, ALL_PAIRS)
    read, trained = (counted(causal_lm, is_trained=is_trained) for is_trained in (False, True))
    assert size.reading(everything) == pytest.approx(read, rel=0.01)
    # The first layer of an adapter's model passes no gradient on to a frozen embedding.
    assert size.training(everything) == pytest.approx(trained, rel=0.03 if is_lora else 0.01)


def test_completions_behind_a_prompt_are_read_as_one_row_each() -> None:
    """Alone behind its prompt a completion costs what a row of both does."""
    assert Passes.of_completions([5], [(5, 3)]) == Passes.of_rows([(8, 3)])
    shared = Passes.of_completions([5], [(5, 3)] * 4)
    copies = Passes.of_rows([(8, 3)] * 4)
    assert copies.tokens - shared.tokens == 3 * 5
    assert copies.pairs - shared.pairs == 3 * 15


def test_what_is_unknown_of_a_part_is_unknown_of_the_sum() -> None:
    one, other = Compute(1, 2, 3, 4.0, 0.5), Compute(10, flops=None)
    assert one + one == Compute(2, 4, 6, 8.0, 1.0)
    assert one + other == Compute(11, 2, 3, None, 0.5)


def test_a_byte_of_packed_weights_holds_two() -> None:
    causal_lm = model()
    plain = ModelSize.of(causal_lm).layers_weights
    layer = causal_lm.model.layers[0].mlp.up_proj
    values = torch.zeros(layer.weight.numel() // 2, 1, dtype=torch.uint8)
    packed: Any = torch.nn.Parameter(values, requires_grad=False)
    packed.quant_state = None  # as bitsandbytes marks its weights
    layer.weight = packed
    assert ModelSize.of(causal_lm).layers_weights == plain
