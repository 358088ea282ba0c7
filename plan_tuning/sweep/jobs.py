"""A sweep's jobs before they start: what they would replace, and the list that is printed."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.effects import IdleWord, idle_line, idle_words, key_of
from plan_tuning.config.extensions import record
from plan_tuning.config.job_parts import is_tested, needs_student
from plan_tuning.config.run import Config
from plan_tuning.job.costs import reward_line, teacher_line, value_line
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.memory_report import memory_line
from plan_tuning.job.result import check_overwritten, read_result
from plan_tuning.job.sensitivity import power_line

HIDDEN = (  # in the list
    *("experiment=", "paths.", "dry_run=", "logger=", "sweep_name="),
    *("comparison.", "registration."),
)
# What is one for a whole sweep, and how several are run.
_ONE_A_SWEEP = {
    "experiment": "one experiment, for each brings its own grids and folder: run them one after "
    "another, then compare them together (plan-tuning compare multirun_outputs/main "
    "multirun_outputs/filtering)",
    "sweep_name": "one name, that of the sweep's folder",
    "paths.outputs": "one folder for all jobs of a sweep",
    "dry_run": "true or false for the whole sweep",
}
_EXAMPLES = {
    "experiment": "experiment=main",
    "sweep_name": "sweep_name=mine",
    "paths.outputs": "paths.outputs=/tmp/plan_tuning",
    "dry_run": "dry_run=true",
}
_LABEL = 48  # characters of a job's label at the most
_FOLDERS = re.compile(r"[^=,\s\[\]]*/")  # of a path; its last part tells enough
_NOT_SHOWN = re.compile(r"[^A-Za-z0-9_.,=+@ -]+")  # what Hydra's grammar would want quoted
_PIPED_WIDTH = 80  # columns, where nobody's terminal says
_SHOWN = 3  # jobs that an error names
_STAGES = ("base", "corpus", "start", "student")


@dataclass(frozen=True)
class Job:
    """One job of a sweep."""

    overrides: tuple[str, ...]
    config: Config
    graph: JobGraph
    name: str = ""  # of its folder
    choices: Mapping[str, Any] = field(default_factory=dict)

    def is_finished(self, folder: Path) -> bool:
        """Whether the job's result lies in the sweep's ``folder`` and nothing is left to build."""
        return self.graph.is_done and read_result(folder / self.name, self.graph) is not None


def check_swept(overrides: Sequence[Any]) -> None:
    """Refuse to sweep what a sweep has one of.

    Args:
        overrides: of the command line, parsed by Hydra.

    Raises:
        ConfigError: several experiments, names or folders in one sweep.
    """
    for override in overrides:
        key = override.get_key_element()
        if key in _ONE_A_SWEEP and override.is_sweep_override():
            value = override.input_line.partition("=")[2]
            raise ConfigError(key, value, _ONE_A_SWEEP[key], _EXAMPLES[key])


def check_names(jobs: Sequence[Job]) -> None:
    """Refuse two jobs of one folder: the second would replace the first one's result.

    Raises:
        ConfigError: two jobs have the same name.
    """
    seen: dict[str, Job] = {}
    for job in jobs:
        other = seen.setdefault(job.name, job)
        if other is not job:
            raise ConfigError(
                "hydra.job.config.override_dirname.exclude_keys",
                "…",
                f"names that keep jobs apart: '{' '.join(other.overrides)}' and "
                f"'{' '.join(job.overrides)}' are both called {job.name}",
                "the list in conf/config.yaml",
            )


def check_overwriting(jobs: Sequence[Job], folder: Path) -> None:
    """Refuse a sweep that would replace finished results of other settings.

    Raises:
        ConfigError: a job's folder holds such a result.
    """
    for job in jobs:
        check_overwritten(folder / job.name, job.graph.fingerprint)


def check_servers(jobs: Sequence[Job]) -> None:
    """Refuse to ask one server in the name of several students: it has the weights of one.

    Several settings of one student are fine, and so is what is answered already.

    Raises:
        ConfigError: jobs of different students ask the same name at the same address.
    """
    asking: dict[tuple[str | None, str], dict[str, Job]] = {}
    for job in jobs:
        evaluation = job.config.evaluation
        is_served = "server" in record("engine", evaluation.engine).needs
        if not is_served or not is_tested(job.config) or not needs_student(job.config):
            continue
        if all(stage.is_done for stage in job.graph.predictions):
            continue
        stage = job.graph.student or job.graph.base
        student = str(job.config.model.path) if stage is None else stage.fingerprint
        server = evaluation.server
        asking.setdefault((server.api_base, server.model), {}).setdefault(student, job)
    for (address, name), students in asking.items():
        if len(students) > 1:
            shown = "; ".join(
                " ".join(shown_words(job)) for job in list(students.values())[:_SHOWN]
            )
            raise ConfigError(
                "evaluation.server.model",
                name,
                f"one name at {address} has the weights of one student, and {len(students)} are to "
                f"be asked by it ({shown}{'; …' if len(students) > _SHOWN else ''})",
                "evaluation.engine=vllm, which serves each student by itself; or a job a student "
                "with 'stages=[evaluate]' and evaluation.server.model=NAME of its own",
            )


def job_table(jobs: Sequence[Job], title: str) -> Table:
    """Tabulate a sweep's jobs: what each one builds, shares with another one, or finds done."""
    shown = [name for name in _STAGES if name != "start" or any(job.graph.start for job in jobs)]
    table = Table(title=title, title_justify="left")
    table.add_column("job", overflow="fold", ratio=1)
    common = common_words(jobs)
    for column in (*shown, "predictions"):
        table.add_column(column, no_wrap=True)
    has_values = any(job.graph.plan_values for job in jobs)
    if has_values:
        table.add_column("plan values", no_wrap=True)
    claimed: set[str] = set()
    for job in jobs:
        graphs = [*(graph for _, graph in job.graph.sources), job.graph]
        by_name = {name: [getattr(graph, name) for graph in graphs] for name in _STAGES}
        cells = [_state(by_name[name], claimed) for name in shown]
        cells.append(_state(job.graph.predictions, claimed))
        cells += [_state(job.graph.plan_values, claimed)] if has_values else []
        table.add_row(" ".join(word for word in shown_words(job) if word not in common), *cells)
    return table


