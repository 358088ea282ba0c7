"""One job, from problems to result.json; reads like the paper's method section.

    corpus      = distil(problems, ask)
    rows        = filter(corpus)
    student     = train(model, rows, method)
    predictions = evaluate(student, benchmarks, executor)
    result      = summarize(predictions)

Every arrow ends in an artifact, so whatever is finished is found again by its fingerprint and a job
that died goes on where it stopped.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from plan_tuning import interruption
from plan_tuning.artifacts import (
    ArtifactError,
    build,
    fingerprint_of,
    read_manifest,
    write_atomic,
)
from plan_tuning.config.extensions import PLAIN
from plan_tuning.config.job_parts import runs_programs
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.run import STAGES, Config
from plan_tuning.distillation.corpus import read_trajectories
from plan_tuning.distillation.filters import decisions
from plan_tuning.interruption import Interrupted
from plan_tuning.job.dry_run import check_data
from plan_tuning.job.evaluate import answer_call, note_clean, value_call
from plan_tuning.job.graph import JobGraph, job_graph, resolved
from plan_tuning.job.inputs import load_benchmark, load_problems
from plan_tuning.job.machine import check_machine, load_libraries
from plan_tuning.job.models import Models
from plan_tuning.job.pass_sizes import SettledPasses, settled
from plan_tuning.job.result import (
    CURVES_FILE,
    PREDICTIONS_FILE,
    JobContext,
    Outcome,
    cause_of,
    check_overwritten,
    corpus_facts,
    ending,
    final_numbers,
    fingerprints,
    log_accuracies,
    metrics_of,
    note_seen,
    read_predictions,
    read_result,
    row_of,
    write_result,
)
from plan_tuning.job.stages import Stage
from plan_tuning.job.test_problems import check_test_problems
from plan_tuning.job.train import Process, Training, make_base, merge_call, training_call
from plan_tuning.job_record import JobResult
from plan_tuning.records import Problem, to_json
from plan_tuning.tasks.published_tests import name_test_problems
from plan_tuning.tracking.tracked_job import track
from plan_tuning.tracking.tracker import Tracker, group_of

logger = logging.getLogger(__name__)

Make = Callable[[Path], Mapping[str, Any]]
"""Writes an artifact into a folder and returns the facts of its manifest."""


def run_job(config: Config, context: JobContext) -> float | None:
    """Run what is left of one job and return its objective.

    The objective is the accuracy on the first benchmark; None for a job that evaluates nothing.

    Raises:
        ConfigError: an input is missing or contradicts the configuration.
        ArtifactError: a stage that the job may not build has no artifact.
    """
    config = resolved(config)
    graph = job_graph(config)
    check_overwritten(context.folder, graph.fingerprint)
    finished = read_result(context.folder, graph)
    if finished is not None and graph.is_done:
        logger.info("already done. %s", ending(context, graph))
        return finished.objective
    with _recorded(config, graph, context) as job:
        job.outcome.device = check_machine(config, graph)  # before anything is paid for
        check_data(config, graph)
        if runs_programs(config):
            job.models.grader.sandbox.isolation()  # refused here, or said
        config = job.settle_passes()
        job.outcome.test_problems = seen = check_test_problems(config, graph)
        if seen:
            logger.warning("published test problems are trained on: %s", name_test_problems(seen))
        if corpus := graph.needed_corpus(config):
            job.distil(corpus)
        for stage, settings in graph.trainings(config):
            job.train(stage, settings)
        if graph.student is not None and graph.merged:
            job.merge(graph.student)
        for place in range(len(graph.predictions)):
            job.evaluate(place)
        for place in range(len(graph.plan_values)):
            job.value_plans(place)
    if context.sweep_name is None:  # a sweep's comparison does it for all of its jobs
        from plan_tuning.comparison.evidence import keep_evidence_of_job

        keep_evidence_of_job(context.folder)
    first = graph.predictions[0].label if graph.predictions else None
    return None if first is None else job.outcome.metrics[first].accuracy


@contextmanager
def _recorded(config: Config, graph: JobGraph, context: JobContext) -> Iterator[Job]:
    """Follow a job in W&B and leave its result.json, of a completed job or of a failed one."""
    outcome = Outcome()
    result: JobResult | None = None
    gc.freeze()  # modules outlive every job: looking through them takes a third of a second
    try:
        with _tracked(config, graph, context) as tracker:
            with ExitStack() as resources:
                job = Job(config, graph, context, outcome, tracker, resources)
                yield job
                del job.models  # the next job of this process gets the memory
                gc.collect()
            result = write_result(config, graph, context, outcome)
            tracker.log_results(final_numbers(result))
    except BaseException as raised:
        error = cause_of(raised, Path(config.paths.outputs))
        if result is None:  # else all is done, and only its report to W&B failed
            try:
                write_result(config, graph, context, outcome, error=error)
            except OSError as failure:  # a full disk, which the error itself may be about
                logger.warning("the job's end is not recorded: %s", failure)
        is_told = isinstance(error, ValueError | Interrupted)  # one line; a fault shows where it is
        if not is_told or (context.sweep_name is not None and not isinstance(error, Interrupted)):
            logger.error("job failed: %s", error, exc_info=not is_told)
        raise error from (raised.__cause__ if error is raised else raised)
    log_accuracies(outcome)
    logger.info("%s", ending(context, graph))


def _tracked(
    config: Config, graph: JobGraph, context: JobContext
) -> AbstractContextManager[Tracker]:
    """Open the job's run in W&B: the same one where it is resumed."""
    names = [graph.fingerprint, context.sweep_name, context.name]
    row = row_of(config, context)
    return track(
        config.logger,
        folder=context.folder,
        run_id=fingerprint_of(names, stage="run", version=1),
        name=" ".join(context.overrides) or context.name,
        group=group_of(config.logger, context.sweep_name, row),
        job_type=config.method.name,
        tags=[*config.tags, config.data.name, config.model.name],
        values={
            "settings": to_json(config),
            "choices": dict(context.choices),
            "row": row,
            "sweep": context.sweep_name,
            "seed": config.seed,
            "key": graph.fingerprint,
            "fingerprints": to_json(fingerprints(graph)),
        },
    )


