"""The processes of a training: collectives between them, and weights spread over them (FSDP2).

Weights are sharded where training does not fit on one card. Every decoder layer is a unit that is
gathered around its own passes, and what is left (embeddings, last norm, output layer) is another
one. Checkpoints and exports hold whole weights, in the same form as those of one process: either
may go on from the other's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from plan_tuning.config.training import TrainerConfig
from plan_tuning.students.loading import Student


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

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds a part of the weights only."""
        return isinstance(self._strategy, ShardedStrategy)

    def with_whole_weights(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` with sharded weights gathered around it, or as it is without any."""
        return partial(self._strategy.call, function) if self.is_sharded else function


class _Root(torch.nn.Module):
    """Around the model: sharded weights are there while a function runs inside it.

    A model's own ``forward`` would not do, for losses call its decoder and its output layer.
    """

    def __init__(self, causal_lm: torch.nn.Module) -> None:
        super().__init__()
        self.causal_lm = causal_lm

    def forward(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``function``, which uses the model; it returns a tensor or a tuple of them."""
        return function(*args, **kwargs)


class ShardedStrategy(DDPStrategy):
    """Lightning's processes and collectives, with sharded weights in place of replicas."""

    def __init__(self, config: TrainerConfig) -> None:
        super().__init__()
        self._is_bf16 = config.precision == "bf16"
        self._root: Any = None

    def setup(self, trainer: pl.Trainer) -> None:
        """Shard the weights, once, and make the optimizer of the shards."""
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        if self._root is None:
            module: Any = self.lightning_module
            self._root = self._shard(module.student.causal_lm)
            module.to(self.root_device)
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def _shard(self, causal_lm: Any) -> Any:
        """Spread the weights, which the first rank alone has read, over all of them."""
        read = {name: p.detach() for name, p in causal_lm.named_parameters()}
        root = self._units(causal_lm)
        # Memory for the shards of ranks that have shapes only; FSDP finds its weights again.
        root._apply(lambda t: torch.empty_like(t, device=self.root_device) if t.is_meta else t)
        for name, parameter in causal_lm.named_parameters():
            values = read.pop(name)
            if values.is_meta:
                values = torch.empty(values.shape, dtype=values.dtype, device=self.root_device)
            fill(parameter, values)
        return root

    def _units(self, causal_lm: Any) -> Any:
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        kind = torch.bfloat16 if self._is_bf16 else None
        policy = MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=kind and torch.float32)
        root = _Root(causal_lm)
        # A layer is moved to the card whole and leaves a shard there before the next one comes.
        for layer in causal_lm.get_decoder().layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        return fully_shard(root, mesh=mesh, mp_policy=policy)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of the model with its weights gathered layer by layer."""
        found = self._root(function, *args, **kwargs)
        if not torch.is_grad_enabled():  # no backward pass follows that would give them back
            for unit in self._root.modules():
                if isinstance(unit, FSDPModule):
                    unit.reshard()
        return found

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Gather what is trained; the first rank alone keeps it."""
        assert self.lightning_module is not None
        named = self.lightning_module.named_parameters()
        return self._gather({name: p for name, p in named if p.requires_grad})

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Gather the optimizer's state; the first rank alone keeps it."""
        state = super().optimizer_state(optimizer)
        return {**state, "state": self._gather(state["state"])}

    def _gather(self, values: Any) -> Any:
        if isinstance(values, dict):
            gathered = {key: self._gather(value) for key, value in values.items()}
            return gathered if self.global_rank == 0 else {}
        return whole(values).cpu() if isinstance(values, torch.Tensor) else values

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Map a checkpoint into memory: the ranks of a machine share it, none holds a copy."""
        found: dict[str, Any] = torch.load(
            checkpoint_path, map_location="cpu", mmap=True, weights_only=bool(weights_only)
        )
        return found

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Restore the weights where they are whole; the other ranks get their shards from there."""
        if self.global_rank == 0:
            super().load_model_state_dict(checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this rank's shards out of a whole state."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            parts = {
                index: {key: _share(value, weights[index]) for key, value in values.items()}
                for index, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": parts})

    def teardown(self) -> None:
        """Leave the weights where they are: shards cannot be moved off their devices."""
        assert self.accelerator is not None
        assert self.cluster_environment is not None
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.cluster_environment.teardown()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a sharded tensor (of any shape), which all ranks do; another one stays as it is."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


@torch.no_grad()
def fill(parameter: torch.nn.Parameter, values: torch.Tensor) -> None:
    """Set a weight to whole values (of its shape): this rank's shard, where it is sharded."""
    parameter.copy_(_share(values, parameter))


def _share(values: Any, like: torch.Tensor) -> Any:
    """Cut this rank's shard out of values that every rank has, if ``like`` is of that shape."""
    if not isinstance(like, DTensor) or getattr(values, "shape", None) != like.shape:
        return values
    return distribute_tensor(values.to(like.device), like.device_mesh, like.placements)


def whole_weights(student: Student) -> dict[str, torch.Tensor]:
    """Gather the weights for the export, by the names that ``save_pretrained`` knows.

    All ranks call it, since all hold a part; the first one gets them. A tied weight stays tied.
    """
    keeps = torch.distributed.get_rank() == 0
    is_adapter = hasattr(student.model, "peft_config")
    gathered: dict[int, torch.Tensor] = {}
    found = {}
    for name, tensor in student.model.state_dict(keep_vars=True).items():
        if is_adapter and not tensor.requires_grad:
            continue
        if id(tensor) not in gathered:
            values = whole(tensor)
            gathered[id(tensor)] = values.cpu() if keeps else values.new_empty(0)
        found[name] = gathered[id(tensor)]
    return found
