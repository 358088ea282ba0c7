"""Signs that a GRPO training is lost, or learns from hardly anything."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np

from plan_tuning.config.grpo import GRPOConfig

logger = logging.getLogger(__name__)

_WINDOW = 5  # steps over which rewards are averaged
_PATIENCE, _MOSTLY_DEAD = 3, 0.8  # steps, share of dead groups that is worth a warning


def collapse(
    method: GRPOConfig, metrics: Mapping[str, float], rewards: Sequence[float]
) -> str | None:
    """Say why training should end: KL, entropy or mean reward of five steps; None if it need not.

    Args:
        method: the bounds.
        metrics: of the last step.
        rewards: of all steps so far.
    """
    known = [value for value in rewards if not math.isnan(value)]
    means = [sum(known[i - _WINDOW : i]) / _WINDOW for i in range(_WINDOW, len(known) + 1)]
    has_learned = metrics["train/trained_tokens"] > 0
    if method.stop_kl is not None and metrics.get("train/kl", 0.0) > method.stop_kl:
        return "the KL to the start exceeds method.stop_kl"
    if (
        method.stop_entropy is not None
        and has_learned
        and metrics["train/entropy"] < method.stop_entropy
    ):
        return "the entropy fell below method.stop_entropy"
    drop = max(means) - means[-1] if means else 0.0
    if method.stop_reward_drop is not None and drop > method.stop_reward_drop:
        return "the reward fell by method.stop_reward_drop"
    return None


class DeadGroupWarning:
    """Says once that most groups teach nothing: after a few steps, or at the end of a short run."""

    def __init__(self) -> None:
        self._is_said = False

    def check(self, dead_rates: Sequence[float], *, is_last: bool) -> None:
        """Look at the dead share of all steps so far."""
        is_time = len(dead_rates) >= _PATIENCE or is_last
        if self._is_said or not is_time or float(np.mean(dead_rates)) <= _MOSTLY_DEAD:
            return
        self._is_said = True
        logger.warning(
            "most groups are dead (%.0f %%): all of their completions earn the same. Raise "
            "method.group_size, begin from a better start, or choose other problems",
            100 * np.mean(dead_rates),
        )
