"""An exponential moving average of the trained weights, beside those that are optimised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class WeightAverage:
    """Averages weights over the steps: ``average = decay * average + (1 - decay) * weights``.

    Early on the decay is smaller, (1 + step) / (10 + step), so that the beginning is forgotten.

    Args:
        weights: the trained weights by name.
        decay: above 0 and below 1.
    """

    def __init__(self, weights: Mapping[str, torch.nn.Parameter], decay: float) -> None:
        self._weights = dict(weights)
        self._decay = decay
        self._averages: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step ``step``, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        self._follow()
        for name, weight in self._weights.items():
            if name not in self._averages:
                self._averages[name] = weight.detach().clone()
            else:
                self._averages[name].lerp_(weight.detach(), 1.0 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averages and weights; a second call takes it back."""
        self._follow()
        for name, average in self._averages.items():
            weight = self._weights[name]
            kept = weight.detach().clone()
            weight.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages by name."""
        return dict(self._averages)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there."""
        self._averages = dict(state)

    def _follow(self) -> None:
        """Bring each average to where its weight is: a state is loaded before weights move."""
        for name, average in self._averages.items():
            device = self._weights[name].device
            if average.device != device:
                self._averages[name] = average.to(device)
