"""A GRPO step's second half: experience to optimizer steps, on every rank the same number."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.training import TrainerConfig
from plan_tuning.students.loading import Student
from plan_tuning.training.distributed import Ranks
from plan_tuning.training.grpo.collection import Collector
from plan_tuning.training.grpo.experience import Experience
from plan_tuning.training.grpo.phases import Phases
from plan_tuning.training.grpo.policy_log_probs import completion_scores
from plan_tuning.training.grpo.policy_loss import Normaliser, PassStatistics, pass_loss
from plan_tuning.training.lightning import TrainingError

logger = logging.getLogger(__name__)

# Mean differences between two computations of one log-probability (nats) that rounding explains.
_SAMPLER_GAP = {True: 0.002, False: 0.05}  # is everything float32?
_START_GAP = {True: 1e-3, False: 0.05}


class Updates:
    """Does the optimizer steps of a GRPO step.

    Args:
        student: the policy.
        collector: splits rollouts into passes.
        method: the objective.
        config: the optimisation.
        backward: computes gradients; Lightning's.
    """

    def __init__(
        self,
        student: Student,
        collector: Collector,
        *,
        method: GRPOConfig,
        config: TrainerConfig,
        backward: Callable[[torch.Tensor], None],
    ) -> None:
        self.student = student
        self.collector = collector
        self.method = method
        self.config = config
        self.has_begun = False  # weights are no longer those of the last finished GRPO step
        self.is_start_checked = False
        self._backward = backward
        self._ranks = Ranks()
        self._device = torch.device("cpu")
        self._trained = [p for p in student.model.parameters() if p.requires_grad]
        self._kinds = {p.dtype for p in student.model.parameters()}

    @property
    def _is_exact(self) -> bool:
        """Whether sampler and trainer compute in float32 throughout."""
        kinds = self._kinds | self.collector.sampled_in
        return self.config.precision == "fp32" and kinds == {torch.float32}

    def begin(self, device: torch.device, ranks: Ranks) -> None:
        """Say where this rank computes and how it meets the others."""
        self._device, self._ranks = device, ranks

    def learn(
        self,
        experience: Experience,
        phases: Phases,
        *,
        step: int,
        optimizer: Any,
        rates: Sequence[float],
    ) -> PassStatistics:
        """Do the optimizer steps of one GRPO step.

        Args:
            experience: of this rank.
            phases: is timed.
            step: number of the GRPO step, for messages.
            optimizer: of the trained weights.
            rates: learning rate of each optimizer step.

        Raises:
            TrainingError: the loss is not finite, or the policies are not what they should be.
        """
        statistics = PassStatistics(self._device)
        size = self.method.group_size
        live = experience.live
        groups = np.array(sorted({index // size for index in live}), dtype=int)
        # Mini-batches are cut from the groups of all ranks, so that ranks do what one would do.
        counts = self._ranks.gather(len(groups))
        offset = sum(counts[: self._ranks.rank])
        parts = np.array_split(np.arange(sum(counts)), self.method.mini_batches)
        for update, rate in enumerate(rates):
            part = parts[update % self.method.mini_batches] - offset
            chosen = set(groups[part[(part >= 0) & (part < len(groups))]].tolist())
            mine = [index for index in live if index // size in chosen]
            loss = self._passes(experience, mine, statistics, phases)
            if loss is None:  # no group has anything to teach
                continue
            self._check(statistics, step)
            with phases("optimizer"):
                norm = torch.nn.utils.clip_grad_norm_(
                    self._trained, self.config.max_grad_norm or math.inf
                )
                total = float(self._ranks.reduce(loss, "sum"))
                if not (math.isfinite(total) and math.isfinite(float(norm))):
                    ids = sorted({experience.rollouts[i].case.problem.id for i in mine})
                    raise TrainingError(
                        f"GRPO step {step}: loss {total}, gradient norm {float(norm)} on problems "
                        f"{', '.join(ids[:8])}. Lower method.learning_rate, or use "
                        "trainer.precision=fp32"
                    )
                for group in optimizer.param_groups:
                    group["lr"] = rate
                self.has_begun = True  # before it: an interrupt may fall into the step
                optimizer.step()
                # Casts of the old weights that autocast may keep until its outermost exit.
                torch.clear_autocast_cache()
                optimizer.zero_grad(set_to_none=True)
            statistics.loss += total / len(rates)
            statistics.grad_norms.append(float(norm))
        return statistics

    def _passes(
        self,
        experience: Experience,
        indices: Sequence[int],
        statistics: PassStatistics,
        phases: Phases,
    ) -> torch.Tensor | None:
        """Add up gradients; every rank runs as many backward passes as the busiest one.

        Returns:
            This rank's share of the loss; None where no rank has anything to learn from.
        """
        batches = self.collector.batches([experience.rollouts[index] for index in indices])
        tokens = sum(len(experience.rollouts[index]) for index in indices)
        shares = self._ranks.gather((len(indices), tokens, len(batches)))
        rows, tokens, passes = (sum(share[k] for share in shares) for k in range(3))
        most = max(share[2] for share in shares)
        if not most:
            return None
        normaliser = Normaliser(rows, tokens, passes)
        loss = torch.zeros((), device=self._device)
        with phases("train"):
            for place in range(most):
                with self._ranks.gradients_stay_local(place < most - 1):
                    if place < len(batches):
                        part = pass_loss(
                            self.student.causal_lm,
                            batches[place].to(self._device),
                            experience,
                            indices,
                            method=self.method,
                            normaliser=normaliser,
                            statistics=statistics,
                        )
                        phases.count("train", batches[place].num_tokens)
                    else:
                        part = self._empty_pass(experience)
                    # Ranks average their gradients: times the number of ranks makes that a sum.
                    self._backward(part * self._ranks.world)
                loss += part.detach()
        return loss

    def _empty_pass(self, experience: Experience) -> torch.Tensor:
        """Touch every weight with a loss of 0: this rank has less to learn than another one."""
        batch = self.collector.batches([experience.rollouts[0]])[0].to(self._device)
        scores = completion_scores(
            self.student.causal_lm, batch, temperature=self.method.temperature
        )
        return scores.log_probs.sum() * 0.0

    def _check(self, statistics: PassStatistics, step: int) -> None:
        """Stop where sampler, policy and reference are not what the method takes them for.

        Every rank sees the same figures, so that all of them stop or none.
        """
        means = statistics.gaps(self._ranks.reduce)
        bound = self.method.max_log_prob_gap
        if bound is None:
            bound = _SAMPLER_GAP[self._is_exact]
        gap = means["sampler_gap"]
        if bound and gap > bound and self.method.top_p >= 1.0 and not self.method.top_k:
            raise TrainingError(
                f"GRPO step {step}: the sampler's log-probabilities differ from the trainer's by "
                f"{gap:.3g} on average, more than method.max_log_prob_gap={bound:g}: rollouts do "
                "not come from the policy that is trained. Raise the bound where the sampler's "
                "precision explains it, and set method.importance_cap=2"
            )
        if self.is_start_checked:
            return
        allowed = _START_GAP[self._is_exact]
        for name, meaning in (
            ("ratio_gap", "the ratio to the sampling policy is not 1"),
            ("reference_gap", "the KL to the start is not 0"),
        ):
            if means[name] > allowed:
                raise TrainingError(
                    f"before the first update {meaning}: log-probabilities differ by "
                    f"{means[name]:.3g} on average. Dropout has to be 0 (adapter.dropout=0) and "
                    "the reference has to be the start"
                )
        self.is_start_checked = True
        logger.info("before the first update the ratio is 1 and the KL to the start is 0")
