"""GRPO in a job: what it begins from, what determines its student, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_tuning.artifacts import canonical
from plan_tuning.config.grpo import GRPOConfig, grpo_content
from plan_tuning.config.run import Config
from plan_tuning.config.training import MethodConfig
from plan_tuning.records import Ask
from plan_tuning.stages import StagePlan
from plan_tuning.text.prompts import digest

if TYPE_CHECKING:
    from plan_tuning.tasks.grading import Grader


def start_config(config: Config) -> Config:
    """The plain job that makes what GRPO begins from: the same artifact as that job's."""
    weights = {
        key: getattr(config.method, key) for key in ("problems", "plan_weight", "solution_weight")
    }
    method = MethodConfig(name=config.start.name, **weights)
    return replace(config, method=method, filter=config.start.filter)


def has_start(config: Config) -> bool:
    """Whether GRPO begins from a student, not from the untrained model."""
    is_grpo = isinstance(config.method, GRPOConfig)
    return is_grpo and config.student.path is None and config.start.name != "base"


def grpo_spec(config: Config, method: GRPOConfig, start: StagePlan | None) -> dict[str, Any]:
    """Say what determines a GRPO student, beside its model and its corpus."""
    spec = grpo_content(method, config.reward, config.trainer, config.judge)
    if config.reward.answer_weight:
        spec["grading"] = canonical(config.evaluation.grading)
    if config.reward.uses_judge:
        spec["judge_prompt"] = digest("judge")
    if start is not None:
        spec["start"] = start.key
    return spec


def reinforce(
    folder: Path,
    config: Config,
    method: GRPOConfig,
    *,
    start: Path | str,
    corpus: Path,
    calls: Path,
    grader: Grader,
    loggers: Sequence[Any],
    run_dir: Path,
    provenance: Mapping[str, Any],
    log_table: Callable[[str, Sequence[Mapping[str, Any]]], None],
) -> Mapping[str, Any]:
    """Start, golden plans, rewards → student; returns the facts of the training."""
    from plan_tuning.training.golden import golden_problems
    from plan_tuning.training.grpo_fit import train_grpo

    cases, selection = golden_problems(corpus, config.filter)

    def open_judge() -> AbstractAsyncContextManager[Ask]:
        """Open the way to the judge; its answers lie in the same store as the teacher's."""
        from plan_tuning.teachers.opening import open_teacher

        return open_teacher(config.judge, calls)

    facts = train_grpo(
        folder,
        start=start,
        cases=cases,
        model=config.model,
        adapter=config.adapter,
        trainer=config.trainer,
        method=method,
        reward=config.reward,
        prompt=config.prompt,
        evaluation=config.evaluation,
        grader=grader,
        open_ask=open_judge if config.reward.uses_judge else None,
        seed=config.seed,
        loggers=loggers,
        run_dir=run_dir,
        provenance=provenance,
        log_table=log_table,
    )
    return {**facts, "selection": selection}
