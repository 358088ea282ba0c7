"""Linear layers of a student on a CPU, computed by oneDNN while it writes.

PyTorch multiplies float32 matrices by MKL, which keeps to AVX2 on processors of other vendors;
oneDNN takes the widest vectors that there are, twice the speed on an AVX-512 processor of AMD. Sums
are rounded in another order, by a relative 1e-6. Nothing is copied: it is one operator for another.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

MIN_WEIGHTS = 2**16  # a smaller layer takes less time than the longer way to its product


@contextmanager
def linears(model: Any) -> Iterator[None]:
    """Compute a model's large linear layers by oneDNN; there is no gradient.

    Args:
        model: its layers of float32 on a CPU are meant; all others stay as they are.
    """
    chosen = [module for module in model.modules() if _is_meant(module)] if _is_built() else []
    for module in chosen:
        module.forward = functools.partial(_product, module)
    try:
        yield
    finally:
        for module in chosen:
            del module.forward


def _is_built() -> bool:
    """Whether this PyTorch brings the operator, which its compiler uses for frozen layers."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_meant(module: Any) -> bool:
    if type(module) is not torch.nn.Linear or "forward" in vars(module):
        return False
    weight = module.weight
    is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return is_plain and weight.numel() > MIN_WEIGHTS


def _product(module: torch.nn.Linear, states: torch.Tensor) -> torch.Tensor:
    if states.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return torch.nn.functional.linear(states, module.weight, module.bias)
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
        states, module.weight, module.bias, "none", [], ""
    )
    return found
