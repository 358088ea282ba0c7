"""What a trainer iterates over: the micro-batches of each step, and those of a validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from plan_tuning.training.sft.batches import MicroBatch


class Stepping(Protocol):
    """A module that knows where it stands and which batches a step has."""

    finished_steps: int

    def step_batches(self, step: int) -> list[MicroBatch]:
        """Make this rank's micro-batches of a step."""


class Steps:
    """The loader: one item is the micro-batches of one optimizer step.

    Lightning asks it for its state, but the step it continues from is the module's own, which is
    what the checkpoint restores first.
    """

    def __init__(self, module: Stepping, total: int) -> None:
        self.module = module
        self.total = total

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        for step in range(self.module.finished_steps, self.total):
            yield self.module.step_batches(step)

    def state_dict(self) -> dict[str, int]:
        """Say where the data stand."""
        return {"step": self.module.finished_steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue there."""
        self.module.finished_steps = state["step"]


class HeldOut:
    """The validation loader: the same micro-batches every time."""

    def __init__(self, micro_batches: Sequence[MicroBatch]) -> None:
        self.micro_batches = micro_batches

    def __len__(self) -> int:
        return len(self.micro_batches)

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self.micro_batches)
