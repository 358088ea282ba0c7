"""The metrics of a step: sizes, loss and accuracy by kind of segment, and the use of the card.

The last is the share of its arithmetic (MFU, Chowdhery et al. 2022, appendix B).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch

from plan_tuning.records import SegmentKind
from plan_tuning.students.flops import ModelSize, Passes
from plan_tuning.students.log_probs import TokenLogProbs
from plan_tuning.training.sft.batches import KINDS, MicroBatch

LOGGED = (SegmentKind.PLAN, SegmentKind.SOLUTION)
COLUMNS = 3  # of what is counted by kind: tokens, loss, hits
# Dense bfloat16 arithmetic of one card, in floating-point operations per second, by what its name
# holds; the first that fits. From the vendor's data sheets.
_PEAKS = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A10", 125e12),
    ("4090", 165e12),
)
# What a pass costs before its first token, by device: the arithmetic that fits into some
# milliseconds of launching, and the traffic of adding up one more gradient, in tokens.
_LAUNCH_PARAMETERS = {"cuda": 2.5e12, "cpu": 8e7}
_GRADIENT_TOKENS = {"cuda": 256, "cpu": 32}


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
        return torch.tensor(astuple(self), dtype=kind, device=device)

    @classmethod
    def from_tensor(cls, values: torch.Tensor) -> StepSize:
        """Read :meth:`to_tensor` back from ``values`` (5,)."""
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


def peak_flops(card: str) -> float | None:
    """Look up a card's bfloat16 arithmetic per second; None where it is not known.

    >>> peak_flops("NVIDIA H100 80GB HBM3")
    989000000000000.0
    >>> peak_flops("a card of tomorrow") is None
    True
    """
    return next((peak for name, peak in _PEAKS if name in card), None)


def pass_overhead(causal_lm: Any, device: str) -> int:
    """Estimate how many tokens a pass costs before its first one; the magnitude is what matters.

    Args:
        causal_lm: the model.
        device: cpu or cuda.
    """
    kind = "cuda" if device == "cuda" else "cpu"
    parameters = sum(p.numel() for p in causal_lm.parameters())
    return round(_GRADIENT_TOKENS[kind] + _LAUNCH_PARAMETERS[kind] / parameters)


def utilisation(
    causal_lm: Any, card: str, *, tokens: float, supervised: float, rows: float, seconds: float
) -> float | None:
    """Say which share of a card's arithmetic a training step used; None: the card is not known.

    Args:
        causal_lm: the model; its input embeddings are looked up and not multiplied.
        card: the device's name.
        tokens: of the step, without padding.
        supervised: of these, that are projected onto the vocabulary.
        rows: of the step.
        seconds: that it took, times the number of cards.
    """
    peak = peak_flops(card)
    if peak is None:
        return None
    size = ModelSize.of(causal_lm)
    pairs = tokens * round(tokens / rows) / 2  # causal: half of the positions
    return size.training(Passes(round(tokens), round(supervised), pairs)) / seconds / peak
