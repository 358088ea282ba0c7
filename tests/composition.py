"""Jobs composed as the command composes them, without launching anything."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from plan_tuning import main  # noqa: F401 - registers schemas, experiments and the sweeper
from plan_tuning.config.registration import resource_folder
from plan_tuning.config.run import Config
from plan_tuning.config.typed import typed
from plan_tuning.job.costs import teacher_line
from plan_tuning.job.graph import JobGraph, job_graph
from plan_tuning.sweep.jobs import Job
from plan_tuning.sweep.sweeper import AblationSweeper

CONF = resource_folder("conf")
FOLDER = resource_folder("experiments")
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")


@functools.cache
def _chosen(*choices: str) -> bytes:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return pickle.dumps(compose("config", list(choices)))


def composed(*overrides: str) -> DictConfig:
    """What Hydra makes of a command line.

    Hydra picks the files of the choices, merges them and then sets the single values. The first
    part takes a tenth of a second and is done once for equal choices; the second is Hydra's own.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [item for item in parsed if not _is_choice(item.key_or_group, item.package)]
    lines = [item.input_line for item in parsed if item not in values]
    config: DictConfig = pickle.loads(_chosen(*lines))
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config


def _is_choice(key: str, package: str | None) -> bool:
    return package is not None or "/" in key or key in (*GROUPS, "experiment")


def config_of(*overrides: str) -> Config:
    """The checked configuration of a command line."""
    return typed(composed(*overrides))


def graph(*overrides: str) -> JobGraph:
    """The stages of a command line's job."""
    return job_graph(config_of(*overrides))


@contextmanager
def sweeper_of(*arguments: str) -> Iterator[AblationSweeper]:
    """The sweeper of a command line, without a launcher."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", list(arguments), run_mode=RunMode.MULTIRUN)
        grids: Any = OmegaConf.to_container(config.hydra.sweeper.grids)
        sweeper = AblationSweeper(grids=grids)
        sweeper.config = config
        sweeper.hydra_context = HydraContext(config_loader=loader, callbacks=Callbacks())
        yield sweeper


def jobs_of(outputs: Path, *arguments: str) -> list[Job]:
    """The distinct jobs of a sweep.

    Args:
        outputs: ``paths.outputs``; what lies there counts as done.
        arguments: of the command line.
    """
    words = (*arguments, f"paths.outputs={outputs}")
    with sweeper_of(*words) as sweeper:
        return sweeper.jobs(words)


def calls_of(jobs: Sequence[Job]) -> str:
    """What a sweep says about teacher calls before it starts."""
    return teacher_line((job.config, job.graph) for job in jobs)
