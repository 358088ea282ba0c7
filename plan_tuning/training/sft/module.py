"""Corpus rows to a student: supervised fine-tuning on completions, segment by segment."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from plan_tuning.config.training import TrainerConfig
from plan_tuning.students.loading import Student
from plan_tuning.students.log_probs import check_projection, token_log_probs
from plan_tuning.students.packed_rows import are_apart, attends_by_row, rows_apart
from plan_tuning.training.checkpoints import Checkpoints, keep_trained, require_trained
from plan_tuning.training.distributed import Ranks, whole
from plan_tuning.training.optim import WeightAverage, build_optimizer, learning_rate_factor
from plan_tuning.training.order import curriculum_rows, noise_seed, step_rows
from plan_tuning.training.sft import batches
from plan_tuning.training.sft.batches import EncodedRow, MicroBatch
from plan_tuning.training.sft.metrics import (
    COLUMNS,
    StepSize,
    counts_by_kind,
    kind_metrics,
    pass_overhead,
    utilisation,
)
from plan_tuning.training.sft.nonfinite_rows import offending_rows, refusal
from plan_tuning.training.sft.source_gradients import SourceGradients

_PROBE_TOKENS = 32  # of a row, on which the projection is checked
_WIDTH = 16  # sequences on a CPU are as many times as wide: oneDNN makes a kernel for each width


class SFTModule(pl.LightningModule):
    """Next-token loss on the supervised tokens, averaged over a whole optimizer step.

    Args:
        student: what is trained.
        rows: what it learns.
        trainer: optimisation.
        seed: of the data order, dropout and noise.
        total_steps: optimizer steps.
        failure_folder: receives the ids of rows whose loss is no number.
        checkpoints: saves where a validation and a checkpoint are due at the same step.
    """

    def __init__(
        self,
        student: Student,
        rows: Sequence[EncodedRow],
        *,
        trainer: TrainerConfig,
        seed: int,
        total_steps: int,
        failure_folder: Path,
        checkpoints: Checkpoints,
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
        self.checkpoints = checkpoints
        self.finished_steps = 0
        self.tokens = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self._validation: list[torch.Tensor] = []
        self._hook: Any = None
        self._lengths: torch.Tensor | None = None  # of the rows in the pass under way
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.average = WeightAverage(trained, trainer.ema_decay) if trainer.ema_decay > 0 else None
        self.sources = SourceGradients(trained, trainer, seed, [row.source for row in rows])

    @property
    def total_rows(self) -> int:
        """Rows of the whole training."""
        if self.config.max_steps > 0:
            return self.config.max_steps * self.config.batch_size
        return self.config.epochs * len(self.rows)

    def rows_of_step(self, step: int) -> list[EncodedRow]:
        """Choose the rows of a step, of all ranks: a function of (seed, step)."""
        stream: dict[str, Any] = {
            "batch_size": self.config.batch_size,
            "total_rows": self.total_rows,
        }
        if self.config.order == "shuffled":
            indices = step_rows(seed=self.seed, step=step, num_rows=len(self.rows), **stream)
        else:
            levels = [row.level for row in self.rows]
            stream |= {"replay": self.config.replay}
            indices = curriculum_rows(seed=self.seed, step=step, levels=levels, **stream)
        return [self.rows[index] for index in indices]

    def _step_rows(self, step: int) -> list[EncodedRow]:
        """Choose this rank's rows of a step."""
        rows = self.rows_of_step(step)
        chosen = rows[self.global_rank :: self.trainer.world_size]
        if not chosen:  # every rank must run a backward pass; this one adds nothing
            row = rows[0]
            chosen = [EncodedRow(row.problem_id, row.ids, row.weights * 0.0, row.kinds)]
        return chosen

    def step_batches(self, step: int) -> list[MicroBatch]:
        """Make this rank's micro-batches of a step; those of a source follow each other."""
        rows = self._step_rows(step)
        parts = self.sources.parts(rows) if self.sources.projects else [rows]
        return [batch for part in parts for batch in self._batches(part)]

    def _batches(self, chosen: Sequence[EncodedRow]) -> list[MicroBatch]:
        budget = self.config.micro_batch_tokens
        if not self.config.packing:
            overhead = pass_overhead(self.student.causal_lm, self.device.type)
            return batches.micro_batches(chosen, budget=budget, overhead=overhead)
        # Kernels for variable lengths take one long sequence, and so does attention row by row; a
        # mask would be of its length squared.
        has_kernel = "flash" in str(self.student.causal_lm.config._attn_implementation)
        if self._attends_by_row:
            room = budget - budget % _WIDTH or budget
            # One sequence a pass: long rows come first, so the fullest one is more than half full.
            return batches.packed_batches(chosen, budget=room, capacity=room, multiple=_WIDTH)
        return batches.packed_batches(
            chosen, budget=budget, capacity=budget if has_kernel else None
        )

    @property
    def _attends_by_row(self) -> bool:
        return self.config.packing and attends_by_row(self.student.causal_lm, self.device)

    def configure_optimizers(self) -> Any:
        """AdamW with the schedule of the config."""
        optimizer = build_optimizer(self.model, self.config)
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
        ids = self.rows[0].ids[None, :_PROBE_TOKENS].to(self.device)
        check = Ranks(self.trainer).with_whole_weights(check_projection)
        with self.trainer.precision_plugin.forward_context(), torch.no_grad():
            check(self.student.causal_lm, ids)
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
        ranks = Ranks(self.trainer)
        loss_of = ranks.with_whole_weights(self._loss)
        if self.sources.is_measured(step) and not self.sources.projects:
            for some in self.sources.parts(self._step_rows(step)):  # beside the step itself
                for micro in self._batches(some):
                    with self._rows_apart():
                        self.manual_backward(loss_of(micro.to(self.device), with_top=False)[0])
                self.sources.take()
        seed = noise_seed(self.seed, step, ranks.rank)
        if self.device.type == "cpu":
            # For every kind of card that is not there torch.manual_seed notes where it was called.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        is_logged = (step + 1) % self.config.log_every_n_steps == 0 or step == 0
        mine = StepSize.of(batch).to_tensor(self.device)
        size = StepSize.from_tensor(ranks.reduce(mine, "sum"))
        passes = self._passes(batch, ranks)
        sums = torch.zeros(len(batches.KINDS), COLUMNS, device=self.device)
        loss = torch.zeros((), device=self.device)
        for place, micro in enumerate(passes):
            micro = micro.to(self.device)
            is_local = place < len(passes) - 1
            with ranks.gradients_stay_local(is_local), self._rows_apart():
                part, counts = loss_of(micro, with_top=is_logged)
                # Ranks average their gradients: times the number of ranks makes that a sum.
                self.manual_backward(part * (ranks.world / size.weight))
            loss += part.detach() / size.weight
            if place < len(batch):
                sums += counts
            following = [later.source for later in passes[place + 1 : place + 2]]
            if self.sources.projects and following != [micro.source]:
                self.sources.take()
        if self.sources.projects:
            self.sources.put_together(step)
        loss = ranks.reduce(loss, "sum")
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
        if found := self.sources.measured(step):
            for logger in self.loggers:  # log_dict would show it again at every step that follows
                logger.log_metrics(found, step=step)
        if is_logged:
            self._log_step(size, ranks.reduce(sums, "sum"), values, rate, seconds)

    def _rows_apart(self) -> AbstractContextManager[None]:
        """Keep packed rows apart, in the backward pass too: it may compute activations again."""
        return rows_apart(self.student.causal_lm) if self._attends_by_row else nullcontext()

    def _loss(self, micro: MicroBatch, *, with_top: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the weighted loss; counts by kind, see :func:`counts_by_kind`, where asked for."""
        self._lengths = micro.lengths
        found = token_log_probs(
            self.student.causal_lm,
            micro.input_ids,
            micro.positions,
            micro.targets,
            position_ids=micro.position_ids,
            row_lengths=micro.row_lengths if are_apart(self.student.causal_lm) else None,
            with_top=with_top,
        )
        if with_top:
            counts = counts_by_kind(found, micro.kinds)
        else:
            counts = torch.zeros(len(batches.KINDS), COLUMNS, device=found.log_probs.device)
        return -(found.log_probs * micro.weights).sum(), counts

    def _passes(self, batch: Sequence[MicroBatch], ranks: Ranks) -> Sequence[MicroBatch]:
        """Add passes that teach nothing where another rank has more of them.

        Ranks gather sharded weights together, so all of them do as many passes.
        """
        if not ranks.is_sharded:
            return batch
        most = ranks.reduce(torch.tensor(len(batch), device=self.device), "max")
        empty = replace(batch[0], weights=batch[0].weights * 0.0)
        return [*batch, *[empty] * (int(most) - len(batch))]

    def _refuse(self, step: int, loss: float, norm: float) -> None:
        """Stop, and write down which of this rank's rows made the loss or the gradient so."""
        rows, ranks = self._step_rows(step), Ranks(self.trainer)
        found: list[str] = []
        if not ranks.is_sharded:  # ranks gather those together
            with ranks.gradients_stay_local(True):
                found = offending_rows(
                    self.model,
                    rows,
                    lambda micro: self._loss(micro, with_top=False)[0],
                    self.device,
                )
        path = self.failure_folder / f"nonfinite_rows.rank{ranks.rank}.json"
        ids = list(dict.fromkeys(row.problem_id for row in rows))
        raise refusal(path, step=step, loss=loss, norm=norm, found=found, rows=ids)

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
        loss, counts = Ranks(self.trainer).with_whole_weights(self._loss)(micro, with_top=True)
        weight = micro.weights.sum()
        self._validation.append(torch.cat([torch.stack([loss, weight]), counts.flatten()]))

    def on_validation_epoch_end(self) -> None:
        """Log the held-out loss, and that of each kind."""
        sums = Ranks(self.trainer).reduce(torch.stack(self._validation).sum(dim=0), "sum")
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
        self.checkpoints.save_if_due(self.trainer)

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
