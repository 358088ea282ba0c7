"""One token a row: two decoders that go on from a key-value cache of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from plan_tuning.students.generation.shared_prefix import (
    FAMILIES,
    SharedPrefixCache,
    shared_attention,
)


class Decoder(Protocol):
    """Decodes rows token by token, and lets finished ones go."""

    def next_logits(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Read one token (B,) a row, which has read ``lengths`` (B,); returns logits (B, V)."""

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these; returns which row is now at each place."""


def decoder_for(
    causal_lm: Any, prompts: DynamicCache, mask: torch.Tensor, owner: Sequence[int]
) -> Decoder:
    """Choose the decoder: shared prefixes where the family is known, else copies of the cache.

    Args:
        causal_lm: the model.
        prompts: cache of the left-padded prompts.
        mask: (P, T) 1 where a prompt has a token.
        owner: prompt of each row.
    """
    if causal_lm.config.get_text_config().model_type in FAMILIES:
        return SharedDecoder(causal_lm, prompts, mask, owner)
    return CopyingDecoder(causal_lm, prompts, mask, owner)


class SharedDecoder:
    """Rows of one prompt read its cache together."""

    def __init__(
        self, causal_lm: Any, prompts: DynamicCache, mask: torch.Tensor, owner: Sequence[int]
    ) -> None:
        self._model = causal_lm
        self._cache = SharedPrefixCache(prompts, mask, owner)

    def next_logits(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Read one token (B,) a row, which has read ``lengths`` (B,); returns logits (B, V)."""
        with shared_attention(self._model):
            output = self._model(
                input_ids=tokens[:, None],
                position_ids=lengths[:, None],
                past_key_values=self._cache,
                use_cache=True,
                shared_prefix=self._cache,
            )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these; returns which row is now at each place."""
        return self._cache.keep(rows)


class CopyingDecoder:
    """Every row has its own copy of its prompt's cache: for any family of transformers."""

    def __init__(
        self, causal_lm: Any, prompts: DynamicCache, mask: torch.Tensor, owner: Sequence[int]
    ) -> None:
        self._model = causal_lm
        self._cache = prompts
        origin = torch.tensor(owner, device=mask.device)
        self._mask = mask[origin]  # (B, T)
        self._cache.batch_select_indices(origin)

    def next_logits(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Read one token (B,) a row, which has read ``lengths`` (B,); returns logits (B, V)."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        output = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._mask,
            position_ids=lengths[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these; returns which row is now at each place."""
        kept = torch.tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(kept)
        self._mask = self._mask[kept]
        return list(rows)
