"""Supervised training in a job: what determines its student, and how it is run.

The first are plain values for the Specs of :mod:`plan_tuning.job.specs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_tuning.artifacts import hashed_values
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.run import Config
from plan_tuning.job.graph import Stage
from plan_tuning.records import Problem

if TYPE_CHECKING:
    from plan_tuning.training.logs import LogTable
    from plan_tuning.training.validation import HeldOutEvaluation


def adapter_spec(config: Config) -> dict[str, Any]:
    """Name the weights that are trained."""
    if config.adapter.name == "full":
        return {"name": "full"}
    spec = dict(vars(config.adapter))
    if config.adapter.export == "auto":
        del spec["export"]  # every student from before it could be chosen
    return spec


def method_spec(config: Config) -> dict[str, Any]:
    """Name the method with the loss weights that it reads."""
    method = config.method
    weights = {
        "m1": ("plan_weight", "solution_weight"),
        "m2": ("plan_weight",),
    }.get(method.name, ("solution_weight",))
    spec: dict[str, Any] = {"name": method.name}
    if method.continued_steps:
        spec["continued_steps"] = method.continued_steps
    return spec | {key: getattr(method, key) for key in weights}


def trainer_spec(config: Config) -> dict[str, Any]:
    """Name what of the optimisation is not at its default; hardware and pace do not count."""
    trainer = config.trainer
    # How often is validated decides which weights are exported, if the best ones are.
    chosen: dict[str, Any] = {}
    if trainer.val_every_n_steps and (trainer.select_best or trainer.early_stopping_patience):
        chosen["val_every_n_steps"] = trainer.val_every_n_steps
    if trainer.selects_by_accuracy:
        chosen |= _exam_spec(config)
    return chosen | {
        f.name: getattr(trainer, f.name)
        for f in fields(trainer)
        if not f.metadata.get("runtime", False)
        and getattr(trainer, f.name) != f.metadata.get("hash_default", f.default)
    }


def _exam_spec(config: Config) -> dict[str, Any]:
    """Name what the accuracy depends on that chooses the exported weights."""
    evaluation, executor = config.evaluation, config.executor
    spec: dict[str, Any] = {
        "val_problems": config.trainer.val_problems,
        "max_new_tokens": evaluation.max_new_tokens,
        "grading": hashed_values(evaluation.grading),
        **({"stop": list(evaluation.stop)} if evaluation.stop else {}),
    }
    if config.method.name != "m2":
        return spec
    who: Any = None
    if executor.name == "teacher":
        who = config.executor_teacher.spec()
    elif executor.name == "model":
        who = hashed_values(executor.model)
    return spec | {
        "max_plan_tokens": evaluation.max_plan_tokens,
        **({"plan_stop": list(evaluation.plan_stop)} if evaluation.plan_stop else {}),
        "executor": {"name": executor.name, "who": who},
    }


def training_provenance(config: Config, stage: Stage) -> dict[str, Any]:
    """Say for a model card what a student stands on; nothing of it is a path."""
    known = {
        "method": config.method.name,
        "training problems": f"{config.data.name} ({config.data.split})",
        "seed": config.seed,
        "fingerprint": stage.fingerprint,
        **{f"fingerprint of the {role}": key for role, key in stage.upstream.items()},
    }
    if not config.method.needs_corpus:
        return known
    if config.corpus.path is None:
        known["teacher"] = config.teacher.model
    return known | {"filter": ", ".join(f"{k} {v}" for k, v in filter_spec(config).items())}


def filter_spec(config: Config) -> dict[str, Any]:
    """Reduce a filter to what it does: its name and knobs without effect are left out."""
    chosen = config.filter
    spec: dict[str, Any] = {"answer": chosen.answer, "selection": chosen.selection}
    if chosen.plan:
        spec["plan_score_threshold"] = chosen.plan_score_threshold
    if chosen.drop_leaks:
        spec["drop_leaks"] = True
    if chosen.selection == "diverse":
        spec["diverse_below"] = chosen.diverse_below
    if chosen.max_rows is not None:
        spec["max_rows"] = chosen.max_rows
    if chosen.max_rows is not None or chosen.selection == "random":
        spec["seed"] = chosen.seed
    return spec


def learn(
    folder: Path,
    config: Config,
    *,
    base: Path | str,
    corpus: Path | None,
    problems: Sequence[Problem],
    run_dir: Path,
    loggers: Sequence[Any],
    provenance: Mapping[str, Any] | None = None,
    exam: HeldOutEvaluation | None = None,
    log_table: LogTable | None = None,
) -> Mapping[str, Any]:
    """Corpus → rows → student; returns the facts of the training.

    Args:
        folder: receives the student.
        config: of the job whose student this is.
        base: the untrained model.
        corpus: folder of the trajectories, where the method learns from them.
        problems: with their solutions by people, where it does not.
        run_dir: of the job that trains it.
        loggers: Lightning loggers.
        provenance: what the training stands on, for the model card.
        exam: how held-out problems are solved meanwhile.
        log_table: shows the answers to them.
    """
    from plan_tuning.training.lightning import TrainingRun
    from plan_tuning.training.sft.data import training_rows
    from plan_tuning.training.sft.fit import SFTSettings, train_student

    rows, selection = training_rows(
        method=config.method,
        prompt=config.prompt,
        chosen=config.filter,
        problems=problems,
        corpus=corpus,
        mixture=config.data if isinstance(config.data, MixtureDataConfig) else None,
        order=config.trainer.order,
    )
    run = TrainingRun(folder, run_dir, loggers, provenance, log_table)
    settings = SFTSettings(config.model, config.adapter, config.trainer, config.method, config.seed)
    facts = train_student(run, settings, base, rows, exam)
    return {**facts, "selection": selection}
