"""How a GRPO step went: figures of its tokens, its time and memory, and signs that it is lost."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.job_record import Compute
from plan_tuning.students.flops import ModelSize, Passes
from plan_tuning.training.grpo.batch import PolicyBatch

_WINDOW = 5  # steps over which rewards are averaged
_PATIENCE, _MOSTLY_DEAD = 3, 0.8  # steps, share of dead groups that is worth a warning
_GAPS = ("ratio_gap", "sampler_gap", "reference_gap")  # |differences| of log-probabilities
_SUMS = (
    *("tokens", "clip_low", "clip_high", "entropy", "kl_k1", "kl_k3", "importance", "off_policy"),
    *("importance_capped", "padded", "real", *_GAPS),
)
_MAXIMA = ("ratio_max", "sampler_gap_max")

Reduce = Callable[[torch.Tensor, str], torch.Tensor]
"""Sums a tensor over ranks, or takes its maximum (``sum``, ``max``)."""


class PassStatistics:
    """Sums and maxima over the tokens of a GRPO step; unweighted, whatever the loss does."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=device)
        self.maxima = torch.zeros(len(_MAXIMA), dtype=torch.float64, device=device)
        self.loss = 0.0
        self.grad_norms: list[float] = []

    def add(
        self,
        batch: PolicyBatch,
        sums: Mapping[str, torch.Tensor],
        maxima: Mapping[str, torch.Tensor],
    ) -> None:
        """Add a pass: what it computes, how much of it is no padding, and figures of its tokens.

        Args:
            batch: the pass.
            sums: figures that are added up over its tokens, each (N,).
            maxima: those of which the largest counts, each (N,).
        """
        self.sums[_SUMS.index("padded")] += batch.padded_tokens
        self.sums[_SUMS.index("real")] += batch.num_tokens
        for name, value in sums.items():
            self.sums[_SUMS.index(name)] += value.detach().double().sum()
        for name, value in maxima.items():
            if value.numel():
                place = _MAXIMA.index(name)
                found = value.detach().double().max()
                self.maxima[place] = torch.maximum(self.maxima[place], found)

    def gaps(self, reduce: Reduce) -> dict[str, float]:
        """Average what two policies differ by over the tokens of all ranks, in nats."""
        sums = dict(zip(_SUMS, reduce(self.sums.clone(), "sum").tolist(), strict=True))
        return {name: sums[name] / max(sums["tokens"], 1.0) for name in (*_GAPS, "kl_k3")}

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
            shown += ["importance", "importance_capped"]
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


LOG_PROBS = "scoring"  # the word of the metrics: time/scoring, tokens/scoring
ROLLOUT, TRAIN, SYNC, FROZEN = "rollout", "train", "sync", "frozen"


class StepTimer:
    """Adds up the wall seconds and the tokens of a GRPO step, by the name of its part."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}
        self.tokens: dict[str, int] = {}
        self.passes: dict[str, Passes] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what happens inside; work that a GPU was given is waited for."""
        self._wait()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def count(self, name: str, tokens: int, passes: Passes) -> None:
        """Add tokens that a part wrote or read, and all that went through the model for them."""
        self.tokens[name] = self.tokens.get(name, 0) + tokens
        self.passes[name] = self.passes.get(name, Passes()) + passes

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def computed(passes: Mapping[str, Passes], size: ModelSize, seconds: float) -> Compute:
    """Sum up a training: rollouts and log-probabilities are forward passes, updates are not.

    What a reward's frozen executor writes and reads counts as forward passes too, its tokens do
    not: they are no rollouts.

    Args:
        passes: by part of a step, of all steps.
        size: of the policy; its sampler, its reference and the frozen executor are taken to be as
            large.
        seconds: of all steps.
    """
    written, scored, learned, frozen = (
        passes.get(name, Passes()) for name in (ROLLOUT, LOG_PROBS, TRAIN, FROZEN)
    )
    return Compute(
        trained_tokens=learned.tokens,
        generated_tokens=written.projected,
        read_tokens=written.tokens - written.projected + scored.tokens,
        flops=size.reading(written)
        + size.reading(scored)
        + size.training(learned)
        + size.reading(frozen),
        seconds=round(seconds, 3),
    )


def peak_memory_gib(device: torch.device) -> float:
    """Most memory that was held so far: of the GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def stop_reason(
    method: GRPOConfig, metrics: Mapping[str, float], rewards: Sequence[float]
) -> str | None:
    """Say why training should end: KL, entropy, mean reward of five steps, or its compute is spent.

    None if it need not.

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
    if method.stop_flops is not None and metrics.get("train/flops", 0.0) >= method.stop_flops:
        return "the operations reached method.stop_flops"
    drop = max(means) - means[-1] if means else 0.0
    if method.stop_reward_drop is not None and drop > method.stop_reward_drop:
        return "the reward fell by method.stop_reward_drop"
    return None


def dead_group_warning(dead_rates: Sequence[float], *, is_last: bool) -> str | None:
    """Say that most groups teach nothing: once, after a few steps or at the end of a short run.

    Args:
        dead_rates: share of dead groups of all steps so far.
        is_last: no further step follows.
    """
    means = np.cumsum(dead_rates) / np.arange(1, len(dead_rates) + 1)
    is_said = bool((means[_PATIENCE - 1 : -1] > _MOSTLY_DEAD).any())
    is_time = len(dead_rates) >= _PATIENCE or is_last
    if is_said or not is_time or means[-1] <= _MOSTLY_DEAD:
        return None
    return (
        f"most groups are dead ({100 * means[-1]:.0f} %): all of their completions earn the same. "
        "Raise method.group_size, begin from a better start, or choose other problems"
    )
