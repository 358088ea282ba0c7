"""What was typed: keys that do not mean what whoever typed them expects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.run import Config
from plan_tuning.config.training import TrainerConfig

# Keys that both `trainer` and `method` have where the method is GRPO.
TWICE = tuple(
    sorted({f.name for f in fields(TrainerConfig)} & {f.name for f in fields(GRPOConfig)})
)


def split_word(word: str) -> tuple[str, str]:
    """Split an override into key and value.

    >>> split_word("+trainer.epochs=1,5")
    ('trainer.epochs', '1,5')
    """
    key, _, value = word.partition("=")
    return key.lstrip("+~"), value


def check_double_keys(words: Iterable[str], jobs: Iterable[Config]) -> None:
    """Refuse a knob of the start's training that was meant for GRPO's own, or may have been.

    Args:
        words: the overrides as they were typed.
        jobs: all jobs of the command.

    Raises:
        ConfigError: ``trainer.KEY`` was typed, every job is GRPO, and GRPO has that knob itself.
    """
    if not all(isinstance(job.method, GRPOConfig) for job in jobs):
        return
    for word in words:
        key, value = split_word(word)
        group, _, knob = key.partition(".")
        if group == "trainer" and knob in TWICE:
            raise ConfigError(
                key,
                value,
                "GRPO's own knob is in method, the one of the start's training in start.trainer",
                f"method.{knob}={value}, or start.trainer.{knob}={value}",
            )
