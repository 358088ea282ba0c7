"""A step whose loss or gradient is no number to the rows that made it so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from plan_tuning.training.sft.batches import EncodedRow, MicroBatch, collate


def offending_rows(
    model: torch.nn.Module,
    rows: Sequence[EncodedRow],
    loss_of: Callable[[MicroBatch], torch.Tensor],
    device: torch.device,
) -> list[str]:
    """Score every row by itself, forward and backward; gradients are left empty.

    Dropout and embedding noise are drawn anew, so a failure that hung on them may not show again.

    Args:
        model: whose trained weights get gradients.
        rows: of the step.
        loss_of: from a micro-batch to its loss.
        device: of the model.

    Returns:
        The ids of the problems whose loss or gradient is no finite number, each once.
    """
    found = []
    trained = [p for p in model.parameters() if p.requires_grad]
    for row in rows:
        for parameter in trained:
            parameter.grad = None
        loss = loss_of(collate([row]).to(device))
        loss.backward()
        gradients = [p.grad for p in trained if p.grad is not None]
        values = [loss.detach(), *torch._foreach_norm(gradients)] if gradients else [loss.detach()]
        if not all(bool(torch.isfinite(value)) for value in values):
            found.append(row.problem_id)
    for parameter in trained:
        parameter.grad = None
    return list(dict.fromkeys(found))


def write_failure(path: Path, facts: dict[str, Any]) -> None:
    """Write what is known of the failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
