"""What a step was made of, summed over its micro-batches and all ranks, and the figures from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from plan_tuning.records import SegmentKind
from plan_tuning.students.log_probs import TokenLogProbs
from plan_tuning.training.sft.batches import KINDS, MicroBatch

LOGGED = (SegmentKind.PLAN, SegmentKind.SOLUTION)
COLUMNS = 3  # of what is counted by kind: tokens, loss, hits


@dataclass(frozen=True, slots=True)
class StepSize:
    """Sizes of one optimizer step."""

    weight: float  # sum of the supervised tokens' weights: what the loss is divided by
    tokens: float  # without padding
    padded: float
    supervised: float
    rows: float

    @classmethod
    def of(cls, batch: Sequence[MicroBatch]) -> StepSize:
        """Add up a rank's micro-batches; a row that only keeps an idle rank in step is none."""
        batch = [micro for micro in batch if len(micro.targets)]
        return cls(
            weight=sum(float(micro.weights.sum()) for micro in batch),
            tokens=sum(micro.num_tokens for micro in batch),
            padded=sum(micro.input_ids.numel() for micro in batch),
            supervised=sum(len(micro.targets) for micro in batch),
            rows=sum(len(micro.problem_ids) for micro in batch),
        )

    def to_tensor(self, device: torch.device) -> torch.Tensor:
        """All sizes in one tensor (5,), to be summed over ranks at once."""
        # Whole numbers up to 2**53 are exact in float64, which some devices lack.
        kind = torch.float32 if device.type == "mps" else torch.float64
        values = [self.weight, self.tokens, self.padded, self.supervised, self.rows]
        return torch.tensor(values, dtype=kind, device=device)

    @classmethod
    def from_tensor(cls, values: torch.Tensor) -> StepSize:
        """Read :meth:`to_tensor` back."""
        return cls(*values.tolist())


def counts_by_kind(found: TokenLogProbs, kinds: torch.Tensor) -> torch.Tensor:
    """Count a micro-batch's tokens by the kind of their segment.

    Args:
        found: of N tokens, with ``is_top``.
        kinds: (N,) index into KINDS.

    Returns:
        (kinds, COLUMNS) tokens, loss and hits.
    """
    losses = -found.log_probs.detach()
    hits = torch.zeros_like(losses) if found.is_top is None else found.is_top.float()
    columns = torch.stack([torch.ones_like(losses), losses, hits], dim=1)  # (N, COLUMNS)
    return torch.zeros(len(KINDS), COLUMNS, device=losses.device).index_add_(0, kinds, columns)


def kind_metrics(prefix: str, counts: torch.Tensor, rows: float | None = None) -> dict[str, float]:
    """Name the mean loss and accuracy of each kind of segment, and its tokens a row.

    Args:
        prefix: train or val.
        counts: (kinds, COLUMNS) see :func:`counts_by_kind`.
        rows: that the counts are of; None: lengths are not reported.
    """
    metrics = {}
    for kind in LOGGED:
        count, loss, hits = counts[KINDS.index(kind)].tolist()
        if count:
            metrics[f"{prefix}/loss/{kind}"] = loss / count
            metrics[f"{prefix}/accuracy/{kind}"] = hits / count
            if rows:
                metrics[f"{prefix}/tokens/{kind}"] = count / rows
    return metrics
