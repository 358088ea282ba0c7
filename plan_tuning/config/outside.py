"""Modules from outside the package, which choices of ``--config-dir`` name.

A choice says ``extension: FILE.py`` (relative to its own file) or a dotted module. The command
reads the modules before it composes anything and leaves word in the environment, so every process
that it starts, a launcher's worker or a rank of a training, has them as soon as this module is
imported: a pickled value of an extension's class names it as a module below this one.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from plan_tuning.artifacts import file_fingerprint
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.extensions import GROUPS, Extension, add

VARIABLE = "PLAN_TUNING_EXTENSIONS"
_KIND_OF = {group: kind for kind, group in reversed(list(GROUPS.items()))}
_GROUP_FLAGS = ("--config-dir", "-cd")


def config_folders(words: Sequence[str]) -> list[Path]:
    """Find what a command line says by ``--config-dir``.

    >>> [str(folder) for folder in config_folders(["-m", "--config-dir", "mine", "seed=1"])]
    ['mine']
    """
    found = []
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in _GROUP_FLAGS:
            following = value if equals else "".join(words[place + 1 : place + 2])
            found.append(Path(following).expanduser())
    return [folder for folder in found if folder.name]


def choices_of(folder: Path) -> dict[str, list[str]]:
    """List the choices of a folder by group."""
    groups = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = {group.name: sorted(path.stem for path in group.glob("*.yaml")) for group in groups}
    return {name: choices for name, choices in found.items() if choices}


def load_folder(folder: Path) -> None:
    """Read the modules that the choices of a folder name, and leave word to other processes.

    Raises:
        ConfigError: a file is no YAML, a module is absent or brings nothing.
    """
    for group, kind in _KIND_OF.items():
        for choice in sorted((folder / group).glob("*.yaml")):
            try:
                named = yaml.safe_load(choice.read_text(encoding="utf-8"))
            except yaml.YAMLError as error:
                where = " ".join(str(error).split())
                raise ConfigError(
                    "--config-dir", choice, f"a file of YAML ({where})", "name: mine"
                ) from error
            if isinstance(named, dict) and named.get("extension"):
                _load(choice, str(named["extension"]), kind)


def _load(choice: Path, extension: str, kind: str) -> None:
    where = extension
    if extension.endswith(".py"):
        where = str((choice.parent / Path(extension).expanduser()).resolve())
    entry = [where, kind, choice.stem]
    for one in _records_of(*entry, key=f"{choice}: extension"):
        add(one)
    known = json.loads(os.environ.get(VARIABLE, "[]"))
    if entry not in known:
        os.environ[VARIABLE] = json.dumps([*known, entry])


def _records_of(where: str, kind: str, stem: str, *, key: str) -> Iterable[Extension]:
    """Read a module's records; one without any is what its choice is called."""
    module = _module(where, key)
    file = Path(str(module.__file__))
    found: Any = getattr(module, "EXTENSIONS", None) or getattr(module, "EXTENSION", None)
    if found is None and hasattr(module, stem):
        found = Extension(kind, stem)
    if found is None:
        raise ConfigError(
            key,
            file,
            f"the module has neither a record nor a {stem}, which the choice is called",
            f'EXTENSION = Extension("{kind}", "{stem}") in {file.name}',
        )
    source = file_fingerprint(file)
    for one in found if isinstance(found, list | tuple) else (found,):
        yield replace(one, module=one.module or module.__name__, source=source)


def _module(where: str, key: str) -> ModuleType:
    """Import a module by its dotted path, or a file under a name below this one.

    Raises:
        ConfigError: there is none.
    """
    if not where.endswith(".py"):
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name is None or not where.startswith(error.name):
                raise  # it is there, and something that it imports is not
            raise ConfigError(key, where, "a file or a module", "extension: mine.py") from error
    path = Path(where)
    if not path.is_file():
        raise ConfigError(key, where, "an existing file", f"extension: {path.name}")
    name = f"{__name__}.{path.stem}_{hashlib.sha256(where.encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(key, where, "a file of Python", f"extension: {path.name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_announced() -> None:
    """Read the modules that the command which started this process has read."""
    for where, kind, stem in json.loads(os.environ.get(VARIABLE, "[]")):
        for one in _records_of(where, kind, stem, key=VARIABLE):
            add(one)


load_announced()
