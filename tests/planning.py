"""The jobs of an experiment as the sweeper sees them, without launching anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from plan_tuning import main  # noqa: F401 - registers schemas, experiments and the sweeper
from plan_tuning.config.registration import resource_folder
from plan_tuning.job.costs import teacher_line
from plan_tuning.sweep.jobs import Job
from plan_tuning.sweep.sweeper import AblationSweeper

FOLDER = resource_folder("experiments")
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@contextmanager
def sweeper_of(*arguments: str) -> Iterator[AblationSweeper]:
    """The sweeper of a command line, without a launcher."""
    with initialize_config_dir(version_base="1.3", config_dir=str(resource_folder("conf"))):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", list(arguments), run_mode=RunMode.MULTIRUN)
        grids: Any = OmegaConf.to_container(config.hydra.sweeper.grids)
        sweeper = AblationSweeper(grids=grids)
        sweeper.config = config
        sweeper.hydra_context = HydraContext(config_loader=loader, callbacks=Callbacks())
        yield sweeper


def jobs_of(outputs: Path, *arguments: str, first_only: bool = False) -> list[Job]:
    """The distinct jobs of a sweep.

    Args:
        outputs: ``paths.outputs``; what lies there counts as done.
        arguments: of the command line.
        first_only: only the first value of everything that a grid sweeps.
    """
    words = (*arguments, f"paths.outputs={outputs}")
    with sweeper_of(*words) as sweeper:
        if first_only:
            sweeper.grids = [
                {key: str(value).split(",")[0] for key, value in grid.items()}
                for grid in sweeper.grids
            ]
        return sweeper.jobs(words)


def calls_of(jobs: list[Job]) -> str:
    """What the sweep says about teacher calls."""
    return teacher_line((job.config, job.graph) for job in jobs)
