"""The graph of a job: its stages, their fingerprints, and which of them are there.

Nothing here builds anything or imports a heavy library, so that a sweep can list its jobs, drop
those that mean the same and find what is done before a job starts. What a fingerprint is the hash
of, :mod:`plan_tuning.job.train_spec` and :mod:`plan_tuning.job.eval_spec` say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from plan_tuning.artifacts import (
    folder_of,
    is_complete,
)
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.effects import effective
from plan_tuning.config.evaluation import DISTILLED_HERE
from plan_tuning.config.extensions import extension_spec, record
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.job_parts import (
    benchmark_task,
    needs_student,
    values_given_plans,
    values_plans,
)
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.config.sources import merged_students, source_config
from plan_tuning.job.equal_compute import matched_steps
from plan_tuning.job.eval_spec import (
    Party,
    answer_spec,
    check_method,
    check_programs,
    check_swap,
    execution_spec,
    executor_party,
    given_student,
    model_party,
    question_spec,
    report_fingerprint,
    student_party,
    teacher_party,
    value_spec,
)
from plan_tuning.job.given_corpus import check_use
from plan_tuning.job.stages import Stage, addressed, given_stage
from plan_tuning.job.train_spec import (
    base_spec,
    check_own_name,
    distillation_spec,
    has_start,
    is_made_here,
    merge_spec,
    problems_spec,
    start_config,
    student_spec,
)


@dataclass(frozen=True)
class JobGraph:
    """All stages of a job. ``None`` marks what the job does not need."""

    base: Stage | None
    corpus: Stage | None
    student: Stage | None
    predictions: tuple[Stage, ...] = ()
    report_fingerprint: str = ""  # fingerprint of what only changes how predictions are summarised
    # Beside m2's predictions, benchmark by benchmark: its executor without any plan ...
    executor_predictions: tuple[Stage, ...] = ()
    # ... and the distilled test sets that a swap takes the teacher's plans from
    plan_corpora: tuple[Stage, ...] = ()
    # What plans are worth, benchmark by benchmark, and the test sets with the teacher's ones
    plan_values: tuple[Stage, ...] = ()
    value_corpora: tuple[Stage, ...] = ()
    executor_base: Stage | None = None  # of executor=model
    start: Stage | None = None  # what training begins from, where that is not the base
    merged: tuple[Stage, ...] = ()  # students that the student is made of
    sources: Jobs = ()  # the jobs of those that are trained for it

    def jobs(self, config: Config) -> Jobs:
        """The job itself, and those of single sources of its data."""
        return ((config, self), *self.sources)

    def needed_corpus(self, config: Config) -> Stage | None:
        """The corpus, if it is read, or made for a student that is not there yet."""
        corpus, student, stages = self.corpus, self.student, config.stages
        is_trained = student is not None and student.is_available
        may_build = "train" in stages or set(stages) == {"distill"}
        is_needed = corpus is not None and (corpus.is_available or (may_build and not is_trained))
        return corpus if is_needed else None

    def trainings(self, config: Config) -> list[tuple[Stage, Config]]:
        """What is trained, with its settings: the student, and before it the start it needs."""
        start, student = self.start, self.student
        if student is None or self.merged:
            return []
        found = [(student, config)]
        if start is not None and not start.is_external and not student.is_available:
            found.insert(0, (start, start_config(config)))
        return found

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in the order in which they are built."""
        made = [stage for _, graph in self.sources for stage in graph.stages if stage != self.base]
        head = (self.base, self.corpus, self.start, *made, self.student, self.executor_base)
        tail = (*self.plan_corpora, *self.predictions, *self.executor_predictions)
        values = (*self.value_corpora, *self.plan_values)
        return (*(stage for stage in head if stage is not None), *tail, *values)

    @property
    def fingerprint(self) -> str:
        """Two jobs with equal fingerprints mean the same."""
        keys = [stage.fingerprint for stage in (self.predictions or self.stages)]
        return "+".join([*keys, self.report_fingerprint] if self.report_fingerprint else keys)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to build."""
        last = (*self.predictions, *self.executor_predictions, *self.plan_values)
        return all(stage.is_done for stage in (last if self.predictions else self.stages))


Jobs = tuple[tuple[Config, JobGraph], ...]


def job_graph(config: Config) -> JobGraph:
    """Compute every stage's fingerprint from the configuration alone.

    Raises:
        ConfigError: a path that the configuration names does not exist.
    """
    check_own_name(config.data)
    check_programs(config)
    is_evaluated = "evaluate" in config.stages
    if is_evaluated:
        check_swap(config)
    given = resolved(config)
    config = effective(given)
    if set(config.stages) == {"distill"}:
        return JobGraph(None, _corpus_stage(config), None)
    takes_part = not is_evaluated or needs_student(config)
    base = _base_stage(config.model, config)
    corpus = start = student = None
    merged, sources = _merged(given)
    if takes_part and config.student.path is not None:
        student = given_stage("students", config.student.path, "student.path")
        check_method(student.folder, config, f"student.path={config.student.path}")
    elif takes_part and merged:
        found = [stage.fingerprint for stage in merged]
        roles = {f"student {place}": name for place, name in enumerate(found, start=1)}
        spec = merge_spec(given, found, None if base is None else base.fingerprint)
        student = addressed(config, "students", spec, roles)
    elif takes_part:
        corpus = _corpus_stage(config) if config.method.needs_corpus else None
        if config.method.is_trained:
            start = _start_stage(config, base, corpus)
            student = _student_stage(config, base, corpus, start)
    graph = JobGraph(base, corpus, student, start=start, merged=merged, sources=sources)
    return _valued(_evaluated(graph, config), config) if is_evaluated else graph


def resolved(config: Config) -> Config:
    """Find the steps of a continued training that is to match another student's.

    Raises:
        ConfigError: they cannot be found, see :func:`matched_steps`.
    """
    if config.method.matched is None:
        return config
    plain = job_graph(start_config(config)).student
    is_trained = plain is not None and not plain.is_external and not config.merge.is_merged
    steps = matched_steps(config, plain.fingerprint) if plain and is_trained else 0
    return replace(config, method=replace(config.method, continued_steps=steps))


def _base_stage(model: ModelConfig, config: Config) -> Stage | None:
    """The base that is made here; None for weights from elsewhere."""
    if not is_made_here(model):
        return None
    return addressed(config, "bases", base_spec(model, config))


def _corpus_stage(config: Config) -> Stage:
    if config.corpus.path is None:
        return addressed(config, "corpora", distillation_spec(problems_spec(config.data), config))
    given = given_stage("corpora", config.corpus.path, "corpus.path")
    check_use(given.folder, config)
    return given


def _start_stage(config: Config, base: Stage | None, corpus: Stage | None) -> Stage | None:
    """The student that training begins from; None where that is the untrained model."""
    if not has_start(config):
        return None
    if isinstance(config.method, GRPOConfig) and config.start.path is not None:
        return given_stage("students", config.start.path, "start.path")
    plain = effective(start_config(config))
    return _student_stage(plain, base, corpus if plain.method.needs_corpus else None, None)


def _student_stage(
    config: Config, base: Stage | None, corpus: Stage | None, start: Stage | None
) -> Stage:
    roles = {"base": base, "start": start, "corpus": corpus}
    upstream = {role: stage.fingerprint for role, stage in roles.items() if stage is not None}
    spec = student_spec(
        config,
        base=upstream.get("base"),
        start=upstream.get("start"),
        corpus=upstream.get("corpus"),
    )
    return addressed(config, "students", spec, upstream)


def _merged(config: Config) -> tuple[tuple[Stage, ...], Jobs]:
    """The students that are merged, and the jobs of those that single sources train."""
    stages, jobs = [], []
    for student in merged_students(config):
        if student.given:
            path = given_student(student.given, config)
            stages.append(given_stage("students", path, "merge.students"))
        else:
            job = source_config(config, student.source)
            jobs.append((job, job_graph(job)))
            stages += [stage for stage in (jobs[-1][1].student,) if stage is not None]
    return tuple(stages), tuple(jobs)


def _evaluated(graph: JobGraph, config: Config) -> JobGraph:
    """Add the predictions, and what m2's stand on and are compared with."""
    if not config.benchmarks:
        raise ConfigError(
            "evaluation.benchmarks",
            "[]",
            "at least one benchmark to evaluate on",
            "'evaluation.benchmarks=[gsm8k]'",
        )
    graph = replace(graph, report_fingerprint=report_fingerprint(config))
    base = None if graph.base is None else graph.base.fingerprint
    untrained = model_party(config.model, base)
    tested = untrained
    if graph.student is not None:
        tested = student_party(graph.student.fingerprint, base)
    questions = [question_spec(entry, config) for entry in config.benchmarks]

    def answers(party: Party, protocol: str) -> tuple[Stage, ...]:
        return tuple(
            addressed(
                config,
                "predictions",
                answer_spec(question, config, party, protocol=protocol),
                party.upstream,
                question["benchmark"],
            )
            for question in questions
        )

    if not config.method.has_two_calls:
        protocol = config.method.record.protocol
        is_given = config.student.path is not None or config.merge.is_merged
        if is_given:
            protocol = config.method.name  # its fingerprint does not say how it is asked
        if is_given or not config.method.is_trained:
            asked = extension_spec("method", config.method.name)
            questions = [question | asked for question in questions]
        return replace(graph, predictions=answers(tested, protocol))
    executor, executor_base = _executor(config, untrained)
    graph = replace(graph, executor_base=executor_base)
    without_plan = answers(executor or tested, "one_call")
    if config.evaluation.plan == "none":
        return replace(graph, predictions=without_plan)
    if config.evaluation.plan == "teacher":
        given, key = config.evaluation.plan_corpus, "evaluation.plan_corpus"
        corpora = tuple(_test_corpus_stage(question, config, given, key) for question in questions)
        graph = replace(graph, plan_corpora=corpora)
    if config.executor.zero_shot:
        graph = replace(graph, executor_predictions=without_plan)
    planner = tested if needs_student(config) else None
    return replace(
        graph,
        predictions=tuple(
            _execution_stage(question, config, planner, executor, corpus)
            for question, corpus in zip(
                questions, graph.plan_corpora or [None] * len(questions), strict=True
            )
        ),
    )


