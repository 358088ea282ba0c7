"""Where a DictConfig ends: Hydra's composed configuration becomes the checked dataclasses."""

from __future__ import annotations

import errno
import functools
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.precision import check_precision
from plan_tuning.config.registration import explained, resource_folder
from plan_tuning.config.run import Config
from plan_tuning.config.source_checks import check_sources

Group = TypeVar("Group")
_PROBE_BYTES = 2**16
_UNSET = "(is a variable of the shell unset?)"


def typed(config: DictConfig) -> Config:
    """Turn a composed configuration into the checked dataclasses.

    Raises:
        ConfigError: a value is missing, out of range or contradicts another one.
    """
    node = config
    if "hydra" in config:
        _check_folders(config.hydra)
    if "hydra" in config or "experiment" in config:
        node = config.copy()
        OmegaConf.set_readonly(node, False)
        OmegaConf.set_struct(node, False)
        for key in ("hydra", "experiment"):
            node.pop(key, None)
    try:
        _check_blanks(node)
        result = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise ConfigError(
            error.full_key or "configuration",
            "???",
            str(error.msg or error).splitlines()[0],
            f"{error.full_key}=VALUE" if error.full_key else "plan-tuning --cfg job",
        ) from error
    if not isinstance(result, Config):
        raise TypeError(f"the schema composed to {type(result).__name__}, not Config")
    check_precision(result)
    check_sources(result)
    return debugged(result)


def composed(words: Sequence[str]) -> Config:
    """Compose a configuration for a command that is no job: conf/ and the overrides of its line.

    Args:
        words: overrides, as a job takes them.

    Raises:
        ConfigError: a word names no key or choice, or a value is out of range.
    """
    conf = resource_folder("conf")
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            config = compose("config", list(words))
    except HydraException as error:
        told = explained(error, words, conf, [conf])
        reason = str(error).splitlines()[0]
        raise told or ConfigError(
            "overrides", " ".join(words), f"KEY=VALUE, as a job takes them ({reason})", "seed=1"
        ) from error
    return typed(config)


def debugged(config: Config) -> Config:
    """Cap what costs time, as ``debug`` says; the caps are content: debug artifacts stand apart."""
    debug = config.debug
    start = config.start
    if start.trainer is not None and start.trainer.max_steps is not None:
        start = replace(start, trainer=_capped(start.trainer, max_steps=debug.max_steps))
    method = _capped(config.method, continued_steps=debug.max_steps)
    if isinstance(method, GRPOConfig):
        method = _capped(method, steps=debug.max_steps, max_new_tokens=debug.max_new_tokens)
    return replace(
        config,
        data=_capped(config.data, limit=debug.max_problems),
        method=method,
        start=start,
        trainer=_capped(config.trainer, max_steps=debug.max_steps),
        evaluation=_capped(
            config.evaluation,
            limit=debug.max_test_problems,
            max_new_tokens=debug.max_new_tokens,
            max_plan_tokens=debug.max_new_tokens,
        ),
    )


def _capped(group: Group, **caps: int | None) -> Group:
    """Copy a group with each named number at most its cap; None, -1 and texts are no limit so far.

    The copy is not checked again: a buffer may be longer than capped completions.
    """
    capped = copy(group)
    for key, cap in caps.items():
        value = getattr(group, key)
        if cap is not None:
            is_open = value in (None, -1) or isinstance(value, str)
            setattr(capped, key, cap if is_open else min(value, cap))
    return capped


def _check_blanks(config: DictConfig) -> None:
    """Refuse a blank path, such as one made of an unset variable of the shell.

    It would mean the working directory, or the root of the file system. What may be left out
    (``str | None``) is null then: an empty text is a path, an address or a name of nothing. The
    same holds behind the ``=`` of a benchmark's ``NAME=PATH``.

    Raises:
        ConfigError: a path is blank.
    """
    for key, value in _optional_texts(config, ""):
        if not value.strip():
            raise ConfigError(
                key,
                repr(value),
                f"a text that is not blank {_UNSET}, or null",
                f"{key}=null for none",
            )
    if not config.paths.outputs.strip():
        raise ConfigError(
            "paths.outputs",
            repr(config.paths.outputs),
            f"a folder, named {_UNSET}",
            "paths.outputs=multirun_outputs",
        )
    for entry in map(str, config.evaluation.benchmarks):
        name, equals, path = entry.partition("=")
        if equals and not path.strip():
            raise ConfigError(
                "evaluation.benchmarks",
                entry,
                f"a path stands behind {name}= {_UNSET}; without one the set is read from the Hub",
                f"'evaluation.benchmarks=[\"{name}=FOLDER\"]', or 'evaluation.benchmarks=[{name}]'",
            )


def _optional_texts(node: DictConfig, prefix: str) -> Iterator[tuple[str, str]]:
    """Walk the texts that may be null, with their keys."""
    kind: Any = OmegaConf.get_type(node)
    hints = _hints(kind)
    for name in map(str, node):
        if OmegaConf.is_missing(node, name):
            continue
        value = node[name]
        if isinstance(value, str) and hints.get(name) == "str | None":
            yield f"{prefix}{name}", value
        elif isinstance(value, DictConfig):
            yield from _optional_texts(value, f"{prefix}{name}.")


@functools.cache
def _hints(kind: Any) -> dict[str, str]:
    """What the fields of a class are said to be; none where it is no dataclass."""
    return {f.name: str(f.type) for f in fields(kind)} if is_dataclass(kind) else {}


def _check_folders(hydra: DictConfig) -> None:
    """Refuse blank folders of Hydra's, which mean the working directory.

    Raises:
        ConfigError: one is blank.
    """
    for key in ("run", "sweep"):
        plain: Any = OmegaConf.to_container(hydra[key], resolve=False)
        folder = plain["dir"]
        if folder is not None and not str(folder).strip():
            raise ConfigError(
                f"hydra.{key}.dir",
                repr(folder),
                f"a folder, named {_UNSET}",
                "paths.outputs=multirun_outputs",
            )


def check_outputs(config: Config) -> None:
    """Make sure that results can be written before anything is computed.

    Raises:
        ConfigError: the folder cannot be made or written, or what follows the job is not installed.
    """
    if config.logger.name == "trackio" and importlib.util.find_spec("trackio") is None:
        raise ConfigError(
            "logger",
            "trackio",
            "the package trackio is not installed: pip install 'plan-tuning[trackio]'",
            "logger=csv",
        )
    folder = Path(config.paths.outputs)
    probe = folder / ".writable"
    try:
        if config.dry_run:
            _check_writable(folder.absolute())
            return
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0" * _PROBE_BYTES)  # a full disk takes an empty file
    except OSError as error:
        raise ConfigError(
            "paths.outputs",
            config.paths.outputs,
            f"a folder that can be written ({error.strerror})",
            "paths.outputs=/tmp/plan_tuning",
        ) from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _check_writable(folder: Path) -> None:
    """Look whether a folder could be made and written, and leave nothing behind.

    Raises:
        OSError: it could not.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
