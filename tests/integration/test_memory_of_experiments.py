"""Prepared experiments fit the cards that they name: activations of real shapes, counted as fakes.

What autograd keeps for the backward pass is counted on tensors without contents, with the settings
that the jobs have; weights are those of the published shapes. A card's own share is not in it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from composition import FOLDER, config_of
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen3Config, Qwen3ForCausalLM

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.students.adapters import wrap
from plan_tuning.students.loading import Student
from plan_tuning.students.log_probs import token_log_probs
from plan_tuning.students.rounding import as_float32, round_frozen
from plan_tuning.training.grpo.policy import shares_prompts
from plan_tuning.training.lightning import checkpoint_activations

# Of their config.json on the Hub: width, inner width, layers, heads, key heads, head, vocabulary.
SHAPES = {
    "qwen3_1_7b": (2048, 6144, 28, 16, 8, 128, 151_936),
    "qwen3_4b": (2560, 9728, 36, 32, 8, 128, 151_936),
    "qwen3_8b": (4096, 12_288, 36, 32, 8, 128, 151_936),
    "gemma3_1b": (1152, 6912, 26, 4, 1, 256, 262_144),
    "gemma3_12b": (3840, 15_360, 48, 16, 8, 256, 262_208),
}
ROWS, LENGTH = 4, 500

pytestmark = pytest.mark.integration

OVERHEAD = 4e9  # bytes: the head's chunk, a context, adapters and their optimizer


def counted(config: Config, layers: int, *, is_recomputed: bool) -> tuple[int, int]:
    """Bytes of all weights, and of what a pass of 2,000 tokens keeps for its backward pass."""
    name = config.model.name
    width, inner, _, heads, kv_heads, head, vocabulary = SHAPES[name]
    is_qwen = name.startswith("qwen3")
    settings: dict[str, Any] = {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head,
        "vocab_size": vocabulary, "tie_word_embeddings": name != "qwen3_8b",
    }  # fmt: skip
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    torch.set_default_dtype(torch.bfloat16)  # as the weights are published
    try:
        with torch.device("meta"):
            plain = (
                Qwen3ForCausalLM(Qwen3Config(**settings))
                if is_qwen
                else Gemma3ForCausalLM(Gemma3TextConfig(**settings))
            )
    finally:
        torch.set_default_dtype(torch.float32)
    if not config.adapter.rounds_base(config.trainer.precision):
        plain.to(torch.float32)
    with torch.device("meta"), as_float32(plain):
        model = wrap(plain, ModelConfig(name=name, path=name, family=config.model.family),
                     config.adapter)  # fmt: skip
    if config.adapter.rounds_base(config.trainer.precision):
        round_frozen(model)
    faked: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for module in model.modules():
        for found in (module._parameters, module._buffers):
            for key, tensor in found.items():
                if tensor is None:
                    continue
                if id(tensor) not in faked:
                    made = mode.fake_tensor_converter.from_meta_and_device(
                        mode, tensor.detach(), torch.device("cpu")
                    )
                    if isinstance(tensor, torch.nn.Parameter):
                        made = torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
                    faked[id(tensor)] = made, tensor
                found[key] = faked[id(tensor)][0]
    student = Student(model, None, (0,), (0,))
    if is_recomputed:
        checkpoint_activations(student)
    model.train()
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = tensor
        return tensor

    with (
        mode,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
        places = torch.arange(ROWS * (LENGTH - 1))
        token_log_probs(student.causal_lm, ids, places, torch.zeros_like(places))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return weights, sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def peak(config: Config) -> float:
    """Bytes of a job's training at its widest pass."""
    layers, is_recomputed = SHAPES[config.model.name][2], config.trainer.gradient_checkpointing
    one = counted(config, 1, is_recomputed=is_recomputed)
    two = counted(config, 2, is_recomputed=is_recomputed)
    weights, kept = (
        first + (second - first) * (layers - 1) for first, second in zip(one, two, strict=True)
    )
    if is_recomputed:  # the layer whose activations are there again
        plain = [counted(config, count, is_recomputed=False)[1] for count in (1, 2)]
        kept += plain[1] - plain[0]
    activations = kept / (ROWS * LENGTH) * config.trainer.micro_batch_tokens
    sampler = weights if isinstance(config.method, GRPOConfig) else 0  # in bfloat16, as they are
    return float(weights + sampler + activations + OVERHEAD)


@pytest.mark.parametrize(
    ("experiment", "model", "gigabytes"),
    [
        ("main", "qwen3_8b", 80),
        ("main", "gemma3_12b", 80),
        ("rewards", "gemma3_1b", 80),
        ("rewards", "qwen3_4b", 80),
        ("filtering", "qwen3_1_7b", 24),
        ("executor_and_plan", "gemma3_1b", 24),
    ],
)
def test_an_experiment_fits_the_card_that_it_names(
    experiment: str, model: str, gigabytes: int
) -> None:
    config = config_of(f"experiment={experiment}", f"model={model}")
    assert isinstance(config.method, GRPOConfig) == (experiment == "rewards")
    assert peak(config) < gigabytes * 1e9


def test_without_a_rounded_base_and_checkpoints_main_would_not_fit() -> None:
    words = ("experiment=main", "model=gemma3_12b")
    assert peak(config_of(*words, "trainer.gradient_checkpointing=false")) > 400e9
    assert peak(config_of(*words, "adapter.base_dtype=float32")) > 80e9


def test_rewards_on_the_smaller_card_that_its_header_names() -> None:
    words = ("trainer.gradient_checkpointing=true", "trainer.micro_batch_tokens=32768")
    assert " ".join(words) in (FOLDER / "rewards.yaml").read_text(encoding="utf-8")
    config = config_of("experiment=rewards", *words)
    assert peak(config) < 24e9
    assert isinstance(config.method, GRPOConfig)
    assert not shares_prompts(config.method, config.trainer)
    assert peak(config_of("experiment=rewards")) < 80e9


def test_where_prompts_are_shared_the_activations_fit() -> None:
    config = config_of("experiment=rewards")
    assert isinstance(config.method, GRPOConfig)
    assert shares_prompts(config.method, config.trainer)
