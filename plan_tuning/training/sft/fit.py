"""Rows to a finished student folder: load, encode, train or resume, export."""

from __future__ import annotations

import gc
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plan_tuning import interruption
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.job_record import Compute
from plan_tuning.records import to_json
from plan_tuning.students.export import export_student
from plan_tuning.students.flops import ModelSize, Passes
from plan_tuning.students.generation.probe import FACT, probe_of
from plan_tuning.students.loading import Student, load_student
from plan_tuning.students.onednn import trained_linears
from plan_tuning.students.skeleton import load_skeleton
from plan_tuning.students.templates import template_date
from plan_tuning.training.checkpoints import (
    BestWeights,
    Checkpoints,
    PassSizes,
    latest_checkpoint,
    remove,
    step_of,
)
from plan_tuning.training.distributed import whole_weights
from plan_tuning.training.lightning import (
    HeldOut,
    Steps,
    TrainingError,
    TrainingRun,
    build_trainer,
    checkpoint_activations,
    prepare,
    quiet,
)
from plan_tuning.training.logs import CompletionLog
from plan_tuning.training.optim import warn_of_low_rate
from plan_tuning.training.sft import batches
from plan_tuning.training.sft.batches import EncodedRow, RowError, TrainingRow
from plan_tuning.training.sft.module import SFTModule
from plan_tuning.training.validation import AccuracyAtValidation, HeldOutEvaluation

logger = logging.getLogger(__name__)

SAMPLES_FILE = "val_samples.jsonl"  # answers to held-out problems, by step
_MAX_DROPPED_IDS = 20  # that the facts name
_LAST_STEPS = 10  # whose mean loss is the final one


@dataclass(frozen=True)
class SFTSettings:
    """What a student is trained with, beside its base and its rows.

    Args:
        model: how the base is loaded.
        adapter: which weights are trained.
        trainer: optimisation and hardware.
        method: loss weights of plan and solution.
        seed: of the data order, dropout and new adapter weights.
    """

    model: ModelConfig
    adapter: AdapterConfig
    trainer: TrainerConfig
    method: MethodConfig
    seed: int


