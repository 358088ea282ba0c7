"""The learning rate over the steps of a training."""

from __future__ import annotations

import math

from plan_tuning.config.training import TrainerConfig


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
