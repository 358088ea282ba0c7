"""Checkpoints: what an interrupted training is resumed from, and the best weights seen so far."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import load_file, save_file

from plan_tuning.config.training import TrainerConfig
from plan_tuning.training.distributed import fill, whole
from plan_tuning.training.lightning import TrainingError


def latest_checkpoint(folder: Path) -> Path | None:
    """Find the newest complete checkpoint; a half-written one bears another name."""
    found = sorted(folder.glob("step-*.ckpt"))
    return found[-1] if found else None


def step_of(checkpoint: Path | None) -> int:
    """Read the number of finished steps off a checkpoint's name; 0 without one."""
    return 0 if checkpoint is None else int(checkpoint.stem.rpartition("-")[2])


class PassSizes(pl.Callback):
    """Writes into each checkpoint how many tokens a pass takes, where that was found out.

    Args:
        sizes: tokens by key of the configuration.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)

    def state_dict(self) -> dict[str, int]:
        """Store the sizes; a resumed training asks :func:`pass_sizes_in` before it is built."""
        return dict(self.sizes)


def pass_sizes_in(checkpoint: Path) -> dict[str, int]:
    """Read the sizes of passes out of a checkpoint; its tensors stay on the disk."""
    saved = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=False)
    found: dict[str, int] = saved.get("callbacks", {}).get(PassSizes.__name__, {})
    return found


def remove(folder: Path) -> None:
    """Remove the checkpoints of a finished training."""
    if folder.is_dir():
        shutil.rmtree(folder)


class Checkpoints(pl.Callback):
    """Saves every n optimizer steps; a kill at any moment leaves the last complete file.

    Where a validation is due at the same step it comes first: a run that is resumed from the
    checkpoint does not repeat it. The module, which is handed this, then calls :meth:`save_if_due`.

    Args:
        folder: of the checkpoints.
        every_n_steps: 0: none are saved.
        validate_every_n_steps: 0: the trainer does not validate.
    """

    def __init__(
        self, folder: Path, every_n_steps: int, *, validate_every_n_steps: int = 0
    ) -> None:
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.validate_every_n_steps = validate_every_n_steps
        self._due_step: int | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due; the last step is followed by the export and needs none."""
        step = pl_module.finished_steps
        if not self.every_n_steps or step % self.every_n_steps or step == pl_module.total_steps:
            return
        self._due_step = step
        if not self.validate_every_n_steps or step % self.validate_every_n_steps:
            self.save_if_due(trainer)

    def save_if_due(self, trainer: pl.Trainer) -> None:
        """Save the step that is due, if any; a run that stops here is exported and needs none."""
        step, self._due_step = self._due_step, None
        if step is not None and not trainer.should_stop:
            self._save(trainer, step)

    def _save(self, trainer: pl.Trainer, step: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".step-{step:09d}.part"
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, self.folder / f"step-{step:09d}.ckpt")
            for older in sorted(self.folder.glob("step-*.ckpt"))[:-1]:
                older.unlink()


class StepCheckpoints(Checkpoints):
    """Also saves when GRPO is ended by an error or Ctrl-C: its steps are long, and may be paid."""

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Save the last finished step, where its weights are still there.

        Not with several processes, whose others may wait elsewhere, and not after an unknown
        error of the runtime, after which a card may not answer any more.
        """
        step = pl_module.finished_steps
        trusted = (ValueError, OSError, torch.OutOfMemoryError, KeyboardInterrupt, SystemExit)
        is_trusted = isinstance(exception, trusted)
        is_due = self.every_n_steps and 0 < step < pl_module.total_steps
        if not (is_trusted and is_due and pl_module.is_between_steps and trainer.world_size == 1):
            return
        if step > step_of(latest_checkpoint(self.folder)):
            self._save(trainer, step)


class BestWeights(pl.Callback):
    """Remembers what validations found, keeps the best trained weights, stops when patience ends.

    The best has the lowest held-out loss or, with ``select_by=accuracy``, solves most of the
    held-out problems; among equals the lower loss decides.
    """

    def __init__(self, path: Path, config: TrainerConfig) -> None:
        self.path = path
        self.config = config
        self.best: list[float] = []  # what is compared: smaller is better
        self.best_step = 0
        self.last_loss = float("nan")
        self.best_loss = float("inf")
        self.last_step = -1
        self.waited = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Compare the new validation."""
        metrics = trainer.callback_metrics
        self.last_loss = float(metrics["val/loss"])
        self.best_loss = min(self.best_loss, self.last_loss)
        self.last_step = pl_module.finished_steps
        found = [self.last_loss]
        if self.config.select_by == "accuracy":
            found = [-float(metrics["val/accuracy"]), self.last_loss]
        if not self.best or found < self.best:
            self.best, self.best_step = found, pl_module.finished_steps
            self.waited = 0
            if self.config.select_best:
                # Shards are gathered by all ranks together; one of them writes.
                weights = {
                    name: whole(p).cpu().contiguous() for name, p in _trained(pl_module.model)
                }
                if trainer.is_global_zero:
                    self._save(weights)
            return
        self.waited += 1
        patience = self.config.early_stopping_patience
        if patience and self.waited >= patience:
            trainer.should_stop = True

    def _save(self, weights: dict[str, torch.Tensor]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".part")
        save_file(weights, partial)
        os.replace(partial, self.path)

    def restore(self, module: Any) -> None:
        """Put the best weights back."""
        if not self.path.is_file():
            return
        saved = load_file(self.path)
        with torch.no_grad():
            for name, parameter in _trained(module.model):
                fill(parameter, saved[name])

    def facts(self) -> dict[str, Any]:
        """Say what validation found."""
        return {
            "val_loss": self.last_loss,
            "best_val_loss": self.best_loss,
            "best_step": self.best_step,
        }

    def state_dict(self) -> dict[str, Any]:
        """Store what a resumed run must know."""
        kept = ("best", "best_loss", "best_step", "last_loss", "last_step", "waited")
        return {name: getattr(self, name) for name in kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from there."""
        for name, value in state_dict.items():
            setattr(self, name, value)


def keep_trained(module: torch.nn.Module, checkpoint: dict[str, Any]) -> None:
    """Leave the frozen weights out of a Lightning checkpoint, in place."""
    state, trained = checkpoint["state_dict"], dict(_trained(module))
    checkpoint["state_dict"] = {name: state[name] for name in state if name in trained}


def require_trained(module: torch.nn.Module, checkpoint: dict[str, Any]) -> None:
    """Refuse a checkpoint without the module's trained weights, which a lax load would not miss.

    Raises:
        TrainingError: it lacks some.
    """
    missing = sorted(dict(_trained(module)).keys() - checkpoint["state_dict"].keys())
    if missing:
        raise TrainingError(
            f"the checkpoint lacks {len(missing)} trained weights, for example {missing[0]}: "
            "it is of another model or adapter; remove its folder to train anew"
        )


def _trained(module: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]