def train_student(
    run: TrainingRun,
    settings: SFTSettings,
    base: Path | str,
    rows: Sequence[TrainingRow],
    evaluation: HeldOutEvaluation | None = None,
) -> dict[str, Any]:
    """Train a student into the run's folder; continue where an earlier attempt ended.

    Args:
        run: where it is trained and shown.
        settings: what it is trained with.
        base: folder or hub id of the student to begin from.
        rows: what it learns.
        evaluation: how held-out problems are solved at each validation (``trainer.val_problems``).

    Returns:
        Facts: steps, losses, accuracy, tokens, tokens/s, rows, dropped rows.

    Raises:
        TrainingError: nothing is left to learn from, or the loss is not a number.
        RowError: a row is too long and ``trainer.overlong=error``.
        ConfigError: the device or strategy is not there.
    """
    config = settings.trainer
    prepare(config, settings.seed)
    warn_of_low_rate(settings.adapter, "trainer.learning_rate", config.learning_rate)
    student = _load(base, settings)
    encoded, dropped = _encode_all(student, rows, settings)
    training, held_out = batches.split_validation(
        encoded, fraction=config.val_fraction, seed=settings.seed
    )
    if not training:
        raise TrainingError(
            f"no row is left to train on: {len(rows)} rows given, dropped: {dropped.counts}. "
            "Raise trainer.max_length"
        )
    if config.gradient_checkpointing:
        checkpoint_activations(student)
    total = config.max_steps
    if total <= 0:
        total = math.ceil(config.epochs * len(training) / config.batch_size)
    per_epoch = math.ceil(len(training) / config.batch_size)
    interval = min(config.val_every_n_steps or per_epoch, total) if held_out else 0
    checkpoints = Checkpoints(
        run.checkpoints, config.checkpoint_every_n_steps, validate_every_n_steps=interval
    )
    module = SFTModule(
        student,
        training,
        trainer=config,
        seed=settings.seed,
        total_steps=total,
        failure_folder=run.run_dir,
        checkpoints=checkpoints,
    )
    resumed = latest_checkpoint(run.checkpoints)
    accuracy = _accuracy(run, evaluation, held_out, config, resumed)
    best, loader = None, None
    if held_out:
        best = BestWeights(run.checkpoints / "best.safetensors", config)
        loader = HeldOut(batches.micro_batches(held_out, budget=config.micro_batch_tokens))
    # Accuracy comes before the best weights: they may be chosen by it.
    sizes = PassSizes(run.pass_sizes) if run.pass_sizes else None
    callbacks = [found for found in (checkpoints, accuracy, best, sizes) if found is not None]
    with quiet():
        trainer = build_trainer(
            run, config, callbacks, max_steps=total, validate_every_n_steps=interval
        )
        if resumed is not None:
            logger.info("training continues from %s", resumed)
        with interruption.kept(), _products(student, config):
            trainer.fit(module, Steps(module, module.step_batches), loader, ckpt_path=resumed)
            if best is not None and best.last_step != module.finished_steps:
                trainer.validate(module, loader, verbose=False)
    if best is not None and config.select_best:
        best.restore(module)  # of averaged weights where there are any
    elif module.average is not None:
        module.average.swap()
    facts = _facts(module, accuracy, best, len(held_out), dropped, step_of(resumed))
    if config.strategy != "fsdp" and settings.adapter.name != "qlora":  # else no weights as served
        row = training[0]
        text = row.ids[: len(row) - row.supervised_tokens // 2].tolist()
        with trainer.precision_plugin.forward_context():
            facts[FACT] = probe_of(student, text).as_facts()
    weights = whole_weights(student) if config.strategy == "fsdp" else None
    if trainer.is_global_zero:
        export_student(
            student,
            run.folder,
            base=base,
            model=settings.model,
            adapter=settings.adapter,
            facts=facts,
            weights=weights,
            provenance=run.provenance,
        )
        remove(run.checkpoints)
    del module, student, trainer
    gc.collect()
    return facts


def _products(student: Student, config: TrainerConfig) -> AbstractContextManager[None]:
    """Let the student's matrices be multiplied as ``trainer.cpu_matmul`` says."""
    return trained_linears(student.model) if config.cpu_matmul == "onednn" else nullcontext()


def _load(base: Path | str, settings: SFTSettings) -> Student:
    """Load what is trained; of ranks that spread the weights the first one alone reads them."""
    config, adapter = settings.trainer, settings.adapter
    if config.strategy == "fsdp" and os.environ.get("LOCAL_RANK", "0") != "0":
        return load_skeleton(base, settings.model, adapter=adapter)
    rounds_base = adapter.rounds_base(config.precision, config.strategy)
    return load_student(
        base, settings.model, for_training=True, adapter=adapter, rounds_base=rounds_base
    )


def _accuracy(
    run: TrainingRun,
    evaluation: HeldOutEvaluation | None,
    held_out: Sequence[EncodedRow],
    config: TrainerConfig,
    resumed: Path | None,
) -> AccuracyAtValidation | None:
    """Make what measures accuracy on held-out problems; None where nothing is asked for."""
    if evaluation is None or not config.val_problems:
        return None
    evaluation = evaluation.of([row.problem_id for row in held_out], config.val_problems)
    if not evaluation.problems:
        return None
    log = CompletionLog(
        run.folder / SAMPLES_FILE, every_n_steps=1, log_table=run.log_table, table="val_samples"
    )
    # The validation of a checkpoint's step comes before the checkpoint, and is not repeated.
    log.rewind(0 if resumed is None else step_of(resumed) + 1)
    return AccuracyAtValidation(evaluation, log)


@dataclass
class _Dropped:
    """Rows that are not trained on."""

    ids: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # by reason


def _encode_all(
    student: Student, rows: Sequence[TrainingRow], settings: SFTSettings
) -> tuple[list[EncodedRow], _Dropped]:
    encoded, dropped = [], _Dropped()
    for row in rows:
        try:
            encoded.append(
                batches.encode(
                    student.tokenizer,
                    row,
                    student.turn_end,
                    method=settings.method,
                    max_length=settings.trainer.max_length,
                )
            )
        except RowError as error:
            if settings.trainer.overlong == "error" and error.reason == "overlong":
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


def _facts(
    module: SFTModule,
    accuracy: AccuracyAtValidation | None,
    best: BestWeights | None,
    val_rows: int,
    dropped: _Dropped,
    resumed_from: int,
) -> dict[str, Any]:
    date = template_date(module.student.tokenizer)
    facts: dict[str, Any] = {
        "steps": module.finished_steps,
        "resumed_from_step": resumed_from,
        "first_loss": module.losses[0],
        "final_loss": sum(module.losses[-_LAST_STEPS:]) / len(module.losses[-_LAST_STEPS:]),
        "tokens": module.tokens,
        "train_s": round(module.seconds, 3),
        "tokens_per_s": round(module.tokens / module.seconds, 1),
        "rows": len(module.rows),
        "val_rows": val_rows,
        "dropped_rows": len(dropped.ids),
        "dropped_reasons": dropped.counts,
        "dropped_ids": dropped.ids[:_MAX_DROPPED_IDS],
        "trained_parameters": sum(p.numel() for p in module.model.parameters() if p.requires_grad),
        "compute": to_json(_computed(module)),
        **({} if best is None else best.facts()),
        **({} if date is None else {"template_date": date}),
    }
    if accuracy is not None and accuracy.accuracies:
        facts["val_accuracy"] = accuracy.accuracies[max(accuracy.accuracies)]
        facts["best_val_accuracy"] = max(accuracy.accuracies.values())
    return facts


def _computed(module: SFTModule) -> Compute:
    """Count the tokens and the operations of all steps; those of a resumed training too."""
    steps = range(module.finished_steps)
    times = Counter(id(row) for step in steps for row in module.rows_of_step(step))
    passes = Passes()
    for row in module.rows:
        passes += Passes.of_rows([(len(row), row.supervised_tokens)]) * times[id(row)]
    return Compute(
        trained_tokens=passes.tokens,
        flops=ModelSize.of(module.student.causal_lm).training(passes),
        seconds=round(module.seconds, 3),
    )
