"""Attention of rows that are packed into one sequence: each row attends to itself alone.

Where no kernel for variable lengths is at hand transformers keeps packed rows apart by a mask of
the sequence's length squared, and computes what the mask hides. Here every row is attended by a
call of its own, which costs what the row costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "plan_tuning_packed_rows"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
"""Model types whose attention takes nothing beyond what :func:`packed_attention` reads."""


def attends_by_row(causal_lm: Any, device: torch.device) -> bool:
    """Whether a model's packed rows can be attended one by one, and that pays.

    On a card a call a row and layer would cost more launches than the mask costs arithmetic.
    """
    config = causal_lm.config.get_text_config()
    return (
        device.type == "cpu"
        and config.model_type in FAMILIES
        and config._attn_implementation == "sdpa"
        and not getattr(config, "use_bidirectional_attention", False)
    )


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    row_lengths: Sequence[int],
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **ignored: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from every token to those of its own row that do not stand behind it.

    Args:
        module: the attention layer.
        query: (1, H, L, D).
        key: (1, K, L, D).
        value: as ``key``.
        attention_mask: not read; the lengths say what a token sees.
        row_lengths: of the rows, one behind another; they add up to L.
        scaling: of the attention scores.
        dropout: of the attention weights.
        sliding_window: how many tokens a token sees, itself included; None: all.
        ignored: settings of other implementations.

    Returns:
        (1, L, H, D) and None.
    """
    lengths = list(row_lengths)
    window = sliding_window or max(lengths)
    seen = _band(max(lengths), window, query.device) if max(lengths) > window else None
    rows = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    found = []
    for length, row in zip(lengths, rows, strict=True):
        # A row that the window holds is plainly causal, which has the faster kernel.
        mask = seen[None, None, :length, :length] if seen is not None and length > window else None
        output, _ = sdpa_attention_forward(module, *row, mask, dropout=dropout, scaling=scaling)
        found.append(output)  # (1, T, H, D)
    return torch.cat(found, dim=1), None


def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Which of its row's tokens a token sees, (T, T): itself and the last ones before it."""
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None]
    return (distance >= 0) & (distance < window)


AttentionInterface.register(ATTENTION, packed_attention)


def are_apart(causal_lm: Any) -> bool:
    """Whether a model's layers attend row by row now."""
    return bool(causal_lm.config.get_text_config()._attn_implementation == ATTENTION)


@contextmanager
def rows_apart(causal_lm: Any) -> Iterator[None]:
    """Let a model's layers attend by :func:`packed_attention`; its pass is to be told the lengths.

    A backward pass that computes activations again belongs into it, too.
    """
    with attending(causal_lm, ATTENTION):
        yield


@contextmanager
def attending(causal_lm: Any, implementation: str) -> Iterator[None]:
    """Let a model's layers attend by an implementation that transformers knows by this name."""
    config = causal_lm.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = before
