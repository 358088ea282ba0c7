"""Corpus rows to a student: supervised fine-tuning on completions, segment by segment."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from plan_tuning.config.training import TrainerConfig
from plan_tuning.students.loading import Student
from plan_tuning.students.log_probs import check_projection, token_log_probs
from plan_tuning.training import order
from plan_tuning.training.averaging import WeightAverage
from plan_tuning.training.checkpoints import Checkpoints
from plan_tuning.training.optim import learning_rate_factor
from plan_tuning.training.sft import batches
from plan_tuning.training.sft.batches import EncodedRow, MicroBatch
from plan_tuning.training.sft.failures import offending_rows, write_failure
from plan_tuning.training.sft.metrics import COLUMNS, StepSize, counts_by_kind, kind_metrics
from plan_tuning.training.sft.throughput import pass_overhead, utilisation
from plan_tuning.training.sharding import ShardedStrategy, most_over_ranks, whole


class TrainingError(ValueError):
    """Training cannot go on: no rows, or a loss that is not a number."""


class SFTModule(pl.LightningModule):
    """Next-token loss on the supervised tokens, averaged over a whole optimizer step."""

    def __init__(
        self,
        student: Student,
        rows: Sequence[EncodedRow],
        *,
        trainer: TrainerConfig,
        seed: int,
        total_steps: int,
        failure_folder: Path,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # a checkpoint holds the trained weights only
        self.model = student.model
        self.student = student
        self.rows = rows
        self.config = trainer
        self.seed = seed
        self.total_steps = total_steps
        self.failure_folder = failure_folder
        self.finished_steps = 0
        self.tokens = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self._validation: list[torch.Tensor] = []
        self._hook: Any = None
        self._lengths: torch.Tensor | None = None  # of the rows in the pass under way
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.average = WeightAverage(trained, trainer.ema_decay) if trainer.ema_decay > 0 else None

    @property
    def total_rows(self) -> int:
        """Rows of the whole training."""
        if self.config.max_steps > 0:
            return self.config.max_steps * self.config.batch_size
        return self.config.epochs * len(self.rows)

    def _step_rows(self, step: int) -> list[EncodedRow]:
        """Choose this rank's rows of a step: a function of (seed, step) and the rank."""
        stream = {"batch_size": self.config.batch_size, "total_rows": self.total_rows}
        if self.config.order == "shuffled":
            indices = order.step_rows(seed=self.seed, step=step, num_rows=len(self.rows), **stream)
        else:
            stages = [row.stage for row in self.rows]
            indices = order.curriculum_rows(seed=self.seed, step=step, stages=stages, **stream)
        mine = indices[self.global_rank :: self.trainer.world_size]
        chosen = [self.rows[index] for index in mine]
        if not chosen:  # every rank must run a backward pass; this one adds nothing
            row = self.rows[indices[0]]
            chosen = [EncodedRow(row.problem_id, row.ids, row.weights * 0.0, row.kinds)]
        return chosen

    def step_batches(self, step: int) -> list[MicroBatch]:
        """Make this rank's micro-batches of a step."""
        chosen, budget = self._step_rows(step), self.config.micro_batch_tokens
        if not self.config.packing:
            overhead = pass_overhead(self.student.causal_lm, self.device.type)
            return batches.micro_batches(chosen, budget=budget, overhead=overhead)
        # Kernels for variable lengths take one long sequence without any padding; the others build
        # a mask of its length squared.
        has_kernel = "flash" in str(self.student.causal_lm.config._attn_implementation)
        return batches.packed_batches(
            chosen, budget=budget, capacity=budget if has_kernel else None
        )

    def configure_optimizers(self) -> Any:
        """AdamW with the schedule of the config; fused where the device has it."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        plain = [p for p in trained if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.config.weight_decay},
                {"params": plain, "weight_decay": 0.0},  # norms and biases
            ],
            lr=self.config.learning_rate,
            betas=(self.config.beta1, self.config.beta2),
            fused=trained[0].device.type in ("cpu", "cuda"),
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, self.total_steps, self.config)
        )
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_fit_start(self) -> None:
        """Check the projection where and how it is computed, then put every module into train mode.

        Models arrive in eval mode and Lightning leaves them so; gradient checkpointing and dropout
        would be silently off.

        Raises:
            ProjectionError: the model treats its logits in a way that is unknown here.
        """
        ids = self.rows[0].ids[None, :32].to(self.device)
        strategy = self.trainer.strategy
        with self.trainer.precision_plugin.forward_context():
            if isinstance(strategy, ShardedStrategy):
                with torch.no_grad():
                    strategy.call(check_projection, self.student.causal_lm, ids)
            else:
                check_projection(self.student.causal_lm, ids)
        self.model.train()
        if self.config.neftune_alpha > 0:
            self._hook = self.student.causal_lm.get_input_embeddings().register_forward_hook(
                self._add_noise
            )

    def on_fit_end(self) -> None:
        """Take the embedding noise away."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _add_noise(self, module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """NEFTune (arXiv 2310.05914): uniform noise of alpha / sqrt(T * H) on the embeddings.

        T is a row's own length: its noise does not depend on what it is padded to.
        """
        if not module.training or self._lengths is None:
            return output
        bounds = self.config.neftune_alpha / (self._lengths * output.shape[2]).sqrt()  # (B,)
        noise = torch.empty_like(output).uniform_(-1.0, 1.0)
        return output + noise * bounds[:, None, None].to(output.dtype)

    def training_step(self, batch: list[MicroBatch], batch_idx: int) -> None:
        """Do one whole optimizer step: every micro-batch, then clip, update, schedule."""
        start = time.perf_counter()
        step = self.finished_steps
        # Dropout and noise are functions of (seed, step, rank): a resumed run needs no saved state.
        torch.manual_seed((self.seed * 1_000_003 + step) * 1_009 + self.global_rank)
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        is_logged = (step + 1) % self.config.log_every_n_steps == 0 or step == 0
        mine = StepSize.of(batch).to_tensor(self.device)
        size = StepSize.from_tensor(self._sum_over_ranks(mine))
        passes = self._passes(batch)
        sums = torch.zeros(len(batches.KINDS), COLUMNS, device=self.device)
        loss = torch.zeros((), device=self.device)
        for place, micro in enumerate(passes):
            micro = micro.to(self.device)
            with self._gradients_stay_local(place < len(passes) - 1):
                part, counts = self._pass(micro, with_top=is_logged)
                # Ranks average their gradients: times the number of ranks makes that a sum.
                self.manual_backward(part * (self.trainer.world_size / size.weight))
            loss += part.detach() / size.weight
            if place < len(batch):
                sums += counts
        loss = self._sum_over_ranks(loss)
        norm = torch.nn.utils.clip_grad_norm_(
            [p for p in self.model.parameters() if p.requires_grad],
            self.config.max_grad_norm or math.inf,
        )
        values = torch.stack([loss, whole(norm).to(loss.device)]).tolist()
        if not all(math.isfinite(value) for value in values):
            self._refuse(step, *values)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        self.finished_steps += 1
        if self.average is not None:
            self.average.update(self.finished_steps)
        self.losses.append(values[0])
        self.tokens += int(size.tokens)
        seconds = time.perf_counter() - start
        self.seconds += seconds
        if is_logged:
            self._log_step(size, self._sum_over_ranks(sums), values, rate, seconds)

    def _loss(self, micro: MicroBatch, *, with_top: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the weighted loss; counts by kind, see :func:`counts_by_kind`, where asked for."""
        self._lengths = micro.lengths
        found = token_log_probs(
            self.student.causal_lm,
            micro.input_ids,
            micro.positions,
            micro.targets,
            position_ids=micro.position_ids,
            with_top=with_top,
        )
        if with_top:
            counts = counts_by_kind(found, micro.kinds)
        else:
            counts = torch.zeros(len(batches.KINDS), COLUMNS, device=found.log_probs.device)
        return -(found.log_probs * micro.weights).sum(), counts

    def _passes(self, batch: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """Add passes that teach nothing where another rank has more of them.

        Ranks gather sharded weights together, so all of them do as many passes.
        """
        if not isinstance(self.trainer.strategy, ShardedStrategy):
            return batch
        empty = replace(batch[0], weights=batch[0].weights * 0.0)
        return [*batch, *[empty] * (most_over_ranks(len(batch), self.device) - len(batch))]

    def _pass(self, micro: MicroBatch, *, with_top: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a micro-batch's loss; where weights are sharded, they are gathered around it."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy):
            return strategy.call(self._loss, micro, with_top=with_top)
        return self._loss(micro, with_top=with_top)

    def _sum_over_ranks(self, value: torch.Tensor) -> torch.Tensor:
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(value)
        return value

    def _gradients_stay_local(self, is_local: bool) -> Any:
        """Only the last backward pass of a step exchanges gradients between ranks."""
        strategy: Any = self.trainer.strategy
        if is_local and hasattr(strategy, "block_backward_sync"):
            return strategy.block_backward_sync()
        return contextlib.nullcontext()

    def _refuse(self, step: int, loss: float, norm: float) -> None:
        """Stop, and write down which of this rank's rows made the loss or the gradient so."""
        rows = self._step_rows(step)
        found: list[str] = []
        if not isinstance(self.trainer.strategy, ShardedStrategy):  # ranks gather those together
            with self._gradients_stay_local(True):
                found = offending_rows(
                    self.model,
                    rows,
                    lambda micro: self._loss(micro, with_top=False)[0],
                    self.device,
                )
        path = self.failure_folder / f"nonfinite_rows.rank{self.global_rank}.json"
        ids = list(dict.fromkeys(row.problem_id for row in rows))
        facts = {"step": step, "loss": str(loss), "grad_norm": str(norm)}
        write_failure(path, {**facts, "rows": found, "step_rows": ids})
        raise TrainingError(
            f"step {step}: loss {loss}, gradient norm {norm} on problems "
            f"{', '.join((found or ids)[:8])}; all ids are in {path}. Lower trainer.learning_rate, "
            "or use trainer.precision=fp32"
        )

    def _log_step(
        self,
        size: StepSize,
        counts: torch.Tensor,
        values: Sequence[float],
        rate: float,
        seconds: float,
    ) -> None:
        """Log a step; all figures are those of all ranks together."""
        metrics = {
            "train/grad_norm": values[1],
            "train/learning_rate": rate,
            "train/tokens_per_s": size.tokens / seconds,
            "train/padding_rate": 1.0 - size.tokens / size.padded,
            **kind_metrics("train", counts, size.rows),
        }
        if self.device.type == "cuda":
            share = utilisation(
                self.student.causal_lm,
                torch.cuda.get_device_name(self.device),
                tokens=size.tokens,
                supervised=size.supervised,
                rows=size.rows,
                seconds=seconds * self.trainer.world_size,
            )
            metrics |= {} if share is None else {"train/mfu": share}
        common: dict[str, Any] = {"on_step": True, "on_epoch": False, "batch_size": int(size.rows)}
        self.log("train/loss", values[0], prog_bar=True, **common)
        self.log_dict(metrics, **common)

    def on_validation_start(self) -> None:
        """Start the sums, and switch dropout off; averaged weights are what is validated."""
        self._validation = []
        if self.average is not None:
            self.average.swap()
        self.model.eval()

    def validation_step(self, batch: MicroBatch, batch_idx: int) -> None:
        """Add a micro-batch of held-out rows to the sums."""
        micro = batch.to(self.device)
        loss, counts = self._pass(micro, with_top=True)
        weight = micro.weights.sum()
        self._validation.append(torch.cat([torch.stack([loss, weight]), counts.flatten()]))

    def on_validation_epoch_end(self) -> None:
        """Log the held-out loss, and that of each kind."""
        sums = self._sum_over_ranks(torch.stack(self._validation).sum(dim=0))
        metrics = {"val/loss": float(sums[0] / sums[1])}
        metrics |= kind_metrics("val", sums[2:].reshape(len(batches.KINDS), COLUMNS))
        self.log_dict(metrics)
        self.model.train()

    def on_validation_end(self) -> None:
        """Go on with the weights that are optimised; callbacks have seen the averaged ones.

        A checkpoint that is due at the same step is saved now, with what the validation found.
        """
        if self.average is not None:
            self.average.swap()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Checkpoints):
                callback.save_if_due(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep trained weights only; frozen ones come from the base."""
        keep_trained(self, checkpoint)
        checkpoint["sft"] = {
            "finished_steps": self.finished_steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        if self.average is not None:
            checkpoint["average"] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the position.

        Raises:
            TrainingError: the checkpoint lacks trained weights of this student.
        """
        require_trained(self, checkpoint)
        state = checkpoint["sft"]
        self.finished_steps = int(state["finished_steps"])
        self.tokens = int(state["tokens"])
        self.seconds = float(state["seconds"])
        self.losses = state["losses"].tolist()
        if self.average is not None:
            self.average.load_state_dict(checkpoint.get("average", {}))


def keep_trained(module: torch.nn.Module, checkpoint: dict[str, Any]) -> None:
    """Leave the frozen weights out of a Lightning checkpoint, in place."""
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    state = checkpoint["state_dict"]
    checkpoint["state_dict"] = {name: state[name] for name in state if name in trained}


def require_trained(module: torch.nn.Module, checkpoint: dict[str, Any]) -> None:
    """Refuse a checkpoint without the module's trained weights, which a lax load would not miss.

    Raises:
        TrainingError: it lacks some.
    """
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    missing = sorted(trained - set(checkpoint["state_dict"]))
    if missing:
        raise TrainingError(
            f"the checkpoint lacks {len(missing)} trained weights, for example {missing[0]}: "
            "it is of another model or adapter; remove its folder to train anew"
        )
