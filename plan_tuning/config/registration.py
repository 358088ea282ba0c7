"""Registers the schemas, the experiments and the resolvers with Hydra; imported by main.py."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.command_line import split_word
from plan_tuning.config.extensions import GROUPS, KINDS, records
from plan_tuning.config.model import MicroModelConfig
from plan_tuning.config.run import Config, SweeperConfig
from plan_tuning.config.suggestions import choices, known_keys, unknown_choice, unknown_key

_PACKAGE = Path(__file__).resolve().parent.parent
_SLUG_BYTES = 100
_MAX_PARALLEL_JOBS = 8
_GROUP = "experiment"
_EXPERIMENTS = "experiments"  # the folder's name


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
    digest = hashlib.sha256(overrides.encode(errors="surrogateescape")).hexdigest()[:8]
    short = re.sub(r"[^=,\s\[\]]*/", "", overrides)
    short = re.sub(r"[^A-Za-z0-9_.,=+-]+", "", short)[:_SLUG_BYTES].rstrip(",.=")
    return f"{short}-{digest}"


def parallel_jobs(most: int = _MAX_PARALLEL_JOBS) -> int:
    """How many jobs run side by side on this machine: one a core, at most eight.

    Args:
        most: fewer than eight, where memory is what runs out first.
    """
    return max(1, min(most, os.cpu_count() or 1))


class ExperimentSource(ConfigSource):  # type: ignore[misc]
    """The group ``experiment``: files of experiments/, of which only the chosen one is read."""

    @staticmethod
    def scheme() -> str:
        """What the search path calls it."""
        return "experiments"

    def file(self, config_path: str) -> Path:
        """Where an experiment lies; no file for a path that is none of this group."""
        group, _, name = config_path.rpartition("/")
        return Path(self.path) / f"{name.removesuffix('.yaml')}.yaml" if group == _GROUP else Path()

    def load_config(self, config_path: str) -> ConfigResult:
        """Read one experiment.

        Raises:
            ConfigLoadError: there is no such file.
        """
        file = self.file(config_path)
        if not file.is_file():
            raise ConfigLoadError(f"there is no experiment {file}")
        return ConfigResult(
            config=OmegaConf.load(file),
            path=self.full_path(),
            provider=self.provider,
            header={"package": "_global_"},
        )

    def is_group(self, config_path: str) -> bool:
        """Whether a path is the one group that is here."""
        return config_path in ("", _GROUP)

    def is_config(self, config_path: str) -> bool:
        """Whether a path is an experiment."""
        return self.file(config_path).is_file()

    def available(self) -> bool:
        """Whether the folder is there."""
        return Path(self.path).is_dir()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names for ``--info``, error messages and completion."""
        if config_path == "":
            return [] if results_filter == ObjectType.CONFIG else [_GROUP]
        if config_path != _GROUP or results_filter == ObjectType.GROUP:
            return []
        return sorted(file.stem for file in Path(self.path).glob("*.yaml"))


class ExperimentSearchPath(SearchPathPlugin):  # type: ignore[misc]
    """Puts the experiments on Hydra's search path, behind conf/: the project's and one's own."""

    own_folders: ClassVar[list[Path]] = []  # `experiments` in each folder of --config-dir

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra for every command and every composition."""
        for folder in (resource_folder(_EXPERIMENTS), *self.own_folders):
            search_path.append(_GROUP, f"experiments://{folder}")


def add_experiments(config_folders: Iterable[Path]) -> None:
    """Find experiments beside one's own choices: ``DIR/experiments/*.yaml`` of ``--config-dir``."""
    found = (folder.resolve() / _EXPERIMENTS for folder in config_folders)
    ExperimentSearchPath.own_folders = [folder for folder in found if folder.is_dir()]


def register() -> None:
    """Register everything that conf/ and experiments/ refer to; safe to call twice."""
    store = ConfigStore.instance()
    root = OmegaConf.structured(Config)
    # Which rewards there are is known when the modules from outside have been read.
    OmegaConf.set_struct(root.reward.extra, False)
    store.store(name="base_config", node=root)
    store.store(group="hydra/sweeper", name="ablation", node=SweeperConfig)
    for kind in KINDS:
        for extension in records(kind):
            if (schema := extension.config_class()) is not None:
                store.store(group=f"schema/{GROUPS[kind]}", name=extension.name, node=schema)
    store.store(group="schema/model", name="micro", node=MicroModelConfig)
    Plugins.instance().register(ExperimentSource)
    Plugins.instance().register(ExperimentSearchPath)
    OmegaConf.register_new_resolver("job_slug", job_slug, replace=True)
    OmegaConf.register_new_resolver("parallel_jobs", parallel_jobs, replace=True)


def schemas() -> dict[str, list[tuple[str, type]]]:
    """The registered schemas of groups whose choices differ in their keys, by group."""
    stored = ConfigStore.instance().repo.get("schema", {})
    return {
        group: [
            (name.removesuffix(".yaml"), kind)
            for name, node in nodes.items()
            if (kind := OmegaConf.get_type(node.node)) is not None
        ]
        for group, nodes in stored.items()
    }


def explained(
    error: Exception, words: Sequence[str], conf: Path, folders: Sequence[Path]
) -> ConfigError | None:
    """Put an error of Hydra's in this project's words; None: Hydra's own say more.

    Args:
        error: why nothing could be composed.
        words: of the command line.
        conf: the project's folder of groups.
        folders: it and the user's own ones.
    """
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        known = {**choices(folders), group: list(error.options)}
        return unknown_choice(group, choice, known)
    if not isinstance(error, ConfigCompositionException):
        return None
    text = str(error)
    if re.match(r"In 'model/\w+': Could not override '(trainer|evaluation)'", text):
        chosen = dict(map(split_word, words)).get("model@executor.model", "…")
        return ConfigError(
            "model@executor.model",
            chosen,
            "this choice brings the trainer and the evaluation of a student; name its weights",
            f"executor.model.kind=tiny executor.model.family={chosen.removeprefix('tiny_')} "
            "executor.model.path=null",
        )
    unknown = re.match(r"Could not (?:override|delete from config\.) '([^'@/]+)'", text)
    inside = re.search(r"^Key '[^']+' not in .*\n\s+full_key: (\S+)", text, re.MULTILINE)
    match = unknown or inside
    if match is None or match[1].startswith("hydra"):
        return None
    values = dict(map(split_word, words))
    found = unknown_key(match[1], values.get(match[1], "…"), known_keys(conf, schemas()), folders)
    where = text.partition(":")[0] if inside else ""
    return ConfigError(f"{found} ({where})") if where else found
