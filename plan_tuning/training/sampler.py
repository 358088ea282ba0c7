"""Who writes the rollouts: the trained weights themselves, or a copy with the adapter merged in.

Adapter layers cost several small kernels a layer at every token, and merging them in place would
round the base a little with every cycle; so an adapter is merged into a copy that is refreshed
after each step.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from plan_tuning.students.loading import Student


class Sampler:
    """Gives the student that rollouts are sampled from; see the module's docstring."""

    def __init__(self, student: Student, *, is_merged: bool) -> None:
        self._trained = student
        self._copy: Student | None = None
        self._pairs: list[tuple[Any, torch.nn.Parameter]] = []
        if is_merged and hasattr(student.model, "peft_config"):
            self._copy = _merged_copy(student)
            self._pairs = [
                (module, self._copy.model.get_submodule(name).weight)
                for name, module in student.causal_lm.named_modules()
                if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer")
            ]

    def student(self) -> Student:
        """Return the sampler, up to date with the trained weights."""
        if self._copy is None:
            return self._trained
        self._copy.model.to(self._trained.device)
        with torch.no_grad():
            for module, weight in self._pairs:
                weight.copy_(module.base_layer.weight)
                for name in module.active_adapters:
                    weight.add_(module.get_delta_weight(name).to(weight.dtype))
        return self._copy


def _merged_copy(student: Student) -> Student:
    model = copy.deepcopy(student.model).merge_and_unload()
    model.requires_grad_(False)
    model.eval()
    return Student(model, student.tokenizer, student.end_ids, student.turn_end, student.identity)


def frozen_copy(student: Student) -> Any:
    """Copy the model before it is trained: the reference where all weights are trained."""
    model = copy.deepcopy(student.causal_lm)
    model.requires_grad_(False)
    model.eval()
    return model
