"""Texts to vectors: mean-pooled states of a local encoder, for plan rewards and a router."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plan_tuning.students.loading import StudentError, without_bars

_AT_ONCE = 256  # texts of a pass


def load_encoder(
    folder: Path, key: str = "reward.plan.encoder", instead: str = "reward.plan.encoder=hashed"
) -> Callable[[Sequence[str]], np.ndarray[Any, Any]]:
    """Load an encoder of transformers; its vectors are remembered by text.

    Args:
        folder: of the encoder.
        key: of the configuration, that names it.
        instead: words that need none.

    Raises:
        StudentError: the folder holds no model.
    """
    from transformers import AutoModel, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise StudentError(
            f"{key}={folder} holds no model: give the folder of a sentence encoder, "
            f"or choose {instead}"
        )
    with without_bars():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder, use_safetensors=True)
    model.eval()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"  # on the left it would shift the positions of the text
    known: dict[str, np.ndarray[Any, Any]] = {}

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> np.ndarray[Any, Any]:
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        for first in range(0, len(missing), _AT_ONCE):
            part = missing[first : first + _AT_ONCE]
            batch = tokenizer(part, return_tensors="pt", padding=True, truncation=True)
            states = model(**batch).last_hidden_state  # (N, T, D)
            mask = batch["attention_mask"][:, :, None]
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
            known.update(zip(part, pooled.float().numpy(), strict=True))
        return np.stack([known[text] for text in texts])

    return encode
