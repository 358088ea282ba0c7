"""What tests let ranks do: a module of its own, which other processes import by its name."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.teachers.errors import BreakerError


def greet(loggers: Sequence[Any]) -> dict[str, Any]:
    """Say something, and return who says it."""
    logging.getLogger("ranks").info("hello from %s", os.environ["RANK"])
    return {"rank": int(os.environ["RANK"]), "loggers": len(loggers)}


def fail(how: str, loggers: Sequence[Any]) -> dict[str, Any]:
    """Fail in the second rank, while the first one would wait for a long time."""
    if os.environ["RANK"] == "1":
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "lambda":
            raise RuntimeError("cannot be sent", lambda: None)
        raise BreakerError("the judge is down")
    time.sleep(120)
    return {}


def wait(folder: Path, loggers: Sequence[Any]) -> dict[str, Any]:
    """Leave the process id, and wait."""
    (folder / os.environ["RANK"]).write_text(str(os.getpid()))
    time.sleep(120)
    return {}


def trainer(devices: int, **values: Any) -> TrainerConfig:
    """Make what the training tests share."""
    settings: dict[str, Any] = {
        "learning_rate": 1e-3, "precision": "fp32", "accelerator": "cpu", "batch_size": 4,
        "val_fraction": 0.0, "max_length": 300, "micro_batch_tokens": 128,
    }  # fmt: skip
    return TrainerConfig(devices=devices, **{**settings, **values})


def train(
    folder: Path,
    base: Path,
    config: TrainerConfig,
    *,
    loggers: Sequence[Any] = (),
    adapter: str = "full",
    dies_after: int | None = None,
) -> Mapping[str, Any]:
    """Train three steps on rows of very different lengths; the last step has a single row."""
    from plan_tuning.text.formats import render_completion, student_messages
    from plan_tuning.training.lightning import TrainingError, TrainingRun
    from plan_tuning.training.sft.batches import TrainingRow
    from plan_tuning.training.sft.fit import SFTSettings, train_student
    from plan_tuning.training.sft.module import SFTModule

    if dies_after is not None:
        step = SFTModule.training_step

        def training_step(self: SFTModule, batch: Any, batch_idx: int) -> None:
            if self.finished_steps == dies_after:
                raise TrainingError("out of luck")
            step(self, batch, batch_idx)

        SFTModule.training_step = training_step  # type: ignore[method-assign]
    rows = [
        TrainingRow(
            f"p{index}",
            student_messages(f"{index} + 3 = ?", method="m2", prompt="matched", style="math"),
            render_completion(
                "m2", plan="Add. " * (index * 3 + 1), execution="", solution="", answer=""
            ),
        )
        for index in range(9)
    ]
    return train_student(
        TrainingRun(folder, folder, loggers),
        SFTSettings(
            model=ModelConfig(name="tiny_qwen3", kind="tiny", family="qwen3"),
            adapter=AdapterConfig(name=adapter),
            trainer=config,
            method=MethodConfig(name="m2"),
            seed=3,
        ),
        base,
        rows,
    )
