"""Teacher plans and a start to a better student: group-relative policy optimisation.

One Lightning batch is one whole GRPO step: sample groups, reward, compare, learn. A checkpoint
therefore always falls on an empty buffer and has to hold no rollouts.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import astuple
from functools import cached_property
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.training import PromptConfig, TrainerConfig
from plan_tuning.rewards.hack_probes import probe_rates
from plan_tuning.students.flops import ModelSize, Passes
from plan_tuning.students.loading import Student
from plan_tuning.students.log_probs import check_projection
from plan_tuning.training.checkpoints import keep_trained, require_trained
from plan_tuning.training.distributed import Ranks
from plan_tuning.training.grpo.data import PlannedProblem
from plan_tuning.training.grpo.experience import (
    Experience,
    add_penalties,
    assign_advantages,
    completion_rows,
    dead_groups,
    reward_weights,
    subtract_kl,
)
from plan_tuning.training.grpo.metrics import (
    FROZEN,
    LOG_PROBS,
    ROLLOUT,
    SYNC,
    PassStatistics,
    StepTimer,
    computed,
    dead_group_warning,
    peak_memory_gib,
    stop_reason,
)
from plan_tuning.training.grpo.policy import Policy
from plan_tuning.training.grpo.reward import RewardWorker, plan_case
from plan_tuning.training.grpo.rollout import sample_groups
from plan_tuning.training.grpo.rollout_server import RolloutServer
from plan_tuning.training.grpo.update import PolicyUpdate, StepState
from plan_tuning.training.logs import CompletionLog
from plan_tuning.training.optim import build_optimizer, learning_rate_factor
from plan_tuning.training.order import noise_seed, stream_rows

logger = logging.getLogger(__name__)


class GRPOModule(pl.LightningModule):
    """The loop around pure parts: rollouts, rewards, advantages, losses."""

    def __init__(
        self,
        student: Student,
        problems: Sequence[PlannedProblem],
        reward_worker: RewardWorker,
        *,
        method: GRPOConfig,
        prompt: PromptConfig,
        trainer: TrainerConfig,
        seed: int,
        total_steps: int,
        log: CompletionLog,
        rollout_server: RolloutServer | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # a checkpoint holds the trained weights only
        self.model = student.model
        self.student = student
        self.problems = problems
        self.reward_worker = reward_worker
        self.reward = reward_worker.reward
        self.method = method = method.resolved(trainer.precision)
        self.prompt = prompt
        self.config = method.optimisation(trainer)
        self.seed = seed
        self.total_steps = total_steps
        self.log_of_completions = log
        self.rollout_server = rollout_server
        self.finished_steps = 0
        self.tokens = 0
        # All that went through the model, by part of a step; None: a checkpoint did not say
        self.passes: dict[str, Passes] | None = {}
        self.seconds = 0.0
        self.rewards: list[float] = []
        self.dead_rates: list[float] = []
        self.stop_reason = ""
        self.last_metrics: dict[str, float] = {}
        self.state = StepState()
        self.policy = Policy(student, method=method, trainer=trainer)

    @property
    def is_between_steps(self) -> bool:
        """Whether weights and records are those of the last finished step: they can be saved."""
        return not self.state.has_begun

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
        """Check the projection, put all into train mode, and meet the other processes."""
        ids = [*self.student.end_ids, *self.student.turn_end] * 4
        with self.trainer.precision_plugin.forward_context():
            check_projection(self.student.causal_lm, torch.tensor([ids], device=self.device))
        self.model.train()
        self.ranks = Ranks(self.trainer)
        if self.rollout_server is not None:
            with self.trainer.precision_plugin.forward_context():
                self.rollout_server.begin(self.ranks)
        self.policy_update = PolicyUpdate(
            self.policy,
            self.state,
            method=self.method,
            trainer=self.config,
            ranks=self.ranks,
            backward=self.manual_backward,
        )

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Do one whole GRPO step: sample, reward, compare, learn, report."""
        start = time.perf_counter()
        step = self.finished_steps
        torch.manual_seed(noise_seed(self.seed, step, self.global_rank))
        timer = StepTimer(self.device)
        sync_gap = self._sync(step, timer)
        experience, drawn, redraws = self._sample(step, timer)
        metrics = assign_advantages(experience, self.reward, self.method, self.ranks) | sync_gap
        metrics["redraws"] = float(redraws)
        self._fill_log_probs([one for one in experience if one.is_live], timer)
        if self._is_kl_reward:
            subtract_kl(experience, self.method.beta)
        rates = [self._learning_rate(update) for update in range(self.updates_per_step)]
        statistics = self.policy_update.learn(
            experience, timer, step=step, optimizer=self.optimizers(), rates=rates
        )
        metrics["learning_rate"] = rates[0]
        self.state.has_begun = True  # also where all groups were dead: its records follow
        self.finished_steps += 1
        self.state.drawn = drawn
        self.tokens += sum(len(one.rollout) for one in experience)
        seconds = time.perf_counter() - start
        self.seconds += seconds
        self.rewards.append(metrics.get("reward/total", math.nan))
        self.dead_rates.append(metrics["dead_rate"])
        self._report(experience, metrics, statistics, timer, seconds)
        if self.log_of_completions.is_due(step):
            weights = reward_weights(self.reward, self.method)
            ranks = self.ranks.gather(completion_rows(step, experience, weights))
            if self.global_rank == 0:
                self.log_of_completions.add([row for share in ranks for row in share])
        self.state.has_begun = False
        self._stop_where_lost()
        is_last = self.finished_steps >= self.total_steps or bool(self.stop_reason)
        warning = dead_group_warning(self.dead_rates, is_last=is_last)
        if warning:
            logger.warning(warning)
        if self.finished_steps >= self.total_steps:
            self.trainer.should_stop = True

    def _sync(self, step: int, timer: StepTimer) -> dict[str, float]:
        """Have a server of rollouts answer with the policy as it is; how far it is from it then."""
        if self.rollout_server is None:
            return {}
        with timer(SYNC):
            return {"sync_gap": self.rollout_server.sync(step)}

    def _sample(self, step: int, timer: StepTimer) -> tuple[list[Experience], int, int]:
        """Sample and reward groups; draw again for dead ones where that is asked for.

        Returns:
            This rank's experience, the next place in the stream of problems, and the draws.
        """
        experience: list[Experience] = []
        world, drawn, redraws = self.ranks.world, self.state.drawn, 0
        counts = [len(range(rank, self.method.prompts_per_step, world)) for rank in range(world)]
        while True:
            draw = self._draw(step, drawn, counts, timer)
            experience += draw
            drawn += sum(counts)
            is_dead = dead_groups(draw, self.reward, self.method)
            counts = self.ranks.gather(int(is_dead.sum()))
            if redraws >= self.method.max_redraws or not sum(counts):
                return experience, drawn, redraws
            for index, one in enumerate(draw):
                one.is_kept = not is_dead[index // self.method.group_size]
            redraws += 1

    def _draw(
        self, step: int, drawn: int, counts: Sequence[int], timer: StepTimer
    ) -> list[Experience]:
        """Sample and reward this rank's share of the next problems of the stream."""
        rows = stream_rows(
            seed=self.seed, first=drawn, count=sum(counts), num_rows=len(self.problems)
        )
        first = sum(counts[: self.ranks.rank])
        mine = range(first, first + counts[self.ranks.rank])
        mixes = self.policy.samples_in_autocast
        with timer(ROLLOUT), torch.autocast(self.device.type, torch.bfloat16, enabled=mixes):
            rollouts = sample_groups(
                self.rollout_server or self.policy.engine(),
                self.student.tokenizer,
                [self.problems[rows[place]] for place in mine],
                method=self.method,
                prompt=self.prompt,
                seed=self.seed,
                step=step,
                stream=[drawn + place for place in mine],
            )
        written = Passes.of_completions(  # a prompt is read once for its group
            (len(rollout.prompt) for rollout in rollouts[:: self.method.group_size]),
            ((len(rollout.prompt), len(rollout)) for rollout in rollouts),
        )
        timer.count(ROLLOUT, written.projected, written)
        experience = [Experience(rollout) for rollout in rollouts]
        pending = self.reward_worker.submit(rollouts)
        if self.reward_worker.is_slow:  # while the judge reads
            self._fill_log_probs(experience, timer)
        with timer("reward"):
            rewards = pending.result()
        frozen = self.reward_worker.taken_passes()
        if frozen.tokens:
            timer.count(FROZEN, frozen.tokens, frozen)
        for one, found in zip(experience, rewards, strict=True):
            one.rewards = found
        add_penalties(experience, self.method)
        return experience

    @property
    def _is_kl_reward(self) -> bool:
        return self.method.has_reference and self.method.kl_in == "reward"

    def _fill_log_probs(self, experience: Sequence[Experience], timer: StepTimer) -> None:
        """Compute the old and reference log-probabilities that are needed and not there yet."""
        with timer(LOG_PROBS):
            if self._is_kl_reward or not self.method.is_on_policy:
                missing = [one for one in experience if one.old_log_probs is None]
                found = self._log_probs(self.student.causal_lm, missing, timer)
                for one, values in zip(missing, found, strict=True):
                    one.old_log_probs = values
            if self.method.has_reference:
                missing = [one for one in experience if one.reference_log_probs is None]
                with self.policy.reference() as reference:
                    found = self._log_probs(reference, missing, timer)
                for one, values in zip(missing, found, strict=True):
                    one.reference_log_probs = values

    def _log_probs(
        self, causal_lm: Any, experience: Sequence[Experience], timer: StepTimer
    ) -> list[torch.Tensor]:
        found, passes = self.policy.log_probs(causal_lm, [one.rollout for one in experience])
        if passes.tokens:
            timer.count(LOG_PROBS, passes.tokens, passes)
        return found

    def _report(
        self,
        experience: Sequence[Experience],
        metrics: dict[str, float],
        statistics: PassStatistics,
        timer: StepTimer,
        seconds: float,
    ) -> None:
        """Log a step; all figures of all ranks but times and memory."""
        lengths = [len(one.rollout) for one in experience]
        cut = [float(one.rollout.is_truncated) for one in experience]
        probes = probe_rates([plan_case(one.rollout) for one in experience])
        ranks = self.ranks.gather((lengths, cut, dict(timer.tokens), dict(timer.passes), probes))
        if self.passes is not None:
            for name, passes in (item for share in ranks for item in share[3].items()):
                self.passes[name] = self.passes.get(name, Passes()) + passes
        probes = _probes_of_all([(len(share[0]), share[4]) for share in ranks])
        lengths = [value for share in ranks for value in share[0]]
        cut = [value for share in ranks for value in share[1]]
        values = metrics | probes | statistics.summary(self.method, self.ranks.reduce)
        if self.passes is not None:
            values["flops"] = computed(self.passes, self._size, 0.0).flops or 0.0
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
        self.last_metrics |= {f"time/{name}": value for name, value in timer.seconds.items()}
        self.last_metrics["time/step"] = seconds
        for name in dict.fromkeys(name for share in ranks for name in share[2]):
            self.last_metrics[f"tokens/{name}"] = float(sum(s[2].get(name, 0) for s in ranks))
        self.log_dict(self.last_metrics, on_step=True, on_epoch=False, batch_size=len(lengths))

    @cached_property
    def _size(self) -> ModelSize:
        return ModelSize.of(self.student.causal_lm)

    def _stop_where_lost(self) -> None:
        """End the training where the policy falls apart or its compute is spent, and say why."""
        reason = stop_reason(self.method, self.last_metrics, self.rewards)
        if reason:
            self.stop_reason = f"{reason} at step {self.finished_steps}"
            logger.warning("GRPO stops: %s", self.stop_reason)
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep trained weights only; frozen ones come from the start."""
        keep_trained(self, checkpoint)
        checkpoint["grpo"] = {
            "finished_steps": self.finished_steps,
            "drawn": self.state.drawn,
            "is_start_checked": self.state.is_start_checked,
            "tokens": self.tokens,
            "passes": None
            if self.passes is None
            else {name: list(astuple(passes)) for name, passes in self.passes.items()},
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
        self.state.drawn = int(state["drawn"])
        self.state.is_start_checked = bool(state["is_start_checked"])
        self.tokens = int(state["tokens"])
        passes = state.get("passes")
        self.passes = passes and {name: Passes(*values) for name, values in passes.items()}
        self.seconds = float(state["seconds"])
        self.rewards = state["rewards"].tolist()
        self.dead_rates = state["dead_rates"].tolist()


def _probes_of_all(shares: Sequence[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Average what share of the plans each probe describes over ranks, by their completions."""
    total = sum(count for count, _ in shares)
    names = dict.fromkeys(name for _, rates in shares for name in rates)
    return {
        f"probe/{name}": sum(count * rates.get(name, 0.0) for count, rates in shares) / total
        for name in names
    }
