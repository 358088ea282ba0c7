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
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import (
    ArtifactError,
    build,
    fingerprint_of,
    is_complete,
    read_manifest,
    write_atomic,
)
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.run import Config
from plan_tuning.distillation.corpus import read_trajectories
from plan_tuning.distillation.filters import decisions
from plan_tuning.job.costs import describe
from plan_tuning.job.examining import examination
from plan_tuning.job.graph import JobGraph, Stage
from plan_tuning.job.inputs import load_benchmark, load_problems
from plan_tuning.job.learning import learn, training_provenance
from plan_tuning.job.models import Roles
from plan_tuning.job.reinforcing import reinforce, start_config
from plan_tuning.job.result import (
    CURVES_FILE,
    DECONTAMINATED,
    PREDICTIONS_FILE,
    JobContext,
    Outcome,
    check_overwritten,
    corpus_facts,
    fingerprints,
    log_accuracies,
    read_predictions,
    read_result,
    write_predictions,
    write_result,
)
from plan_tuning.job.specs import artifacts_root, calls_folder, job_graph
from plan_tuning.job_record import JobResult, parse_metrics
from plan_tuning.records import Problem, to_json
from plan_tuning.tracking import Tracker, track
from plan_tuning.training.processes import train_in_ranks

logger = logging.getLogger(__name__)


def run_job(config: Config, context: JobContext) -> float | None:
    """Run what is left of one job and return its objective.

    The objective is the accuracy on the first benchmark; None for a job that evaluates nothing.

    Raises:
        ConfigError: an input is missing or contradicts the configuration.
        ArtifactError: a stage that the job may not build has no artifact.
    """
    graph = job_graph(config)
    if config.dry_run:
        describe(config, graph)
        return None
    check_overwritten(context.folder, graph.fingerprint)
    finished = read_result(context.folder, graph.fingerprint)
    if finished is not None and graph.is_done:
        logger.info("already done: %s", context.folder / "result.json")
        return finished.objective
    started = time.perf_counter()
    outcome = Outcome()
    values = {
        "settings": to_json(config),
        "choices": dict(context.choices),
        "key": graph.fingerprint,
        "fingerprints": to_json(fingerprints(graph)),
    }
    result: JobResult | None = None
    run_id = fingerprint_of(
        [graph.fingerprint, context.sweep_name, context.name], stage="run", version=1
    )
    try:
        with track(
            config.logger,
            folder=context.folder,
            run_id=run_id,
            name=" ".join(context.overrides) or context.name,
            group=context.sweep_name,
            job_type=config.method.name,
            tags=[*config.tags, config.data.name, config.model.name],
            values=values,
        ) as tracker:
            with ExitStack() as resources:
                Job(config, graph, context, outcome, tracker, resources).run()
            wall_s = time.perf_counter() - started
            result = write_result(config, graph, context, outcome, wall_s=wall_s)
            tracker.log_summary(
                {f"test/{name}/accuracy": row.accuracy for name, row in outcome.metrics.items()}
            )
    except BaseException as error:
        if result is None:  # else all is done, and only its report to W&B failed
            wall_s = time.perf_counter() - started
            write_result(config, graph, context, outcome, wall_s=wall_s, error=error)
        is_mistake = isinstance(error, ValueError)  # one line; a fault shows where it is
        if context.sweep_name is not None or not is_mistake:
            logger.error("job failed: %s", error, exc_info=not is_mistake)
        raise
    log_accuracies(outcome)
    return result.objective


