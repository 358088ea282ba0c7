"""A sweep: a union of grids, equal jobs once, the plan first, the comparison at the end.

Hydra's basic sweeper takes one product of choices; the paper's ablations are unions of small grids.
This one takes ``hydra.sweeper.grids`` from an experiment file, lets the command line narrow or
extend every grid, and launches through whichever launcher is chosen.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.registration import job_slug
from plan_tuning.config.run import SWEEPER_MODULE, Config
from plan_tuning.config.typed import check_outputs, typed
from plan_tuning.launching import check_processes

logger = logging.getLogger(__name__)

USER_ERROR = 2  # exit code of a configuration or input error
RESULT = "result.json"  # of a job; its schema is result.py's
INTERRUPTED = 130  # exit code of a stop by the user

_PIPED_WIDTH = 120  # columns of the plan where nobody says how wide the page is
HIDDEN = ("experiment=", "paths.", "dry_run=", "logger=", "sweep_name=")  # in the plan


@dataclass(frozen=True)
class Job:
    """One job of a sweep."""

    overrides: tuple[str, ...]
    config: Config
    plan: Any  # specs.JobPlan
    name: str = ""  # of its folder


def grid_arguments(grid: dict[str, Any], taken: Iterable[str]) -> list[str]:
    """Write a grid as Hydra overrides, leaving out keys that the command line sets.

    >>> grid_arguments({"method": ["sft", "m1"], "seed": "0,1", "filter": "none"}, ["seed"])
    ['method=sft,m1', 'filter=none']
    """
    skip = set(taken)
    arguments = []
    for key, value in grid.items():
        if key in skip:
            continue
        is_list = isinstance(value, list | tuple | ListConfig)
        text = ",".join(_text(item) for item in value) if is_list else _text(value)
        arguments.append(f"{key}={text}")
    return arguments


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


class AblationSweeper(Sweeper):  # type: ignore[misc]
    """Hydra sweeper of ablations; without grids it is the basic one with a plan and an ending."""

    hydra_context: HydraContext
    launcher: Launcher
    config: DictConfig

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
        grids: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.max_batch_size = max_batch_size
        self.params = dict(params or {})
        self.grids = [dict(grid) for grid in grids]

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra hands over, and the chosen launcher."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep.

        Raises:
            SystemExit: a job's configuration cannot work and nothing was started (exit code 2);
                jobs failed (1, or their common exit code); the user stopped the sweep (130).
        """
        jobs = self.jobs(arguments)
        first = jobs[0].config
        folder = Path(self.config.hydra.sweep.dir)
        print_plan(jobs, folder)
        if first.dry_run:
            return []
        check_folders(jobs, folder)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        returns: list[JobReturn] = []
        left = [job for job in jobs if not _is_finished(job, folder)]
        if len(left) < len(jobs):
            logger.info("%d of %d jobs are finished already", len(jobs) - len(left), len(jobs))
        try:
            size = self.max_batch_size or max(1, len(left))
            for start in range(0, len(left), size):
                returns += self._launch(left[start : start + size], folder, start)
                if self.max_batch_size is not None and _failed(returns):
                    logger.error("stopping: a job failed and hydra.sweeper.max_batch_size is set")
                    break
        except KeyboardInterrupt:
            logger.warning("stopped by the user; the same command goes on where it stopped")
            raise SystemExit(INTERRUPTED) from None
        finally:
            is_compared = self._compare(folder, len(jobs))
        if first.logger.name == "wandb_offline":
            print_sync_command(folder)
        failed = _failed(returns)
        for item in failed:
            overrides = " ".join(item.overrides or ())
            logger.error("job failed: %s\n  %s", overrides, item._return_value)
        if not (failed or is_compared):
            raise SystemExit(1)
        if failed:
            logger.error(
                "%d of %d jobs failed; the same command runs them again and keeps the others",
                len(failed),
                len(jobs),
            )
            codes = {getattr(item._return_value, "exit_code", 1) for item in failed}
            raise SystemExit(codes.pop() if len(codes) == 1 else 1)
        return returns

    def _launch(self, jobs: Sequence[Job], folder: Path, first: int) -> list[JobReturn]:
        """Run jobs; where a worker process dies, go on with those that have not ended.

        A launcher loses all jobs of a batch with one worker (killed for its memory, say). They are
        launched once more together and then one by one, so only the job that is at fault fails.
        """
        started = time.time()
        batches = [list(jobs)]
        for attempt in range(2):
            try:
                return [*_ended(jobs, folder, started), *self._launch_batch(batches[0], first)]
            # Broken pools (joblib) and lost tasks (submitit); what a job raises is in its return.
            except RuntimeError as error:
                over = {tuple(item.overrides) for item in _ended(jobs, folder, started)}
                left = [job for job in jobs if job.overrides not in over]
                logger.error(
                    "a worker process was lost (%s); %d of %d jobs had not ended and are run %s",
                    type(error).__name__,
                    len(left),
                    len(jobs),
                    "again" if attempt == 0 else "one by one",
                )
                batches = [left] if attempt == 0 else [[job] for job in left]
        returns = _ended(jobs, folder, started)
        for batch in batches:
            try:
                returns += self._launch_batch(batch, first)
            except RuntimeError as error:
                returns.append(_return_of(batch[0], JobStatus.FAILED, error))
        return returns

    def _launch_batch(self, jobs: Sequence[Job], first: int) -> list[JobReturn]:
        if not jobs:
            return []
        batch = [list(job.overrides) for job in jobs]
        return list(self.launcher.launch(batch, initial_job_idx=first))

    def jobs(self, arguments: Sequence[str]) -> list[Job]:
        """Compose and check all jobs of a command line; one of those that mean the same is kept.

        Raises:
            SystemExit: a job's configuration cannot work.
        """
        return self._jobs(self._all_overrides(arguments))

    def _all_overrides(self, arguments: Sequence[str]) -> list[tuple[str, ...]]:
        # Imported late: Hydra's plugin scan replaces this module when it first runs.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = parser.parse_overrides(arguments)
        for override in given:
            if override.key_or_group == "experiment" and override.is_sweep_override():
                _refuse(
                    ConfigError(
                        "experiment",
                        str(override.input_line).partition("=")[2],
                        "one experiment a command: each brings its own grids",
                        "plan-tuning experiment=micro_main, then the next, and `plan-tuning "
                        "compare FOLDER FOLDER` for one table",
                    )
                )
        taken = [override.get_key_element() for override in given]
        params = [f"{key}={value}" for key, value in self.params.items()]
        combinations: dict[tuple[str, ...], None] = {}
        for grid in self.grids or [{}]:
            texts = [*params, *grid_arguments(grid, taken), *arguments]
            for batch in BasicSweeper.split_arguments(parser.parse_overrides(texts), None):
                combinations.update({tuple(job): None for job in batch})
        return list(combinations)

    def _jobs(self, combinations: Sequence[tuple[str, ...]]) -> list[Job]:
        from plan_tuning.specs import plan_job

        jobs: dict[str, Job] = {}
        chosen = self.config.hydra.launcher
        launcher = {key: chosen.get(key) for key in ("_target_", "n_jobs", "tasks_per_node")}
        for overrides in combinations:
            composed: DictConfig = self.hydra_context.config_loader.load_sweep_config(
                self.config, list(overrides)
            )
            try:
                config = typed(composed)
                check_processes(config, launcher)
                plan = plan_job(config)
            except ValueError as error:
                _refuse(error, f"(in the job {' '.join(overrides)}; no job was started)")
            name = job_slug(composed.hydra.job.override_dirname)
            jobs.setdefault(plan.key, Job(overrides, config, plan, name))
        dropped = len(combinations) - len(jobs)
        if dropped:
            logger.info("%d of %d jobs mean the same as another one", dropped, len(combinations))
        kept = list(jobs.values())
        try:
            check_outputs(kept[0].config)
        except ValueError as error:
            _refuse(error)
        return kept

    def _compare(self, folder: Path, num_jobs: int) -> bool:
        """Compare what is there; says whether that worked."""
        from plan_tuning.comparison.report import compare

        try:
            compare([folder], expected_jobs=num_jobs)
        except (ValueError, OSError) as error:  # a damaged result, a full disk
            logger.error("the comparison failed: %s; try: plan-tuning compare %s", error, folder)
            return False
        return True