def common_words(jobs: Sequence[Job]) -> list[str]:
    """List the overrides that all jobs of a sweep have: they tell no job from another one."""
    if len(jobs) < 2:
        return []
    return [word for word in shown_words(jobs[0]) if all(word in job.overrides for job in jobs)]


def labels(jobs: Sequence[Job]) -> dict[str, str]:
    """Name jobs that run side by side by what tells them apart, for their lines: name -> label."""
    common = common_words(jobs)
    found: dict[str, str] = {}
    for job in jobs:
        words = " ".join(word for word in shown_words(job) if word not in common)
        short = _NOT_SHOWN.sub("_", _FOLDERS.sub("", words))
        found[job.name] = short if len(short) <= _LABEL else f"{short[: _LABEL - 1]}…"
    if len(set(found.values())) < len(found):  # cut where they differ
        return {name: f"{index} {label}" for index, (name, label) in enumerate(found.items())}
    return {name: label or name for name, label in found.items()}


def shown_words(job: Job) -> list[str]:
    """List a job's overrides without paths, names and what is the same for every job."""
    return [word for word in job.overrides if not word.startswith(HIDDEN)]


def same_line(job: Job, kept: Job) -> str:
    """Say of which job another one of a sweep is the double, and why the two mean the same."""
    own, other = (
        [word for word in one.overrides if word not in two.overrides and word in shown_words(one)]
        for one, two in ((job, kept), (kept, job))
    )
    idle = [*idle_words(job.config, own), *idle_words(kept.config, other)]
    reasons = dict.fromkeys(f"{key_of(w.word)}: {w.reason}; it needs {w.cure}" for w in idle)
    why = "; ".join(reasons) or "they differ in how it is done, not in what is computed"
    than = " ".join(other) or "the same without " + " ".join(own)
    return f"{' '.join(shown_words(job))} = {than} ({why})"


def idle_in_all(jobs: Sequence[Job]) -> list[IdleWord]:
    """List the words that have no effect in any of the jobs that are given them."""
    found: dict[str, IdleWord] = {}
    read: set[str] = set()
    for job in jobs:
        idle = {word.word: word for word in idle_words(job.config, shown_words(job))}
        found |= idle
        read |= set(job.overrides) - set(idle)
    return [word for word in found.values() if word.word not in read]


def print_jobs(jobs: Sequence[Job], folder: Path) -> None:
    """Print what a sweep is about to do: jobs, what is done, what the teacher is asked."""
    # A list in a user's words looks like markup: [/opt/vllm].
    console = Console(width=_width(), markup=False)
    if common := common_words(jobs):
        console.print("In all jobs:", " ".join(common), highlight=False, soft_wrap=True)
    if idle := idle_in_all(jobs):
        console.print(idle_line(idle), highlight=False, soft_wrap=True)
    console.print(job_table(jobs, f"Sweep {folder}: {len(jobs)} jobs"))
    console.print(teacher_line((job.config, job.graph) for job in jobs), soft_wrap=True)
    if line := memory_line((job.config, job.graph) for job in jobs):
        console.print(line, soft_wrap=True, highlight=False)
    if rewards := reward_line((job.config, job.graph) for job in jobs):
        console.print(rewards, soft_wrap=True, highlight=False)
    if values := value_line((job.config, job.graph) for job in jobs):
        console.print(values, soft_wrap=True, highlight=False)
    if line := power_line(rows_of(jobs), folder):
        console.print(line, highlight=False, soft_wrap=True)


def rows_of(jobs: Sequence[Job]) -> dict[tuple[str, ...], list[Config]]:
    """Group the jobs that differ in their seed alone: the rows of the comparison."""
    rows: dict[tuple[str, ...], list[Config]] = {}
    for job in jobs:
        row = tuple(word for word in job.overrides if not word.startswith("seed="))
        rows.setdefault(row, []).append(job.config)
    return rows


def _width() -> int | None:
    """Columns of the list: the terminal's; COLUMNS, or a width that fits anywhere, where piped."""
    if sys.stdout.isatty():
        return None
    return shutil.get_terminal_size((_PIPED_WIDTH, 24)).columns


def print_sync_command(folder: Path) -> None:
    """Say how a sweep's offline W&B runs are uploaded."""
    runs = f"{shlex.quote(str(folder))}/*/wandb/offline-run-*"  # the shell fills in the stars
    Console().print(
        f"W&B runs written offline; upload them with: wandb sync {runs}",
        highlight=False,
        soft_wrap=True,
    )


def _state(stages: Sequence[Any], claimed: set[str]) -> str:
    present = list({stage.fingerprint: stage for stage in stages if stage is not None}.values())
    if not present:
        return "-"
    new = [stage for stage in present if not stage.is_done and stage.fingerprint not in claimed]
    claimed.update(stage.fingerprint for stage in present)
    if new:
        return "build" if len(present) == 1 else f"build {len(new)}"
    return "done" if all(stage.is_done for stage in present) else "shared"
