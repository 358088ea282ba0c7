"""Where a DictConfig ends: Hydra's composed configuration becomes the checked dataclasses."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.run import Config

Group = TypeVar("Group")


def typed(config: DictConfig) -> Config:
    """Turn a composed configuration into the checked dataclasses.

    Raises:
        ConfigError: a value is missing, out of range or contradicts another one.
    """
    node = config.copy()
    OmegaConf.set_readonly(node, False)
    OmegaConf.set_struct(node, False)
    if "hydra" in node:
        del node["hydra"]
    if "experiment" in node:
        del node["experiment"]
    try:
        result = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise ConfigError(
            error.full_key or "configuration",
            "???",
            str(error.msg or error).splitlines()[0],
            "plan-tuning --cfg job",
        ) from error
    if not isinstance(result, Config):
        raise TypeError(f"the schema composed to {type(result).__name__}, not Config")
    return debugged(result)


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
    """Copy a group with each named number at most its cap; None and -1 are no limit so far.

    The copy is not checked again: a buffer may be longer than capped completions.
    """
    capped = copy(group)
    for key, cap in caps.items():
        value = getattr(group, key)
        if cap is not None:
            setattr(capped, key, cap if value in (None, -1) else min(value, cap))
    return capped


def check_outputs(config: Config) -> None:
    """Make sure that results can be written before anything is computed.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    folder = Path(config.paths.outputs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            "paths.outputs",
            config.paths.outputs,
            f"a folder that can be written ({error.strerror})",
            "paths.outputs=/tmp/plan_tuning",
        ) from error
