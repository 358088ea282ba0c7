"""Rows to a finished student folder: load, encode, train or resume, export."""

from __future__ import annotations

import gc
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.students.export import export_student
from plan_tuning.students.loading import Student, load_student
from plan_tuning.training.checkpoints import (
    BestWeights,
    Checkpoints,
    latest_checkpoint,
    remove,
    step_of,
)
from plan_tuning.training.completions import CompletionLog, LogTable
from plan_tuning.training.lightning import check_hardware, checkpoint_activations, quiet
from plan_tuning.training.loaders import HeldOut, Steps
from plan_tuning.training.sft import batches
from plan_tuning.training.sft.batches import EncodedRow, RowError, TrainingRow
from plan_tuning.training.sft.module import SFTModule, TrainingError
from plan_tuning.training.sharding import ShardedStrategy, whole_weights
from plan_tuning.training.validation import AccuracyAtValidation, Examination

logger = logging.getLogger(__name__)

SAMPLES_FILE = "val_samples.jsonl"  # answers to held-out problems, by step
_MAX_DROPPED_IDS = 20


def train_student(
    folder: Path,
    *,
    base: Path | str,
    rows: Sequence[TrainingRow],
    model: ModelConfig,
    adapter: AdapterConfig,
    trainer: TrainerConfig,
    method: MethodConfig,
    seed: int,
    loggers: Sequence[Any],
    run_dir: Path,
    provenance: Mapping[str, Any] | None = None,
    exam: Examination | None = None,
    log_table: LogTable | None = None,
) -> dict[str, Any]:
    """Train a student and write it into ``folder``; continue where an earlier attempt ended.

    Args:
        folder: receives the student; ``checkpoints/`` in it is what an interrupted run left.
        base: folder or hub id of the student to begin from.
        rows: what it learns.
        model: how the base is loaded.
        adapter: which weights are trained.
        trainer: optimisation.
        method: loss weights of plan and solution.
        seed: of the data order, dropout and new adapter weights.
        loggers: Lightning loggers.
        run_dir: where a failure is written down.
        provenance: what the training stands on, for the model card.
        exam: how held-out problems are solved at each validation (``trainer.val_problems``).
        log_table: shows the answers to them, for example in W&B.

    Returns:
        Facts: steps, losses, accuracy, tokens, tokens/s, rows, dropped rows.

    Raises:
        TrainingError: nothing is left to learn from, or the loss is not a number.
        RowError: a row is too long and ``trainer.overlong=error``.
        ConfigError: the device or strategy is not there.
    """
    check_hardware(trainer)
    if trainer.threads > 0:
        torch.set_num_threads(trainer.threads)
    torch.set_flush_denormal(True)  # whatever was done in this process before
    pl.seed_everything(seed, workers=False, verbose=False)
    student = load_student(base, model, for_training=True, adapter=adapter)
    encoded, dropped = _encode_all(student, rows, method, trainer)
    training, held_out = batches.split_validation(encoded, fraction=trainer.val_fraction, seed=seed)
    if not training:
        raise TrainingError(
            f"no row is left to train on: {len(rows)} rows given, dropped: {dropped.counts}. "
            "Raise trainer.max_length, or choose a looser filter, for example filter=none"
        )
    if trainer.gradient_checkpointing:
        checkpoint_activations(student)
    per_epoch = math.ceil(len(training) / trainer.batch_size)
    total = (
        trainer.max_steps
        if trainer.max_steps > 0
        else math.ceil(trainer.epochs * len(training) / trainer.batch_size)
    )
    module = SFTModule(
        student,
        training,
        trainer=trainer,
        seed=seed,
        total_steps=total,
        failure_folder=run_dir,
    )
    checkpoints = folder / "checkpoints"
    resumed = latest_checkpoint(checkpoints)
    best = BestWeights(checkpoints / "best.safetensors", trainer) if held_out else None
    accuracy = _examiner(folder, exam, held_out, trainer, resumed, log_table)
    # Accuracy comes first: the best weights may be chosen by it.
    callbacks = [callback for callback in (accuracy, best) if callback is not None]
    _fit(module, held_out, trainer, loggers, checkpoints, callbacks, resumed, run_dir, per_epoch)
    if best is not None and trainer.select_best:
        best.restore(module)  # of averaged weights where there are any
    elif module.average is not None:
        module.average.swap()
    facts = {
        "steps": module.finished_steps,
        "resumed_from_step": step_of(resumed),
        "first_loss": module.losses[0],
        "final_loss": sum(module.losses[-10:]) / len(module.losses[-10:]),
        "tokens": module.tokens,
        "train_s": round(module.seconds, 3),
        "tokens_per_s": round(module.tokens / module.seconds, 1),
        "rows": len(training),
        "val_rows": len(held_out),
        "dropped_rows": len(dropped.ids),
        "dropped_reasons": dropped.counts,
        "dropped_ids": dropped.ids[:_MAX_DROPPED_IDS],
        "trained_parameters": sum(p.numel() for p in module.model.parameters() if p.requires_grad),
        **({} if best is None else best.facts()),
    }
    if accuracy is not None and accuracy.accuracies:
        facts["val_accuracy"] = accuracy.accuracies[max(accuracy.accuracies)]
        facts["best_val_accuracy"] = max(accuracy.accuracies.values())
    weights = whole_weights(student) if trainer.strategy == "fsdp" else None
    if module.trainer.is_global_zero:
        export_student(
            student,
            folder,
            base=base,
            model=model,
            adapter=adapter,
            facts=facts,
            weights=weights,
            provenance=provenance,
        )
        remove(checkpoints)
    del module, student
    gc.collect()
    return facts


