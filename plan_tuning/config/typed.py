"""Where a DictConfig ends: Hydra's composed configuration becomes the checked dataclasses."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import Config


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
    return result


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
