"""Log-probabilities and advantages to a loss: the policy gradients that share GRPO's name.

Pure functions over the tokens of a forward pass, flattened to ``(N,)``; ``rows`` names each token's
completion. Every loss is a weighted sum over tokens whose weights are known before the pass
(:func:`token_weights`), so it does not matter how a step is split into passes or ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

MAX_LOG_RATIO = 20.0  # exp() of more would overflow what a gradient can use


@dataclass(frozen=True, slots=True)
class Clipping:
    """Ranges of the ratio between the new and the old policy."""

    low: float = 0.2
    high: float = 0.2
    cap: float | None = None  # bound of the unclipped ratio; matters for negative advantages


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
    clipping: Clipping,
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
        clipping: ranges; cispo caps at ``1 + high``.
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
    is_low = (ratio < 1 - clipping.low) & (advantages < 0)
    is_high = (ratio > 1 + clipping.high) & (advantages > 0)
    if loss == "cispo":
        terms = -ratio.detach().clamp(max=1 + clipping.high) * advantages * log_probs
        is_low = torch.zeros_like(is_low)
    else:
        free = ratio if clipping.cap is None else ratio.clamp(max=clipping.cap)
        clipped = ratio.clamp(1 - clipping.low, 1 + clipping.high)
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
