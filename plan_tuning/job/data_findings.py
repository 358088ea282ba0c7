"""What the data files of a job hold: problems, solutions and plans that are still needed.

Nothing is built or written, and what lies on the Hub is not fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from plan_tuning.config.checks import Finding
from plan_tuning.config.data import DataConfig, KeyNames, MicroworldDataConfig, RowForm
from plan_tuning.config.run import Config
from plan_tuning.job.eval_spec import benchmark_of
from plan_tuning.job.given_corpus import check_selection
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.inputs import count_problems, source_parts
from plan_tuning.job.train_spec import start_config
from plan_tuning.tasks.benchmarks import Reading, benchmark_named, rationale_advice, read
from plan_tuning.tasks.dataset_plans import dataset_plan
from plan_tuning.tasks.microworld_problems import MICRO_PREFIX
from plan_tuning.tasks.row_files import file_of


def is_trained(graph: JobGraph) -> bool:
    """Whether a student is to be trained."""
    return graph.student is not None and not graph.student.is_available


def makes_corpus(graph: JobGraph) -> bool:
    """Whether a corpus is to be made, for itself or for a student."""
    is_missing = graph.corpus is not None and not graph.corpus.is_available
    return is_missing and (graph.student is None or is_trained(graph))


def data_findings(config: Config, graph: JobGraph) -> Iterator[Finding]:
    """Read the training problems or a given corpus, and the test sets that are still needed."""
    trains = is_trained(graph)
    if makes_corpus(graph) or (graph.corpus is None and trains):
        for name, part in source_parts(config.data).items():
            if not isinstance(part, MicroworldDataConfig):
                yield from _set(name, part.split, part.path, part.form, part)
                if trains:
                    yield from _rationales(config, graph, name, part)
    if trains and graph.corpus is not None and graph.corpus.is_external:
        yield check_selection(graph.corpus.folder, config)
    values = graph.plan_values or graph.predictions
    for entry, *stages in zip(config.benchmarks, graph.predictions, values, strict=False):
        name, path = benchmark_of(entry, config)
        if all(stage.is_done for stage in stages) or name.startswith(MICRO_PREFIX):
            continue
        if name == config.data.internal_split:
            yield from _internal_split(name, config.data)
            continue
        yield from _set(name, "test", path, config.data.form)
        if graph.plan_values and path is not None:
            yield from _references(name, path, config.data.form)
    yield from _plans(config, graph)


def _internal_split(name: str, data: DataConfig) -> Iterator[Finding]:
    """Cut the file, where it is one, as the job will."""
    where = data.path or "the Hub, when the job runs"
    try:
        if data.path is not None:
            count_problems(data)
    except (ValueError, OSError) as error:
        yield Finding("error", str(error))
        return
    yield Finding("ok", f"{name}: {data.holdout} questions held out of {where}")


def _plans(config: Config, graph: JobGraph) -> Iterator[Finding]:
    """Look for the plans of the problems, where a job takes those and not a teacher's."""
    if config.teacher.is_asked and not config.distillation.has_given_plans:
        return
    sets: list[tuple[str, str, str | None, RowForm]] = []
    if makes_corpus(graph) and config.uses_teacher:
        for name, part in source_parts(config.data).items():
            sets.append((name, part.split, part.path, part.form))
    for entry, stage in zip(config.benchmarks, graph.plan_corpora, strict=False):
        if not stage.is_available:
            name, path = benchmark_of(entry, config)
            is_cut = name == config.data.internal_split
            own = (config.data.name, config.data.split) if is_cut else (name, "test")
            sets.append((*own, path, config.data.form))
    words = "distillation.plans" if config.teacher.is_asked else "teacher"
    for name, split, path, form in sets:
        yield from _plans_of(name, split, path, form, f"{words}=dataset")


def _plans_of(
    name: str, split: str, path: str | None, form: RowForm, words: str
) -> Iterator[Finding]:
    try:
        if path is None:
            found, total = int(benchmark_named(name).has_plans), 1
        else:
            problems = reading_of(name, split, path, form).problems
            found, total = sum(dataset_plan(p) is not None for p in problems), len(problems)
    except (ValueError, OSError):
        return  # said by the check of the set
    if not found:
        yield Finding(
            "error",
            f"{words} takes the plans that come with the data, and {path or name} has none. "
            "data=gsm8k_socratic has them, data=strategyqa in its upstream files (data.path), and "
            "rows of your own with the fields plan and execution (data=jsonl); for plans of a "
            "teacher: teacher=openai_compatible teacher.api_base=http://127.0.0.1:8000/v1",
        )
    elif found < total:
        yield Finding("note", f"{path}: {total - found} of {total} problems bring no plan")


def _references(name: str, path: str, form: RowForm) -> Iterator[Finding]:
    """Count the test problems without a solution, by which plans would be valued."""
    try:
        problems = reading_of(name, "test", path, form).problems
    except (ValueError, OSError):
        return  # said by the check of the set
    missing = sum(not problem.solution.strip() for problem in problems)
    if missing:
        yield Finding(
            "note",
            f"evaluation.plan_value: {missing} of {len(problems)} test problems of {name} have no "
            "solution; what plans are worth is measured on the others",
        )


def _set(
    name: str, split: str, path: str | None, form: RowForm, data: DataConfig | None = None
) -> Iterator[Finding]:
    if path is None:
        yield Finding("ok", f"{name}: {split} problems come from the Hub, when the job runs")
        return
    try:
        reading = reading_of(name, split, path, form)
        used = len(reading.problems) if data is None else count_problems(data)
    except (ValueError, OSError) as error:
        yield Finding("error", str(error))
        return
    count, file = len(reading.problems), file_of(name, split, Path(path))
    taken = "" if used == count else f", {used} of them used"
    yield Finding("ok", f"{file}: {count} {split} problems of {name}{taken}")
    if reading.note:
        yield Finding("note", reading.note)
    for reason, ids in reading.left_out.items():
        yield Finding("note", f"{path}: {len(ids)} rows are left out, {reason}: {ids[0]}, …")


def reading_of(name: str, split: str, path: str, form: RowForm) -> Reading:
    """Read a file once a process.

    Raises:
        DataError: it cannot be read.
    """
    return _read(name, split, path, *_hashable(form))


def _hashable(form: RowForm) -> tuple[str, tuple[tuple[str, str], ...]]:
    return form.style, tuple(vars(form.keys).items())


@cache
def _read(
    name: str, split: str, path: str, style: str, keys: tuple[tuple[str, str], ...]
) -> Reading:
    return read(name, split=split, path=path, form=RowForm(style, KeyNames(**dict(keys))))


def _rationales(config: Config, graph: JobGraph, name: str, data: DataConfig) -> Iterator[Finding]:
    """Count the problems without the human rationale, where that is what is learned."""
    trained = [config]
    if graph.start is not None and not graph.start.is_available:
        trained.append(start_config(config))
    methods = [one.method for one in trained if one.method.is_trained]
    learns_it = [method.name for method in methods if not method.needs_corpus]
    if not learns_it or data.path is None:
        return
    try:
        reading = reading_of(name, data.split, data.path, data.form)
    except (ValueError, OSError):
        return  # said by the check of the set
    missing = sum(not problem.solution.strip() for problem in reading.problems)
    if missing:
        is_all = missing == len(reading.problems)
        file = file_of(name, data.split, Path(data.path))
        text = f"{file}: {missing} of {len(reading.problems)} problems have no solution; "
        yield Finding("error" if is_all else "note", text + rationale_advice(learns_it[0]))