def _valued(graph: JobGraph, config: Config) -> JobGraph:
    """Add what plans are worth, where it is asked for."""
    if not values_plans(config):
        return graph
    questions = [question_spec(entry, config) for entry in config.benchmarks]
    given = config.evaluation.plan_value_corpus
    corpora: tuple[Stage, ...] = ()
    if given is not None and values_given_plans(config):
        own = None if given == DISTILLED_HERE else given
        key = "evaluation.plan_value_corpus"
        corpora = tuple(_test_corpus_stage(question, config, own, key) for question in questions)
    values = []
    for place, answered in enumerate(graph.predictions):
        corpus = corpora[place].fingerprint if corpora else None
        spec, upstream = value_spec(questions[place], config, answered.fingerprint, corpus)
        values.append(addressed(config, "plan_values", spec, upstream, answered.label))
    return replace(graph, plan_values=tuple(values), value_corpora=corpora)


def _executor(config: Config, untrained: Party) -> tuple[Party | None, Stage | None]:
    """Who executes m2's plans, None: the student itself; and its own base, if one is made here."""
    chosen = config.executor
    extension = record("executor", chosen.name)
    if extension.is_outside:
        return executor_party(config), None
    if "ask" in extension.needs:
        return teacher_party(config), None
    if "model" in extension.needs and chosen.model is not None:
        base = _base_stage(chosen.model, config)
        return model_party(chosen.model, None if base is None else base.fingerprint), base
    return (untrained if "base" in extension.needs else None), None


