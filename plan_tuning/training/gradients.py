"""Gradients of several sources: do they oppose each other, and what is left where they do.

Pure functions of tensors. A conflict is a negative inner product; PCGrad (Yu et al. 2020) takes
from each gradient its part along the other one, in random order, and adds up what is left. Doing so
in every module by itself follows "Modular gradient surgery" (arXiv 2602.02301): over all weights at
once one module's conflict is hidden by the agreement of the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

Gradient = Mapping[str, torch.Tensor]
"""Of one source: by the names of the trained weights."""

_PARTS = (".lora_A", ".lora_B", ".lora_embedding_A", ".lora_embedding_B")


def module_of(name: str) -> str:
    """Name the module that a weight of an adapter belongs to.

    >>> module_of("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight")
    'layers.0.self_attn.q_proj'
    """
    stem = next((name.partition(part)[0] for part in _PARTS if part in name), name)
    return stem.removeprefix("base_model.model.").removeprefix("model.")


def modules_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Group the names of weights by module, in their order."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(module_of(name), []).append(name)
    return found


def projected(
    gradients: Sequence[Gradient], groups: Iterable[Sequence[str]], *, seed: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Add up the gradients of several sources without the parts that oppose another one.

    Args:
        gradients: of the sources, of the same weights.
        groups: of weights that are projected together: those of a module, or all.
        seed: of the order in which a gradient meets the others.

    Returns:
        The sum; without any conflict it is the plain one.
    """
    total: dict[str, torch.Tensor] = {}
    random = np.random.default_rng(list(seed))
    for names in groups:
        flat = [torch.cat([g[name].flatten() for name in names]) for g in gradients]  # (P,) each
        summed = torch.zeros_like(flat[0])
        for place, own in enumerate(flat):
            left = own.clone()
            others = [other for other in range(len(flat)) if other != place]
            for other in random.permutation(others):
                against = flat[int(other)]
                inner = torch.dot(left, against)
                if inner < 0:
                    left -= inner / torch.dot(against, against) * against
            summed += left
        sizes = [gradients[0][name].numel() for name in names]
        for name, part in zip(names, summed.split(sizes), strict=True):
            total[name] = part.reshape(gradients[0][name].shape)
    return total


def cosines(gradients: Sequence[Gradient]) -> dict[str, float]:
    """How far the gradients of the sources point the same way, -1..1, module by module.

    Returns:
        The mean over the pairs of sources, by module, and under ``all`` that of all weights
        together; a module that one of them does not move is left out of its pair.
    """
    groups = modules_of(gradients[0])
    sums: dict[str, list[float]] = {}
    for first, second in itertools.combinations(gradients, 2):
        together = np.zeros(3)
        for module, names in groups.items():
            inner, one, other = (
                sum(float((a[name].double() * b[name].double()).sum()) for name in names)
                for a, b in ((first, second), (first, first), (second, second))
            )
            together += (inner, one, other)
            if one > 0 and other > 0:
                sums.setdefault(module, []).append(inner / (one * other) ** 0.5)
        inner, one, other = together
        if one > 0 and other > 0:
            sums.setdefault("all", []).append(float(inner / (one * other) ** 0.5))
    return {module: sum(values) / len(values) for module, values in sums.items()}
