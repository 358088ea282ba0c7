"""Training on from a student, above all GRPO: where it begins, what determines it, how it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_tuning.artifacts import hashed_values
from plan_tuning.config.grpo import GRPOConfig, grpo_content
from plan_tuning.config.run import Config
from plan_tuning.config.training import MethodConfig
from plan_tuning.records import Ask
from plan_tuning.text.prompts import prompt_fingerprint

if TYPE_CHECKING:
    from plan_tuning.grading.grader import Grader


def start_config(config: Config) -> Config:
    """The plain job that makes what this one begins from: the same artifact as that job's."""
    if not isinstance(config.method, GRPOConfig):
        return replace(config, method=replace(config.method, continued_steps=0))
    weights = {
        key: getattr(config.method, key) for key in ("problems", "plan_weight", "solution_weight")
    }
    method = MethodConfig(name=config.start.name, **weights)
    return replace(config, method=method, filter=config.start.filter)


def has_start(config: Config) -> bool:
    """Whether the training begins from a student, not from the untrained model."""
    if config.student.path is not None:
        return False
    if isinstance(config.method, GRPOConfig):
        return config.start.name != "base"
    return config.method.continued_steps > 0


def grpo_spec(config: Config, method: GRPOConfig) -> dict[str, Any]:
    """Say what determines a GRPO student, beside its model, its corpus and its start."""
    spec = grpo_content(method, config.reward, config.trainer, config.judge)
    if config.reward.answer_weight:
        spec["grading"] = hashed_values(config.evaluation.grading)
    if config.reward.uses_judge:
        spec["judge_prompt"] = prompt_fingerprint("judge")
    return spec


def reinforce(
    folder: Path,
    config: Config,
    method: GRPOConfig,
    *,
    start: Path | str,
    corpus: Path,
    calls: Path,
    run_dir: Path,
    loggers: Sequence[Any],
    provenance: Mapping[str, Any] | None = None,
    grader: Grader | None = None,
    log_table: Callable[[str, Sequence[Mapping[str, Any]]], None] | None = None,
    on_usage: Callable[[int, float | None], None] | None = None,
) -> Mapping[str, Any]:
    """Start, golden plans, rewards → student; returns the facts of the training.

    Args:
        folder: receives the student.
        config: of the job.
        method: of the job.
        start: the student or the untrained model that is trained.
        corpus: folder of the golden plans.
        calls: folder of what large models have answered.
        run_dir: of the job.
        loggers: Lightning loggers.
        provenance: what the training stands on, for the model card.
        grader: reads answers; by default one of its own.
        log_table: shows completions.
        on_usage: is told what was bought of the judge, also where the training ends in an error.
    """
    from plan_tuning.grading.grader import Grader
    from plan_tuning.training.grpo.data import planned_problems
    from plan_tuning.training.grpo.fit import GRPOSettings, train_grpo
    from plan_tuning.training.lightning import TrainingRun

    problems, selection = planned_problems(corpus, config.filter)

    @asynccontextmanager
    async def open_judge() -> AsyncIterator[Ask]:
        """Open the way to the judge; its answers lie in the same store as the teacher's."""
        from plan_tuning.teachers.factory import open_caller
        from plan_tuning.teachers.usage import Usage

        usage = Usage(config.judge.model)
        try:
            async with open_caller(config.judge, calls, usage=usage) as caller:
                yield caller.ask
        finally:  # calls under way when it ended were paid too
            if on_usage is not None:
                on_usage(usage.bought, usage.usd)

    with ExitStack() as resources:
        facts = train_grpo(
            TrainingRun(folder, run_dir, loggers, provenance, log_table),
            GRPOSettings(
                model=config.model,
                adapter=config.adapter,
                trainer=config.trainer,
                method=method,
                reward=config.reward,
                prompt=config.prompt,
                evaluation=config.evaluation,
                seed=config.seed,
            ),
            start,
            problems,
            grader or resources.enter_context(Grader(config.evaluation.grading)),
            open_judge if config.reward.uses_judge else None,
        )
    return {**facts, "selection": selection}
