"""Finished adapters of one base -> one adapter: the update of every layer is combined in float64.

An adapter's update is ``scaling * B @ A``; averaging A and B apart, as peft's ``linear`` does,
gives another matrix. A weighted sum of updates is exact with the factors side by side (peft's
``cat``), at the sum of the ranks; a smaller rank, and the rules that look at single entries of the
update, need a singular value decomposition.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from plan_tuning.config.merge import MergeConfig
from plan_tuning.students.loading import ADAPTER_FILE, StudentError
from plan_tuning.students.merge_rules import Rule, plain_weights

WEIGHTS = "adapter_model.safetensors"
_A, _B = "lora_A.weight", "lora_B.weight"
_SAME = ("base_model_name_or_path", "peft_type", "target_modules", "fan_in_fan_out")
_UNKNOWN = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias",
            "use_bdlora", "arrow_config", "alora_invocation_tokens")  # fmt: skip
_COPIED = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
           "chat_template.jinja", "generation_config.json")  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """One adapter folder: the factors of every layer, with the scaling in B."""

    settings: Mapping[str, Any]
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # layer -> A (r, in), B (out, r)

    def update(self, layer: str) -> torch.Tensor:
        """The update of a layer's weight, (out, in) float64."""
        first, second = self.factors[layer]
        return second @ first


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's factors in float64.

    Raises:
        StudentError: it holds more than low-rank updates of linear layers.
    """
    settings = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
    odd = [key for key in _UNKNOWN if settings.get(key)]
    if odd or settings.get("peft_type") != "LORA" or settings.get("bias", "none") != "none":
        raise StudentError(
            f"{folder} is an adapter of another kind ({', '.join(odd) or settings['peft_type']}): "
            "only low-rank updates of linear layers are merged. Train it again with adapter=lora"
        )
    rank = settings["r"]
    scaling = settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    factors = {}
    with safe_open(folder / WEIGHTS, framework="pt") as weights:
        names = sorted(weights.keys())
        layers = {name.removesuffix(_A) for name in names if name.endswith(_A)}
        if {layer + part for layer in layers for part in (_A, _B)} != set(names):
            raise StudentError(f"{folder} holds other weights than pairs of {_A} and {_B}")
        for layer in sorted(layers):
            first, second = (weights.get_tensor(layer + part).double() for part in (_A, _B))
            factors[layer] = (first, scaling * second)
    return Adapter(settings, factors)


def merge_adapters(
    folder: Path,
    students: Sequence[Path],
    shares: Sequence[float],
    knobs: MergeConfig,
    rule: Rule | None,
) -> dict[str, Any]:
    """Write the merged adapter: it names the base of the first one.

    Args:
        folder: receives it.
        students: folders of adapters of one base.
        shares: of the students, summing to 1.
        knobs: weights, rank, and what the rule reads.
        rule: from the updates of a layer to the merged one; None: the weighted sum of ``linear``
            or ``task_arithmetic``, which is exact without forming it.

    Returns:
        Facts: how many students and parameters, the rank, and the share of the updates (by their
        norms) that a smaller rank leaves out.

    Raises:
        StudentError: they are updates of different layers or bases, or of another kind.
    """
    adapters = [read_adapter(student) for student in students]
    _check_fit(students, adapters)
    ranks = sum(adapter.settings["r"] for adapter in adapters)
    weights = plain_weights(shares, knobs) if knobs.name == "task_arithmetic" else list(shares)
    merged: dict[str, torch.Tensor] = {}
    lost = total = 0.0
    rank = 0
    for layer in adapters[0].factors:
        pairs = [adapter.factors[layer] for adapter in adapters]
        if rule is None and knobs.rank is None:
            first = torch.cat([a for a, _ in pairs])  # (sum of r, in)
            second = torch.cat([w * b for (_, b), w in zip(pairs, weights, strict=True)], dim=1)
        else:
            updates = [adapter.update(layer) for adapter in adapters]
            meant = (
                torch.cat([w * b for (_, b), w in zip(pairs, weights, strict=True)], dim=1)
                @ torch.cat([a for a, _ in pairs])
                if rule is None
                else rule(updates, shares, knobs, layer)
            )
            first, second = low_rank(meant, knobs.rank or ranks)
            lost += float((meant - second @ first).norm() ** 2)
            total += float(meant.norm() ** 2)
        rank = max(rank, len(first))
        merged[layer + _A], merged[layer + _B] = first, second
    merged = {name: _padded(tensor, rank, name) for name, tensor in merged.items()}
    save_file(
        {name: tensor.float().contiguous() for name, tensor in merged.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    settings = {**adapters[0].settings, "r": rank, "lora_alpha": rank, "use_rslora": False}
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    (folder / ADAPTER_FILE).write_text(text, encoding="utf-8")
    copy_words(students[0], folder)
    return {
        "students": len(students),
        "parameters": sum(tensor.numel() for tensor in merged.values()),
        "rank": rank,
        "left_out": math.sqrt(lost / total) if total else 0.0,
    }


def low_rank(update: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest matrix of a rank, as factors A (r, in) and B (out, r), by the Frobenius norm."""
    left, values, right = torch.linalg.svd(update, full_matrices=False)
    rank = min(rank, len(values))
    root = values[:rank].sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def copy_words(student: Path, folder: Path) -> None:
    """Copy what tells a student's words: tokenizer, chat template, generation settings."""
    for pattern in _COPIED:
        for path in student.glob(pattern):
            shutil.copyfile(path, folder / path.name)


def _padded(tensor: torch.Tensor, rank: int, name: str) -> torch.Tensor:
    """Fill up a factor of a layer that is too small for the rank: all have one in peft's file."""
    missing = rank - tensor.shape[0 if name.endswith(_A) else 1]
    if not missing:
        return tensor
    if name.endswith(_A):
        return torch.cat([tensor, tensor.new_zeros(missing, tensor.shape[1])])
    return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], missing)], dim=1)


def _check_fit(students: Sequence[Path], adapters: Sequence[Adapter]) -> None:
    """Refuse adapters of different layers or bases."""
    first = adapters[0]
    for student, adapter in zip(students, adapters, strict=True):
        for key in _SAME:
            one, other = (_as_set(found.settings.get(key)) for found in (first, adapter))
            if one != other:
                raise StudentError(
                    f"{student} is no adapter beside {students[0]}: {key} is {other} and {one}"
                )
        shapes = [
            {layer: (a.shape[1], b.shape[0]) for layer, (a, b) in found.factors.items()}
            for found in (first, adapter)
        ]
        if shapes[0] != shapes[1]:
            raise StudentError(f"{student} changes other layers than {students[0]}")


def _as_set(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value
