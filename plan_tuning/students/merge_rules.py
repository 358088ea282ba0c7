"""Differences of students to their base -> the merged one, weight by weight: pure functions.

Every rule takes one weight of every student as its difference to the common base (float64, of one
shape) and gives the merged difference, which is added to the base again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from plan_tuning.config.merge import MergeConfig

Rule = Callable[[Sequence[torch.Tensor], Sequence[float], MergeConfig, str], torch.Tensor]
"""From differences, one share a student (summing to 1), the knobs and the weight's name."""


def task_arithmetic(
    deltas: Sequence[torch.Tensor], shares: Sequence[float], knobs: MergeConfig, name: str
) -> torch.Tensor:
    """Add the differences, each times its weight (Ilharco et al. 2023).

    The weights are ``merge.weights`` as they are, 1 each where none are given, and ``merge.scale``
    multiplies their sum: two students with weights of 0.5 are ``linear``.

    >>> knobs = MergeConfig("task_arithmetic", weights=[1.0, 0.5])
    >>> pair = [torch.tensor([2.0]), torch.tensor([4.0])]
    >>> task_arithmetic(pair, knobs.shares_of(2), knobs, "w").tolist()
    [4.0]
    """
    return weighted_sum(deltas, plain_weights(shares, knobs))


def plain_weights(shares: Sequence[float], knobs: MergeConfig) -> list[float]:
    """The weights of :func:`task_arithmetic`, times the scale."""
    return [knobs.scale * weight for weight in knobs.weights or [1.0] * len(shares)]


def weighted_sum(deltas: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Add tensors, each times its weight."""
    total = torch.zeros_like(deltas[0])
    for delta, weight in zip(deltas, weights, strict=True):
        total += weight * delta
    return total


def ties(
    deltas: Sequence[torch.Tensor], shares: Sequence[float], knobs: MergeConfig, name: str
) -> torch.Tensor:
    """Trim, elect a sign, average those that have it (TIES, Yadav et al. 2023).

    Of each difference the ``merge.density`` largest entries stay. The sign of an entry is that of
    the sum over students, and the merged entry is the mean over the students that stayed and agree
    with it, weighted by their shares, times ``merge.scale``. Trimmed is weight by weight, where the
    paper ranks the entries of a whole model at once.

    >>> knobs = MergeConfig("ties", density=1.0)
    >>> first, second = torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 2.0])
    >>> ties([first, second], [0.5, 0.5], knobs, "w").tolist()
    [3.0, 1.5]
    """
    trimmed = [largest(delta, knobs.density) for delta in deltas]
    return knobs.scale * agreeing_mean(trimmed, shares)


def dare_ties(
    deltas: Sequence[torch.Tensor], shares: Sequence[float], knobs: MergeConfig, name: str
) -> torch.Tensor:
    """Drop entries at random and rescale the others (DARE, Yu et al. 2024), then as TIES.

    An entry stays with probability ``merge.density`` and is divided by it. What is dropped depends
    on ``merge.seed``, the weight's name and the student's place alone.
    """
    kept = [
        delta * torch.from_numpy(kept_entries(delta.shape, knobs, name, place)) / knobs.density
        for place, delta in enumerate(deltas)
    ]
    return knobs.scale * agreeing_mean(kept, shares)


def kept_entries(
    shape: Sequence[int], knobs: MergeConfig, name: str, place: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Draw which entries of a student's difference stay.

    Args:
        shape: of the weight.
        knobs: seed and density.
        name: of the weight.
        place: of the student.
    """
    random = np.random.default_rng([knobs.seed, place, zlib.crc32(name.encode())])
    return random.random(tuple(shape)) < knobs.density


def largest(delta: torch.Tensor, density: float) -> torch.Tensor:
    """Keep the share of entries that are largest by magnitude, one at least; the others become 0.

    >>> largest(torch.tensor([1.0, -4.0, 2.0, 0.5]), 0.5).tolist()
    [0.0, -4.0, 2.0, 0.0]
    """
    count = max(1, round(density * delta.numel()))
    flat = delta.flatten()
    chosen = flat.abs().topk(count).indices
    kept = torch.zeros_like(flat)
    kept[chosen] = flat[chosen]
    return kept.reshape(delta.shape)


def agreeing_mean(deltas: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """Average, entry by entry, the students whose sign is that of the weighted sum; 0 for none."""
    weighted = torch.stack(
        [share * delta for delta, share in zip(deltas, shares, strict=True)]
    )  # (S, …)
    agrees = weighted.sign() == weighted.sum(dim=0).sign()
    agrees &= weighted != 0
    weight = torch.tensor(list(shares), dtype=weighted.dtype)
    total = (agrees * weight.reshape(-1, *[1] * deltas[0].dim())).sum(dim=0)
    return (weighted * agrees).sum(dim=0) / total.clamp_min(torch.finfo(total.dtype).tiny)
