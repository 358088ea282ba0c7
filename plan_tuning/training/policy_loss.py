"""One forward pass of a GRPO step to its loss, and to the figures that say how the step went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.training.experience import Experience
from plan_tuning.training.objectives import (
    Clipping,
    importance_weights,
    kl_terms,
    policy_terms,
    token_weights,
)
from plan_tuning.training.policy import completion_scores
from plan_tuning.training.rollouts import PolicyBatch, gather_tokens

_SUMS = ("tokens", "clip_low", "clip_high", "entropy", "kl_k1", "kl_k3", "importance")
_MAXIMA = ("ratio_max", "ratio_gap", "sampler_gap", "reference_gap")


@dataclass(frozen=True, slots=True)
class Normaliser:
    """What an optimizer step's loss is divided by, over all passes and ranks."""

    rows: int
    tokens: int
    passes: int


class PassStatistics:
    """Sums and maxima over the tokens of a GRPO step; unweighted, whatever the loss does."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=device)
        self.maxima = torch.zeros(len(_MAXIMA), dtype=torch.float64, device=device)
        self.loss = 0.0
        self.grad_norms: list[float] = []
        self.padded_tokens = 0
        self.real_tokens = 0

    def add(self, sums: dict[str, torch.Tensor], maxima: dict[str, torch.Tensor]) -> None:
        """Add a pass."""
        for name, value in sums.items():
            self.sums[_SUMS.index(name)] += value.detach().double().sum()
        for name, value in maxima.items():
            if value.numel():
                place = _MAXIMA.index(name)
                found = value.detach().double().max()
                self.maxima[place] = torch.maximum(self.maxima[place], found)

    def maximum(self, name: str) -> float:
        """Return one maximum of this rank."""
        return float(self.maxima[_MAXIMA.index(name)])

    def summary(
        self, method: GRPOConfig, reduce: Callable[[torch.Tensor, str], torch.Tensor]
    ) -> dict[str, float]:
        """Average over tokens of all ranks; ``reduce`` sums or takes the maximum over ranks."""
        sums = dict(zip(_SUMS, reduce(self.sums.clone(), "sum").tolist(), strict=True))
        maxima = dict(zip(_MAXIMA, reduce(self.maxima.clone(), "max").tolist(), strict=True))
        tokens = sums["tokens"]
        if not tokens:  # nothing was learned from, so there is nothing to average
            return {"trained_tokens": 0.0}
        shown = ["clip_low", "clip_high", "entropy"]
        if method.has_reference:
            shown += ["kl_k1", "kl_k3"]
        if method.importance_cap is not None:
            shown.append("importance")
        return {
            **{name: sums[name] / tokens for name in shown},
            "ratio_max": maxima["ratio_max"],
            "sampler_gap": maxima["sampler_gap"],
            "loss": self.loss,
            "grad_norm": max(self.grad_norms, default=0.0),
            "padding_rate": 1.0 - self.real_tokens / max(self.padded_tokens, 1),
            "trained_tokens": sums["tokens"],
        }


def pass_loss(
    causal_lm: Any,
    batch: PolicyBatch,
    experience: Experience,
    indices: Sequence[int],
    *,
    method: GRPOConfig,
    normaliser: Normaliser,
    statistics: PassStatistics,
) -> torch.Tensor:
    """Compute the loss of one pass; passes of an optimizer step add up to the step's loss.

    Args:
        causal_lm: the policy.
        batch: on the policy's device; its ``indices`` are places in ``indices``.
        experience: advantages and log-probabilities.
        indices: rollouts of the optimizer step.
        method: the objective.
        normaliser: of the optimizer step.
        statistics: is added to.
    """
    rollouts = [experience.rollouts[index] for index in indices]
    scores = completion_scores(
        causal_lm,
        batch,
        temperature=method.temperature,
        with_entropy=True,
        entropy_has_gradient=method.entropy_bonus > 0,
    )
    log_probs, entropy = scores.log_probs, scores.entropy
    advantages = gather_tokens(batch, [experience.advantages[index] for index in indices])
    # On-policy the policy that samples is the one that is trained: no second pass is needed.
    old = log_probs.detach() if method.is_on_policy else _stored(batch, experience.old, indices)
    sampled = gather_tokens(batch, [rollout.completion.log_probs for rollout in rollouts])
    importance = None
    if method.importance_cap is not None:
        importance = importance_weights(old, sampled, method.importance_cap)
    terms = policy_terms(
        method.loss,
        log_probs,
        old,
        advantages,
        clipping=Clipping(method.epsilon_low, method.clip_high, method.ratio_cap),
        rows=batch.rows,
        lengths=batch.lengths,
        importance=importance,
    )
    loss = terms.loss
    sums = {
        "tokens": torch.ones_like(log_probs),
        "clip_low": terms.is_clipped_low,
        "clip_high": terms.is_clipped_high,
    }
    maxima = {
        "ratio_max": terms.ratio,
        "ratio_gap": (log_probs - old).abs(),
        "sampler_gap": (old - sampled).abs(),
    }
    if importance is not None:
        sums["importance"] = importance
    if method.has_reference:
        reference = _stored(batch, experience.reference, indices)
        if method.kl_in == "loss":
            weighting = old if method.kl_weighting == "ratio" else None
            loss = loss + method.beta * kl_terms(
                method.kl_estimator, log_probs, reference, old_log_probs=weighting
            )
        for name in ("k1", "k3"):
            sums[f"kl_{name}"] = kl_terms(name, log_probs.detach(), reference)
        maxima["reference_gap"] = (log_probs - reference).abs()
    if entropy is not None:
        sums["entropy"] = entropy
        if method.entropy_bonus > 0:
            loss = loss - method.entropy_bonus * entropy
    weights = token_weights(
        method.loss,
        batch.lengths,
        total_rows=normaliser.rows,
        total_tokens=normaliser.tokens,
        max_length=method.max_new_tokens,
        local_tokens=len(log_probs),
        num_passes=normaliser.passes,
    )
    statistics.add(sums, maxima)
    statistics.padded_tokens += batch.padded_tokens
    statistics.real_tokens += batch.num_tokens
    return (loss * weights[batch.rows]).sum()


def _stored(
    batch: PolicyBatch, values: Sequence[torch.Tensor | None], indices: Sequence[int]
) -> torch.Tensor:
    return gather_tokens(batch, [values[index] for index in indices])
