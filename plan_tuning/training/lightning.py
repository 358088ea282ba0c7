"""What both trainings ask of the machine: devices that are there, and a Lightning that is quiet."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.training import TrainerConfig
from plan_tuning.students.loading import Student

# What Lightning says about things that are meant; everything else stays visible.
_QUIET = (
    r"The 'train_dataloader' does not have many workers.*",
    r"The 'val_dataloader' does not have many workers.*",
    r"You are trying to `self.log\(\)` but.*",
    r"GPU available but not used.*",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r"The number of training batches.*is smaller than the logging interval.*",
    r"You defined a `validation_step` but have no `val_dataloader`.*",
    r"Found \d+ module\(s\) in eval mode at the start of training.*",
)
_LOGGERS = ("pytorch_lightning", "lightning.fabric", "lightning_fabric")


def check_hardware(trainer: TrainerConfig) -> None:
    """Refuse devices that are not there, and ranks that nobody has started.

    Raises:
        ConfigError: CUDA is asked for and absent, there are fewer cards than devices, or this
            process is no rank.
    """
    check_cards(trainer)
    if trainer.devices > 1 and "LOCAL_RANK" not in os.environ:
        # Lightning would start this command again for every further rank: the whole job or sweep,
        # which then waits for the student that this process is holding the lock of.
        raise ConfigError(
            "trainer.devices",
            trainer.devices,
            "a process that trains as one of several has to be started as such (LOCAL_RANK, "
            "WORLD_SIZE), as a job of plan-tuning does it: plan_tuning.training.processes",
            "trainer.devices=1",
        )


def check_cards(trainer: TrainerConfig) -> None:
    """Refuse devices that are not there.

    Raises:
        ConfigError: CUDA is asked for and absent, or there are fewer cards than devices.
    """
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if trainer.accelerator == "cuda" and not cards:
        raise ConfigError(
            "trainer.accelerator", "cuda", "no CUDA device is visible here", "trainer=cpu_small"
        )
    if trainer.accelerator != "cpu" and 0 < cards < trainer.devices:
        raise ConfigError(
            "trainer.devices",
            trainer.devices,
            f"one CUDA card a device, and {cards} can be seen here",
            f"trainer.devices={cards}" + (" trainer.strategy=auto" if cards == 1 else ""),
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's remarks on settings that are meant, and its start-up banner."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [chatty.level for chatty in loggers]
    for chatty in loggers:
        chatty.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _QUIET:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for chatty, level in zip(loggers, levels, strict=True):
            chatty.setLevel(level)


def checkpoint_activations(student: Student) -> None:
    """Compute a layer's activations again in the backward pass instead of keeping them."""
    model = student.causal_lm
    # transformers renamed the method within version 5
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    if hasattr(student.model, "peft_config"):
        # The frozen embeddings' output must carry gradients for the layers above to have any.
        student.causal_lm.enable_input_require_grads()
