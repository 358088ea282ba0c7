"""A GRPO step's first half: sample groups, score them, compare them; no gradients yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.training import PromptConfig
from plan_tuning.students.loading import Student
from plan_tuning.training.distributed import Ranks
from plan_tuning.training.grpo.experience import (
    Experience,
    add_penalties,
    assign_advantages,
    compare_groups,
    subtract_kl,
    table,
)
from plan_tuning.training.grpo.phases import Phases
from plan_tuning.training.grpo.policy import Sampler, frozen_copy
from plan_tuning.training.grpo.policy_log_probs import completion_scores, reference_policy
from plan_tuning.training.grpo.reward import Scorer
from plan_tuning.training.grpo.rollout import (
    GoldenProblem,
    PolicyBatch,
    Rollout,
    policy_batches,
    sample_groups,
)
from plan_tuning.training.order import stream_rows


class Collector:
    """Makes the experience of a step; ``drawn`` is all that it remembers from step to step."""

    def __init__(
        self,
        student: Student,
        cases: Sequence[GoldenProblem],
        scorer: Scorer,
        *,
        method: GRPOConfig,
        prompt: PromptConfig,
        seed: int,
        budget: int,
        is_shared: bool,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.student = student
        self.cases = cases
        self.scorer = scorer
        self.method = method
        self.prompt = prompt
        self.seed = seed
        self.budget = budget  # padded tokens of a forward pass
        self.is_shared = is_shared
        self.drawn = 0  # position in the stream of problems
        self.sampled_in: set[torch.dtype] = set()  # of the sampler's weights
        self._device = torch.device("cpu")
        self._ranks = Ranks()
        self._sampler = Sampler(student, is_merged=method.merged_sampler, dtype=dtype)
        needs_copy = method.has_reference and not hasattr(student.model, "peft_config")
        self._reference = frozen_copy(student) if needs_copy else None

    def begin(self, device: torch.device, ranks: Ranks) -> None:
        """Say where this rank computes and how it meets the others."""
        self._device, self._ranks = device, ranks
        if self._reference is not None:
            self._reference.to(device)

    def collect(self, step: int, phases: Phases) -> tuple[Experience, dict[str, float]]:
        """Sample, score and compare; draw again for dead groups where that is asked for.

        Returns:
            This rank's experience, and figures of the rewards of all ranks.
        """
        everything = Experience()
        counts = [
            len(range(rank, self.method.prompts_per_step, self._ranks.world))
            for rank in range(self._ranks.world)
        ]
        redraws = 0
        while True:
            chunk = self._draw(step, counts, phases)
            weights = add_penalties(chunk, self.scorer.weights, self.method)
            dead = self._dead_groups(chunk, weights)
            missing = self._ranks.gather(int(dead.sum()))
            if redraws >= self.method.max_redraws or not sum(missing):
                everything.add(chunk, [True] * len(chunk.rollouts))
                break
            everything.add(chunk, np.repeat(~dead, self.method.group_size).tolist())
            counts, redraws = missing, redraws + 1
        aggregation = self.scorer.reward.aggregation
        metrics = assign_advantages(everything, weights, self.method, aggregation, self._ranks)
        metrics["redraws"] = float(redraws)
        with phases("scoring"):
            self._fill_passes(everything, everything.live, phases)
        if self._is_kl_reward:
            subtract_kl(everything, self.method.beta)
        return everything, metrics

    @property
    def _is_kl_reward(self) -> bool:
        return self.method.has_reference and self.method.kl_in == "reward"

    def _dead_groups(
        self, chunk: Experience, weights: dict[str, float]
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        if not chunk.rollouts:
            return np.zeros(0, bool)
        parts = table(chunk.rewards, self.method.group_size)
        aggregation = self.scorer.reward.aggregation
        return compare_groups(parts, weights, self.method, aggregation).is_dead

    def _draw(self, step: int, counts: Sequence[int], phases: Phases) -> Experience:
        """Sample and score this rank's share of the next problems of the stream."""
        total, first = sum(counts), sum(counts[: self._ranks.rank])
        rows = stream_rows(seed=self.seed, first=self.drawn, count=total, num_rows=len(self.cases))
        places = range(first, first + counts[self._ranks.rank])
        stream = [self.drawn + place for place in places]
        self.drawn += total
        with phases("rollout"), torch.autocast(self._device.type, enabled=False):
            sampler = self._sampler.student()
            self.sampled_in = {parameter.dtype for parameter in sampler.model.parameters()}
            rollouts = sample_groups(
                sampler,
                [self.cases[rows[place]] for place in places],
                method=self.method,
                prompt=self.prompt,
                seed=self.seed,
                step=step,
                stream=stream,
            )
        phases.count("rollout", sum(len(rollout) for rollout in rollouts))
        chunk = Experience(rollouts=rollouts)
        chunk.old = [None] * len(rollouts)
        chunk.reference = [None] * len(rollouts)
        pending = self.scorer.submit(rollouts)
        if self.scorer.is_slow:  # while the judge reads
            with phases("scoring"):
                self._fill_passes(chunk, range(len(rollouts)), phases)
        with phases("reward"):
            chunk.rewards = pending.result()
        return chunk

    @torch.no_grad()
    def _fill_passes(self, experience: Experience, indices: Sequence[int], phases: Phases) -> None:
        """Compute the old and reference log-probabilities that are needed and not there yet."""
        if self._is_kl_reward or not self.method.is_on_policy:
            self._fill(self.student.causal_lm, experience, experience.old, indices, phases)
        if self.method.has_reference:
            with reference_policy(self.student, self._reference) as model:
                self._fill(model, experience, experience.reference, indices, phases)

    def _fill(
        self,
        model: Any,
        experience: Experience,
        out: list[torch.Tensor | None],
        indices: Sequence[int],
        phases: Phases,
    ) -> None:
        missing = [index for index in indices if out[index] is None]
        for batch in self.batches([experience.rollouts[index] for index in missing]):
            phases.count("scoring", batch.num_tokens)
            scores = completion_scores(
                model, batch.to(self._device), temperature=self.method.temperature
            )
            parts = scores.log_probs.split(batch.lengths.tolist())
            for place, values in zip(batch.indices, parts, strict=True):
                out[missing[place]] = values.cpu()

    def batches(self, rollouts: Sequence[Rollout]) -> list[PolicyBatch]:
        """Split rollouts into forward passes."""
        return policy_batches(
            rollouts, budget=self.budget, is_shared=self.is_shared, pad_id=self.student.pad_id
        )
