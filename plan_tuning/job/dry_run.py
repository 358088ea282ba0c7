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
from pathlib import Path

from plan_tuning.config.checks import Finding
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.distillation.estimate import dry_run, render_estimate
from plan_tuning.job.costs import teacher_line
from plan_tuning.job.data_findings import (
    data_findings,
    is_trained,
    makes_corpus,
    read_set,
    test_problem_findings,
)
from plan_tuning.job.eval_spec import benchmark_of
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.inputs import (
    count_benchmark,
    count_problems,
    load_problems,
    source_parts,
)
from plan_tuning.tasks.json_rows import DataError
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
        is_readable = not any(finding.kind == "error" for finding in data_findings(config, graph))
        if makes_corpus(graph) and config.uses_teacher and config.teacher.is_asked and is_readable:
            problems = load_problems(config)
            estimate = dry_run(problems, config.teacher, config.distillation, config.paths.calls)
            console.print(render_estimate(estimate, config.teacher))
    if config.uses_judge:
        console.print(teacher_line([(config, graph)]), soft_wrap=True)
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
        for finding in data_findings(config, graph):
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
        for check in (data_findings, test_problem_findings, _model, _teachers):
            found.update(dict.fromkeys(check(config, graph)))
    found.update(dict.fromkeys(_disk(listed)))
    return list(found)


def _model(config: Config, graph: JobGraph) -> Iterator[Finding]:
    """Look for a model that is named by a path."""
    path = config.model.path
    is_path = path is not None and (path.startswith(("/", ".", "~")) or path.count("/") > 1)
    if path is not None and is_path and not Path(path).expanduser().is_dir():
        yield Finding("error", f"model.path={path}: there is no such folder")


def _teachers(config: Config, graph: JobGraph) -> Iterator[Finding]:
    """Check key, price and address of every large model that is asked, and a student's server."""
    makes_plans = any(not stage.is_available for stage in graph.plan_corpora)
    if (config.uses_teacher and makes_corpus(graph)) or makes_plans:
        yield from _teacher("teacher", config.teacher)
    if config.uses_judge and is_trained(graph) and config.judge is not config.teacher:
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
    if teacher.backend in ("scripted", "replay") or not teacher.is_asked:
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
        if corpus is not None and makes_corpus(graph) and config.uses_teacher:
            calls = 1 + 3 * config.distillation.candidates
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
        count = len(read_set(name, "test", path, config.data.form).problems)
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
