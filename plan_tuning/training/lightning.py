"""Lightning for both trainings: hardware, the trainer, its loaders, and where a run is shown."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from plan_tuning import interruption
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.training import TrainerConfig
from plan_tuning.students.loading import Student, has_bfloat16
from plan_tuning.students.memory import begin_peak_memory
from plan_tuning.tracking.shared_terminal import has_terminal
from plan_tuning.training.distributed import ShardedStrategy
from plan_tuning.training.logs import LogTable
from plan_tuning.training.progress_lines import ProgressLines

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
logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # in the folder of a student that is being trained
_LOGGERS = ("pytorch_lightning", "lightning.fabric", "lightning_fabric")


class TrainingError(ValueError):
    """Training cannot go on: nothing to learn from, or a loss that is not a number."""


@dataclass(frozen=True)
class TrainingRun:
    """Where a training runs and is shown; nothing in it determines the student.

    Args:
        folder: receives the student; ``checkpoints/`` in it is what an interrupted run left.
        run_dir: Lightning's working folder, where a failure is written down.
        loggers: Lightning loggers.
        provenance: what the training stands on, for the model card.
        log_table: shows what the student writes, for example in W&B.
        pass_sizes: tokens of a pass by key, where the job found them out; kept in checkpoints.
    """

    folder: Path
    run_dir: Path
    loggers: Sequence[Any] = ()
    provenance: Mapping[str, Any] | None = None
    log_table: LogTable | None = None
    pass_sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / CHECKPOINTS


class Steps:
    """The loader of both trainings: one item is what one step of the module takes.

    Lightning asks it for its state, but the step it continues from is the module's own, which is
    what the checkpoint restores first.

    Args:
        module: knows its ``finished_steps`` and ``total_steps``.
        batch_of: makes a step's input from its number, counted from 0; by default the number.
    """

    def __init__(self, module: Any, batch_of: Callable[[int], Any] = int) -> None:
        self.module = module
        self.batch_of = batch_of

    def __len__(self) -> int:
        return int(self.module.total_steps)

    def __iter__(self) -> Iterator[Any]:
        return map(self.batch_of, range(self.module.finished_steps, self.module.total_steps))

    def state_dict(self) -> dict[str, int]:
        """Say where the data stand."""
        return {"step": self.module.finished_steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue there."""
        self.module.finished_steps = state["step"]


class HeldOut:
    """The validation loader: the same micro-batches every time."""

    def __init__(self, micro_batches: Sequence[Any]) -> None:
        self.micro_batches = micro_batches

    def __len__(self) -> int:
        return len(self.micro_batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.micro_batches)


class Stopping(pl.Callback):
    """Ends a training before its next step where Ctrl-C was dropped on the way."""

    def on_train_batch_start(self, *_: Any) -> None:
        """Ask whether to go on."""
        interruption.check()

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        """Ask whether to go on."""
        interruption.check()


def build_trainer(
    run: TrainingRun,
    config: TrainerConfig,
    callbacks: Sequence[pl.Callback],
    *,
    max_steps: int = -1,
    validate_every_n_steps: int = 0,
) -> pl.Trainer:
    """Make Lightning's trainer; the modules optimise, log and save by themselves.

    Args:
        run: where it writes.
        config: hardware and precision.
        callbacks: in the order in which they are called.
        max_steps: optimizer steps; -1: the module stops the trainer.
        validate_every_n_steps: 0: there is no held-out loader.
    """
    has_bar = config.progress and has_terminal()
    shown: list[pl.Callback] = [pl.callbacks.RichProgressBar()] if has_bar else []
    if config.progress and not has_bar:
        shown.append(ProgressLines())
    return pl.Trainer(
        accelerator={"cuda": "gpu"}.get(config.accelerator, config.accelerator),
        devices=config.devices,
        strategy=ShardedStrategy(config) if config.strategy == "fsdp" else config.strategy,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        max_steps=max_steps,
        max_epochs=-1,
        logger=list(run.loggers) or False,
        callbacks=[Stopping(), *callbacks, *shown],
        enable_checkpointing=False,
        enable_progress_bar=has_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=validate_every_n_steps or 1,
        limit_val_batches=1.0 if validate_every_n_steps else 0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        inference_mode=False,
        default_root_dir=str(run.run_dir),
    )


def prepare(config: TrainerConfig, seed: int) -> None:
    """Set this process up for a training, whatever was done in it before.

    Raises:
        ConfigError: the hardware is not there.
    """
    check_hardware(config)
    begin_peak_memory()
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    pl.seed_everything(seed, workers=False, verbose=False)


def check_hardware(trainer: TrainerConfig) -> None:
    """Refuse devices that are not there, and ranks that nobody has started.

    Raises:
        ConfigError: CUDA is asked for and absent, there are fewer cards than devices, or this
            process is no rank.
    """
    check_cards(trainer)
    has_card = trainer.accelerator != "cpu" and torch.cuda.is_available()
    if has_card and trainer.precision == "bf16" and not has_bfloat16():
        logger.warning(
            "%s only emulates bfloat16, which is many times slower than float32: "
            "trainer.precision=fp32 (another student: the precision counts)",
            torch.cuda.get_device_name(),
        )
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
