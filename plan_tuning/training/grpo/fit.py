"""A start and teacher plans to a finished student: load, train or resume, validate, export."""

from __future__ import annotations

import gc
import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.grpo import ASKED_AS, GRPOConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.reward import RewardConfig
from plan_tuning.config.training import PromptConfig, TrainerConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.students.export import export_student
from plan_tuning.students.loading import load_student
from plan_tuning.training.checkpoints import StepCheckpoints, latest_checkpoint, remove, step_of
from plan_tuning.training.completions import CompletionLog, LogTable
from plan_tuning.training.grpo.data import PlannedProblem, hold_out
from plan_tuning.training.grpo.module import GRPOModule, GRPOSteps
from plan_tuning.training.grpo.reward import OpenAsk, RewardWorker
from plan_tuning.training.grpo.summary import log_summary
from plan_tuning.training.lightning import check_hardware, checkpoint_activations, quiet
from plan_tuning.training.sft.module import TrainingError
from plan_tuning.training.validation import AccuracyBySteps, Examination

logger = logging.getLogger(__name__)

COMPLETIONS_FILE = "completions.jsonl"
_EDGE = 5  # steps whose mean reward is reported as first and last


def train_grpo(
    folder: Path,
    *,
    start: Path | str,
    cases: Sequence[PlannedProblem],
    model: ModelConfig,
    adapter: AdapterConfig,
    trainer: TrainerConfig,
    method: GRPOConfig,
    reward: RewardConfig,
    prompt: PromptConfig,
    evaluation: EvaluationConfig,
    grader: Grader,
    open_ask: OpenAsk | None,
    seed: int,
    loggers: Sequence[Any],
    run_dir: Path,
    provenance: Mapping[str, Any] | None = None,
    log_table: LogTable | None = None,
) -> dict[str, Any]:
    """Train a student from its start and write it into ``folder``; continue an earlier attempt.

    Args:
        folder: receives the student; ``checkpoints/`` in it is what an interrupted run left.
        start: folder or hub id of the student that is trained, and that the KL refers to. An
            adapter in it is merged first.
        cases: training problems with the teacher's plans.
        model: how the start is loaded.
        adapter: which weights are trained.
        trainer: hardware, precision, betas.
        method: everything else about GRPO.
        reward: what a completion earns.
        prompt: suffixes of the prompt.
        evaluation: decoding of held-out problems.
        grader: reads answers.
        open_ask: opens the way to the judge; None where no large model is asked.
        seed: of the order of problems, of the noise and of new adapter weights.
        loggers: Lightning loggers.
        run_dir: Lightning's working folder.
        provenance: what the training stands on, for the model card.
        log_table: shows completions, for example in W&B.

    Returns:
        Facts: steps, rewards, accuracy, tokens, seconds.

    Raises:
        TrainingError: no problem has a plan, or training went wrong.
        ConfigError: dropout, or hardware that is not there.
        TeacherError: the judge cannot be asked any more; the same command goes on later.
    """
    check_hardware(trainer)
    if not cases:
        raise TrainingError(
            "no training problem has a teacher_plan: choose a looser filter, such as filter=none"
        )
    if method.prompts_per_step < trainer.devices:
        raise ConfigError(
            "method.prompts_per_step",
            method.prompts_per_step,
            f"at least one problem for each of trainer.devices={trainer.devices}",
            f"method.prompts_per_step={trainer.devices}",
        )
    if adapter.name != "full" and adapter.dropout > 0:
        raise ConfigError(
            "adapter.dropout",
            adapter.dropout,
            "0 for method=grpo: dropout makes the policy differ from the one that was sampled",
            "adapter.dropout=0",
        )
    if trainer.threads > 0:
        torch.set_num_threads(trainer.threads)
    torch.set_flush_denormal(True)  # whatever was done in this process before
    pl.seed_everything(seed, workers=False, verbose=False)
    training, held_out = hold_out(cases, count=method.val_problems, seed=seed)
    student = load_student(start, model, for_training=True, adapter=adapter)
    if trainer.gradient_checkpointing:
        checkpoint_activations(student)
    total = method.total_steps(len(training))
    log_summary(method, trainer, prompt, student, training)
    log = CompletionLog(
        folder / COMPLETIONS_FILE,
        every_n_steps=method.log_completions_every_n_steps,
        log_table=log_table,
    )
    embed = _encoder(reward) if reward.plan.weight > 0 and reward.plan.encoder else None
    with RewardWorker(
        reward, grader, max_new_tokens=method.max_new_tokens, open_ask=open_ask, embed=embed
    ) as reward_worker:
        module = GRPOModule(
            student,
            training,
            reward_worker,
            method=method,
            prompt=prompt,
            trainer=trainer,
            seed=seed,
            total_steps=total,
            log=log,
        )
        validation = None
        if held_out:
            exam = Examination(held_out, ASKED_AS, prompt, evaluation, grader)
            validation = AccuracyBySteps(exam, every_n_steps=method.val_every_n_steps)
        resumed = _fit(module, validation, trainer, loggers, folder / "checkpoints", log, run_dir)
        facts = _facts(module, reward_worker, validation, resumed, len(training))
    if module.trainer.is_global_zero:
        export_student(
            student,
            folder,
            base=start,
            model=model,
            adapter=adapter,
            facts=facts,
            provenance=provenance,
        )
        remove(folder / "checkpoints")
    del module, student
    gc.collect()
    return facts


