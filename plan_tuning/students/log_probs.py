"""Log-probabilities of given tokens: one chunked computation for every training and evaluation.

Only the positions that are asked for are projected onto the vocabulary, a chunk at a time, and a
chunk's logits are computed again in the backward pass, so no tensor exceeds chunk x vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from plan_tuning.students.footprint import LOGITS_AT_ONCE, MIN_CHUNK


class ProjectionError(ValueError):
    """A model whose logits are not what its hidden states and output layer say."""


@dataclass(frozen=True, slots=True)
class TokenLogProbs:
    """Log-probabilities of N tokens and what else was asked for, each (N,)."""

    log_probs: torch.Tensor
    entropy: torch.Tensor | None = None  # of the whole distribution, in nats
    is_top: torch.Tensor | None = None  # whether the token is the most probable one


def token_log_probs(
    causal_lm: Any,
    input_ids: torch.Tensor,
    positions: torch.Tensor,
    targets: torch.Tensor,
    *,
    position_ids: torch.Tensor | None = None,
    row_lengths: Sequence[int] | None = None,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
    with_entropy: bool = False,
    with_top: bool = False,
) -> TokenLogProbs:
    """Compute the log-probabilities of tokens that follow in texts padded on the right.

    Args:
        causal_lm: a causal language model of transformers (inside a peft model: its base model).
        input_ids: (B, T).
        positions: (N,) indices into the flattened (B * T) hidden states.
        targets: (N,) the tokens that follow there.
        position_ids: (B, T); counted from 0 where absent.
        row_lengths: of rows packed into one sequence, inside
            :func:`plan_tuning.students.packed_rows.rows_apart`.
        temperature: logits are divided by it.
        chunk_tokens: positions that are projected at once; None: 1024, or as many as make
            :func:`chunk_logits` where that is more.
        with_entropy: also return the entropy; it carries no gradient.
        with_top: also return whether each token is the most probable one.

    Returns:
        All in float32.
    """
    given = {"position_ids": position_ids, "row_lengths": row_lengths}
    extra = {name: value for name, value in given.items() if value is not None}
    output = causal_lm.get_decoder()(input_ids=input_ids, use_cache=False, **extra)
    states = output.last_hidden_state.flatten(0, 1)[positions]  # (N, H)
    logits = chunk_logits(states.device)
    size = chunk_tokens or max(MIN_CHUNK, tokens_of_logits(causal_lm, logits))
    return log_probs_of_states(
        causal_lm,
        states,
        targets,
        chunk_tokens=size,
        temperature=temperature,
        with_entropy=with_entropy,
        with_top=with_top,
    )


def chunk_logits(device: torch.device) -> int:
    """How many logits, tokens x vocabulary, a device holds at once.

    Each chunk reads the output layer anew. 2**24 are 64 MiB in float32, as much as a CPU's cache
    likes, and 64 tokens of a vocabulary of 262,144, which leaves a card's matrix units idle.
    """
    return LOGITS_AT_ONCE.get(device.type, LOGITS_AT_ONCE["cpu"])


def tokens_of_logits(causal_lm: Any, logits: int) -> int:
    """How many tokens have no more than so many logits; at least one."""
    return max(1, logits // int(causal_lm.config.get_text_config().vocab_size))


def log_probs_of_states(
    causal_lm: Any,
    states: torch.Tensor,
    targets: torch.Tensor,
    *,
    chunk_tokens: int,
    temperature: float = 1.0,
    with_entropy: bool = False,
    entropy_has_gradient: bool = False,
    with_top: bool = False,
) -> TokenLogProbs:
    """Compute the log-probabilities of tokens from the hidden states in front of them.

    Args:
        causal_lm: the model that the states are of.
        states: (N, H).
        targets: (N,) the token behind each state.
        chunk_tokens: states that are projected at once.
        temperature: logits are divided by it.
        with_entropy: also return the entropy.
        entropy_has_gradient: for an entropy bonus.
        with_top: also return whether each token is the most probable one.

    Returns:
        All in float32.
    """
    chunks = list(zip(states.split(chunk_tokens), targets.split(chunk_tokens), strict=True))
    is_recomputed = torch.is_grad_enabled() and len(chunks) > 1
    parts = []
    for part, tokens in chunks:
        arguments = (causal_lm, part, tokens, temperature, with_entropy, entropy_has_gradient)
        if is_recomputed:
            found = checkpoint(_chunk, *arguments, with_top, use_reentrant=False)
        else:
            found = _chunk(*arguments, with_top)
        parts.append(found)
    log_probs, entropy, is_top = (list(part) for part in zip(*parts, strict=True))
    return TokenLogProbs(
        log_probs=torch.cat(log_probs),
        entropy=torch.cat(entropy) if with_entropy else None,
        is_top=torch.cat(is_top) if with_top else None,
    )


def _chunk(
    causal_lm: Any,
    states: torch.Tensor,
    tokens: torch.Tensor,
    temperature: float,
    with_entropy: bool,
    entropy_has_gradient: bool,
    with_top: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    logits = project(causal_lm, states).float()  # (chunk, V)
    if temperature != 1.0:
        logits = logits / temperature
    is_top = logits.detach().argmax(dim=-1) == tokens if with_top else None
    if not with_entropy:  # one tensor of the logits' size less than the way below
        log_probs = -torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
        return log_probs, None, is_top
    normalised = logits.log_softmax(dim=-1)  # (chunk, V)
    with contextlib.nullcontext() if entropy_has_gradient else torch.no_grad():
        entropy = -(normalised.exp() * normalised).sum(dim=-1)
    return normalised.gather(-1, tokens[:, None])[:, 0], entropy, is_top


def project(causal_lm: Any, states: torch.Tensor) -> torch.Tensor:
    """Project hidden states onto the vocabulary as the model's own forward does: (N, H) to (N, V).

    The output layer is called as a module, so an adapter on it counts. Scales and soft caps are
    those of Gemma (cap), Cohere (factor) and Granite (divisor).
    """
    config = causal_lm.config.get_text_config()
    logits: torch.Tensor = causal_lm.get_output_embeddings()(states)
    factor = getattr(config, "logit_scale", None)
    if factor is not None:
        logits = logits * factor
    divisor = getattr(config, "logits_scaling", None)
    if divisor is not None:
        logits = logits / divisor
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


@torch.no_grad()
def check_projection(causal_lm: Any, input_ids: torch.Tensor) -> None:
    """Compare :func:`project` with the model's own logits on a few tokens.

    A family that treats its logits in a way unknown here would otherwise be trained on another
    distribution than the one it generates from.

    Args:
        causal_lm: the model.
        input_ids: (1, T) a short text.

    Raises:
        ProjectionError: they differ.
    """
    was_training = {module: module.training for module in causal_lm.modules()}
    causal_lm.eval()  # dropout would make two passes differ
    try:
        logits = causal_lm(input_ids=input_ids, use_cache=False).logits[0]
        hidden = causal_lm.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state[0]
        found = project(causal_lm, hidden).float()
    finally:
        for module, mode in was_training.items():
            module.training = mode
    expected = logits.float()
    scale = expected.abs().max().clamp(min=1.0)
    gap = float((expected - found).abs().max() / scale)
    # bfloat16 carries eight bits: two orders of summation may differ in the last of them.
    allowed = 1e-4 if logits.dtype == torch.float32 else 2e-2
    if not gap <= allowed:
        raise ProjectionError(
            f"{type(causal_lm).__name__} treats its logits in a way that is not supported "
            f"(relative difference {gap:.2g}): choose a model of the Qwen, Gemma, Llama or "
            "SmolLM families, for example model=qwen3_0_6b"
        )


@torch.inference_mode()
def last_token_log_probs(
    causal_lm: Any, texts: Sequence[tuple[Sequence[int], int]]
) -> list[list[float]]:
    """Compute the log-probabilities of the last tokens of texts, in one forward pass.

    Args:
        causal_lm: as in :func:`token_log_probs`.
        texts: B texts: their tokens, and the index of the first one that is asked for, at least 1.

    Returns:
        For each text its log-probabilities, one a token from that index on.
    """
    device = next(causal_lm.parameters()).device
    longest = max(len(ids) for ids, _ in texts)
    # Causal attention never looks at what stands behind, so any token fills a row.
    padded = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids, _ in texts])
    places = torch.tensor(
        [
            row * longest + place
            for row, (ids, first) in enumerate(texts)
            for place in range(first, len(ids))
        ]
    )
    found = token_log_probs(
        causal_lm,
        padded.to(device),
        (places - 1).to(device),
        padded.flatten()[places].to(device),
    ).log_probs.cpu()
    lengths = [len(ids) - first for ids, first in texts]
    return [part.tolist() for part in found.split(lengths)]
