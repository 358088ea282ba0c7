"""Golden plans and a start to a better student: group-relative policy optimisation.

One Lightning batch is one whole GRPO step: sample groups, score, compare, learn. A checkpoint
therefore always falls on an empty buffer and has to hold no rollouts.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.training import PromptConfig, TrainerConfig
from plan_tuning.students.loading import Student
from plan_tuning.training.collection import Collector
from plan_tuning.training.completions import CompletionLog, completion_rows
from plan_tuning.training.experience import Experience
from plan_tuning.training.log_probs import check_projection
from plan_tuning.training.phases import Phases, peak_memory_gib
from plan_tuning.training.policy import completion_scores
from plan_tuning.training.policy_loss import Normaliser, PassStatistics, pass_loss
from plan_tuning.training.rollouts import GoldenProblem
from plan_tuning.training.scoring import Scorer
from plan_tuning.training.sft import (
    TrainingError,
    keep_trained,
    learning_rate_factor,
    require_trained,
)

logger = logging.getLogger(__name__)

_START_TOLERANCE = {"fp32": 1e-3, "bf16": 0.25}  # log-probabilities of one text in two batches
_PATIENCE, _MOSTLY_DEAD = 10, 0.8  # steps, share of dead groups that is worth a warning
_WINDOW = 5  # steps over which rewards are averaged


class GRPOSteps:
    """The loader: one item is the number of a GRPO step; the module knows where it stands."""

    def __init__(self, module: GRPOModule) -> None:
        self.module = module

    def __len__(self) -> int:
        return self.module.total_steps

    def __iter__(self) -> Iterator[int]:
        yield from range(self.module.finished_steps, self.module.total_steps)

    def state_dict(self) -> dict[str, int]:
        """Say where the data stand."""
        return {"step": self.module.finished_steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue there."""
        self.module.finished_steps = state["step"]


