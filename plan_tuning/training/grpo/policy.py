"""Who writes the rollouts: the trained weights themselves, or a copy that follows them.

Adapter layers cost several small kernels a layer at every token, and merging them in place would
round the base a little with every cycle; so an adapter is merged into a copy. On a card a token
costs the reading of all weights, so the copy is in bfloat16 there, half of the float32 masters that
an optimizer needs. A copy is refreshed after each step. Quantised weights are never copied: what is
packed four bits at a time cannot take up an adapter.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch

from plan_tuning.config.training import TrainerConfig
from plan_tuning.students.loading import Student, cast_weights

logger = logging.getLogger(__name__)


def sampler_dtype(choice: str, trainer: TrainerConfig) -> torch.dtype | None:
    """Choose the precision of the sampler's weights; None: that of the trained ones.

    Args:
        choice: ``method.sampler_dtype``: auto is bfloat16 where a card trains in it.
        trainer: hardware and precision.
    """
    if choice != "auto":
        return torch.bfloat16 if choice == "bfloat16" else torch.float32
    has_card = trainer.accelerator != "cpu" and torch.cuda.is_available()
    return torch.bfloat16 if has_card and trainer.precision == "bf16" else None


class Sampler:
    """Gives the student that rollouts are sampled from; see the module's docstring."""

    def __init__(
        self, student: Student, *, is_merged: bool, dtype: torch.dtype | None = None
    ) -> None:
        self._trained = student
        self._copy: Student | None = None
        self._layers: list[tuple[Any, torch.nn.Parameter]] = []  # with adapters, and their copies
        self._weights: list[tuple[torch.nn.Parameter, torch.nn.Parameter]] = []
        own = next(p.dtype for p in student.model.parameters() if p.requires_grad)
        has_adapter = hasattr(student.model, "peft_config")
        if is_quantised(student):
            logger.info("rollouts are sampled from the quantised weights, adapters unmerged")
        elif is_merged and has_adapter:
            self._copy = _copied(student, dtype, is_merged=True)
            self._layers = [
                (module, self._copy.model.get_submodule(name).weight)
                for name, module in student.causal_lm.named_modules()
                if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer")
            ]
        elif dtype not in (None, own):
            self._copy = _copied(student, dtype, is_merged=False)
            copies = dict(self._copy.model.named_parameters())
            self._weights = [
                (weight, copies[name])
                for name, weight in student.model.named_parameters()
                if weight.requires_grad
            ]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights that tokens come from."""
        student = self._trained if self._copy is None else self._copy
        found: torch.dtype = next(student.model.parameters()).dtype
        return found

    def student(self) -> Student:
        """Return the sampler, up to date with the trained weights."""
        if self._copy is None:
            return self._trained
        self._copy.model.to(self._trained.device)
        with torch.no_grad():
            for module, weight in self._layers:
                merged = module.base_layer.weight
                for name in module.active_adapters:
                    delta = module.get_delta_weight(name)
                    merged = merged.to(delta.dtype) + delta  # rounded once, when it is copied
                weight.copy_(merged)
            for trained, weight in self._weights:
                weight.copy_(trained)
        return self._copy


def is_quantised(student: Student) -> bool:
    """Whether the base weights are packed, as ``adapter=qlora`` loads them."""
    return bool(getattr(student.causal_lm, "is_quantized", False))


def _copied(student: Student, dtype: torch.dtype | None, *, is_merged: bool) -> Student:
    model = copy.deepcopy(student.model)
    if is_merged:
        model = model.merge_and_unload()
    if dtype is not None:
        cast_weights(model, dtype)
    model.requires_grad_(False)
    model.eval()
    return Student(model, student.tokenizer, student.end_ids, student.turn_end, student.origin)


def frozen_copy(student: Student) -> Any:
    """Copy the model before it is trained: the reference where all weights are trained."""
    model = copy.deepcopy(student.causal_lm)
    model.requires_grad_(False)
    model.eval()
    return model
