"""How the processes of a GRPO training meet: objects gathered, tensors reduced, gradients held."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


class Ranks:
    """This process among all; alone until a trainer is given.

    Args:
        trainer: Lightning's trainer, once it knows its processes.
    """

    def __init__(self, trainer: Any = None) -> None:
        self.rank: int = 0 if trainer is None else trainer.global_rank
        self.world: int = 1 if trainer is None else trainer.world_size
        self._strategy: Any = None if trainer is None else trainer.strategy

    def gather(self, value: Any) -> list[Any]:
        """Return the objects of all ranks, in their order."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value)
        return found

    def reduce(self, value: torch.Tensor, how: str) -> torch.Tensor:
        """Sum a tensor over ranks, or take its maximum (``how``: sum or max); in place."""
        if self.world > 1:
            kind = torch.distributed.ReduceOp
            torch.distributed.all_reduce(value, kind.SUM if how == "sum" else kind.MAX)
        return value

    def gradients_stay_local(self, is_local: bool) -> Any:
        """Only the last backward pass of an optimizer step exchanges gradients between ranks."""
        if is_local and hasattr(self._strategy, "block_backward_sync"):
            return self._strategy.block_backward_sync()
        return contextlib.nullcontext()
