"""Texts, or pairs of them, to the probability of a label: a local classifier of transformers.

For ROSCOE's scores of contradictions and grammar. Which label is meant is read off the model's own
names of its labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from plan_tuning.students.loading import StudentError, without_bars

_AT_ONCE = 32  # texts of a pass


def load_classifier(folder: Path, label: str) -> Callable[[Sequence[Any]], list[float]]:
    """Load a sequence classifier.

    Args:
        folder: of its weights, from safetensors.
        label: a part of the name of the label that is asked for, whatever its case.

    Returns:
        From texts, or pairs of them, to the label's probability.

    Raises:
        StudentError: the folder holds no model, or its labels do not name that one.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise StudentError(
            f"{folder} holds no classifier: give its folder, or other reward.plan.scores"
        )
    with without_bars():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True)
    model.eval()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.padding_side = "right"  # on the left it would shift the positions of the text
    names = {str(name).lower(): int(place) for place, name in model.config.id2label.items()}
    found = [place for name, place in names.items() if label in name and f"un{label}" not in name]
    if len(found) != 1:
        raise StudentError(
            f"{folder} has the labels {', '.join(names)}, of which one has to be called "
            f"{label!r}: name it in id2label of its config.json"
        )

    @torch.no_grad()
    def probabilities(texts: Sequence[Any]) -> list[float]:
        values: list[float] = []
        for first in range(0, len(texts), _AT_ONCE):
            part = list(texts[first : first + _AT_ONCE])
            is_pairs = not isinstance(part[0], str)
            columns = [list(c) for c in zip(*part, strict=True)] if is_pairs else [part]
            batch = tokenizer(*columns, return_tensors="pt", padding=True, truncation=True)
            logits = model(**batch).logits.float()  # (N, labels)
            values += logits.softmax(dim=-1)[:, found[0]].tolist()
        return values

    return probabilities
