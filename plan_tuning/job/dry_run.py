"""Jobs -> what they would do and whether they can (``dry_run=true``); nothing is built or written.

Read are local data files; asked are servers of the user's own, once, for their list of models. What
lies on the Hub is not fetched, and no provider is asked.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from plan_tuning.config.checks import Finding
from plan_tuning.config.data import DataConfig, KeyNames, MicroworldDataConfig, RowForm
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.distillation.estimate import dry_run, render_estimate
from plan_tuning.job.costs import teacher_line
from plan_tuning.job.eval_spec import benchmark_of
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.inputs import (
    count_benchmark,
    count_problems,
    load_problems,
    source_parts,
)
from plan_tuning.job.sensitivity import power_line
from plan_tuning.job.train_spec import start_config
from plan_tuning.tasks.benchmarks import Reading, rationale_advice, read
from plan_tuning.tasks.json_rows import DataError
from plan_tuning.tasks.microworld_problems import MICRO_PREFIX
from plan_tuning.tasks.row_files import file_of
from plan_tuning.teachers.errors import TeacherError, read_key
from plan_tuning.teachers.health import check_server
from plan_tuning.teachers.pricing import check_payment, price_of

CANNOT_WORK = 2  # exit code

_BYTES_PER_CALL = 4096  # of the store and the corpus together; of a prediction too
_FLOAT32 = 4
_OPTIMIZER = 2  # AdamW's numbers a weight
_NEARLY = 0.8  # of the free space
_SIZE = re.compile(r"(?i)(?<![a-z0-9])(\d+(?:[._]\d+)?)([bm])(?![a-z0-9])")

Job = tuple[Config, JobGraph]


def print_job(config: Config, graph: JobGraph) -> int:
    """Show what one job would do and find out whether it can; returns the exit code."""
    from rich.console import Console

    console = Console()
    for stage in graph.stages:
        state = "done" if stage.is_done else "to build"
        console.print(
            f"{stage.kind:<11} {stage.fingerprint} {state:<8} {stage.label}", highlight=False
        )
    with _silent():
        found = findings([(config, graph)])
        is_readable = not any(finding.kind == "error" for finding in _data(config, graph))
        if _makes_corpus(graph) and config.uses_teacher and is_readable:
            problems = load_problems(config)
            estimate = dry_run(problems, config.teacher, config.distillation, config.paths.calls)
            console.print(render_estimate(estimate, config.teacher))
    if config.uses_judge:
        console.print(teacher_line([(config, graph)]), soft_wrap=True)
    if line := power_line({"": [config]}):
        console.print(line, highlight=False, soft_wrap=True)
    return _print(found)


def print_findings(jobs: Iterable[Job]) -> int:
    """Find out whether the jobs of a sweep can work; returns the exit code."""
    with _silent():
        return _print(findings(jobs))


def check_data(config: Config, graph: JobGraph) -> None:
    """Read what a job will read of local files, before anything is computed from it.

    Raises:
        DataError: a file cannot be read, or holds nothing that the method learns.
    """
    with _silent():
        for finding in _data(config, graph):
            if finding.kind == "error":
                raise DataError(finding.text)


def _print(found: Sequence[Finding]) -> int:
    for finding in found:
        sys.stdout.write(f"{finding}\n")
    return CANNOT_WORK if any(finding.kind == "error" for finding in found) else 0


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the log out of the findings, which say the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def findings(jobs: Iterable[Job]) -> list[Finding]:
    """Check the data, the teachers, the servers and the disk of jobs; each finding once."""
    listed = list(jobs)
    found: dict[Finding, None] = {}
    for config, graph in listed:
        for check in (_data, _model, _teachers):
            found.update(dict.fromkeys(check(config, graph)))
    found.update(dict.fromkeys(_disk(listed)))
    return list(found)


def _is_trained(graph: JobGraph) -> bool:
    return graph.student is not None and not graph.student.is_available


def _makes_corpus(graph: JobGraph) -> bool:
    is_missing = graph.corpus is not None and not graph.corpus.is_available
    return is_missing and (graph.student is None or _is_trained(graph))


def _data(config: Config, graph: JobGraph) -> Iterator[Finding]:
    """Read the training problems and the test sets that are still needed."""
    is_trained = _is_trained(graph)
    if _makes_corpus(graph) or (graph.corpus is None and is_trained):
        for name, part in source_parts(config.data).items():
            if not isinstance(part, MicroworldDataConfig):
                yield from _set(name, part.split, part.path, part.form, part)
                if is_trained:
                    yield from _rationales(config, graph, name, part)
    for entry, stage in zip(config.benchmarks, graph.predictions, strict=False):
        name, path = benchmark_of(entry, config)
        if not stage.is_done and not name.startswith(MICRO_PREFIX):
            yield from _set(name, "test", path, config.data.form)


def _set(
    name: str, split: str, path: str | None, form: RowForm, data: DataConfig | None = None
) -> Iterator[Finding]:
    if path is None:
        yield Finding("ok", f"{name}: {split} problems come from the Hub, when the job runs")
        return
    try:
        reading = _read(name, split, path, *_hashable(form))
    except (ValueError, OSError) as error:
        yield Finding("error", str(error))
        return
    count, file = len(reading.problems), file_of(name, split, Path(path))
    used = count if data is None else count_problems(data)
    taken = "" if used == count else f", {used} of them used"
    yield Finding("ok", f"{file}: {count} {split} problems of {name}{taken}")
    if reading.note:
        yield Finding("note", reading.note)
    for reason, ids in reading.left_out.items():
        yield Finding("note", f"{path}: {len(ids)} rows are left out, {reason}: {ids[0]}, …")


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
        reading = _read(name, data.split, data.path, *_hashable(data.form))
    except (ValueError, OSError):
        return  # said by the check of the set
    missing = sum(not problem.solution.strip() for problem in reading.problems)
    if missing:
        is_all = missing == len(reading.problems)
        file = file_of(name, data.split, Path(data.path))
        text = f"{file}: {missing} of {len(reading.problems)} problems have no solution; "
        yield Finding("error" if is_all else "note", text + rationale_advice(learns_it[0]))


def _model(config: Config, graph: JobGraph) -> Iterator[Finding]:
    """Look for a model that is named by a path."""
    path = config.model.path
    is_path = path is not None and (path.startswith(("/", ".", "~")) or path.count("/") > 1)
    if path is not None and is_path and not Path(path).expanduser().is_dir():
        yield Finding("error", f"model.path={path}: there is no such folder")


def _teachers(config: Config, graph: JobGraph) -> Iterator[Finding]:
    """Check key, price and address of every large model that is asked, and a student's server."""
    makes_plans = any(not stage.is_available for stage in graph.plan_corpora)
    if (config.uses_teacher and _makes_corpus(graph)) or makes_plans:
        yield from _teacher("teacher", config.teacher)
    if config.uses_judge and _is_trained(graph) and config.judge is not config.teacher:
        yield from _teacher("reward.judge", config.judge)
    is_asked = config.method.has_two_calls and config.executor.name == "teacher"
    if is_asked and graph.predictions and not graph.is_done:
        yield from _teacher("executor.teacher", config.executor_teacher)
    server = config.evaluation.server
    if config.evaluation.engine == "server" and server.api_base and not graph.is_done:
        key = "evaluation.server"
        if server.api_key_env and not os.environ.get(server.api_key_env, "").strip():
            yield Finding("note", f"{key}.api_key_env={server.api_key_env} is not set")
        secret = read_key(server.api_key_env, is_required=False)
        yield check_server(f"{key}.api_base", server.api_base, server.model, secret)


