"""Jobs -> what they would do and whether they can (``dry_run=true``); nothing is built or written.

Read are local data files; asked are servers of the user's own, once, for their list of models. Of
what lies on the Hub only a model's ``config.json`` is fetched, and no provider is asked.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from plan_tuning.config.checks import ConfigError, Finding
from plan_tuning.config.extensions import record
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.job_parts import is_tested, starts_server
from plan_tuning.config.run import Config
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.distillation.estimate import dry_run, render_estimate
from plan_tuning.job.costs import reward_line, teacher_line, value_line
from plan_tuning.job.data_findings import data_findings, is_trained, makes_corpus
from plan_tuning.job.disk import Job, disk_findings, is_dequantised
from plan_tuning.job.graph import JobGraph, resolved
from plan_tuning.job.inputs import load_problems
from plan_tuning.job.memory_report import memory_findings, memory_lines
from plan_tuning.job.sensitivity import power_line
from plan_tuning.job.test_problems import check_test_problems
from plan_tuning.students.gguf import check_reader
from plan_tuning.tasks.json_rows import DataError
from plan_tuning.tasks.published_tests import name_test_problems
from plan_tuning.teachers.errors import TeacherError, read_key
from plan_tuning.teachers.health import check_server
from plan_tuning.teachers.pricing import check_payment, price_of

CANNOT_WORK = 2  # exit code


def print_job(config: Config, graph: JobGraph) -> int:
    """Show what one job would do and find out whether it can; returns the exit code."""
    from rich.console import Console

    console = Console()
    for stage in graph.stages:
        state = "done" if stage.is_done else "to build"
        console.print(
            f"{stage.kind:<11} {stage.fingerprint} {state:<8} {stage.label}", highlight=False
        )
    if (named := config.method.matched) is not None:
        steps = resolved(config).method.num_continued
        console.print(f"method.continued_steps={steps} costs what student {named} did")
    with _silent():
        found = findings([(config, graph)])
        is_readable = not any(finding.kind == "error" for finding in data_findings(config, graph))
        for job, stages in graph.jobs(config):
            if makes_corpus(stages) and job.uses_teacher and job.teacher.is_asked and is_readable:
                problems = load_problems(job)
                estimate = dry_run(problems, job.teacher, job.distillation, job.paths.calls)
                console.print(render_estimate(estimate, job.teacher))
    if values := value_line([(config, graph)]):
        console.print(values, soft_wrap=True, highlight=False)
    if line := reward_line([(config, graph)]):
        console.print(line, soft_wrap=True, highlight=False)
    if config.uses_judge:
        console.print(teacher_line([(config, graph)]), soft_wrap=True)
    for line in (one for job in graph.jobs(config) for one in memory_lines(*job)):
        console.print(line, soft_wrap=True, highlight=False)
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
        for job, stages in graph.jobs(config):
            for finding in data_findings(job, stages):
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
    listed = [one for config, graph in jobs for one in graph.jobs(config)]
    found: dict[Finding, None] = {}
    for config, graph in listed:
        for check in (data_findings, _test_problems, _model, _teachers, memory_findings):
            found.update(dict.fromkeys(check(config, graph)))
    found.update(dict.fromkeys(disk_findings(listed)))
    return list(found)


def _test_problems(config: Config, graph: JobGraph) -> Iterator[Finding]:
    """Name the published test problems that a student is trained on."""
    try:
        found = check_test_problems(config, graph)
    except (ValueError, OSError) as error:
        yield Finding("error", str(error))
        return
    if found:
        yield Finding("note", f"the student is trained on {name_test_problems(found)}")


def _model(config: Config, graph: JobGraph) -> Iterator[Finding]:
    """Look for a model that is named by a path, and for what reads it."""
    path = config.model.path
    if path is None:
        return
    is_path = path.startswith(("/", ".", "~")) or path.count("/") > 1
    if is_path and not Path(path).expanduser().exists():
        yield Finding("error", f"model.path={path}: there is no such folder")
    if is_dequantised(graph):
        try:
            check_reader(path)
        except ConfigError as error:
            yield Finding("error", str(error))
            return
        yield Finding("ok", f"{path}: a GGUF file, dequantised once")


def _teachers(config: Config, graph: JobGraph) -> Iterator[Finding]:
    """Check key, price and address of every large model that is asked, and a student's server."""
    corpora = (*graph.plan_corpora, *graph.value_corpora)
    makes_plans = any(not stage.is_available for stage in corpora)
    if (config.uses_teacher and makes_corpus(graph)) or makes_plans:
        yield from _teacher("teacher", config.teacher)
    if config.uses_judge and is_trained(graph) and config.judge is not config.teacher:
        yield from _teacher("reward.judge", config.judge)
    is_asked = config.method.has_two_calls and config.executor.name == "teacher"
    if is_asked and graph.predictions and not graph.is_done:
        yield from _teacher("executor.teacher", config.executor_teacher)
    server, needs = config.evaluation.server, record("engine", config.evaluation.engine).needs
    starts_one = "folder" in needs and is_tested(config) and not graph.is_done
    if starts_one or (starts_server(config) and is_trained(graph)):
        yield _program(config.evaluation.vllm.command[0])
    method = config.method
    if isinstance(method, GRPOConfig) and method.engine == "server" and is_trained(graph):
        own = method.server
        if own.model:  # else it is asked for its only one
            secret = read_key(own.api_key_env, is_required=False)
            yield check_server("method.server.api_base", str(own.api_base), own.model, secret)
    if "server" in needs and server.api_base and not graph.is_done:
        key = "evaluation.server"
        if server.api_key_env and not os.environ.get(server.api_key_env, "").strip():
            yield Finding("note", f"{key}.api_key_env={server.api_key_env} is not set")
        secret = read_key(server.api_key_env, is_required=False)
        yield check_server(f"{key}.api_base", server.api_base, server.model, secret)


def _program(name: str) -> Finding:
    """Look for the program that serves a student; a node of a cluster may have another one."""
    from plan_tuning.students.generation.vllm_server import missing_program

    found = shutil.which(name)
    if found is None:
        return Finding("error", missing_program(name))
    return Finding("ok", f"evaluation.vllm.command: {found} (not started)")


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