class Job:
    """One job while it runs: builds what is missing, stage by stage, and notes what came of it."""

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
        self.resources = resources
        self.passes = SettledPasses(config)
        self.models = Models(
            config,
            graph,
            build_base=self._base,
            on_usage=outcome.add_calls,
            resources=resources,
            folder=context.folder,
            keeps_server=context.shares_process,
        )

    def settle_passes(self) -> Config:
        """Find out how many tokens a pass takes where that is left open; returns the settings."""
        self.passes = settled(self.config, self.graph, self.outcome.device)
        self.config = self.models.config = self.passes.config
        return self.config

    def distil(self, stage: Stage) -> None:
        """Problems → plans → scores → executions → corpus."""
        make = partial(self._make_corpus, lambda: load_problems(self.config))
        is_cached = self._obtain("distill", stage, make)
        facts = read_manifest(stage.folder)["facts"] if stage.is_done else {}
        self.outcome.corpus = corpus_facts(stage.folder, facts)
        if self.tracker.run is not None:
            self._track(stage, is_input=is_cached)
            if "train" in self.config.stages:
                given, needed = read_trajectories(stage.folder), self.config.method.learns_execution
                rows = decisions(given, self.config.filter, needs_execution=needed)
                self.tracker.log_table("trajectories", rows)

    def train(self, stage: Stage, config: Config) -> None:
        """Corpus → rows → student; ``config`` is the job's, or that of a start's plain job."""
        corpus = self.outcome.corpus if config.method.needs_corpus else None
        if self.outcome.device == "cuda" and not stage.is_available:
            self.models.end_server()  # an earlier job's: the training needs the card
        # The curves of a job are those of its own student.
        is_start, passes = stage is self.graph.start, self.passes
        tracker = self.tracker.under("start") if is_start else self.tracker
        start = None if is_start else self.graph.start
        training = Training(
            config,
            stage,
            start=None if start is None else start.folder,
            corpus=None if corpus is None else Path(corpus.path),
            run_dir=self.context.folder,
            process=Process(self.models, tracker, self.outcome.add_calls),
            found_sizes=passes.found_of_start if is_start else passes.found,
        )
        is_cached = self._obtain("train", stage, training_call(training))
        facts = read_manifest(stage.folder)["facts"] if stage.is_done else {}
        if corpus is not None:
            self.outcome.add_selection(facts.get("selection", {}))
        self.outcome.training = facts
        curves = stage.folder / CURVES_FILE
        if curves.is_file():
            write_atomic(self.context.folder / CURVES_FILE, curves.read_text(encoding="utf-8"))
            if is_cached:
                tracker.log_curves(curves)
        self._track(stage, is_input=is_cached)

    def merge(self, stage: Stage) -> None:
        """Finished students, or those of single sources → student."""

        def make(folder: Path) -> Mapping[str, Any]:
            for config, graph in self.graph.sources:
                if graph.student is not None and not graph.student.is_available:
                    self._make_source(config, graph)
            return merge_call(self.config, self.graph.merged, lambda: self.models.base)(folder)

        is_cached = self._obtain("train", stage, make)
        self.outcome.training = read_manifest(stage.folder)["facts"]
        self._track(stage, is_input=is_cached)

    def _make_source(self, config: Config, graph: JobGraph) -> None:
        """Make the student of one source of the data, whose curves are not the job's."""
        outcome, name = Outcome(device=self.outcome.device), config.data.name
        context = replace(self.context, folder=self.context.folder / name)
        context.folder.mkdir(exist_ok=True)
        config, tracker = replace(config, stages=self.config.stages), self.tracker.under(name)
        job = Job(config, graph, context, outcome, tracker, self.resources)
        config = job.settle_passes()
        if corpus := graph.needed_corpus(config):
            job.distil(corpus)
        for stage, settings in graph.trainings(config):
            job.train(stage, settings)
        self.outcome.add_calls(outcome.teacher_calls, outcome.cost_usd)

    def evaluate(self, place: int) -> None:
        """Student → predictions → metrics, for one benchmark."""
        config, graph, entry = self.config, self.graph, self.config.benchmarks[place]
        stage, plans = graph.predictions[place], None
        if graph.plan_corpora:
            swapped = graph.plan_corpora[place]
            load = partial(load_benchmark, entry, config, is_tagged=False)
            self._obtain("distill", swapped, partial(self._make_corpus, load))
            plans = swapped.folder
        has_no_plan = config.method.has_two_calls and config.evaluation.plan == "none"
        method = PLAIN if has_no_plan else config.method.name
        make = answer_call(config, self.models, entry, stage.label, method=method, corpus=plans)
        self._obtain("evaluate", stage, make)
        path = stage.folder / PREDICTIONS_FILE
        load_again = partial(load_benchmark, entry, config)
        self.outcome.metrics[stage.label] = metrics_of(stage.folder, load_again)
        self.outcome.predictions[stage.label] = path
        if graph.executor_predictions:  # what the executor can do without a plan
            alone = graph.executor_predictions[place]
            make = answer_call(config, self.models, entry, alone.label, method=PLAIN)
            self._obtain("evaluate", alone, make)
            self.outcome.executor_zero_shot[alone.label] = metrics_of(alone.folder, load_again)
        note_seen(self.outcome, config, stage.label, entry)
        if config.evaluation.decontaminate is not None:
            report = Path(config.evaluation.decontaminate)
            note_clean(self.outcome, stage.label, path, report, self.context.folder)
        if self.tracker.run is not None:
            rows = [to_json(row) for row in read_predictions(path)]
            self.tracker.log_table(f"predictions/{stage.label}", rows)

    def value_plans(self, place: int) -> None:
        """Predictions → what plans are worth, for one benchmark."""
        config, graph, entry = self.config, self.graph, self.config.benchmarks[place]
        stage, answered, corpus = graph.plan_values[place], graph.predictions[place], None
        if graph.value_corpora:
            given = graph.value_corpora[place]
            load = partial(load_benchmark, entry, config, is_tagged=False)
            self._obtain("distill", given, partial(self._make_corpus, load))
            corpus = given.folder
        make = value_call(config, self.models, entry, stage.label, answered.folder, corpus)
        self._obtain("plan_value", stage, make)
        self.outcome.add_plan_value(stage.label, stage.folder)

    def _make_corpus(self, load: Callable[[], list[Problem]], folder: Path) -> Mapping[str, Any]:
        """Distil problems, of the training set or of a test set."""
        from plan_tuning.distillation.corpus import make_corpus

        config = self.config
        return make_corpus(
            folder,
            load(),
            config.teacher,
            config.distillation,
            config.evaluation.grading,
            config.paths.calls,
            progress=config.trainer.progress,
            on_usage=self.outcome.add_calls,
        )

    def _obtain(self, name: str, stage: Stage, make: Make) -> bool:
        """Build a stage where it is absent; returns whether it was there already."""
        interruption.check()
        started = time.perf_counter()
        is_cached = stage.is_available
        if not is_cached:
            if name in STAGES and name not in self.config.stages:
                raise ArtifactError(
                    f"stages={self.config.stages} does not list {name}, and {stage.folder} is not "
                    f"there. Build it first with the same command and 'stages=[{name}]', or give "
                    f"one by {'corpus' if name == 'distill' else 'student'}.path=FOLDER"
                )
            if name != "distill":
                load_libraries()
            is_new = build(
                self.config.paths.artifacts,
                stage.kind,
                stage.fingerprint,
                make,
                spec=stage.spec,
                upstream=stage.upstream,
            )
            is_cached = not is_new  # another process may have built it while this one waited
        self.outcome.add_stage(name, time.perf_counter() - started, is_cached=is_cached)
        return is_cached

    def _base(self, stage: Stage | None, model: ModelConfig) -> str | Path:
        """Make an untrained model of ours where it is absent; name it otherwise."""
        if stage is None:
            return str(model.path)
        self._obtain("base", stage, partial(make_base, self.config, model))
        return stage.folder

    def _track(self, stage: Stage, *, is_input: bool) -> None:
        """Record a finished artifact with its lineage; one given by path has none."""
        if stage.is_done:
            self.tracker.log_artifact(
                stage.folder,
                kind=stage.kind,
                key=stage.fingerprint,
                upstream=stage.upstream,
                is_input=is_input,
            )
