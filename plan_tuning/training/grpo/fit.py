"""A start and teacher plans to a finished student: load, train or resume, validate, export."""

from __future__ import annotations

import gc
import logging
import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from plan_tuning import interruption
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.reward import RewardConfig
from plan_tuning.config.training import PromptConfig, TrainerConfig
from plan_tuning.evaluation.frozen_executor import FrozenExecutor
from plan_tuning.evaluation.reward_means import opened_means
from plan_tuning.grading.grader import Grader
from plan_tuning.records import to_json
from plan_tuning.rewards.plan_cases import Means
from plan_tuning.students.export import export_student
from plan_tuning.students.flops import ModelSize
from plan_tuning.students.generation.probe import FACT, PROMPT_TOKENS, probe_of
from plan_tuning.students.generation.protocol import Vocabulary
from plan_tuning.students.loading import Student, load_student
from plan_tuning.students.templates import template_date
from plan_tuning.training.checkpoints import (
    PassSizes,
    StepCheckpoints,
    latest_checkpoint,
    remove,
    step_of,
)
from plan_tuning.training.grpo.data import PlannedProblem, hold_out
from plan_tuning.training.grpo.executor_baselines import Baselines
from plan_tuning.training.grpo.metrics import computed
from plan_tuning.training.grpo.module import GRPOModule
from plan_tuning.training.grpo.reward import OpenAsk, RewardWorker
from plan_tuning.training.grpo.rollout import problem_prompt
from plan_tuning.training.grpo.rollout_server import RolloutServer
from plan_tuning.training.grpo.served_start import (
    adapter_folder,
    own_server,
    rollout_serving,
    running_server,
    server_line,
    whole_start,
)
from plan_tuning.training.grpo.summary import log_summary
from plan_tuning.training.lightning import (
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
from plan_tuning.training.validation import AccuracyBySteps, HeldOutEvaluation

logger = logging.getLogger(__name__)

COMPLETIONS_FILE = "completions.jsonl"
SERVER_LOG = "rollouts_vllm.log"
_RESUMED_SERVED = (
    "method.engine=%s: the weights are those of the checkpoint, problems and versions those of a "
    "training that was never interrupted; a server's rounding hangs on what it writes side by "
    "side, so rollouts from here on, and what they teach, may differ (method.engine=native repeats "
    "them bit by bit)"
)
BASELINES = "baselines"

LoadExecutor = Callable[[], tuple[Student, str]]
"""Loads the frozen model that carries plans out, and says in which method's words it is asked."""

_EDGE = 5  # steps whose mean reward is reported as first and last


@dataclass(frozen=True)
class GRPOSettings:
    """What a student is trained with, beside its start and its problems.

    Args:
        model: how the start is loaded.
        adapter: which weights are trained.
        trainer: hardware, precision, betas.
        method: everything else about GRPO.
        reward: what a completion earns.
        prompt: suffixes of the prompt.
        evaluation: decoding of held-out problems.
        seed: of the order of problems, of the noise and of new adapter weights.
        server_share: of the card's memory, for a server of rollouts that the training starts; None:
            it computes on a CPU.
    """

    model: ModelConfig
    adapter: AdapterConfig
    trainer: TrainerConfig
    method: GRPOConfig
    reward: RewardConfig
    prompt: PromptConfig
    evaluation: EvaluationConfig
    seed: int
    server_share: float | None = None


def train_grpo(
    run: TrainingRun,
    settings: GRPOSettings,
    start: Path | str,
    problems: Sequence[PlannedProblem],
    grader: Grader,
    open_ask: OpenAsk | None = None,
    load_executor: LoadExecutor | None = None,
) -> dict[str, Any]:
    """Train a student from its start into the run's folder; continue an earlier attempt.

    Args:
        run: where it is trained and shown.
        settings: what it is trained with.
        start: folder or hub id of the student that is trained, and that the KL refers to. An
            adapter in it is merged first.
        problems: training problems with the teacher's plans.
        grader: reads answers.
        open_ask: opens the way to the judge; None where no large model is asked.
        load_executor: loads the frozen model that carries plans out, and says in which method's
            words it is asked; None where no reward needs one.

    Returns:
        Facts: steps, rewards, accuracy, tokens, seconds.

    Raises:
        TrainingError: no problem has a plan, or training went wrong.
        ConfigError: dropout, or hardware that is not there.
        TeacherError: the judge cannot be asked any more; the same command goes on later.
    """
    trainer, reward = settings.trainer, settings.reward
    method = settings.method.resolved(trainer.precision)
    prepare(trainer, settings.seed)
    warn_of_low_rate(settings.adapter, "method.learning_rate", method.learning_rate)
    _check(settings, problems)
    training, held_out = hold_out(problems, count=method.val_problems, seed=settings.seed)
    student = load_student(
        start,
        settings.model,
        for_training=True,
        adapter=settings.adapter,
        rounds_base=settings.adapter.samples_rounded(trainer.precision),
    )
    if trainer.gradient_checkpointing:
        checkpoint_activations(student)
    log_summary(method, trainer, settings.prompt, student, training)
    resumed = latest_checkpoint(run.checkpoints)
    log = CompletionLog(
        run.folder / COMPLETIONS_FILE,
        every_n_steps=method.log_completions_every_n_steps,
        log_table=run.log_table,
    )
    log.rewind(step_of(resumed))
    validation = None
    if held_out:
        evaluation = HeldOutEvaluation(
            held_out, method.name, settings.prompt, settings.evaluation, grader
        )
        validation = AccuracyBySteps(evaluation, every_n_steps=method.val_every_n_steps)
    callbacks: list[pl.Callback] = [] if validation is None else [validation]
    callbacks.append(StepCheckpoints(run.checkpoints, method.checkpoint_every_n_steps))
    if run.pass_sizes:
        callbacks.append(PassSizes(run.pass_sizes))
    rollout_server = _rollout_server(run, settings, start, student, training)
    executor = None if load_executor is None else _frozen(settings, *load_executor())
    with RewardWorker(
        reward,
        grader,
        max_new_tokens=method.max_new_tokens,
        open_ask=open_ask,
        means=_means(settings, executor, run.folder),
        executor=executor,
    ) as reward_worker:
        module = GRPOModule(
            student,
            training,
            reward_worker,
            method=method,
            prompt=settings.prompt,
            trainer=trainer,
            seed=settings.seed,
            total_steps=method.total_steps(len(training)),
            log=log,
            rollout_server=rollout_server,
        )
        with quiet():
            lightning = build_trainer(run, trainer, callbacks)
            if resumed is not None:
                logger.info("training continues from %s", resumed)
                if method.is_served:
                    logger.info(_RESUMED_SERVED, method.engine)
            with interruption.kept(), rollout_server or nullcontext():
                lightning.fit(module, Steps(module), ckpt_path=resumed)
        facts = _facts(module, reward_worker, validation, step_of(resumed), len(training))
        if rollout_server is not None:
            facts["rollouts"] = dict(rollout_server.facts())
        if settings.adapter.name != "qlora":  # which is served upon other weights
            with lightning.precision_plugin.forward_context():
                facts[FACT] = probe_of(
                    student, _probe_text(student, training[0], settings)
                ).as_facts()
    if lightning.is_global_zero:
        export_student(
            student,
            run.folder,
            base=start,
            model=settings.model,
            adapter=settings.adapter,
            facts=facts,
            provenance=run.provenance,
        )
        remove(run.checkpoints)
    del module, student, lightning
    gc.collect()
    return facts


def _probe_text(student: Student, problem: PlannedProblem, settings: GRPOSettings) -> list[int]:
    """Give the tokens of a prompt and of a plan's beginning, where the next ones are open."""
    asked = problem_prompt(student.tokenizer, problem.problem, settings.method, settings.prompt)
    plan = student.tokenizer(problem.teacher_plan, add_special_tokens=False)["input_ids"]
    return asked + list(plan[:PROMPT_TOKENS])


def _rollout_server(
    run: TrainingRun,
    settings: GRPOSettings,
    start: Path | str,
    student: Student,
    problems: Sequence[PlannedProblem],
) -> RolloutServer | None:
    """Make the server of rollouts, or the way to it; None: they are written in this process."""
    method, adapter, model = settings.method, settings.adapter, settings.model
    if not method.is_served:
        return None
    name = f"grpo-{(run.provenance or {}).get('fingerprint', run.folder.name)}"
    vocabulary = Vocabulary(student.tokenizer, student.end_ids)
    weights = str(start)
    if method.engine == "server":
        open_server = running_server(method.server, vocabulary)
    else:
        vllm = settings.evaluation.vllm
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        weights = whole_start(start, model, run.checkpoints / "start", rank=rank)
        longest = max(
            len(problem_prompt(student.tokenizer, one.problem, method, settings.prompt))
            for one in problems
        )
        serving = rollout_serving(
            weights,
            vllm,
            model,
            rank=adapter.rank,
            row_tokens=longest + method.max_new_tokens,
            cache_tokens=int(method.generation_batch_tokens),
            share=settings.server_share,
        )
        open_server = own_server(serving, vllm, vocabulary, run.run_dir / SERVER_LOG)
    size = sum(p.numel() * p.element_size() for p in student.model.parameters() if p.requires_grad)
    return RolloutServer(
        student,
        open_server,
        name=name,
        folder=adapter_folder(method.sync_dir, name, size, run=run.folder),
        text=_probe_text(student, problems[0], settings),
        line=server_line(weights, adapter.rank),
        temperature=method.temperature,
    )


def _check(settings: GRPOSettings, problems: Sequence[PlannedProblem]) -> None:
    """Refuse what cannot be trained, before anything is loaded."""
    trainer, method, adapter = settings.trainer, settings.method, settings.adapter
    if not problems:
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


def _frozen(settings: GRPOSettings, student: Student, asked_as: str) -> FrozenExecutor:
    return FrozenExecutor(
        student,
        asked_as=asked_as,
        config=settings.reward.plan,
        seed=settings.seed,
        batch_tokens=settings.method.generation_batch_tokens,
    )


def _means(settings: GRPOSettings, executor: FrozenExecutor | None, folder: Path) -> Means:
    """Open what plan rewards are handed; a rank keeps its own baselines."""
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    means = Means(prompt=settings.prompt.name)
    if executor is not None:
        baselines = Baselines(folder / f"{BASELINES}.{rank}.jsonl")
        means = replace(means, asked_as=executor.asked_as, baselines=baselines)
    return opened_means(settings.reward.plan, means)


def _computed(module: GRPOModule) -> dict[str, Any]:
    """Say what the training computed; nothing where a checkpoint of it did not."""
    if module.passes is None:
        return {}
    size = ModelSize.of(module.student.causal_lm)
    return {"compute": to_json(computed(module.passes, size, module.seconds))}


def _facts(
    module: GRPOModule,
    reward_worker: RewardWorker,
    validation: AccuracyBySteps | None,
    resumed: int,
    num_problems: int,
) -> dict[str, Any]:
    known = [value for value in module.rewards if not math.isnan(value)]
    date = template_date(module.student.tokenizer)
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
        **_computed(module),
        **({} if date is None else {"template_date": date}),
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
