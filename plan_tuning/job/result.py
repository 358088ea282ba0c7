"""result.json: what a job leaves behind, the unit of comparison."""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plan_tuning import interruption
from plan_tuning.artifacts import RESUME, provenance, read_manifest, storage_error, write_atomic
from plan_tuning.comparison.choices import row_label
from plan_tuning.comparison.runs import run_of
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import Config
from plan_tuning.evaluation.accuracy import summarize
from plan_tuning.evaluation.judgement import stored_answers, with_verdict
from plan_tuning.interruption import Interrupted
from plan_tuning.job.compute import job_compute
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.inputs import count_seen, training_texts
from plan_tuning.job_record import (
    RESULT_FILE,
    BenchmarkMetrics,
    CorpusFacts,
    Fingerprints,
    JobError,
    JobResult,
    PlanValue,
    StageTime,
    parse_metrics,
    parse_plan_value,
    parse_result,
)
from plan_tuning.records import Prediction, Problem, from_json, to_json
from plan_tuning.tasks.json_rows import DataError
from plan_tuning.tasks.regrading import regrade, remembered

logger = logging.getLogger(__name__)

CURVES_FILE = "metrics.csv"
PREDICTIONS_FILE = "predictions.jsonl"
PLAN_VALUES_FILE = "plan_values.jsonl"
_MAX_MESSAGE = 2000  # characters of an error's text
DECONTAMINATED = "_decontaminated"  # suffix of a benchmark without its contaminated problems


@dataclass(frozen=True)
class JobContext:
    """Where a job runs and what Hydra knows about it."""

    folder: Path
    name: str
    sweep_name: str | None  # None: a job outside a sweep
    overrides: tuple[str, ...] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)
    shares_process: bool = False  # the sweep's other jobs run in this process, one after another


@dataclass
class Outcome:
    """What a job has done so far; the raw material of result.json."""

    stages: dict[str, StageTime] = field(default_factory=dict)
    corpus: CorpusFacts | None = None  # its path as a job sees it, from anywhere
    training: Mapping[str, Any] | None = None
    metrics: dict[str, BenchmarkMetrics] = field(default_factory=dict)  # by benchmark
    predictions: dict[str, Path] = field(default_factory=dict)  # by benchmark: file
    executor_zero_shot: dict[str, BenchmarkMetrics] = field(default_factory=dict)  # of m2
    plan_value: dict[str, PlanValue] = field(default_factory=dict)  # by benchmark
    plan_values: dict[str, Path] = field(default_factory=dict)  # by benchmark: folder
    seen_in_training: dict[str, int] | None = None  # test problems, by benchmark
    test_problems: Mapping[str, int] = field(default_factory=dict)  # trained on, by test split
    train_texts: Collection[tuple[str, ...]] | None = None  # of its problems, once asked
    teacher_calls: int = 0  # bought by this run of the job
    cost_usd: float | None = 0.0  # of those; None: the price is unknown
    device: str = "cpu"
    started: float = field(default_factory=time.perf_counter)  # of the job, in seconds

    def add_cost(self, usd: float | None) -> None:
        """Account what was paid; with one price unknown the sum is."""
        self.cost_usd = None if usd is None or self.cost_usd is None else self.cost_usd + usd

    def add_calls(self, bought: int, usd: float | None) -> None:
        """Account teacher calls that this job bought, and what they cost."""
        self.teacher_calls += bought
        self.add_cost(usd)

    def add_stage(self, name: str, wall_s: float, *, is_cached: bool) -> None:
        """Account a stage's time; several parts of one stage add up."""
        before = self.stages.get(name, StageTime(is_cached=True))
        self.stages[name] = StageTime(
            wall_s=round(before.wall_s + wall_s, 3), is_cached=before.is_cached and is_cached
        )

    def add_seen(self, benchmark: str, number: int | None) -> None:
        """Note how many test problems stand in the training problems; None: not known."""
        if number is not None:
            self.seen_in_training = {**(self.seen_in_training or {}), benchmark: number}

    def add_plan_value(self, benchmark: str, folder: Path) -> None:
        """Note what plans are worth on one benchmark, by its artifact."""
        self.plan_value[benchmark] = parse_plan_value(read_manifest(folder)["facts"]["figures"])
        self.plan_values[benchmark] = folder / PLAN_VALUES_FILE

    def add_selection(self, selection: Mapping[str, Any]) -> None:
        """Account what a training took of the corpus: rows, reasons and what else it counted."""
        if self.corpus is not None:
            further = {k: v for k, v in selection.items() if k not in ("rows", "reasons")}
            self.corpus = replace(
                self.corpus,
                rows=selection.get("rows", self.corpus.rows),
                reasons=selection.get("reasons", self.corpus.reasons),
                further={**self.corpus.further, **further},
            )