class GRPOModule(pl.LightningModule):
    """The loop around pure parts: sampler, scorer, advantages, losses."""

    def __init__(
        self,
        student: Student,
        cases: Sequence[GoldenProblem],
        scorer: Scorer,
        *,
        method: GRPOConfig,
        prompt: PromptConfig,
        trainer: TrainerConfig,
        seed: int,
        total_steps: int,
        log: CompletionLog,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # a checkpoint holds the trained weights only
        self.model = student.model
        self.student = student
        self.method = method
        self.config = method.optimisation(trainer)
        self.seed = seed
        self.total_steps = total_steps
        self.log_of_completions = log
        self.finished_steps = 0
        self.tokens = 0
        self.seconds = 0.0
        self.rewards: list[float] = []
        self.dead_rates: list[float] = []
        self.stop_reason = ""
        self.last_metrics: dict[str, float] = {}
        self.collector = Collector(
            student,
            cases,
            scorer,
            method=method,
            prompt=prompt,
            seed=seed,
            budget=trainer.micro_batch_tokens,
            # A checkpointed layer drops the keys that a shared prompt would have to keep.
            is_shared=method.shared_prompt and not trainer.gradient_checkpointing,
        )

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps of a GRPO step."""
        return self.method.mini_batches * self.method.buffer_epochs

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; fused where the device has it. Its rate is set before every update."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        return torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.config.weight_decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=self.config.learning_rate,
            betas=(self.config.beta1, self.config.beta2),
            fused=trained[0].device.type in ("cpu", "cuda"),
        )

    def _learning_rate(self, update: int) -> float:
        """The rate of an update of this step: a step whose groups are all dead uses its up too."""
        done = self.finished_steps * self.updates_per_step + update
        total = self.total_steps * self.updates_per_step
        return self.config.learning_rate * learning_rate_factor(done, total, self.config)

    def on_fit_start(self) -> None:
        """Check the projection, put all into train mode, and the reference onto the device."""
        ids = [*self.student.end_ids, *self.student.turn_end] * 4
        with self.trainer.precision_plugin.forward_context():
            check_projection(self.student.causal_lm, torch.tensor([ids], device=self.device))
        self.model.train()
        self.collector.begin(
            self.device, rank=self.global_rank, world=self.trainer.world_size, gather=self._gather
        )

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Do one whole GRPO step."""
        start = time.perf_counter()
        step = self.finished_steps
        torch.manual_seed((self.seed * 1_000_003 + step) * 1_009 + self.global_rank)
        phases = Phases(self.device)
        experience, metrics = self.collector.collect(step, phases)
        statistics = self._learn(experience, phases, is_first=step == 0)
        metrics["learning_rate"] = self._learning_rate(0)
        self.finished_steps += 1
        self.tokens += sum(len(rollout) for rollout in experience.rollouts)
        seconds = time.perf_counter() - start
        self.seconds += seconds
        self.rewards.append(metrics.get("reward/total", math.nan))
        self.dead_rates.append(metrics["dead_rate"])
        self._report(experience, metrics, statistics, phases, seconds)
        if self.log_of_completions.is_due(step):
            ranks = self._gather(completion_rows(step, experience))
            if self.global_rank == 0:
                self.log_of_completions.add([row for share in ranks for row in share])
        self._stop_on_collapse()
        if self.finished_steps == _PATIENCE and np.mean(self.dead_rates) > _MOSTLY_DEAD:
            logger.warning(
                "most groups are dead (%.0f %%): all of their completions earn the same. Raise "
                "method.group_size, begin from a better start, or choose other problems",
                100 * np.mean(self.dead_rates),
            )
        if self.finished_steps >= self.total_steps:
            self.trainer.should_stop = True

    def _learn(self, experience: Experience, phases: Phases, *, is_first: bool) -> PassStatistics:
        """Do the optimizer steps of this GRPO step."""
        statistics = PassStatistics(self.device)
        size = self.method.group_size
        live = experience.live
        groups = np.array(sorted({index // size for index in live}), dtype=int)
        # Mini-batches are cut from the groups of all ranks, so that ranks do what one would do.
        counts = self._gather(len(groups))
        offset = sum(counts[: self.global_rank])
        parts = np.array_split(np.arange(sum(counts)), self.method.mini_batches)
        for update in range(self.updates_per_step):
            part = parts[update % self.method.mini_batches] - offset
            chosen = set(groups[part[(part >= 0) & (part < len(groups))]].tolist())
            mine = [index for index in live if index // size in chosen]
            rate = self._learning_rate(update)
            is_checked = is_first and update == 0
            self._update(experience, mine, statistics, phases, rate=rate, is_first=is_checked)
        return statistics

    def _update(
        self,
        experience: Experience,
        indices: Sequence[int],
        statistics: PassStatistics,
        phases: Phases,
        *,
        rate: float,
        is_first: bool,
    ) -> None:
        """Do one optimizer step; every rank runs as many backward passes as the busiest one."""
        optimizer: Any = self.optimizers()
        batches = self.collector.batches([experience.rollouts[index] for index in indices])
        tokens = sum(len(experience.rollouts[index]) for index in indices)
        shares = self._gather((len(indices), tokens, len(batches)))
        rows, tokens, passes = (sum(share[k] for share in shares) for k in range(3))
        most = max(share[2] for share in shares)
        if not most:  # no group has anything to teach
            return
        normaliser = Normaliser(rows, tokens, passes)
        loss = torch.zeros((), device=self.device)
        with phases("train"):
            for place in range(most):
                with self._gradients_stay_local(place < most - 1):
                    if place < len(batches):
                        part = pass_loss(
                            self.student.causal_lm,
                            batches[place].to(self.device),
                            experience,
                            indices,
                            method=self.method,
                            normaliser=normaliser,
                            statistics=statistics,
                        )
                    else:
                        part = self._empty_pass(experience)
                    # Ranks average their gradients: times the number of ranks makes that a sum.
                    self.manual_backward(part * self.trainer.world_size)
                loss += part.detach()
        self._check_policies(statistics, is_first=is_first)
        with phases("optimizer"):
            norm = torch.nn.utils.clip_grad_norm_(
                [p for p in self.model.parameters() if p.requires_grad],
                self.config.max_grad_norm or math.inf,
            )
            total = float(self._reduce(loss, "sum"))
            if not (math.isfinite(total) and math.isfinite(float(norm))):
                ids = sorted({experience.rollouts[i].case.problem.id for i in indices})
                raise TrainingError(
                    f"GRPO step {self.finished_steps}: loss {total}, gradient norm {float(norm)} "
                    f"on problems {', '.join(ids[:8])}. Lower method.learning_rate, or use "
                    "trainer.precision=fp32"
                )
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        statistics.loss += total / self.updates_per_step
        statistics.grad_norms.append(float(norm))

    def _empty_pass(self, experience: Experience) -> torch.Tensor:
        """Touch every weight with a loss of 0: this rank has less to learn than another one."""
        batch = self.collector.batches([experience.rollouts[0]])[0].to(self.device)
        scores = completion_scores(
            self.student.causal_lm, batch, temperature=self.method.temperature
        )
        return scores.log_probs.sum() * 0.0

    def _check_policies(self, statistics: PassStatistics, *, is_first: bool) -> None:
        """Stop where sampler, policy and reference are not what the method takes them for."""
        bound = self.method.max_log_prob_gap
        gap = statistics.maximum("sampler_gap")
        if bound and gap > bound and self.method.top_p >= 1.0 and not self.method.top_k:
            raise TrainingError(
                f"GRPO step {self.finished_steps}: the sampler's log-probabilities differ from the "
                f"trainer's by {gap:.3g}, more than method.max_log_prob_gap={bound:g}: rollouts do "
                "not come from the policy that is trained. Raise the bound where the sampler's "
                "precision explains it, and set method.importance_cap=2"
            )
        if not is_first:
            return
        allowed = _START_TOLERANCE[self.config.precision]
        for name, meaning in (
            ("ratio_gap", "the ratio to the sampling policy is not 1"),
            ("reference_gap", "the KL to the start is not 0"),
        ):
            found = statistics.maximum(name)
            if found > allowed:
                raise TrainingError(
                    f"before the first update {meaning}: log-probabilities differ by {found:.3g}. "
                    "Dropout has to be 0 (adapter.dropout=0) and the reference has to be the start"
                )
        logger.info("before the first update the ratio is 1 and the KL to the start is 0")

    def _report(
        self,
        experience: Experience,
        metrics: dict[str, float],
        statistics: PassStatistics,
        phases: Phases,
        seconds: float,
    ) -> None:
        """Log a step; all figures of all ranks but times and memory."""
        lengths = [len(rollout) for rollout in experience.rollouts]
        cut = [float(rollout.is_truncated) for rollout in experience.rollouts]
        ranks = self._gather((lengths, cut))
        lengths = [value for share in ranks for value in share[0]]
        cut = [value for share in ranks for value in share[1]]
        values = metrics | statistics.summary(self.method, self._reduce)
        values |= {
            "length": float(np.mean(lengths)),
            "length_max": float(np.max(lengths)),
            "truncated_rate": float(np.mean(cut)),
            "tokens_per_s": sum(lengths) / seconds,
            "peak_memory_gib": peak_memory_gib(self.device),
        }
        if "kl_k3" in values:
            values["kl"] = values["kl_k3"]
        self.last_metrics = {f"train/{name}": value for name, value in values.items()}
        self.last_metrics |= {f"time/{name}": value for name, value in phases.seconds.items()}
        self.last_metrics["time/step"] = seconds
        self.log_dict(self.last_metrics, on_step=True, on_epoch=False, batch_size=len(lengths))

    def _stop_on_collapse(self) -> None:
        """End the training where the policy falls apart, and say why."""
        reason = collapse(self.method, self.last_metrics, self.rewards)
        if reason:
            self.stop_reason = f"{reason} at step {self.finished_steps}"
            logger.warning("GRPO stops: %s", self.stop_reason)
            self.trainer.should_stop = True

    def _gather(self, value: Any) -> list[Any]:
        if self.trainer.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(found, value)
        return found

    def _reduce(self, value: torch.Tensor, how: str) -> torch.Tensor:
        if self.trainer.world_size > 1:
            kind = torch.distributed.ReduceOp
            torch.distributed.all_reduce(value, kind.SUM if how == "sum" else kind.MAX)
        return value

    def _gradients_stay_local(self, is_local: bool) -> Any:
        """Only the last backward pass of an optimizer step exchanges gradients between ranks."""
        strategy: Any = self.trainer.strategy
        if is_local and hasattr(strategy, "block_backward_sync"):
            return strategy.block_backward_sync()
        return contextlib.nullcontext()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep trained weights only; frozen ones come from the start."""
        keep_trained(self, checkpoint)
        checkpoint["grpo"] = {
            "finished_steps": self.finished_steps,
            "drawn": self.collector.drawn,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "rewards": torch.tensor(self.rewards, dtype=torch.float64),
            "dead_rates": torch.tensor(self.dead_rates, dtype=torch.float64),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the position.

        Raises:
            TrainingError: the checkpoint lacks trained weights of this student.
        """
        require_trained(self, checkpoint)
        state = checkpoint["grpo"]
        self.finished_steps = int(state["finished_steps"])
        self.collector.drawn = int(state["drawn"])
        self.tokens = int(state["tokens"])
        self.seconds = float(state["seconds"])
        self.rewards = state["rewards"].tolist()
        self.dead_rates = state["dead_rates"].tolist()


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
