"""AdamW, the schedule of its learning rate, and the moving average (EMA) of the weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch

from plan_tuning.config.model import AdapterConfig
from plan_tuning.config.training import TrainerConfig

logger = logging.getLogger(__name__)

# At and below it an adapter's rate is that of all weights; about ten times that is usual
# ("LoRA Without Regret", Schulman et al. 2025).
_RATE_OF_ALL_WEIGHTS = 1e-5


def warn_of_low_rate(adapter: AdapterConfig, key: str, rate: float) -> None:
    """Say that an adapter is trained at the rate of all weights, and will have learned little.

    Args:
        adapter: which weights are trained.
        key: of the configuration, which the rate comes from.
        rate: the peak of the schedule.
    """
    if adapter.name != "full" and rate <= _RATE_OF_ALL_WEIGHTS:
        logger.warning(
            "adapter=%s learns little at %s=%g, a rate for all weights: ten to twenty times that "
            "is usual, for example %s=1e-4",
            adapter.name,
            key,
            rate,
            key,
        )


def build_optimizer(model: torch.nn.Module, config: TrainerConfig) -> torch.optim.AdamW:
    """Make AdamW over the trained weights; fused where the device has it."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},  # norms, biases
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=trained[0].device.type in ("cpu", "cuda"),
    )


def learning_rate_factor(step: int, total: int, config: TrainerConfig) -> float:
    """Share of the learning rate at a step (counted from 0) of ``total``.

    Linear warm-up over ``warmup_ratio`` of the steps, then the schedule down to ``min_lr_ratio``.
    """
    warmup = math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.scheduler == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    shape = 0.5 * (1.0 + math.cos(math.pi * done)) if config.scheduler == "cosine" else 1.0 - done
    return config.min_lr_ratio + (1.0 - config.min_lr_ratio) * shape


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