def register_sweeper() -> None:
    """Make the sweeper known to Hydra's plugin manager.

    Hydra instantiates plugins by name and takes only names below two packages of its own, so this
    module is known under such a name too.
    """
    sys.modules[SWEEPER_MODULE] = sys.modules[__name__]
    AblationSweeper.__module__ = SWEEPER_MODULE
    Plugins.instance().register(AblationSweeper)


def _refuse(error: ValueError, where: str = "") -> NoReturn:
    """End the process on a configuration that cannot work: its message, and in which job."""
    sys.stderr.write(f"error: {error}\n" + (f"{where}\n" if where else ""))
    raise SystemExit(getattr(error, "exit_code", USER_ERROR))


def _is_finished(job: Job, folder: Path) -> bool:
    """Whether the job's result is there and nothing is left to build."""
    from plan_tuning.result import read_result

    return bool(job.plan.is_done and read_result(folder / job.name, job.plan.key))


def _ended(jobs: Sequence[Job], folder: Path, since: float) -> list[JobReturn]:
    """What jobs that ended after ``since`` (seconds of the epoch) have left behind."""
    found = []
    for job in jobs:
        path = folder / job.name / RESULT
        if path.is_file() and path.stat().st_mtime >= since:
            result = json.loads(path.read_text(encoding="utf-8"))
            is_completed = result["status"] == "completed"
            status = JobStatus.COMPLETED if is_completed else JobStatus.FAILED
            error = None if is_completed else RuntimeError(result["error"]["message"])
            found.append(_return_of(job, status, error))
    return found


