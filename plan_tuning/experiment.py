"""One job, from problems to result.json; reads like the paper's method section.

    corpus      = distil(problems, ask)
    rows        = filter(corpus)
    student     = train(model, rows, method)
    predictions = evaluate(student, benchmarks, executor)
    result      = score(predictions)

Every arrow ends in an artifact, so whatever is finished is found again by its fingerprint and a job
that died goes on where it stopped.
"""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_tuning.artifacts import ArtifactError, build, is_complete, read_manifest, write_atomic
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.model import MicroModelConfig
from plan_tuning.config.run import Config
from plan_tuning.inputs import load_benchmark, load_problems
from plan_tuning.records import Prediction, from_json, to_json
from plan_tuning.result import (
    CURVES_FILE,
    PREDICTIONS_FILE,
    JobContext,
    Outcome,
    read_result,
    write_result,
)
from plan_tuning.specs import JobPlan, StagePlan, artifacts_root, calls_folder, plan_job
from plan_tuning.tracking import Tracker, track

if TYPE_CHECKING:
    from plan_tuning.students.loading import Student
    from plan_tuning.tasks.grading import Grader

logger = logging.getLogger(__name__)


def run_job(config: Config, context: JobContext) -> float | None:
    """Run what is left of one job and return its objective.

    The objective is the accuracy on the first benchmark; None for a job that evaluates nothing.

    Raises:
        ConfigError: an input is missing or contradicts the configuration.
        ArtifactError: a stage that the job may not build has no artifact.
    """
    plan = plan_job(config)
    if config.dry_run:
        describe(config, plan)
        return None
    finished = read_result(context.folder, plan.key)
    if finished is not None and plan.is_done:
        logger.info("already done: %s", context.folder / "result.json")
        objective: float | None = finished["objective"]
        return objective
    started = time.perf_counter()
    outcome = Outcome()
    values = {"settings": to_json(config), "choices": dict(context.choices), "key": plan.key}
    with track(
        config.logger,
        folder=context.folder,
        run_id=plan.key.replace("+", "-")[:60],
        name=" ".join(context.overrides) or context.name,
        group=context.sweep_name,
        job_type=config.method.name,
        tags=[*config.tags, config.data.name, config.model.name],
        values=values,
    ) as tracker:
        try:
            with ExitStack() as resources:
                Job(config, plan, context, outcome, tracker, resources).run()
        except BaseException as error:
            wall_s = time.perf_counter() - started
            write_result(config, plan, context, outcome, wall_s=wall_s, error=error)
            # A user's mistake is one line; a fault of the code shows where it is.
            logger.error("job failed: %s", error, exc_info=not isinstance(error, ValueError))
            raise
        wall_s = time.perf_counter() - started
        result = write_result(config, plan, context, outcome, wall_s=wall_s)
        tracker.log_summary(
            {f"test/{name}/accuracy": row["accuracy"] for name, row in outcome.metrics.items()}
        )
    for name, row in outcome.metrics.items():
        logger.info(
            "%s: accuracy %.1f %% [%.1f, %.1f] of %d",
            name,
            100 * row["accuracy"],
            100 * row["low"],
            100 * row["high"],
            row["n"],
        )
    value: float | None = result["objective"]
    return value


def describe(config: Config, plan: JobPlan) -> None:
    """Show what the job would do (``dry_run=true``): stages, teacher calls, price, prompts."""
    from rich.console import Console

    console = Console()
    for stage in plan.stages:
        state = "done" if stage.is_done else "to build"
        console.print(f"{stage.kind:<11} {stage.key} {state:<8} {stage.label}", highlight=False)
    if plan.corpus is not None and not plan.corpus.is_done and config.uses_teacher:
        from plan_tuning.distillation.estimate import dry_run, render_estimate

        problems = load_problems(config)
        estimate = dry_run(problems, config.teacher, config.distillation, calls_folder(config))
        console.print(render_estimate(estimate, config.teacher))


