"""Logits to tokens: temperature, top-k, top-p and noise that belongs to a row, not to a batch."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def row_generator(seed: int, problem_id: str, sample: int) -> np.random.Generator:
    """Make the noise of one row: a function of (seed, problem, sample) and of nothing else."""
    text = f"{seed}\x1f{problem_id}\x1f{sample}"
    return np.random.Generator(
        np.random.Philox(key=int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))
    )


def choose(
    logits: torch.Tensor,
    uniforms: torch.Tensor | None,
    *,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
) -> torch.Tensor:
    """Choose the next token of every row.

    A row's token is where its own uniform number falls in the row's cumulative distribution, so
    one number a token is all the noise there is and rows do not disturb each other.

    Args:
        logits: (B, V), any float type; worked on in float32.
        uniforms: (B,) numbers in [0, 1); not read when greedy.
        temperature: 0 means greedy.
        top_p: smallest set of most probable tokens that holds this mass; 1 is off.
        top_k: only so many most probable tokens; 0 is off.

    Returns:
        (B,) token ids.

    Raises:
        ValueError: sampling without uniforms.
    """
    if temperature == 0.0:
        return logits.argmax(dim=-1)
    if uniforms is None:
        raise ValueError("sampling needs one uniform number a row")
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)  # (B, V)
    if top_k == 0 and top_p >= 1.0:
        return _invert(probabilities, uniforms)
    ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    kept = _keep(ordered, top_p=top_p, top_k=top_k)
    return ids.gather(-1, _invert(kept, uniforms)[:, None])[:, 0]


def _keep(ordered: torch.Tensor, *, top_p: float, top_k: int) -> torch.Tensor:
    """Zero what top-k and then top-p (over what is left) leave out; ``ordered`` is descending."""
    if 0 < top_k < ordered.shape[-1]:
        ordered = ordered[:, :top_k]
    if top_p < 1.0:
        mass = ordered.cumsum(dim=-1)
        before = mass - ordered
        ordered = ordered.masked_fill(before >= top_p * mass[:, -1:], 0.0)
    return ordered


def _invert(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Find where each uniform number falls; (B, V) unnormalised weights to (B,) indices."""
    # Sums over a large vocabulary lose the small probabilities in float32.
    cumulative = weights.double().cumsum(dim=-1)
    points = uniforms.double()[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, points, right=True)[:, 0]
    # Rounding may put a point at the very end, behind the last token that has any weight.
    last = (weights > 0).long().mul(torch.arange(weights.shape[-1], device=weights.device))
    return torch.minimum(index, last.amax(dim=-1))


def token_log_probs(
    logits: torch.Tensor, tokens: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """Log-probabilities of the chosen tokens at the sampling temperature, before top-k and top-p.

    That is what a trainer recomputes. Greedy decoding counts as temperature 1.

    Args:
        logits: (B, V).
        tokens: (B,).
        temperature: of the sampling.

    Returns:
        (B,) float32.
    """
    scaled = logits.float() / (temperature if temperature > 0 else 1.0)
    chosen = scaled.gather(-1, tokens[:, None])[:, 0]
    return chosen - scaled.logsumexp(dim=-1)
