"""A GRPO step's second half: experience to optimizer steps, on every rank the same number."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.training import TrainerConfig
from plan_tuning.training.distributed import Ranks
from plan_tuning.training.grpo.experience import Experience
from plan_tuning.training.grpo.loss import pass_loss
from plan_tuning.training.grpo.metrics import TRAIN, PassStatistics, StepTimer
from plan_tuning.training.grpo.policy import Policy, completion_log_probs
from plan_tuning.training.lightning import TrainingError

logger = logging.getLogger(__name__)

# Mean differences between two computations of one log-probability (nats) that rounding explains:
# where all is float32, and elsewhere. Rollouts in bfloat16 of sound trainings lie near the second,
# which is worth a warning; far beyond it they are another policy's.
SAMPLER_GAP_FLOAT32, SAMPLER_GAP_WARNED, SAMPLER_GAP_ROUNDED = 0.002, 0.05, 0.2
START_GAP_FLOAT32, START_GAP_ROUNDED = 1e-3, 0.05


@dataclass
class StepState:
    """Where a training stands, as far as its present step can change it."""

    drawn: int = 0  # problems of the stream that the finished steps have used
    has_begun: bool = False  # weights or records are no longer those of the last finished step
    is_start_checked: bool = False  # the policies were compared before the first update


def mini_batches(
    experience: Sequence[Experience], method: GRPOConfig, ranks: Ranks
) -> list[list[Experience]]:
    """Choose what this rank learns from in each optimizer step of a GRPO step.

    Mini-batches are cut from the live groups of all ranks, so that ranks do what one would do.
    """
    places = [place for place, one in enumerate(experience) if one.is_live]
    groups = sorted({place // method.group_size for place in places})
    counts = ranks.gather(len(groups))
    offset = sum(counts[: ranks.rank])
    found = []
    for part in np.array_split(np.arange(sum(counts)), method.mini_batches):
        chosen = {groups[k] for k in part - offset if 0 <= k < len(groups)}
        found.append([experience[p] for p in places if p // method.group_size in chosen])
    return found * method.buffer_epochs


class PolicyUpdate:
    """Does the optimizer steps of a GRPO step.

    Args:
        policy: is trained.
        state: is told when the weights change.
        method: the objective.
        trainer: the optimisation.
        ranks: how this process meets the others.
        backward: computes gradients; Lightning's.
    """

    def __init__(
        self,
        policy: Policy,
        state: StepState,
        *,
        method: GRPOConfig,
        trainer: TrainerConfig,
        ranks: Ranks,
        backward: Callable[[torch.Tensor], None],
    ) -> None:
        self.policy = policy
        self.state = state
        self.method = method
        self.trainer = trainer
        self._ranks = ranks
        self._backward = backward
        self._is_warned = False
        self._device = policy.student.device
        self._trained = [p for p in policy.student.model.parameters() if p.requires_grad]

    def learn(
        self,
        experience: Sequence[Experience],
        timer: StepTimer,
        *,
        step: int,
        optimizer: Any,
        rates: Sequence[float],
    ) -> PassStatistics:
        """Do the optimizer steps of one GRPO step.

        Args:
            experience: of this rank.
            timer: of the step.
            step: number of the GRPO step, for messages.
            optimizer: of the trained weights.
            rates: learning rate of each optimizer step.

        Raises:
            TrainingError: the loss is not finite, or the policies are not what they should be.
        """
        statistics = PassStatistics(self._device)
        updates = mini_batches(experience, self.method, self._ranks)
        for rate, mine in zip(rates, updates, strict=True):
            loss = self._passes(mine, experience[0], statistics, timer)
            if loss is None:  # no group has anything to teach
                continue
            self._check(statistics, step)
            with timer("optimizer"):
                norm = torch.nn.utils.clip_grad_norm_(
                    self._trained, self.trainer.max_grad_norm or math.inf
                )
                total = float(self._ranks.reduce(loss, "sum"))
                if not (math.isfinite(total) and math.isfinite(float(norm))):
                    ids = sorted({one.rollout.problem.id for one in mine})
                    raise TrainingError(
                        f"GRPO step {step}: loss {total}, gradient norm {float(norm)} on problems "
                        f"{', '.join(ids[:8])}. Lower method.learning_rate, or use "
                        "trainer.precision=fp32"
                    )
                for group in optimizer.param_groups:
                    group["lr"] = rate
                self.state.has_begun = True  # before it: an interrupt may fall into the step
                optimizer.step()
                # Casts of the old weights that autocast may keep until its outermost exit.
                torch.clear_autocast_cache()
                optimizer.zero_grad(set_to_none=True)
            statistics.loss += total / len(rates)
            statistics.grad_norms.append(float(norm))
        return statistics

    def _passes(
        self,
        mine: Sequence[Experience],
        any_one: Experience,
        statistics: PassStatistics,
        timer: StepTimer,
    ) -> torch.Tensor | None:
        """Add up gradients; every rank runs as many backward passes as the busiest one.

        Args:
            mine: what this rank learns from.
            any_one: is read, and not learned from, where this rank has fewer passes than another.
            statistics: is added to.
            timer: of the step.

        Returns:
            This rank's share of the loss; None where no rank has anything to learn from.
        """
        batches = self.policy.batches([one.rollout for one in mine])
        tokens = sum(len(one.rollout) for one in mine)
        shares = self._ranks.gather((len(mine), tokens, len(batches)))
        rows, tokens, passes = (sum(share[k] for share in shares) for k in range(3))
        most = max(share[2] for share in shares)
        if not most:
            return None
        num_own = len(batches)
        if num_own < most:  # passes that touch every weight with a loss of 0
            batches += self.policy.batches([any_one.rollout])[:1] * (most - num_own)
        loss = torch.zeros((), device=self._device)
        with timer(TRAIN):
            for place, batch in enumerate(batches):
                with self._ranks.gradients_stay_local(place < most - 1):
                    moved = batch.to(self._device)
                    found = completion_log_probs(
                        self.policy.student.causal_lm,
                        moved,
                        temperature=self.method.temperature,
                        with_entropy=True,
                        entropy_has_gradient=self.method.entropy_bonus > 0,
                    )
                    if place < num_own:
                        part, sums, maxima = pass_loss(
                            found,
                            moved,
                            mine,
                            method=self.method,
                            total_rows=rows,
                            total_tokens=tokens,
                            num_passes=passes,
                        )
                        statistics.add(moved, sums, maxima)
                        timer.count(TRAIN, batch.num_tokens, batch.passes)
                    else:
                        part = found.log_probs.sum() * 0.0
                    # Ranks average their gradients: times the number of ranks makes that a sum.
                    self._backward(part * self._ranks.world)
                loss += part.detach()
        return loss

    def _check(self, statistics: PassStatistics, step: int) -> None:
        """Stop where sampler, policy and reference are not what the method takes them for.

        Every rank sees the same figures, so that all of them stop or none.
        """
        means = statistics.gaps(self._ranks.reduce)
        is_float32 = self.trainer.precision == "fp32" and self.policy.dtypes == {torch.float32}
        is_rounded = not is_float32 or self.method.is_served  # in whatever a server computes
        bound = self.method.max_log_prob_gap
        if bound is None:
            bound = SAMPLER_GAP_ROUNDED if is_rounded else SAMPLER_GAP_FLOAT32
        gap = means["sampler_gap"]
        is_comparable = self.method.top_p >= 1.0 and not self.method.top_k
        if bound and gap > bound and is_comparable:
            raise TrainingError(
                f"GRPO step {step}: the sampler's log-probabilities differ from the trainer's by "
                f"{gap:.3g} on average, more than method.max_log_prob_gap={bound:g}: rollouts do "
                "not come from the policy that is trained. Raise the bound where the sampler's "
                "precision explains it, and set method.importance_cap=2"
            )
        if is_rounded and gap > SAMPLER_GAP_WARNED and is_comparable and not self._is_warned:
            self._is_warned = True
            logger.warning(
                "GRPO step %d: the sampler's log-probabilities differ from the trainer's by %.3g "
                "on average (train/sampler_gap has every step's): much for rounding alone%s",
                step,
                gap,
                "" if self.method.importance_cap else "; method.importance_cap=2 weighs it out",
            )
        if self.state.is_start_checked:
            return
        allowed = START_GAP_FLOAT32 if is_float32 else START_GAP_ROUNDED
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
        self.state.is_start_checked = True
        logger.info("before the first update the ratio is 1 and the KL to the start is 0")
        if self.method.has_reference:
            logger.info(
                "at step %d, before any update, the KL to the start (k3) is %.3g nats a token: "
                "what rounding alone makes of it",
                step + 1,
                means["kl_k3"],
            )
