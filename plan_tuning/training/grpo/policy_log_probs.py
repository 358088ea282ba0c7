"""Completions to log-probabilities under a policy, with the prompt of a group read only once.

A prompt's keys and values are computed with gradients, repeated for its completions and continued,
which gives exactly what separate passes would give and costs P + G * R tokens instead of
G * (P + R).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from plan_tuning.students.loading import Student
from plan_tuning.students.log_probs import project
from plan_tuning.training.grpo.rollout import PolicyBatch

CHUNK_CELLS = 1 << 24  # tokens x vocabulary that are held at once: 64 MiB in float32


@dataclass(frozen=True, slots=True)
class PolicyScores:
    """Scores of the N completion tokens of a pass, each (N,)."""

    log_probs: torch.Tensor
    entropy: torch.Tensor | None = None  # nats; with a gradient where that was asked for


def completion_scores(
    causal_lm: Any,
    batch: PolicyBatch,
    *,
    temperature: float,
    with_entropy: bool = False,
    entropy_has_gradient: bool = False,
    chunk_cells: int = CHUNK_CELLS,
) -> PolicyScores:
    """Score the tokens of completions at the sampling temperature.

    Args:
        causal_lm: a causal language model of transformers.
        batch: what to score; on the model's device.
        temperature: logits are divided by it.
        with_entropy: also return the entropy of each token's distribution.
        entropy_has_gradient: for an entropy bonus.
        chunk_cells: logits that are held at once; more are computed again in the backward pass.

    Returns:
        Scores in float32.
    """
    states = _shared(causal_lm, batch) if batch.is_shared else _separate(causal_lm, batch)  # (N, H)
    targets = batch.completion_ids.flatten()[batch.cells]  # (N,)
    vocabulary = causal_lm.config.get_text_config().vocab_size
    size = max(1, chunk_cells // vocabulary)
    chunks = list(zip(states.split(size), targets.split(size), strict=True))
    again = torch.is_grad_enabled() and len(chunks) > 1
    log_probs, entropies = [], []
    for part, tokens in chunks:
        arguments = (causal_lm, part, tokens, temperature, with_entropy, entropy_has_gradient)
        if again:
            found, entropy = checkpoint(_score, *arguments, use_reentrant=False)
        else:
            found, entropy = _score(*arguments)
        log_probs.append(found)
        entropies.append(entropy)
    return PolicyScores(torch.cat(log_probs), torch.cat(entropies) if with_entropy else None)


def _score(
    causal_lm: Any,
    states: torch.Tensor,
    tokens: torch.Tensor,
    temperature: float,
    with_entropy: bool,
    entropy_has_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    logits = project(causal_lm, states).float()  # (chunk, V)
    if temperature != 1.0:
        logits = logits / temperature
    if not with_entropy:
        return -torch.nn.functional.cross_entropy(logits, tokens, reduction="none"), None
    normalised = logits.log_softmax(dim=-1)  # (chunk, V)
    with contextlib.nullcontext() if entropy_has_gradient else torch.no_grad():
        entropy = -(normalised.exp() * normalised).sum(dim=-1)
    return normalised.gather(-1, tokens[:, None])[:, 0], entropy


def _separate(causal_lm: Any, batch: PolicyBatch) -> torch.Tensor:
    """Read every completion behind a copy of its prompt; states (N, H) before each token."""
    mask = batch.prompt_mask[batch.origin]  # (B, S)
    inputs = torch.cat([batch.prompt_ids[batch.origin], batch.completion_ids[:, :-1]], dim=1)
    mask = torch.cat([mask, mask.new_ones(len(mask), batch.completion_ids.shape[1] - 1)], dim=1)
    output = causal_lm.get_decoder()(
        input_ids=inputs,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
    )
    states: torch.Tensor = output.last_hidden_state[:, batch.prompt_ids.shape[1] - 1 :]  # (B, T, H)
    return states.flatten(0, 1)[batch.cells]


def _shared(causal_lm: Any, batch: PolicyBatch) -> torch.Tensor:
    """Read every prompt once and continue it with its completions; states (N, H)."""
    from transformers import DynamicCache

    mask = batch.prompt_mask
    cache = DynamicCache(config=causal_lm.config)
    output = causal_lm.get_decoder()(
        input_ids=batch.prompt_ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    first = output.last_hidden_state[:, -1]  # (P, H): it predicts the first token
    parts = []
    for begin, end, width in batch.buckets:
        rows = slice(begin, end)
        origin = batch.origin[rows]
        states = first[origin][:, None]  # (R, 1, H)
        if width > 1:
            rest = batch.completion_ids[rows, : width - 1]
            states = torch.cat([states, _continue(causal_lm, cache, mask, origin, rest)], dim=1)
        is_real = torch.arange(width, device=mask.device)[None, :] < batch.lengths[rows, None]
        parts.append(states[is_real])
    return torch.cat(parts)


def _continue(
    causal_lm: Any, cache: Any, mask: torch.Tensor, origin: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    """Read ``ids`` (R, T) behind the cached prompts ``origin`` (R,); states (R, T, H)."""
    own = copy.copy(cache)  # the cached tensors stay shared, and stay as they are
    own.layers = [copy.copy(layer) for layer in cache.layers]
    own.batch_select_indices(origin)
    mask = mask[origin]
    steps = torch.arange(ids.shape[1], device=ids.device)
    output = causal_lm.get_decoder()(
        input_ids=ids,
        attention_mask=torch.cat([mask, mask.new_ones(ids.shape)], dim=1),
        position_ids=mask.sum(dim=1, keepdim=True) + steps[None, :],
        past_key_values=own,
        use_cache=True,
    )
    states: torch.Tensor = output.last_hidden_state
    return states


@contextlib.contextmanager
def reference_policy(student: Student, reference: Any | None) -> Iterator[Any]:
    """Give the model that training began from.

    Args:
        student: with an adapter: its base is the reference, the adapter is off meanwhile.
        reference: a frozen copy, where all weights are trained.
    """
    if reference is not None:
        yield reference
        return
    with student.model.disable_adapter():
        yield student.causal_lm
