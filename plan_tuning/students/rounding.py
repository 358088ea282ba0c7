"""Frozen weights stored as a bfloat16 pass reads them: the same results from a third of the bytes.

Autocast rounds the weights of linear layers to bfloat16 in every pass. A frozen one is rounded anew
each time, and the rounded copy is kept until the backward pass has used it: 6 bytes a parameter.
Rounded once and stored so, the products have the same operands, and autocast has nothing to copy.
Norms and whatever else autocast leaves alone stay in float32. Embeddings that were published in
bfloat16 stay in it, and what they look up is float32 as before. So losses and gradients are equal
to the bit to those of a float32 base, and no fingerprint knows of it.

Rollouts are another matter: they come from the base with the adapter merged into it, and a start
that took up an earlier adapter has digits that bfloat16 drops. So under GRPO a base in float32
holds the rounded values too, and rollouts do not depend on how it is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_SCALE = "scalar_embed_scale"  # of Gemma-3's embeddings, which transformers rounds to their dtype


def linear_layers(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """All linear layers, those of GPT-2's kind among them."""
    from transformers.pytorch_utils import Conv1D

    for module in model.modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            yield module


@contextmanager
def as_float32(loaded: Any) -> Iterator[None]:
    """Let linear layers look like float32 while adapters are made, which take up their dtype.

    New adapter weights are drawn in the precision of the layer beside them; drawn in bfloat16 they
    would begin as others than beside a float32 base. Nothing is copied.
    """
    kept = {}
    for module in linear_layers(loaded):
        weight = module.weight
        if isinstance(weight, torch.nn.Parameter) and weight.dtype != torch.float32:
            kept[weight] = weight.data
            weight.data = weight.data.new_zeros((), dtype=torch.float32).expand(weight.shape)
    try:
        yield
    finally:
        for weight, data in kept.items():
            weight.data = data


def round_frozen(model: Any, *, is_wide: bool = False) -> None:
    """Let frozen weights hold what a bfloat16 pass reads of them, in place.

    Args:
        model: a peft model; its embeddings are in bfloat16 where nothing is lost in it.
        is_wide: the rounded values are stored in float32.
    """
    plain = model.get_base_model()
    embedding = plain.get_input_embeddings()
    is_known = type(embedding) is torch.nn.Embedding or hasattr(embedding, _SCALE)
    is_looked_up = (
        is_known and embedding.weight.dtype == torch.bfloat16 and not embedding.weight.requires_grad
    )
    rounded = {
        parameter
        for module in linear_layers(model)
        for parameter in module.parameters(recurse=False)
        if not parameter.requires_grad and (parameter is not embedding.weight or is_looked_up)
    }
    if is_looked_up:
        rounded.add(embedding.weight)
        embedding.register_forward_hook(_look_up)
    for parameter in model.parameters():
        if parameter.is_floating_point() and not parameter.requires_grad:
            kind = torch.bfloat16 if parameter in rounded else torch.float32
            parameter.data = parameter.data.to(kind)
            if is_wide:
                parameter.data = parameter.data.float()


def _look_up(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor | None:
    """Scale embeddings in float32, as beside a float32 base; outside autocast nothing changes.

    A copy of the model for rollouts is in one precision throughout and knows no autocast.
    """
    if not torch.is_autocast_enabled(output.device.type):
        return None
    rows = torch.nn.functional.embedding(inputs[0], module.weight)  # (B, T, H)
    return rows.float() * getattr(module, _SCALE, 1.0)
