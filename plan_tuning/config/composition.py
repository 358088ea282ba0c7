"""What Hydra reads and merges, remembered for the life of a process.

A sweep composes every job to check it and once more where it runs. Hydra parses each file of each
choice anew every time and copies what it has, which is most of the time of a composition. Here an
entry hangs on content alone: the text of a file, or all that a merge is made of. So an edited
file, another folder or a schema that is stored later is another entry, and none is out of date.
Entries are pickled, and whoever asks gets a configuration of its own, which it may change.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable, Hashable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from hydra import version
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import (
    CachingConfigRepository,
    ConfigRepository,
    IConfigRepository,
)
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from plan_tuning.config.registration import ExperimentSource

Value = TypeVar("Value")
MOST_ENTRIES = 512  # of some kilobytes each
_UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)  # such as a class in a function

# Hydra's own, which do the work where nothing is remembered.
_load: Callable[..., ConfigResult | None] = ConfigRepository.load_config
_merge: Callable[..., DictConfig] = ConfigLoaderImpl._compose_config_from_defaults_list
_init = CachingConfigRepository.__init__
_map_choices: Callable[..., DictConfig] = defaults_list._create_interpolation_map

_entries: dict[Hashable, bytes] = {}


def remember_compositions() -> None:
    """Let all compositions of this process share what they read and merge; safe to call twice."""
    ConfigRepository.load_config = _loaded
    ConfigLoaderImpl._compose_config_from_defaults_list = _merged
    CachingConfigRepository.__init__ = _begin
    defaults_list._create_interpolation_map = _mapped_choices


def _remembered(key: Hashable, make: Callable[[], Value]) -> Value:
    """A value of one's own, made where none of its key is known.

    Args:
        key: all that determines the value.
        make: its maker; what it raises is raised and not remembered.
    """
    entry = _entries.pop(key, None)
    if entry is None:
        value = make()
        try:
            entry = pickle.dumps(value)
        except _UNPICKLABLE:
            return value
        while len(_entries) >= MOST_ENTRIES:
            del _entries[next(iter(_entries))]  # the one that was not asked for longest
    _entries[key] = entry
    own: Value = pickle.loads(entry)
    return own


def _loaded(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """What a configuration's file says, with its list of defaults."""
    source = repository._find_object_source(config_path, ObjectType.CONFIG)
    text = None if source is None else _text(source, config_path)
    if source is None or text is None:
        return _load(repository, config_path)
    place = (source.scheme(), source.provider, source.path, config_path, version.getbase())
    return _remembered((*place, text), lambda: _load(repository, config_path))


def _text(source: ConfigSource, config_path: str) -> bytes | None:
    """The text of a configuration, None where it is in no file or cannot be read now."""
    scheme, name = source.scheme(), str(source._normalize_file_name(config_path))
    try:
        if scheme == "file":
            return (Path(source.path) / name).read_bytes()
        if scheme == "pkg":
            return resources.files(str(source.path)).joinpath(name).read_bytes()
        if scheme == ExperimentSource.scheme():
            return bytes(source.file(config_path).read_bytes())
    except OSError:  # Hydra says which file it misses, and where it looked
        return None
    return None


def _merged(
    loader: ConfigLoaderImpl, defaults: Sequence[ResultDefault], repo: IConfigRepository
) -> DictConfig:
    """The chosen configurations merged, before the single values of the command line."""
    parts = [repo.load_config(default.config_path) for default in defaults]
    schemas = repo.get_schema_source().store.repo
    try:
        inputs = pickle.dumps((version.getbase(), defaults, parts, schemas))
    except _UNPICKLABLE:
        return _merge(loader, defaults, repo)
    key = hashlib.sha256(inputs).digest()
    return _remembered(key, lambda: _merge(loader, defaults, repo))


def _begin(caching: CachingConfigRepository, delegate: IConfigRepository) -> None:
    """Begin a composition: it may get other sources, so it has a repository of its own.

    The sources themselves are only read. Hydra copies them too, and with them the whole store of
    schemas.
    """
    caching.delegate = copy.copy(delegate)
    caching.cache = {}


def _mapped_choices(overrides: Any, items: Sequence[InputDefault], self_added: bool) -> DictConfig:
    """The choices so far, for those items of a list of defaults that name another's choice.

    Hydra makes the map for each file, also where nothing is looked up in it.
    """
    if any(item.is_interpolation() for item in items):
        return _map_choices(overrides, items, self_added)
    return OmegaConf.create()
