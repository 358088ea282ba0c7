"""Golden plans and a start to a better student: group-relative policy optimisation.

One Lightning batch is one whole GRPO step: sample groups, score, compare, learn. A checkpoint
therefore always falls on an empty buffer and has to hold no rollouts.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.training import PromptConfig, TrainerConfig
from plan_tuning.students.loading import Student
from plan_tuning.students.log_probs import check_projection
from plan_tuning.training.checkpoints import keep_trained, require_trained
from plan_tuning.training.distributed import Ranks
from plan_tuning.training.grpo.collapse import DeadGroupWarning, collapse
from plan_tuning.training.grpo.collection import Collector
from plan_tuning.training.grpo.experience import Experience, completion_rows
from plan_tuning.training.grpo.phases import Phases, peak_memory_gib
from plan_tuning.training.grpo.policy import sampler_dtype
from plan_tuning.training.grpo.policy_loss import PassStatistics
from plan_tuning.training.grpo.reward import Scorer
from plan_tuning.training.grpo.rollout import GoldenProblem
from plan_tuning.training.grpo.update import Updates
from plan_tuning.training.logs import CompletionLog
from plan_tuning.training.optim import build_optimizer, learning_rate_factor
from plan_tuning.training.order import noise_seed

logger = logging.getLogger(__name__)


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
            dtype=sampler_dtype(method.sampler_dtype, trainer),
        )
        self.updates = Updates(
            student,
            self.collector,
            method=method,
            config=self.config,
            backward=self.manual_backward,
        )
        self._ranks = Ranks()
        self._drawn_before = 0  # place in the stream of problems where the present step began
        self._dead_groups = DeadGroupWarning()

    @property
    def is_between_steps(self) -> bool:
        """Whether weights and records are those of the last finished step: they can be saved."""
        return not self.updates.has_begun

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps of a GRPO step."""
        return self.method.mini_batches * self.method.buffer_epochs

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its rate is set before every update."""
        return build_optimizer(self.model, self.config)

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
        self._ranks = Ranks(self.trainer)
        self.collector.begin(self.device, self._ranks)
        self.updates.begin(self.device, self._ranks)

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Do one whole GRPO step."""
        start = time.perf_counter()
        step = self.finished_steps
        torch.manual_seed(noise_seed(self.seed, step, self.global_rank))
        phases = Phases(self.device)
        self._drawn_before = self.collector.drawn
        experience, metrics = self.collector.collect(step, phases)
        statistics = self.updates.learn(
            experience,
            phases,
            step=step,
            optimizer=self.optimizers(),
            rates=[self._learning_rate(update) for update in range(self.updates_per_step)],
        )
        metrics["learning_rate"] = self._learning_rate(0)
        self.updates.has_begun = True  # also where all groups were dead: its records follow
        self.finished_steps += 1
        self._drawn_before = self.collector.drawn
        self.tokens += sum(len(rollout) for rollout in experience.rollouts)
        seconds = time.perf_counter() - start
        self.seconds += seconds
        self.rewards.append(metrics.get("reward/total", math.nan))
        self.dead_rates.append(metrics["dead_rate"])
        self._report(experience, metrics, statistics, phases, seconds)
        if self.log_of_completions.is_due(step):
            ranks = self._ranks.gather(completion_rows(step, experience))
            if self.global_rank == 0:
                self.log_of_completions.add([row for share in ranks for row in share])
        self.updates.has_begun = False
        self._stop_on_collapse()
        is_last = self.finished_steps >= self.total_steps or bool(self.stop_reason)
        self._dead_groups.check(self.dead_rates, is_last=is_last)
        if self.finished_steps >= self.total_steps:
            self.trainer.should_stop = True

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
        ranks = self._ranks.gather((lengths, cut, dict(phases.tokens)))
        lengths = [value for share in ranks for value in share[0]]
        cut = [value for share in ranks for value in share[1]]
        values = metrics | statistics.summary(self.method, self._ranks.reduce)
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
        for name in dict.fromkeys(name for share in ranks for name in share[2]):
            self.last_metrics[f"tokens/{name}"] = float(sum(s[2].get(name, 0) for s in ranks))
        self.log_dict(self.last_metrics, on_step=True, on_epoch=False, batch_size=len(lengths))

    def _stop_on_collapse(self) -> None:
        """End the training where the policy falls apart, and say why."""
        reason = collapse(self.method, self.last_metrics, self.rewards)
        if reason:
            self.stop_reason = f"{reason} at step {self.finished_steps}"
            logger.warning("GRPO stops: %s", self.stop_reason)
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep trained weights only; frozen ones come from the start."""
        keep_trained(self, checkpoint)
        checkpoint["grpo"] = {
            "finished_steps": self.finished_steps,
            "drawn": self._drawn_before,
            "is_start_checked": self.updates.is_start_checked,
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
        self.collector.drawn = self._drawn_before = int(state["drawn"])
        self.updates.is_start_checked = bool(state["is_start_checked"])
        self.tokens = int(state["tokens"])
        self.seconds = float(state["seconds"])
        self.rewards = state["rewards"].tolist()
        self.dead_rates = state["dead_rates"].tolist()