def _encoder(reward: RewardConfig) -> Callable[[Sequence[str]], Any]:
    from plan_tuning.students.encoding import load_encoder

    return load_encoder(Path(str(reward.plan.encoder)))


def _fit(
    module: GRPOModule,
    validation: AccuracyBySteps | None,
    config: TrainerConfig,
    loggers: Sequence[Any],
    checkpoints: Path,
    log: CompletionLog,
    run_dir: Path,
) -> int:
    """Train; returns the step that training was resumed from, or 0."""
    callbacks: list[pl.Callback] = [] if validation is None else [validation]
    callbacks.append(StepCheckpoints(checkpoints, module.method.checkpoint_every_n_steps))
    has_bar = config.progress and sys.stderr.isatty()
    if has_bar:
        callbacks.append(pl.callbacks.RichProgressBar())
    resumed = latest_checkpoint(checkpoints)
    step = step_of(resumed)
    log.rewind(step)
    with quiet():
        trainer = pl.Trainer(
            accelerator={"cuda": "gpu"}.get(config.accelerator, config.accelerator),
            devices=config.devices,
            strategy=config.strategy,
            precision="bf16-mixed" if config.precision == "bf16" else "32-true",
            max_steps=-1,
            max_epochs=-1,  # the module stops after its last step
            logger=list(loggers) or False,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=has_bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            log_every_n_steps=1,
            use_distributed_sampler=False,
            inference_mode=False,
            default_root_dir=str(run_dir),
        )
        if resumed is not None:
            logger.info("training continues from %s", resumed)
        trainer.fit(
            module,
            train_dataloaders=GRPOSteps(module),
            ckpt_path=None if resumed is None else str(resumed),
        )
    return step


def _facts(
    module: GRPOModule,
    reward_worker: RewardWorker,
    validation: AccuracyBySteps | None,
    resumed: int,
    num_problems: int,
) -> dict[str, Any]:
    known = [value for value in module.rewards if not math.isnan(value)]
    facts: dict[str, Any] = {
        "steps": module.finished_steps,
        "resumed_from_step": resumed,
        "problems": num_problems,
        "first_reward": float(np.mean(known[:_EDGE])) if known else None,
        "final_reward": float(np.mean(known[-_EDGE:])) if known else None,
        "dead_rate": float(np.mean(module.dead_rates)),
        "completion_tokens": module.tokens,
        "train_s": round(module.seconds, 3),
        "trained_parameters": sum(p.numel() for p in module.model.parameters() if p.requires_grad),
    }
    facts |= {
        name.removeprefix("train/"): value
        for name, value in module.last_metrics.items()
        if name in ("train/kl", "train/entropy", "train/length", "train/truncated_rate")
    }
    if reward_worker.compared_plans:
        plans = reward_worker.compared_plans
        facts["unscored_plan_rate"] = reward_worker.unknown_plans / plans
        facts["guarded_plan_rate"] = reward_worker.guarded_plans / plans
    if validation is not None and validation.accuracies:
        facts["val_accuracy"] = validation.accuracies[max(validation.accuracies)]
        facts["start_val_accuracy"] = validation.accuracies[min(validation.accuracies)]
    if module.stop_reason:
        facts["stopped"] = module.stop_reason
    return facts