def _return_of(job: Job, status: JobStatus, error: Exception | None) -> JobReturn:
    found = JobReturn(overrides=list(job.overrides), status=status)
    found.return_value = error
    return found


def check_folders(jobs: Sequence[Job], folder: Path) -> None:
    """Refuse jobs that would write over each other's results, or over those of other settings."""
    names: dict[str, Job] = {}
    for job in jobs:
        path = folder / job.name / RESULT
        if job.name in names:
            _refuse(
                ConfigError(
                    "sweep_name",
                    folder.name,
                    f"one folder a job, but two different jobs are called {job.name}",
                    "run them as two sweeps, each with a sweep_name of its own",
                )
            )
        names[job.name] = job
        if not path.is_file():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["status"] == "completed" and found["key"] != job.plan.key:
            _refuse(
                ConfigError(
                    "sweep_name",
                    folder.name,
                    f"a sweep's own folder: {path} is the result of other settings under this name",
                    f"sweep_name={folder.name}_2, or move the old folder away",
                )
            )


def _failed(returns: Sequence[JobReturn]) -> list[JobReturn]:
    return [item for item in returns if item.status is not JobStatus.COMPLETED]


def print_plan(jobs: Sequence[Job], folder: Path) -> None:
    """Print what a sweep is about to do: jobs, what is done, what the teacher is asked."""
    from rich.console import Console
    from rich.table import Table

    from plan_tuning.expenses import teacher_line

    shown = [[w for w in job.overrides if not w.startswith(HIDDEN)] for job in jobs]
    common = [w for w in shown[0] if len(jobs) > 1 and all(w in words for words in shown)]
    kinds = ["base", "corpus", "start", "student", "predictions"]
    if all(job.plan.start is None for job in jobs):
        kinds.remove("start")
    table = Table(title=f"Sweep {folder}: {len(jobs)} jobs", title_justify="left")
    table.add_column("job", overflow="fold")
    for kind in kinds:
        table.add_column(kind, no_wrap=True)
    claimed: set[str] = set()
    for job, words in zip(jobs, shown, strict=True):
        cells = []
        for kind in kinds:
            stages = getattr(job.plan, kind)
            cells.append(_state(stages if isinstance(stages, tuple) else [stages], claimed))
        table.add_row(" ".join(w for w in words if w not in common), *cells)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPED_WIDTH)
    if common:
        console.print("In all jobs:", " ".join(common), highlight=False, soft_wrap=True)
    console.print(table)
    console.print(teacher_line((job.config, job.plan) for job in jobs), soft_wrap=True)


def print_sync_command(folder: Path) -> None:
    """Say how a sweep's offline W&B runs are uploaded."""
    from rich.console import Console

    Console().print(
        f"W&B runs written offline; upload them with: wandb sync {folder}/*/wandb/offline-run-*",
        highlight=False,
        soft_wrap=True,
    )


def _state(stages: Sequence[Any], claimed: set[str]) -> str:
    present = [stage for stage in stages if stage is not None]
    if not present:
        return "-"
    new = [stage for stage in present if not stage.is_done and stage.key not in claimed]
    claimed.update(stage.key for stage in present)
    if new:
        return "build" if len(present) == 1 else f"build {len(new)}"
    return "done" if all(stage.is_done for stage in present) else "shared"
