"""One forward pass of a GRPO step to its loss, and to the figures that say how the step went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.training.grpo.experience import Experience
from plan_tuning.training.grpo.loss import (
    Clipping,
    importance_weights,
    kl_terms,
    on_policy_tokens,
    policy_terms,
    token_weights,
)
from plan_tuning.training.grpo.policy_log_probs import completion_scores
from plan_tuning.training.grpo.rollout import PolicyBatch, gather_tokens

_GAPS = ("ratio_gap", "sampler_gap", "reference_gap")  # |differences| of log-probabilities
_SUMS = (
    *("tokens", "clip_low", "clip_high", "entropy", "kl_k1", "kl_k3", "importance", "off_policy"),
    *("padded", "real", *_GAPS),
)
_MAXIMA = ("ratio_max", "sampler_gap_max")

Reduce = Callable[[torch.Tensor, str], torch.Tensor]
"""Sums a tensor over ranks, or takes its maximum (``sum``, ``max``)."""


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

    def add(self, sums: dict[str, torch.Tensor], maxima: dict[str, torch.Tensor]) -> None:
        """Add a pass."""
        for name, value in sums.items():
            self.sums[_SUMS.index(name)] += value.detach().double().sum()
        for name, value in maxima.items():
            if value.numel():
                place = _MAXIMA.index(name)
                found = value.detach().double().max()
                self.maxima[place] = torch.maximum(self.maxima[place], found)

    def count(self, batch: PolicyBatch) -> None:
        """Add what a pass computes and how much of it is no padding."""
        self.sums[_SUMS.index("padded")] += batch.padded_tokens
        self.sums[_SUMS.index("real")] += batch.num_tokens

    def gaps(self, reduce: Reduce) -> dict[str, float]:
        """Average the differences of log-probabilities over the tokens of all ranks, in nats."""
        sums = dict(zip(_SUMS, reduce(self.sums.clone(), "sum").tolist(), strict=True))
        return {name: sums[name] / max(sums["tokens"], 1.0) for name in _GAPS}

    def summary(self, method: GRPOConfig, reduce: Reduce) -> dict[str, float]:
        """Average over tokens of all ranks."""
        sums = dict(zip(_SUMS, reduce(self.sums.clone(), "sum").tolist(), strict=True))
        maxima = dict(zip(_MAXIMA, reduce(self.maxima.clone(), "max").tolist(), strict=True))
        tokens = sums["tokens"]
        if not tokens:  # nothing was learned from, so there is nothing to average
            return {"trained_tokens": 0.0}
        shown = ["clip_low", "clip_high", "entropy", "sampler_gap"]
        if method.has_reference:
            shown += ["kl_k1", "kl_k3"]
        if method.importance_cap is not None:
            shown.append("importance")
        if method.off_policy_bound is not None:
            shown.append("off_policy")
        return {
            **{name: sums[name] / tokens for name in shown},
            "ratio_max": maxima["ratio_max"],
            "sampler_gap_max": maxima["sampler_gap_max"],
            "loss": self.loss,
            "grad_norm": max(self.grad_norms, default=0.0),
            "padding_rate": 1.0 - sums["real"] / max(sums["padded"], 1.0),
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
    gap = (old - sampled).abs()
    sums = {
        "tokens": torch.ones_like(log_probs),
        "clip_low": terms.is_clipped_low,
        "clip_high": terms.is_clipped_high,
        "ratio_gap": (log_probs - old).abs(),
        "sampler_gap": gap,
    }
    if method.off_policy_bound is not None:
        is_kept = on_policy_tokens(
            log_probs,
            sampled,
            torch.as_tensor(experience.totals[[indices[place] for place in batch.indices]]).to(
                log_probs
            ),
            rows=batch.rows,
            lengths=batch.lengths,
            bound=method.off_policy_bound,
        )
        loss = loss * is_kept
        sums["off_policy"] = ~is_kept
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
        sums["reference_gap"] = (log_probs - reference).abs()
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
    statistics.add(sums, {"ratio_max": terms.ratio, "sampler_gap_max": gap})
    statistics.count(batch)
    return (loss * weights[batch.rows]).sum()


def _stored(
    batch: PolicyBatch, values: Sequence[torch.Tensor | None], indices: Sequence[int]
) -> torch.Tensor:
    return gather_tokens(batch, [values[index] for index in indices])
