"""A sweep: a union of grids, equal jobs once, their list first, the comparison at the end.

Hydra's basic sweeper takes one product of choices; the paper's ablations are unions of small grids.
This one takes ``hydra.sweeper.grids`` from an experiment file, lets the command line narrow or
extend every grid, and launches through whichever launcher is chosen.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf

from plan_tuning.artifacts import RESUME, storage_error
from plan_tuning.config.command_line import check_double_keys
from plan_tuning.config.registration import job_slug
from plan_tuning.config.run import SWEEPER_MODULE
from plan_tuning.config.typed import check_outputs, typed
from plan_tuning.interruption import Interrupted
from plan_tuning.sweep.devices import check_processes, launcher_facts
from plan_tuning.sweep.jobs import (
    Job,
    check_names,
    check_overwriting,
    check_servers,
    check_swept,
    labels,
    print_jobs,
    print_sync_command,
    same_line,
)
from plan_tuning.sweep.launch import Survivor, failed_returns
from plan_tuning.sweep.preregistration import check_registration, register

logger = logging.getLogger(__name__)

USER_ERROR = 2  # exit code of a configuration or input error


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


def replaced_lines(grids: Sequence[dict[str, Any]], words: Mapping[str, str]) -> list[str]:
    """Say which values of which grid the command line replaces by others.

    Args:
        grids: of the experiment.
        words: overrides of the command line by their keys.

    >>> replaced_lines([{"seed": "0,1"}, {"seed": 3}], {"seed": "seed=3"})
    ['seed=3 replaces seed=0,1 of grid 1']
    """
    lines = []
    for number, grid in enumerate(grids, start=1):
        for key, word in words.items():
            was = grid_arguments({key: grid[key]}, ()) if key in grid else [word]
            if was != [word]:
                lines.append(f"{word} replaces {was[0]} of grid {number}")
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


class AblationSweeper(Sweeper):  # type: ignore[misc]
    """Hydra sweeper of ablations; without grids it is the basic one with a list and an ending."""

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
            SystemExit: a job's configuration cannot work and nothing was started, or a dry run
                found that a job cannot work (exit code 2); jobs failed (1, or their common exit
                code); the comparison failed (1).
            Interrupted: the user stopped the sweep.
        """
        jobs = self.jobs(arguments)
        folder = Path(self.config.hydra.sweep.dir)
        print_jobs(jobs, folder)
        if jobs[0].config.dry_run:
            from plan_tuning.job.dry_run import print_findings

            if code := print_findings((job.config, job.graph) for job in jobs):
                raise SystemExit(code)
            return []
        try:
            return self._run(jobs, folder)
        except OSError as error:  # of Hydra itself, which writes beside the jobs
            _refuse(storage_error(error, folder, RESUME) or error)

    def _run(self, jobs: Sequence[Job], folder: Path) -> Any:
        """Run what is left of the jobs, and compare them all."""
        first = jobs[0].config
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        register(jobs, folder)
        left = [job for job in jobs if not job.is_finished(folder)]
        if len(left) < len(jobs):
            logger.info("%d of %d jobs are finished already", len(jobs) - len(left), len(jobs))
        is_parallel = "joblib" in str(self.config.hydra.launcher._target_).lower()
        survivor = Survivor(self.launcher, folder, labels(jobs) if is_parallel else None)
        try:
            size = self.max_batch_size or max(1, len(left))
            for start in range(0, len(left), size):
                survivor.launch(left[start : start + size], start)
                if self.max_batch_size is not None and failed_returns(survivor.returns):
                    logger.error("stopping: a job failed and hydra.sweeper.max_batch_size is set")
                    break
        except KeyboardInterrupt:
            raise Interrupted from None
        finally:  # whatever ended the sweep, a launcher's own failure too
            is_compared = self._compare(folder, len(jobs))
        if first.logger.name == "wandb_offline":
            print_sync_command(folder)
        failed = failed_returns(survivor.returns)
        for item in failed:
            overrides = " ".join(item.overrides or ())
            logger.error("job failed: %s\n  %s", overrides, item._return_value)
        if failed:
            logger.error(
                "%d of %d jobs failed; the same command runs them again and keeps the others",
                len(failed),
                len(jobs),
            )
            codes = {getattr(item._return_value, "exit_code", 1) for item in failed}
            raise SystemExit(codes.pop() if len(codes) == 1 else 1)
        if not is_compared:
            raise SystemExit(1)
        return survivor.returns

    def jobs(self, arguments: Sequence[str]) -> list[Job]:
        """Compose and check all jobs of a command line; one of those that mean the same is kept.

        Raises:
            SystemExit: a job's configuration cannot work.
        """
        jobs = self._jobs(self._all_overrides(arguments))
        try:
            check_double_keys(arguments, [job.config for job in jobs])
        except ValueError as error:
            _refuse(error, "(no job was started)")
        return jobs

    def _all_overrides(self, arguments: Sequence[str]) -> list[tuple[str, ...]]:
        # Imported late: Hydra's plugin scan replaces this module when it first runs.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = parser.parse_overrides(arguments)
        try:
            check_swept(given)
        except ValueError as error:
            _refuse(error, "(no job was started)")
        typed_words = {o.get_key_element(): o.input_line for o in given}
        params = [f"{key}={value}" for key, value in self.params.items()]

        def combine(texts: Sequence[str]) -> list[tuple[str, ...]]:
            batches = BasicSweeper.split_arguments(parser.parse_overrides([*params, *texts]), None)
            return [tuple(job) for batch in batches for job in batch]

        combinations: dict[tuple[str, ...], None] = {}
        prepared: set[tuple[str, ...]] = set()  # what the grids alone would be
        for grid in self.grids or [{}]:
            combinations |= dict.fromkeys(combine([*grid_arguments(grid, typed_words), *arguments]))
            added = [word for key, word in typed_words.items() if key not in grid]
            prepared |= set(combine([*grid_arguments(grid, ()), *added]))
        lines = replaced_lines(self.grids, typed_words)
        if lines:
            logger.info(
                "the command line replaces what grids set:%s\n  %d jobs instead of %d",
                "".join(f"\n  {line}" for line in lines),
                len(combinations),
                len(prepared),
            )
        return list(combinations)

    def _jobs(self, combinations: Sequence[tuple[str, ...]]) -> list[Job]:
        from plan_tuning.job.graph import job_graph
        from plan_tuning.job.result import job_choices

        jobs: dict[str, Job] = {}
        same: list[str] = []
        launcher = launcher_facts(self.config.hydra.launcher)
        for overrides in combinations:
            composed: DictConfig = self.hydra_context.config_loader.load_sweep_config(
                self.config, list(overrides)
            )
            try:
                config = typed(composed)
                check_processes(config, launcher)
                graph = job_graph(config)
            except ValueError as error:
                _refuse(error, f"(in the job {' '.join(overrides)}; no job was started)")
            name = job_slug(composed.hydra.job.override_dirname)
            choices = job_choices(composed.hydra.runtime.choices)
            job = Job(overrides, config, graph, name, choices)
            kept_job = jobs.setdefault(graph.fingerprint, job)
            if kept_job is not job:
                same.append(same_line(job, kept_job))
        if same:
            lines = "".join(f"\n  {line}" for line in same)
            count = len(combinations)
            logger.info("%d of %d jobs mean the same as another one:%s", len(same), count, lines)
        kept = list(jobs.values())
        try:
            check_names(kept)
            check_overwriting(kept, Path(self.config.hydra.sweep.dir))
            check_servers(kept)
            check_registration(kept)
            check_outputs(kept[0].config)
        except ValueError as error:
            _refuse(error, "(no job was started)")
        return kept

    def _compare(self, folder: Path, num_jobs: int) -> bool:
        """Compare what there is; a comparison that fails hides nothing of the sweep."""
        from plan_tuning.comparison.comparison_files import compare

        try:
            compare([folder], expected_jobs=num_jobs)
        except (ValueError, OSError) as error:  # a damaged result, a full disk
            logger.error(
                "the comparison failed (%s), the jobs' results are kept; again: "
                "plan-tuning compare %s --out FOLDER",
                storage_error(error, folder, "Make room there, or write elsewhere") or error,
                shlex.quote(str(folder)),
            )
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


def _refuse(error: Exception, where: str = "") -> NoReturn:
    """End the process on a configuration that cannot work: its message, and in which job."""
    sys.stderr.write(f"error: {error}\n" + (f"{where}\n" if where else ""))
    raise SystemExit(getattr(error, "exit_code", USER_ERROR))