def _execution_stage(
    question: Mapping[str, Any],
    config: Config,
    planner: Party | None,
    executor: Party | None,
    corpus: Stage | None,
) -> Stage:
    """M2's predictions on one benchmark; ``corpus`` has the plans that are swapped in."""
    plan_corpus = None if corpus is None else corpus.fingerprint
    upstream = {
        **({} if executor is None else executor.upstream),
        **({} if planner is None else planner.upstream),
        **({} if plan_corpus is None else {"plan_corpus": plan_corpus}),
    }
    spec = execution_spec(question, config, planner, executor, plan_corpus)
    return addressed(config, "predictions", spec, upstream, question["benchmark"])


def _test_corpus_stage(
    question: Mapping[str, Any], config: Config, given: str | None, key: str
) -> Stage:
    """The distillation of a test set, whose plans are swapped in and never trained on.

    ``given`` by ``key``: fingerprint or folder of a corpus; None: the job distils it.
    """
    if given is not None:
        folder = folder_of(config.paths.artifacts, "corpora", given)
        path = folder if "/" not in given and is_complete(folder) else given
        return given_stage("corpora", str(path), key)
    problems = {key: question[key] for key in ("benchmark", "source", "limit")}
    tasks = [benchmark_task(config, question["benchmark"])]
    spec = distillation_spec({**problems, "split": "test"}, config, tasks)
    return addressed(config, "corpora", spec, label=question["benchmark"])