def cause_of(error: BaseException, outputs: Path) -> BaseException:
    """Tell a stop by the user, and a disk's refusal, whatever they became on their way."""
    is_stop = isinstance(error, KeyboardInterrupt) or interruption.is_asked()
    if is_stop or getattr(error, "exit_code", None) == interruption.EXIT_CODE:
        return error if isinstance(error, Interrupted) else Interrupted()
    return storage_error(error, outputs, RESUME) or error


def note_seen(outcome: Outcome, config: Config, benchmark: str, entry: str) -> None:
    """Count the test problems that a job's student has seen in training, and warn of them.

    Args:
        outcome: of the job; nothing is counted where it trained nothing.
        config: the job.
        benchmark: the test set's name.
        entry: the test set as the configuration names it.
    """
    if outcome.training is None:
        return
    if outcome.train_texts is None:
        corpus = None if outcome.corpus is None else Path(outcome.corpus.path)
        outcome.train_texts = training_texts(config, corpus)
    if outcome.train_texts is not None:
        seen = count_seen(outcome.train_texts, benchmark, entry, config)
        outcome.add_seen(benchmark, seen)


def log_accuracies(outcome: Outcome) -> None:
    """Log each benchmark's accuracy with its interval, and what plans are worth, if asked for."""
    for name, found in outcome.metrics.items():
        shares = (found.accuracy, found.low, found.high)
        figures = (math.nan if share is None else 100 * share for share in shares)
        logger.info("%s: accuracy %.1f %% [%.1f, %.1f] of %d", name, *figures, found.n)
    for name, worth in outcome.plan_value.items():
        behind = {key: f"{found.per_token:.3f}" for key, found in worth.conditions.items()}
        shown = ", ".join(f"{key} {value}" for key, value in behind.items())
        logger.info("%s: log-probability a token of references behind plans: %s", name, shown)


def ending(context: JobContext, graph: JobGraph) -> str:
    """Say in one line where everything is that a job has left."""
    result = context.folder / RESULT_FILE
    places = [f"result: {_shown(result)}"]
    if graph.student is not None:
        places.append(f"student: {_shown(graph.student.folder)}")
    elif graph.predictions:
        places.append(f"predictions: {_shown(graph.predictions[0].folder)}")
    elif graph.corpus is not None:
        places.append(f"corpus: {_shown(graph.corpus.folder)}")
    if context.sweep_name is not None:
        places.append(f"report, when the sweep ends: {_shown(context.folder.parent)}/report.html")
    elif graph.predictions:
        places.append(f"report: plan-tuning compare {shlex.quote(_shown(context.folder))}")
    return "; ".join(places)


def _shown(path: Path) -> str:
    """Write a path as short as it can be pasted from here."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else path)


def job_choices(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Take the project's groups out of what Hydra chose.

    >>> job_choices({"method": "m1", "hydra/launcher": "basic", "teacher@reward.judge": "gpt"})
    {'method': 'm1', 'teacher@reward.judge': 'gpt'}
    """
    return {
        key: value
        for key, value in choices.items()
        if not key.startswith("hydra") and "/" not in key
    }


