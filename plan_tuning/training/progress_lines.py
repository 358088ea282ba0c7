"""How far a training is, off a terminal: a line now and then, with the time that is left."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl

logger = logging.getLogger(__name__)

_EVERY_S = 30.0
_FIGURES = {"train/loss": "loss", "train/reward/total": "reward"}


class ProgressLines(pl.Callback):
    """Logs step, loss and time left; GRPO's reward too, since its loss says little.

    Args:
        every_s: seconds between two lines.
    """

    def __init__(self, every_s: float = _EVERY_S) -> None:
        self._every_s = every_s
        self._began_s = self._told_s = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Begin to count, where a resumed training goes on."""
        self._began_s = self._told_s = time.monotonic()
        self._first_step = pl_module.finished_steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log a line, where it is time to."""
        now = time.monotonic()
        done, total = pl_module.finished_steps, pl_module.total_steps
        is_early = now - self._told_s < self._every_s
        if is_early or done <= self._first_step or not trainer.is_global_zero:
            return
        self._told_s = now
        left_s = (now - self._began_s) / (done - self._first_step) * (total - done)
        metrics = trainer.callback_metrics
        figures = "".join(
            f", {word} {float(metrics[name]):.4f}"
            for name, word in _FIGURES.items()
            if name in metrics
        )
        logger.info("training: step %d of %d%s, %s left", done, total, figures, duration(left_s))


def duration(seconds: float) -> str:
    """Write a time as people read it.

    >>> duration(8), duration(95), duration(7300)
    ('8 s', '1 min 35 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