def _teacher(role: str, teacher: TeacherConfig) -> Iterator[Finding]:
    if teacher.backend in ("scripted", "replay"):
        return
    try:
        secret = read_key(teacher.api_key_env, is_required=teacher.requires_key)
        if teacher.requires_key:
            yield Finding("ok", f"{role}: the key in {teacher.api_key_env} is set (not tried)")
    except TeacherError as error:
        secret = None
        yield Finding("error", str(error).replace("teacher.", f"{role}.", 1))
    try:
        check_payment(teacher, price_of(teacher))
    except ValueError as error:
        yield Finding("error", str(error).replace("teacher.", f"{role}."))
    if teacher.api_base:
        yield check_server(f"{role}.api_base", teacher.api_base, teacher.model, secret)


def _disk(jobs: Sequence[Job]) -> Iterator[Finding]:
    """Compare what will be written with the free space."""
    if not jobs:
        return
    outputs = Path(jobs[0][0].paths.outputs)
    place = next(folder for folder in (outputs, *outputs.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    needed = _bytes_written(jobs)
    if not needed:
        return
    text = f"about {_shown(needed)} to write below {outputs}, {_shown(free)} free"
    if needed > free:
        yield Finding("error", f"{text}: choose another disk by paths.outputs=DIR")
    else:
        yield Finding("note" if needed > _NEARLY * free else "ok", text)


def _bytes_written(jobs: Sequence[Job]) -> int:
    """Estimate the artifacts that are to be built, each once, and the largest checkpoint."""
    kept: dict[str, int] = {}
    largest_checkpoint = 0
    for config, graph in jobs:
        for student in (graph.start, graph.student):
            if student is not None and not student.is_available:
                kept[student.fingerprint], checkpoint = _bytes_of_student(config)
                largest_checkpoint = max(largest_checkpoint, checkpoint)
        corpus = graph.corpus
        if corpus is not None and _makes_corpus(graph) and config.uses_teacher:
            calls = 1 + 3 * config.distillation.num_candidates
            count = sum(count_problems(part) for part in source_parts(config.data).values())
            kept[corpus.fingerprint] = count * calls * _BYTES_PER_CALL
        for entry, stage in zip(config.benchmarks, graph.predictions, strict=False):
            if not stage.is_done:
                rows = _count(entry, config) * config.evaluation.num_samples
                kept[stage.fingerprint] = rows * _BYTES_PER_CALL
    return sum(kept.values()) + largest_checkpoint


def _count(entry: str, config: Config) -> int:
    try:
        name, path = benchmark_of(entry, config)
        if path is None:
            return count_benchmark(entry, config)
        count = len(_read(name, "test", path, *_hashable(config.data.form)).problems)
        return min(count, config.evaluation.limit or count)
    except (ValueError, OSError):
        return 0  # said by the check of the set


def _bytes_of_student(config: Config) -> tuple[int, int]:
    """Bytes of an exported student, and of its checkpoints while it is trained."""
    parameters, adapter = _parameters(config.model), config.adapter
    if adapter.name != "full":
        width = _FLOAT32 if config.model.dtype == "float32" else _FLOAT32 // 2
        return (parameters * width if adapter.export == "merged" else 0), 0
    weights = parameters * _FLOAT32
    checkpoint = weights * (1 + _OPTIMIZER) if config.trainer.checkpoint_every_n_steps else 0
    return weights, checkpoint


def _parameters(model: ModelConfig) -> int:
    """Count a model's weights, by its files or by its name; 0 where neither says."""
    folder = Path(model.path).expanduser() if model.path else None
    if folder is not None and folder.is_dir():
        stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        return stored // 2  # half precision, as weights are published
    found = _SIZE.search(model.path or "")
    if found is None:
        return 0
    number = float(found.group(1).replace("_", "."))
    return int(number * {"b": 1e9, "m": 1e6}[found.group(2).lower()])


def _shown(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