def corpus_facts(folder: Path, facts: Mapping[str, Any]) -> CorpusFacts:
    """Take out of a corpus's manifest what a job reports of it.

    Its answers and cost are of the whole corpus, whoever bought it and in however many attempts;
    what this run of the job bought stands beside, in ``teacher_calls``.
    """
    calls, cost = facts.get("calls"), facts.get("cost_usd")
    return CorpusFacts(
        path=str(folder),
        funnel=facts.get("funnel", {}),
        teacher_answers=None if calls is None else calls["bought"] + calls["cached"],
        cost_usd=None if cost is None else cost["corpus"],
    )


def check_overwritten(folder: Path, key: str) -> None:
    """Make sure that a job does not replace the finished result of another one.

    Raises:
        ConfigError: the folder holds a finished result of other settings under the same name.
    """
    found = _earlier(folder)
    if found is not None and found.key != key:
        raise ConfigError(
            "sweep_name",
            found.sweep or folder.parent.name,
            f"another name: {folder} holds a finished job of the same name but of other settings, "
            "data or version of this program, which this one would replace (or remove that folder)",
            "sweep_name=other",
        )


def read_result(folder: Path, graph: JobGraph) -> JobResult | None:
    """Read the result of an earlier run of the same job, if it was completed and lacks nothing.

    A result of another meaning under the same name (an edited configuration) is not this job's. An
    earlier run may not have been asked what plans are worth.
    """
    found = _earlier(folder)
    if found is None or found.key != graph.fingerprint:
        return None
    asked = {stage.label for stage in graph.plan_values}
    return found if asked <= (found.plan_value or {}).keys() else None


def _earlier(folder: Path) -> JobResult | None:
    """Read the result of a completed job, whichever it was."""
    path = folder / RESULT_FILE
    if not path.is_file():
        return None
    found = parse_result(json.loads(path.read_text(encoding="utf-8")))
    return found if found.status == "completed" else None


def write_result(
    config: Config,
    graph: JobGraph,
    context: JobContext,
    outcome: Outcome,
    *,
    error: BaseException | None = None,
) -> JobResult:
    """Write result.json, of a completed job or of a failed one, and return its content."""
    folder = context.folder
    first = graph.predictions[0].label if graph.predictions else None
    corpus = outcome.corpus
    if corpus is not None:
        corpus = replace(corpus, path=_relative(corpus.path, folder))
    result = JobResult(
        status="completed" if error is None else "failed",
        error=None if error is None else JobError(type(error).__name__, str(error)[:_MAX_MESSAGE]),
        job=context.name,
        sweep=context.sweep_name,
        debug=config.debug.enabled,
        choices=context.choices,
        overrides=context.overrides,
        row=row_of(config, context),
        tags=tuple(config.tags),
        seed=config.seed,
        settings=to_json(config),
        key=graph.fingerprint,
        fingerprints=fingerprints(graph),
        objective=outcome.metrics[first].accuracy if first in outcome.metrics else None,
        metrics=outcome.metrics,
        executor_zero_shot=outcome.executor_zero_shot,
        predictions={name: _relative(path, folder) for name, path in outcome.predictions.items()},
        plan_value=outcome.plan_value or None,
        plan_values={name: _relative(path, folder) for name, path in outcome.plan_values.items()}
        or None,
        corpus=corpus,
        training=outcome.training,
        seen_in_training=outcome.seen_in_training,
        trained_on_test_problems=outcome.test_problems or None,
        curves=CURVES_FILE if (folder / CURVES_FILE).is_file() else None,
        device=outcome.device,
        stages=outcome.stages,
        wall_s=round(time.perf_counter() - outcome.started, 3),
        compute=job_compute(
            [stage.folder for stage in graph.merged or (graph.student,) if stage is not None],
            graph.base.folder if graph.base else None,
            [stage.folder for stage in graph.predictions],
        ),
        teacher_calls=outcome.teacher_calls,
        cost_usd=outcome.cost_usd,
        **provenance(),
    )
    write_atomic(folder / RESULT_FILE, json.dumps(to_json(result), indent=1, ensure_ascii=False))
    return result


