"""Which rows make a loss or a gradient that is no number: named in an error and in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from plan_tuning.training.lightning import TrainingError
from plan_tuning.training.sft.batches import EncodedRow, MicroBatch, collate

_NAMED_ROWS = 8  # problems that an error names


def refusal(
    path: Path, *, step: int, loss: float, norm: float, found: Sequence[str], rows: Sequence[str]
) -> TrainingError:
    """Write down what made the loss or the gradient no number, and say so.

    Args:
        path: of the file.
        step: counted from 0.
        loss: of the step.
        norm: of its gradient.
        found: ids of the rows that did it, where they are known.
        rows: ids of all rows of the step.
    """
    facts = {"step": step, "loss": str(loss), "grad_norm": str(norm)}
    path.parent.mkdir(parents=True, exist_ok=True)
    written = json.dumps({**facts, "rows": list(found), "step_rows": list(rows)}, indent=1)
    path.write_text(written + "\n", encoding="utf-8")
    return TrainingError(
        f"step {step}: loss {loss}, gradient norm {norm} on problems "
        f"{', '.join((list(found) or list(rows))[:_NAMED_ROWS])}; all ids are in {path}. Lower "
        "trainer.learning_rate, or use trainer.precision=fp32"
    )


def offending_rows(
    model: torch.nn.Module,
    rows: Sequence[EncodedRow],
    loss_of: Callable[[MicroBatch], torch.Tensor],
    device: torch.device,
) -> list[str]:
    """Find the rows whose loss or gradient is no number, each by itself; leaves no gradients.

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
