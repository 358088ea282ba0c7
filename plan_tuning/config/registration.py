"""Registers the schemas, the experiments and the resolvers with Hydra; imported by main.py."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from plan_tuning.config.data import MicroworldDataConfig
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.model import MicroModelConfig
from plan_tuning.config.run import Config, SweeperConfig

_PACKAGE = Path(__file__).resolve().parent.parent
_SLUG_BYTES = 100
_MAX_PARALLEL_JOBS = 8


def resource_folder(name: str) -> Path:
    """Find ``conf`` or ``experiments``: inside an installed wheel, else beside the package.

    Raises:
        FileNotFoundError: neither place has it.
    """
    for folder in (_PACKAGE / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the folder {name} is neither in {_PACKAGE} nor beside it")


def job_slug(overrides: str) -> str:
    """Name a job's folder after its overrides: readable, without '/', under 120 bytes.

    Values that look like addresses or paths are shortened to their last part, and a hash of the
    whole keeps different overrides apart.

    >>> job_slug("method=m1,seed=3")
    'method=m1,seed=3-86654954'
    >>> job_slug("")
    'default'
    """
    if not overrides:
        return "default"
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:8]
    short = re.sub(r"[^=,\s\[\]]*/", "", overrides)
    short = re.sub(r"[^A-Za-z0-9_.,=+-]+", "", short)[:_SLUG_BYTES].rstrip(",.=")
    return f"{short}-{digest}"


def parallel_jobs() -> int:
    """How many jobs run side by side on this machine: one a core, at most eight."""
    return max(1, min(_MAX_PARALLEL_JOBS, os.cpu_count() or 1))


def register() -> None:
    """Register everything that conf/ and experiments/ refer to; safe to call twice."""
    store = ConfigStore.instance()
    store.store(name="base_config", node=Config)
    store.store(group="hydra/sweeper", name="ablation", node=SweeperConfig)
    store.store(group="schema/data", name="microworld", node=MicroworldDataConfig)
    store.store(group="schema/data", name="mixture", node=MixtureDataConfig)
    store.store(group="schema/method", name="grpo", node=GRPOConfig)
    store.store(group="schema/model", name="micro", node=MicroModelConfig)
    for path in sorted(resource_folder("experiments").glob("*.yaml")):
        node: Any = OmegaConf.load(path)
        store.store(group="experiment", name=path.stem, node=node, package="_global_")
    OmegaConf.register_new_resolver("job_slug", job_slug, replace=True)
    OmegaConf.register_new_resolver("parallel_jobs", parallel_jobs, replace=True)
