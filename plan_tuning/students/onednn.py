"""Linear layers of a student on a CPU, computed by oneDNN while it writes or is trained.

PyTorch multiplies float32 matrices by MKL, which keeps to AVX2 on processors of other vendors;
oneDNN takes the widest vectors that there are, twice the speed on an AVX-512 processor of AMD. Sums
are rounded in another order, by a relative 1e-6. Nothing is copied: it is one operator for another.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import once_differentiable

logger = logging.getLogger(__name__)

MIN_WEIGHTS = 2**16  # a smaller layer writes a token in less time than the longer way takes
MIN_PRODUCTS = 2**22  # the same of rows times weights in training, whose way is longer still


@contextmanager
def linears(model: Any) -> Iterator[None]:
    """Compute a model's large linear layers by oneDNN; there is no gradient.

    Args:
        model: its layers of float32 on a CPU are meant; all others stay as they are.
    """
    chosen = [
        layer
        for layer in _layers(model)
        if layer.weight.device.type == "cpu" and layer.weight.numel() > MIN_WEIGHTS
    ]
    with _computed_by(_written, chosen):
        yield


@contextmanager
def trained_linears(model: Any) -> Iterator[None]:
    """Compute a model's linear layers by oneDNN, and their gradients.

    Args:
        model: its layers of float32 are meant, for as long as they are on a CPU; all others stay
            as they are, and so does a product of few rows.
    """
    if not _is_built():
        logger.warning("this PyTorch is built without oneDNN: trainer.cpu_matmul=onednn is idle")
    with _computed_by(_trained, _layers(model)):
        yield


@contextmanager
def _computed_by(product: Callable[..., torch.Tensor], layers: Sequence[Any]) -> Iterator[None]:
    before = [vars(layer).get("forward") for layer in layers]  # of a training, at its validation
    for layer in layers:
        layer.forward = functools.partial(product, layer)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


def _is_built() -> bool:
    """Whether this PyTorch brings the operator, which its compiler uses for frozen layers."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _layers(model: Any) -> list[Any]:
    """The linear layers of float32 whose products are nobody else's business."""
    return [m for m in model.modules() if _is_meant(m)] if _is_built() else []


def _is_meant(module: Any) -> bool:
    if type(module) is not torch.nn.Linear or module.weight.dtype != torch.float32:
        return False
    own = vars(module).get("forward")
    return own is None or (isinstance(own, functools.partial) and own.func is _trained)


def _is_plain(states: torch.Tensor) -> bool:
    is_plain = states.device.type == "cpu" and states.dtype == torch.float32
    return is_plain and not torch.is_autocast_enabled("cpu")


def _written(module: torch.nn.Linear, states: torch.Tensor) -> torch.Tensor:
    if not _is_plain(states):
        return torch.nn.functional.linear(states, module.weight, module.bias)
    return _product(states, module.weight, module.bias)


def _trained(module: torch.nn.Linear, states: torch.Tensor) -> torch.Tensor:
    products = states.numel() * module.out_features
    if products < MIN_PRODUCTS or not _is_plain(states):
        return torch.nn.functional.linear(states, module.weight, module.bias)
    found: torch.Tensor = _Linear.apply(states, module.weight, module.bias)
    return found


def _product(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiply (…, K) states by the transposed (N, K) weight."""
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return found


class _Linear(torch.autograd.Function):
    """A linear layer of which the product and both its gradients are computed by oneDNN."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(states, weight)
        return _product(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, weight = ctx.saved_tensors
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad
        of_states = _product(gradient, weight.t()) if needs_states else None
        rows, asked = gradient.flatten(0, -2), states.flatten(0, -2)  # (M, N), (M, K)
        of_weight = _contracted(rows.t(), asked.t()) if needs_weight else None
        return of_states, of_weight, rows.sum(dim=0) if needs_bias else None


def _contracted(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply (N, M) by the transposed (K, M); the factor of fewer rows is the faster left one."""
    if left.shape[0] <= right.shape[0]:
        return _product(left, right)
    return _product(right, left).t()