def row_of(config: Config, context: JobContext) -> str:
    """Name the row of a comparison that a job belongs to, see :func:`row_label`."""
    result = JobResult(
        choices=context.choices,
        overrides=context.overrides,
        seed=config.seed,
        settings=to_json(config),
    )
    return row_label(run_of(context.folder, result))


def fingerprints(graph: JobGraph) -> Fingerprints:
    """Fingerprints of the job's artifacts, by role."""
    return Fingerprints(
        base=graph.base.fingerprint if graph.base else None,
        corpus=graph.corpus.fingerprint if graph.corpus else None,
        start=graph.start.fingerprint if graph.start else None,
        student=graph.student.fingerprint if graph.student else None,
        predictions={stage.label: stage.fingerprint for stage in graph.predictions},
        executor_zero_shot={stage.label: stage.fingerprint for stage in graph.executor_predictions},
        plan_values={stage.label: stage.fingerprint for stage in graph.plan_values} or None,
    )


def final_numbers(result: JobResult) -> dict[str, float | None]:
    """List what a job comes to, under the names of W&B's charts; shares are 0..1."""
    numbers: dict[str, float | None] = {"objective": result.objective}
    for name, found in result.metrics.items():
        shares = {"accuracy": found.accuracy, "low": found.low, "high": found.high}
        numbers |= {f"test/{name}/{key}": share for key, share in shares.items()}
        numbers[f"test/{name}/n"] = found.n
    for name, worth in (result.plan_value or {}).items():
        for condition, behind in worth.conditions.items():
            numbers[f"test/{name}/plan_value/{condition}"] = behind.per_token
    return numbers


def _relative(path: str | Path, folder: Path) -> str:
    return Path(os.path.relpath(Path(path).resolve(), folder.resolve())).as_posix()


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions as JSON lines."""
    lines = [json.dumps(to_json(row), ensure_ascii=False) for row in predictions]
    write_atomic(path, "\n".join(lines) + "\n")


def read_predictions(path: Path) -> list[Prediction]:
    """Read what :func:`write_predictions` wrote, with the verdicts of today's grader.

    What an earlier grader judged has been graded again before (:func:`judge_again`), or is as it
    was.
    """
    with path.open(encoding="utf-8") as file:
        rows = [from_json(Prediction, json.loads(line)) for line in file if line.strip()]
    found = remembered(path.parent)
    return rows if found is None else [with_verdict(row, found) for row in rows]


def judge_again(folder: Path, problems: Callable[[], Sequence[Problem]]) -> bool:
    """Have today's grader read predictions that an earlier one judged.

    Args:
        folder: the artifact.
        problems: loads the test set; called only where there is something to grade.

    Returns:
        Whether a verdict changed.
    """
    found = remembered(folder)
    if found is None:
        try:
            known = {problem.id: problem for problem in problems()}
        except DataError as error:
            logger.warning("%s keeps the verdicts of an earlier grader: %s", folder, error)
            return False
        rows = read_predictions(folder / PREDICTIONS_FILE)
        found = regrade(folder, stored_answers(rows, known))
    return bool(found.changed)


def metrics_of(folder: Path, problems: Callable[[], Sequence[Problem]]) -> BenchmarkMetrics:
    """Read what predictions came to; those of an earlier grader are judged again.

    Args:
        folder: the artifact.
        problems: loads the test set; called only where there is something to grade.
    """
    if judge_again(folder, problems):
        return summarize(read_predictions(folder / PREDICTIONS_FILE))
    return parse_metrics(read_manifest(folder)["facts"]["metrics"])
