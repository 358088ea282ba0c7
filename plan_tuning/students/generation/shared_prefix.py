"""Attention of rows that share prompts: a prompt's keys are read once for all of its samples.

Exact: one softmax runs over prompt and own tokens, and scores are summed up and kept in float32 at
least, as in the attention kernels of PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from plan_tuning.students.generation.cohorts import Cohort
from plan_tuning.students.packed_rows import attending

ATTENTION = "plan_tuning_shared_prefix"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
"""Model types whose attention takes nothing beyond what :func:`shared_prefix_attention` reads."""

_SHORT = (torch.bfloat16, torch.float16)
# torch.bmm gives float32 out of shorter floats since torch 2.8, on CUDA alone.
_GIVES_FLOAT32 = "dtype" in torch.ops.aten.bmm.overloads()


class CohortCache(Cache):
    """What a model's forward pass is given: the cohorts whose rows it reads, one after another."""

    def __init__(self, cohorts: Sequence[Cohort]) -> None:
        super().__init__(layers=[])
        self.cohorts = cohorts

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hand the newest keys and values on: each cohort appends its own where it attends."""
        return key_states, value_states


def shared_prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    shared_prefix: CohortCache,
    softcap: float | None = None,
    **ignored: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from one new token a row to its prompt and to its own tokens.

    Args:
        module: the attention layer.
        query: (B, H, 1, D).
        key: (B, K, 1, D) of the new token.
        value: as ``key``.
        attention_mask: not read; the cohorts know what is padding.
        scaling: of the attention scores.
        shared_prefix: the cohorts.
        softcap: bound of the attention scores (Gemma-2).
        ignored: settings of other implementations.

    Returns:
        (B, 1, H, D) and None.
    """
    cohorts, index = shared_prefix.cohorts, module.layer_idx
    if len(cohorts) == 1:
        return attend(cohorts[0], index, query, key, value, scaling, softcap), None
    sizes = [len(cohort) for cohort in cohorts]
    parts = zip(cohorts, query.split(sizes), key.split(sizes), value.split(sizes), strict=True)
    return torch.cat([attend(part[0], index, *part[1:], scaling, softcap) for part in parts]), None


def attend(
    cohort: Cohort,
    index: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    softcap: float | None = None,
) -> torch.Tensor:
    """Attend from one new token of each row of a cohort.

    Autocast is kept out: it would round the scores of float32 queries, and where it computes,
    queries and keys come out of their rotation in float32 and values in bfloat16.

    Args:
        cohort: which appends the token.
        index: of the layer.
        query: (B, H, 1, D).
        key: (B, K, 1, D).
        value: as ``key``.
        scaling: of the attention scores.
        softcap: bound of the attention scores.

    Returns:
        (B, 1, H, D).
    """
    with torch.autocast(query.device.type, enabled=False):
        return _attend(cohort, index, query, key, value, scaling, softcap)


def _attend(
    cohort: Cohort,
    index: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    layer = cohort.layers[index]
    keys, values = cohort.append(index, key, value)  # (B, K, t, D)
    first_slot, first_new = cohort.visible(layer)
    rows, heads, _, size = query.shape
    kv_heads = key.shape[1]
    prompt_keys, prompt_values = (states[:, :, first_slot:] for states in layer.prompt)
    slots = prompt_keys.shape[2]
    # A short query would be rounded once more, so its scores are scaled.
    asked, behind = (query, scaling) if query.dtype in _SHORT else (query * scaling, 1.0)
    asked = asked.view(rows, kv_heads, heads // kv_heads, size)  # (B, K, G, D)
    scores = product(asked, keys[:, :, first_new:].transpose(-1, -2))  # (B, K, G, t)
    scores = _bounded(scores, behind, softcap)
    if slots:  # a sliding window may have left the prompts behind
        on_prompt = product(cohort.by_prompt(asked), prompt_keys.transpose(-1, -2))
        on_prompt = _bounded(on_prompt, behind, softcap)
        if (hidden := cohort.hidden_prompts(slots)) is not None:
            # After the cap, which would bring minus infinity back to a finite score.
            on_prompt = on_prompt.masked_fill(hidden[:, None, None], float("-inf"))
        scores = torch.cat([cohort.by_row(on_prompt), scores], dim=-1)  # (B, K, G, T + t)
    if (unseen := cohort.hidden(layer)) is not None:
        scores = scores.masked_fill(unseen[:, None, None], float("-inf"))
    total = None
    if (
        value.dtype in _SHORT
    ):  # the largest weight is 1 and not rounded; its share comes out of the division
        wide = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
        total = wide.sum(dim=-1, keepdim=True)
        weights = wide.to(value.dtype)
    else:
        weights = torch.softmax(scores, dim=-1)
    output = product(weights[..., slots:], values[:, :, first_new:])  # (B, K, G, D)
    if slots:
        on_prompt = product(cohort.by_prompt(weights[..., :slots]), prompt_values)
        output = output + cohort.by_row(on_prompt)
    if total is not None:
        output = output / total
    return output.to(query.dtype).reshape(rows, 1, heads, size)


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply matrices (P, K, M, N) and (P, K, N, L); shorter floats give float32.

    A score that is rounded to bfloat16 is wrong by up to 0.4 %, which at scores of 40 moves a
    weight by a sixth. Where no kernel returns its sums in float32, or one factor is longer than the
    other, the factors are widened.
    """
    if left.dtype not in _SHORT and left.dtype == right.dtype:
        return left @ right
    if left.is_cuda and left.dtype == right.dtype and _GIVES_FLOAT32:
        found = torch.bmm(left.flatten(0, 1), right.flatten(0, 1), out_dtype=torch.float32)
        return found.unflatten(0, left.shape[:2])
    return left.float() @ right.float()


def _bounded(scores: torch.Tensor, scaling: float, softcap: float | None) -> torch.Tensor:
    """Scale and bound scores; before any masking, since a bounded -inf would be seen again."""
    if scaling != 1.0:
        scores = scores * scaling
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


AttentionInterface.register(ATTENTION, shared_prefix_attention)


@contextmanager
def shared_attention(causal_lm: Any) -> Iterator[None]:
    """Let a model's layers attend by :func:`shared_prefix_attention`."""
    with attending(causal_lm, ATTENTION):
        yield