class Job:
    """One job while it runs: builds what is missing, stage by stage."""

    def __init__(
        self,
        config: Config,
        plan: JobPlan,
        context: JobContext,
        outcome: Outcome,
        tracker: Tracker,
        resources: ExitStack,
    ) -> None:
        self.config = config
        self.plan = plan
        self.context = context
        self.outcome = outcome
        self.tracker = tracker
        self._resources = resources

    def run(self) -> None:
        """Build the job's stages in the order of the flow."""
        corpus, student, stages = self.plan.corpus, self.plan.student, self.config.stages
        is_trained = student is not None and student.is_available
        may_build = "train" in stages or set(stages) == {"distill"}
        if corpus is not None and (corpus.is_available or (may_build and not is_trained)):
            self._distil(corpus)
        if student is not None:
            self._train(student)
        for entry, stage in zip(self.config.benchmarks, self.plan.predictions, strict=False):
            self._evaluate(entry, stage)
        self.__dict__.pop("_student", None)
        self.__dict__.pop("_executor", None)
        gc.collect()

    def _distil(self, stage: StagePlan) -> None:
        """Problems → plans → scores → executions → corpus."""
        config = self.config

        def make(folder: Path) -> Mapping[str, Any]:
            from plan_tuning.distillation.corpus import make_corpus

            return make_corpus(
                folder,
                load_problems(config),
                config.teacher,
                config.distillation,
                config.evaluation.grading,
                calls_folder(config),
                progress=config.trainer.progress,
            )

        folder, is_cached = self._obtain(stage, "distill", make)
        facts = read_manifest(folder)["facts"] if is_complete(folder) else {}
        self.outcome.corpus = {"path": folder, "funnel": facts.get("funnel", {})}
        if not is_cached:
            self.outcome.teacher_calls += facts["calls"]["bought"]
            self.outcome.cost_usd = facts["cost_usd"]["this_run"]

    def _train(self, stage: StagePlan) -> None:
        """Corpus → rows → student."""
        config = self.config

        def make(folder: Path) -> Mapping[str, Any]:
            from plan_tuning.training.curves import CurveFile
            from plan_tuning.training.fit import train_student
            from plan_tuning.training.rows import training_rows

            base = self._base
            rows, selection = training_rows(
                method=config.method,
                prompt=config.prompt,
                chosen=config.filter,
                problems=load_problems(config) if self.outcome.corpus is None else (),
                corpus=None if self.outcome.corpus is None else self.outcome.corpus["path"],
                mixture=config.data if isinstance(config.data, MixtureDataConfig) else None,
                order=config.trainer.order,
            )
            facts = train_student(
                folder,
                base=base,
                rows=rows,
                model=config.model,
                adapter=config.adapter,
                trainer=config.trainer,
                method=config.method,
                seed=config.seed,
                loggers=[CurveFile(folder / CURVES_FILE), *self.tracker.lightning_loggers()],
                run_dir=self.context.folder,
            )
            return {**facts, "selection": selection}

        folder, _ = self._obtain(stage, "train", make)
        facts = read_manifest(folder)["facts"] if is_complete(folder) else {}
        if self.outcome.corpus is not None:
            self.outcome.corpus |= facts.get("selection", {})
        self.outcome.training = facts
        curves = folder / CURVES_FILE
        if curves.is_file():
            text = curves.read_text(encoding="utf-8")
            write_atomic(self.context.folder / CURVES_FILE, text)

    def _evaluate(self, entry: str, stage: StagePlan) -> None:
        """Student → predictions → metrics, for one benchmark."""
        config = self.config

        def make(folder: Path) -> Mapping[str, Any]:
            from plan_tuning.evaluation.metrics import summarize
            from plan_tuning.evaluation.solve import solve

            problems = load_benchmark(entry, config)
            predictions = solve(
                self._student,
                problems,
                method=config.method.name,
                prompt=config.prompt,
                evaluation=config.evaluation,
                benchmark=stage.label,
                grader=self._grader,
                executor=self._executor,
            )
            write_predictions(folder / PREDICTIONS_FILE, predictions)
            return {"metrics": summarize(predictions), "problems": len(problems)}

        folder, _ = self._obtain(stage, "evaluate", make)
        self.outcome.metrics[stage.label] = read_manifest(folder)["facts"]["metrics"]
        if self.tracker.run is not None:
            rows = [to_json(row) for row in read_predictions(folder / PREDICTIONS_FILE)]
            self.tracker.log_table(f"predictions/{stage.label}", rows)

    def _obtain(
        self, stage: StagePlan, name: str, make: Callable[[Path], Mapping[str, Any]]
    ) -> tuple[Path, bool]:
        """Return the stage's folder, built if need be; and whether it was there already."""
        started = time.perf_counter()
        is_cached = stage.is_available
        if not is_cached:
            if name not in self.config.stages:
                raise ArtifactError(
                    f"stages={self.config.stages} does not list {name}, and {stage.folder} is not "
                    f"there. Build it first with the same command and 'stages=[{name}]', or give "
                    f"one by {'corpus' if name == 'distill' else 'student'}.path=FOLDER"
                )
            root = artifacts_root(self.config)
            build(root, stage.kind, stage.key, make, spec=stage.spec, upstream=stage.upstream)
        self.outcome.add_stage(name, time.perf_counter() - started, is_cached=is_cached)
        return stage.folder, is_cached

    @cached_property
    def _base(self) -> str | Path:
        """The untrained model: a folder of ours, or the path or hub id that the user gave."""
        self._set_threads()
        stage, model = self.plan.base, self.config.model
        if stage is None:
            return str(model.path)
        started = time.perf_counter()
        is_cached = stage.is_done

        def make(folder: Path) -> Mapping[str, Any]:
            if isinstance(model, MicroModelConfig):
                from plan_tuning.training.base import train_base

                logger.info("training the micro-world's base model: about a minute, once")
                return train_base(folder, model, max_steps=self.config.debug.max_steps)
            from plan_tuning.students.tiny import make_tiny

            return make_tiny(folder, model.family, model.seed)

        folder = build(artifacts_root(self.config), "bases", stage.key, make, spec=stage.spec)
        self.outcome.add_stage("base", time.perf_counter() - started, is_cached=is_cached)
        return folder

    @cached_property
    def _device(self) -> str:
        import torch

        wanted = self.config.trainer.accelerator
        has_cuda = torch.cuda.is_available()
        if wanted == "cuda" and not has_cuda:
            raise ConfigError(
                "trainer.accelerator",
                "cuda",
                "this machine has no CUDA device",
                "trainer=cpu_small",
            )
        self.outcome.device = "cuda" if has_cuda and wanted != "cpu" else "cpu"
        return self.outcome.device

    @cached_property
    def _student(self) -> Student:
        """The model under test: trained by this job, given by path, or untrained."""
        from plan_tuning.students.loading import load_student

        base = self._base
        where = base if self.plan.student is None else self.plan.student.folder
        return load_student(where, self.config.model, device=self._device, for_training=False)

    @cached_property
    def _executor(self) -> Student | None:
        """Who executes M2's plans; None where nobody is needed or the student does it."""
        from plan_tuning.students.loading import load_student

        if self.config.method.name != "m2" or self.config.executor.name == "self":
            return None
        return load_student(self._base, self.config.model, device=self._device, for_training=False)

    @cached_property
    def _grader(self) -> Grader:
        from plan_tuning.tasks.grading import Grader

        return self._resources.enter_context(Grader(self.config.evaluation.grading))

    def _set_threads(self) -> None:
        """One thread a job unless asked otherwise: on small models more threads are far slower."""
        import torch

        if self.config.trainer.threads:
            torch.set_num_threads(self.config.trainer.threads)
        # Tiny weights drift into denormal numbers, which a CPU handles many times slower.
        torch.set_flush_denormal(True)


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions as JSON lines."""
    lines = [json.dumps(to_json(row), ensure_ascii=False) for row in predictions]
    write_atomic(path, "\n".join(lines) + "\n")


def read_predictions(path: Path) -> list[Prediction]:
    """Read what :func:`write_predictions` wrote."""
    with path.open(encoding="utf-8") as file:
        return [from_json(Prediction, json.loads(line)) for line in file if line.strip()]
