"""Log-probabilities and advantages to a loss: the policy gradients that share GRPO's name.

Pure functions over the tokens of a forward pass, flattened to ``(N,)``; ``rows`` names each token's
completion. Every loss is a weighted sum over tokens whose weights are known before the pass
(:func:`token_weights`), so it does not matter how a step is split into passes or ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.students.log_probs import TokenLogProbs
from plan_tuning.training.grpo.batch import PolicyBatch, gather_tokens
from plan_tuning.training.grpo.experience import Experience

MAX_LOG_RATIO = 20.0  # exp() of more would overflow what a gradient can use


@dataclass(frozen=True, slots=True)
class PolicyTerms:
    """Loss of each token before weighting, and what is reported about it; all (N,)."""

    loss: torch.Tensor
    ratio: torch.Tensor  # detached
    is_clipped_low: torch.Tensor
    is_clipped_high: torch.Tensor


def token_weights(
    loss: str,
    lengths: torch.Tensor,
    *,
    total_rows: int,
    total_tokens: int,
    max_length: int,
    local_tokens: int | None = None,
    num_passes: int = 1,
) -> torch.Tensor:
    """Weight of every token of a completion: the only difference between several of the losses.

    Args:
        loss: grpo and gspo: mean over completions of the mean over tokens; dapo and cispo: mean
            over all tokens of the optimizer step and all ranks; bnpo: the same over the tokens of
            one pass, averaged over passes; dr_grpo: sum over ``max_length`` times completions.
        lengths: (B,) counted tokens of each completion.
        total_rows: completions of the optimizer step, all ranks.
        total_tokens: counted tokens of the optimizer step, all ranks.
        max_length: longest possible completion.
        local_tokens: bnpo: counted tokens of this pass.
        num_passes: bnpo: passes of the optimizer step, all ranks.

    Returns:
        (B,) float32.

    Raises:
        ValueError: the loss is unknown.
    """
    ones = torch.ones_like(lengths, dtype=torch.float32)
    if loss in ("grpo", "gspo"):
        return ones / (lengths.clamp(min=1) * max(total_rows, 1))
    if loss in ("dapo", "cispo"):
        return ones / max(total_tokens, 1)
    if loss == "bnpo":
        return ones / (max(local_tokens or 0, 1) * num_passes)
    if loss == "dr_grpo":
        return ones / (max(total_rows, 1) * max_length)
    raise ValueError(f"method.loss={loss} is unknown: choose for example method.loss=grpo")


def policy_terms(
    loss: str,
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    *,
    epsilon_low: float,
    epsilon_high: float,
    ratio_cap: float | None = None,
    rows: torch.Tensor,
    lengths: torch.Tensor,
    importance: torch.Tensor | None = None,
) -> PolicyTerms:
    """Clipped surrogate of every token.

    grpo, dapo, bnpo and dr_grpo clip the ratio of each token (PPO, arXiv 1707.06347, section 3;
    asymmetric: DAPO, arXiv 2503.14476, section 3.1). gspo clips one ratio a completion: the
    geometric mean of its tokens' (arXiv 2507.18071, section 4). cispo caps the ratio, stops its
    gradient and weighs the log-probability with it, so that no token is silenced
    (arXiv 2506.13585).

    Args:
        loss: see above.
        log_probs: (N,) under the policy that is trained.
        old_log_probs: (N,) under the policy that sampled, as the trainer computes it.
        advantages: (N,).
        epsilon_low: the ratio is clipped below 1 minus it.
        epsilon_high: and above 1 plus it; cispo caps there.
        ratio_cap: bound of the unclipped ratio; matters for negative advantages.
        rows: (N,) index of each token's completion.
        lengths: (B,) tokens of each completion in this pass; gspo only.
        importance: (N,) weights that correct for a sampler that differs from the trainer.
    """
    log_ratio = (log_probs - old_log_probs.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if loss == "gspo":
        sums = torch.zeros(len(lengths), dtype=log_ratio.dtype, device=log_ratio.device)
        sums = sums.index_add(0, rows, log_ratio)
        log_ratio = (sums / lengths.clamp(min=1))[rows]
    ratio = log_ratio.exp()
    is_low = (ratio < 1 - epsilon_low) & (advantages < 0)
    is_high = (ratio > 1 + epsilon_high) & (advantages > 0)
    if loss == "cispo":
        terms = -ratio.detach().clamp(max=1 + epsilon_high) * advantages * log_probs
        is_low = torch.zeros_like(is_low)
    else:
        free = ratio if ratio_cap is None else ratio.clamp(max=ratio_cap)
        clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
        terms = -torch.minimum(free * advantages, clipped * advantages)
    if importance is not None:
        terms = terms * importance.detach()
    return PolicyTerms(terms, ratio.detach(), is_low, is_high)


def kl_terms(
    estimator: str,
    log_probs: torch.Tensor,
    reference_log_probs: torch.Tensor,
    *,
    old_log_probs: torch.Tensor | None = None,
) -> torch.Tensor:
    """Estimate KL(policy || reference) from each sampled token (Schulman, "Approximating KL").

    With d = log reference - log policy: k1 = -d, k2 = d^2 / 2, k3 = e^d - 1 - d. As values k1 and
    k3 are unbiased under samples of the policy. As losses their plain gradients differ: on samples
    of the policy k1's is zero on average, k2's is the gradient of the KL. Weighing with the ratio
    to the old policy restores the gradient of the sampling (DeepSeek-V3.2, arXiv 2512.02556).

    Args:
        estimator: k1, k2 or k3.
        log_probs: (N,) under the policy.
        reference_log_probs: (N,).
        old_log_probs: (N,) given: weigh with the ratio, whose gradient counts.

    Raises:
        ValueError: the estimator is unknown.
    """
    d = (reference_log_probs.detach() - log_probs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k1":
        terms = -d
    elif estimator == "k2":
        terms = d.square() / 2
    elif estimator == "k3":
        terms = d.exp() - 1 - d
    else:
        raise ValueError(f"method.kl_estimator={estimator} is unknown: k1, k2 or k3")
    if old_log_probs is None:
        return terms
    log_ratio = (log_probs - old_log_probs.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return terms * log_ratio.exp()


def importance_weights(
    old_log_probs: torch.Tensor, sampler_log_probs: torch.Tensor, cap: float
) -> torch.Tensor:
    """Truncated importance sampling: how much likelier the trainer finds a token than the sampler.

    Args:
        old_log_probs: (N,) as the trainer computes them.
        sampler_log_probs: (N,) as the sampler reported them.
        cap: largest weight.
    """
    return (old_log_probs - sampler_log_probs).clamp(max=MAX_LOG_RATIO).exp().clamp(max=cap)


def on_policy_tokens(
    log_probs: torch.Tensor,
    sampler_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    *,
    rows: torch.Tensor,
    lengths: torch.Tensor,
    bound: float,
) -> torch.Tensor:
    """Leave out bad completions that the policy has moved away from (DeepSeek-V3.2, 2512.02556).

    A completion with a negative advantage that the present policy hardly writes any more says
    little and pushes hard. It goes as a whole; how far the policy is from it is the mean over its
    tokens of log sampler - log policy.

    Args:
        log_probs: (N,) under the policy that is trained.
        sampler_log_probs: (N,) as the sampler reported them.
        advantages: (B,) of each completion as a whole.
        rows: (N,) index of each token's completion.
        lengths: (B,) tokens of each completion in this pass.
        bound: nats a token, above 0.

    Returns:
        (N,) bool: whether the token's policy term counts; the KL term always does.
    """
    drift = (sampler_log_probs - log_probs).detach()
    sums = torch.zeros(len(lengths), dtype=drift.dtype, device=drift.device)
    means = sums.index_add(0, rows, drift) / lengths.clamp(min=1)  # (B,)
    return ~((advantages < 0) & (means > bound))[rows]


def pass_loss(
    found: TokenLogProbs,
    batch: PolicyBatch,
    experience: Sequence[Experience],
    *,
    method: GRPOConfig,
    total_rows: int,
    total_tokens: int,
    num_passes: int,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Compute the loss of one pass; passes of an optimizer step add up to the step's loss.

    Args:
        found: log-probabilities and entropy of the pass's N tokens under the trained policy.
        batch: on the same device; its ``indices`` are places in ``experience``.
        experience: what the optimizer step learns from.
        method: the objective.
        total_rows: completions of the optimizer step, all ranks.
        total_tokens: their tokens.
        num_passes: passes of the optimizer step, all ranks.

    Returns:
        The loss, and what is reported of the tokens: values to be summed, values whose maximum
        counts, each (N,), by the names of :mod:`plan_tuning.training.grpo.metrics`.
    """
    log_probs, entropy = found.log_probs, found.entropy
    advantages = gather_tokens(batch, [one.token_advantages for one in experience])
    # On-policy the policy that samples is the one that is trained: no second pass is needed.
    old = log_probs.detach()
    if not method.is_on_policy:
        old = gather_tokens(batch, [one.old_log_probs for one in experience])
    sampled = gather_tokens(batch, [one.rollout.completion.log_probs for one in experience])
    importance = None
    if method.importance_cap is not None:
        importance = importance_weights(old, sampled, method.importance_cap)
    terms = policy_terms(
        method.loss,
        log_probs,
        old,
        advantages,
        epsilon_low=method.epsilon_low,
        epsilon_high=method.clip_high,
        ratio_cap=method.ratio_cap,
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
            log_probs.new_tensor([experience[place].advantage for place in batch.indices]),
            rows=batch.rows,
            lengths=batch.lengths,
            bound=method.off_policy_bound,
        )
        loss = loss * is_kept
        sums["off_policy"] = ~is_kept
    if importance is not None:
        sums["importance"] = importance
        sums["importance_capped"] = importance >= method.importance_cap
    if method.has_reference:
        reference = gather_tokens(batch, [one.reference_log_probs for one in experience])
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
        total_rows=total_rows,
        total_tokens=total_tokens,
        max_length=method.max_new_tokens,
        local_tokens=len(log_probs),
        num_passes=num_passes,
    )
    maxima = {"ratio_max": terms.ratio, "sampler_gap_max": gap}
    return (loss * weights[batch.rows]).sum(), sums, maxima