class Job:
    """One job while it runs: builds what is missing, stage by stage."""

    def __init__(
        self,
        config: Config,
        graph: JobGraph,
        context: JobContext,
        outcome: Outcome,
        tracker: Tracker,
        resources: ExitStack,
    ) -> None:
        self.config = config
        self.graph = graph
        self.context = context
        self.outcome = outcome
        self.tracker = tracker
        self.roles = Roles(config, graph, outcome, resources)

    def run(self) -> None:
        """Build the job's stages in the order of the flow."""
        self.roles.check_machine()  # before anything is paid for
        corpus, student, stages = self.graph.corpus, self.graph.student, self.config.stages
        is_trained = student is not None and student.is_available
        may_build = "train" in stages or set(stages) == {"distill"}
        if corpus is not None and (corpus.is_available or (may_build and not is_trained)):
            self._distil(corpus)
        if student is not None:
            start = self.graph.start
            if start is not None and not is_trained:
                self._train(start, start_config(self.config))
            self._train(student, self.config)
        for place, entry in enumerate(self.config.benchmarks[: len(self.graph.predictions)]):
            self._evaluate(entry, place)
        del self.roles  # the next job of this process gets the memory
        gc.collect()

    def _distil(self, stage: Stage) -> None:
        """Problems → plans → scores → executions → corpus."""
        folder, is_cached = self._build_corpus(stage, lambda: load_problems(self.config))
        facts = read_manifest(folder)["facts"] if is_complete(folder) else {}
        self.outcome.corpus = corpus_facts(folder, facts)
        if self.tracker.run is not None:
            self._track(stage, is_input=is_cached)
            if "train" in self.config.stages:
                self._show_trajectories(folder)

    def _show_trajectories(self, folder: Path) -> None:
        """Show what the filter decides on each trajectory."""
        rows = decisions(
            read_trajectories(folder),
            self.config.filter,
            needs_execution=self.config.method.learns_execution,
        )
        self.tracker.log_table("trajectories", rows)

    def _build_corpus(self, stage: Stage, load: Callable[[], list[Problem]]) -> tuple[Path, bool]:
        """Distil problems, of the training set or of a test set, where that is not done yet."""
        config = self.config

        def make(folder: Path) -> Mapping[str, Any]:
            from plan_tuning.distillation.corpus import make_corpus

            return make_corpus(
                folder,
                load(),
                config.teacher,
                config.distillation,
                config.evaluation.grading,
                calls_folder(config),
                progress=config.trainer.progress,
                on_usage=self.outcome.add_calls,
            )

        return self._obtain(stage, "distill", make)

    def _train(self, stage: Stage, config: Config) -> None:
        """Corpus → rows → student; ``config`` is the job's, or that of a start's plain job."""
        found = self.outcome.corpus if config.method.needs_corpus else None
        corpus = None if found is None else Path(found.path)
        folder, is_cached = self._obtain(
            stage, "train", partial(self._learn, config, corpus, stage)
        )
        facts = read_manifest(folder)["facts"] if is_complete(folder) else {}
        if corpus is not None:
            self.outcome.add_selection(facts.get("selection", {}))
        self.outcome.training = facts
        curves = folder / CURVES_FILE
        if curves.is_file():
            text = curves.read_text(encoding="utf-8")
            write_atomic(self.context.folder / CURVES_FILE, text)
            if is_cached:
                self.tracker.log_curves(curves)
        self._track(stage, is_input=is_cached)

    def _learn(
        self, config: Config, corpus: Path | None, stage: Stage, folder: Path
    ) -> Mapping[str, Any]:
        """Train into ``folder``, here or in several processes."""
        inputs: dict[str, Any] = {
            "run_dir": self.context.folder,
            "provenance": training_provenance(config, stage),
        }
        shared: dict[str, Any] = {"log_table": self.tracker.log_table}
        train: Callable[..., Mapping[str, Any]]
        if isinstance(config.method, GRPOConfig):
            if corpus is None:
                raise ArtifactError(
                    "method=grpo needs a corpus of golden plans: corpus.path=FOLDER"
                )
            start = self.graph.start
            inputs["start"] = self.roles.base if start is None else start.folder
            inputs |= {"corpus": corpus, "calls": calls_folder(config)}
            train = partial(reinforce, folder, config, config.method, **inputs)
            shared |= {"grader": self.roles.grader, "on_usage": self.outcome.add_calls}
        else:
            inputs["corpus"] = corpus
            inputs["problems"] = load_problems(config) if corpus is None else ()
            inputs["base"] = self.roles.base
            if config.method.continued_steps and self.graph.start is not None:
                inputs["base"] = self.graph.start.folder
                steps = config.method.continued_steps
                config = replace(config, trainer=replace(config.trainer, max_steps=steps))
            train = partial(learn, folder, config, **inputs)
        curves = folder / CURVES_FILE
        if config.trainer.devices == 1:
            from plan_tuning.training.logs import CurveFile

            if not isinstance(config.method, GRPOConfig):
                shared["exam"] = examination(config, self.roles, inputs["corpus"])
            loggers = [CurveFile(curves), *self.tracker.lightning_loggers()]
            return train(loggers=loggers, **shared)
        facts = train_in_ranks(train, config.trainer, curves)
        self.tracker.log_curves(curves)
        if isinstance(config.method, GRPOConfig):
            from plan_tuning.training.grpo.fit import COMPLETIONS_FILE

            self.tracker.log_rows("completions", folder / COMPLETIONS_FILE)
        return facts

    def _track(self, stage: Stage, *, is_input: bool) -> None:
        """Record a finished artifact with its lineage; one given by path has none."""
        if is_complete(stage.folder):
            self.tracker.log_artifact(
                stage.folder,
                kind=stage.kind,
                key=stage.fingerprint,
                upstream=stage.upstream,
                is_input=is_input,
            )

    def _evaluate(self, entry: str, place: int) -> None:
        """Student → predictions → metrics, for one benchmark."""
        config, stage = self.config, self.graph.predictions[place]
        is_alone = config.method.name == "m2" and config.evaluation.plan == "none"
        corpus = None
        if self.graph.plan_corpora:
            corpus, _ = self._build_corpus(
                self.graph.plan_corpora[place],
                lambda: load_benchmark(entry, config, is_tagged=False),
            )
        self._obtain(stage, "evaluate", partial(self._solve, entry, stage.label, is_alone, corpus))
        path = stage.folder / PREDICTIONS_FILE
        self.outcome.metrics[stage.label] = parse_metrics(
            read_manifest(stage.folder)["facts"]["metrics"]
        )
        self.outcome.predictions[stage.label] = path
        if self.graph.executor_predictions:  # what the executor can do without a plan
            alone = self.graph.executor_predictions[place]
            make = partial(self._solve, entry, alone.label, True, None)
            folder, _ = self._obtain(alone, "evaluate", make)
            metrics = parse_metrics(read_manifest(folder)["facts"]["metrics"])
            self.outcome.executor_zero_shot[alone.label] = metrics
        if config.evaluation.decontaminate is not None:
            self._decontaminate(stage.label, path, Path(config.evaluation.decontaminate))
        if self.tracker.run is not None:
            rows = [to_json(row) for row in read_predictions(path)]
            self.tracker.log_table(f"predictions/{stage.label}", rows)

    def _solve(
        self, entry: str, benchmark: str, is_alone: bool, corpus: Path | None, folder: Path
    ) -> Mapping[str, Any]:
        """Answer one benchmark into ``folder``; ``is_alone``: M2's executor, without any plan."""
        from plan_tuning.evaluation.accuracy import summarize
        from plan_tuning.evaluation.predictions import solve, teacher_plans
        from plan_tuning.evaluation.progress import shown

        config = self.config
        problems = load_benchmark(entry, config)
        method = "zero_shot" if is_alone else config.asked_as
        plans = None
        if corpus is not None:
            plans = teacher_plans(read_trajectories(corpus))
        elif method == "m2" and config.evaluation.plan == "true":
            plans = {problem.id: problem.true_plan for problem in problems}
        # With given plans, or without any, nobody but the executor is asked.
        is_executor = is_alone or plans is not None
        with shown(benchmark, is_wanted=config.evaluation.progress) as progress:
            predictions = solve(
                self.roles.executor if is_executor else self.roles.tested,
                problems,
                method=method,
                prompt=config.prompt,
                evaluation=config.evaluation,
                benchmark=benchmark,
                grader=self.roles.grader,
                executor=self.roles.executor if method == "m2" else None,
                plans=plans,
                progress=progress,
            )
        write_predictions(folder / PREDICTIONS_FILE, predictions)
        return {"metrics": to_json(summarize(predictions)), "problems": len(problems)}

    def _decontaminate(self, benchmark: str, path: Path, report: Path) -> None:
        """Report the benchmark once more, without the problems that the training set holds."""
        from plan_tuning.evaluation.accuracy import summarize
        from plan_tuning.tasks.contamination import contaminated_ids, covers

        if benchmark not in covers(report.expanduser()):
            logger.info("%s is not in %s: reported as it is", benchmark, report)
            return
        ids = contaminated_ids(report.expanduser(), benchmark)
        clean = [row for row in read_predictions(path) if row.problem_id not in ids]
        if not clean:
            logger.warning("%s: every problem is contaminated, nothing is left", benchmark)
            return
        name = benchmark + DECONTAMINATED
        self.outcome.predictions[name] = self.context.folder / f"{name}.jsonl"
        write_predictions(self.outcome.predictions[name], clean)
        self.outcome.metrics[name] = summarize(clean)

    def _obtain(
        self, stage: Stage, name: str, make: Callable[[Path], Mapping[str, Any]]
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
            is_cached = True  # another process may build it while this one waits

            def make_here(folder: Path) -> Mapping[str, Any]:
                nonlocal is_cached
                is_cached = False
                return make(folder)

            root = artifacts_root(self.config)
            build(
                root,
                stage.kind,
                stage.fingerprint,
                make_here,
                spec=stage.spec,
                upstream=stage.upstream,
            )
        self.outcome.add_stage(name, time.perf_counter() - started, is_cached=is_cached)
        return stage.folder, is_cached