def _examiner(
    folder: Path,
    exam: Examination | None,
    held_out: Sequence[EncodedRow],
    config: TrainerConfig,
    resumed: Path | None,
    log_table: LogTable | None,
) -> AccuracyAtValidation | None:
    """Make what measures accuracy on held-out problems; None where nothing is asked for."""
    if exam is None or not config.val_problems:
        return None
    exam = exam.of([row.problem_id for row in held_out], config.val_problems)
    if not exam.problems:
        return None
    log = CompletionLog(
        folder / SAMPLES_FILE, every_n_steps=1, log_table=log_table, table="val_samples"
    )
    # The validation of a checkpoint's step comes before the checkpoint, and is not repeated.
    log.rewind(0 if resumed is None else step_of(resumed) + 1)
    return AccuracyAtValidation(exam, log)


@dataclass
class _Dropped:
    """Rows that are not trained on."""

    ids: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # by reason


def _encode_all(
    student: Student, rows: Sequence[TrainingRow], method: MethodConfig, trainer: TrainerConfig
) -> tuple[list[EncodedRow], _Dropped]:
    encoded, dropped = [], _Dropped()
    for row in rows:
        try:
            encoded.append(
                batches.encode(
                    student.tokenizer,
                    row,
                    student.turn_end,
                    method=method,
                    max_length=trainer.max_length,
                )
            )
        except RowError as error:
            if trainer.overlong == "error" and error.reason == "overlong":
                raise
            if error.reason not in dropped.counts:
                logger.warning("left out (%s), for example: %s", error.reason, error)
            dropped.ids.append(row.problem_id)
            dropped.counts[error.reason] = dropped.counts.get(error.reason, 0) + 1
    if dropped.ids:
        logger.warning(
            "%d of %d rows are left out: %s",
            len(dropped.ids),
            len(rows),
            ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.counts.items())),
        )
    return encoded, dropped


def _fit(
    module: SFTModule,
    held_out: Sequence[EncodedRow],
    config: TrainerConfig,
    loggers: Sequence[Any],
    checkpoints: Path,
    validation: Sequence[pl.Callback],
    resumed: Path | None,
    run_dir: Path,
    per_epoch: int,
) -> None:
    total = module.total_steps
    interval = min(config.val_every_n_steps or per_epoch, total) if held_out else 0
    callbacks = [
        Checkpoints(checkpoints, config.checkpoint_every_n_steps, validate_every_n_steps=interval),
        *validation,
    ]
    held_out_loader = (
        HeldOut(batches.micro_batches(held_out, budget=config.micro_batch_tokens))
        if held_out
        else None
    )
    has_bar = config.progress and sys.stderr.isatty()
    if has_bar:
        callbacks.append(pl.callbacks.RichProgressBar())
    with quiet():
        trainer = pl.Trainer(
            accelerator={"cuda": "gpu"}.get(config.accelerator, config.accelerator),
            devices=config.devices,
            strategy=ShardedStrategy(config) if config.strategy == "fsdp" else config.strategy,
            precision="bf16-mixed" if config.precision == "bf16" else "32-true",
            max_steps=total,
            max_epochs=-1,
            logger=list(loggers) or False,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=has_bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            check_val_every_n_epoch=None,
            val_check_interval=interval or total,
            limit_val_batches=1.0 if held_out else 0,
            log_every_n_steps=1,  # the module itself logs every log_every_n_steps
            use_distributed_sampler=False,
            inference_mode=False,
            default_root_dir=str(run_dir),
        )
        if resumed is not None:
            logger.info("training continues from %s", resumed)
        trainer.fit(
            module,
            train_dataloaders=Steps(module, total),
            val_dataloaders=held_out_loader,
            ckpt_path=None if resumed is None else str(resumed),
        )
        best = next((found for found in validation if isinstance(found, BestWeights)), None)
        if best is not None and best.last_step != module.finished_steps:
            trainer.validate(module, held_out_loader, verbose=False)
