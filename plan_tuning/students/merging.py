"""Finished students to one: every weight is combined from theirs, in float64."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from plan_tuning.config.merge import MergeConfig
from plan_tuning.students.loading import StudentError, is_adapter
from plan_tuning.students.merge_rules import Rule

Combine = Callable[[Sequence[torch.Tensor], Sequence[float]], torch.Tensor]
"""From one weight of every student (float64, of one shape) and their shares to the merged one."""

_WEIGHTS = "*.safetensors"
_COPIED = ("config.json", "generation_config.json", "chat_template.jinja", "*.index.json",
           "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
           "preprocessor_config.json", "processor_config.json")  # fmt: skip


def linear(tensors: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """Average: the sum of the students' weights times their shares (Wortsman et al. 2022).

    >>> linear([torch.tensor([0.0, 2.0]), torch.tensor([4.0, 2.0])], [0.75, 0.25]).tolist()
    [1.0, 2.0]
    """
    total = torch.zeros_like(tensors[0])
    for tensor, share in zip(tensors, shares, strict=True):
        total += share * tensor
    return total


def merge_students(
    folder: Path, students: Sequence[Path], shares: Sequence[float], combine: Combine
) -> dict[str, Any]:
    """Write the merged student: weights in the first one's precision, the rest as the first has it.

    Weights are read one by one, so that no more than one file of them is held at a time.

    Args:
        folder: receives it.
        students: folders of whole weights.
        shares: of the students, summing to 1.
        combine: see :data:`Combine`.

    Returns:
        Facts: how many students and parameters.

    Raises:
        StudentError: one is an adapter, has no weights here, or does not fit the first one.
    """
    return _merge(folder, students, lambda name, tensors: combine(tensors, shares))


def merge_differences(
    folder: Path,
    students: Sequence[Path],
    base: Path,
    shares: Sequence[float],
    knobs: MergeConfig,
    rule: Rule,
) -> dict[str, Any]:
    """Write the base plus the merged differences of the students to it, as above.

    Args:
        folder: receives it.
        students: folders of whole weights.
        base: folder of the weights that all of them began from.
        shares: of the students, summing to 1.
        knobs: what the rule reads.
        rule: from the differences (float64) of one weight to the merged one.

    Returns:
        Facts: how many students and parameters.

    Raises:
        StudentError: as above, or the base lacks a weight of theirs.
    """
    known = _files_of(base)

    def combine(name: str, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        if name not in known:
            raise StudentError(f"{base} has no weight {name}: it is not the base of {students[0]}")
        own = _read(known[name], name).double()
        if own.shape != tensors[0].shape:
            raise StudentError(f"{name} has another shape in {base} than in {students[0]}")
        return own + rule([tensor - own for tensor in tensors], shares, knobs, name)

    return _merge(folder, students, combine)


def weights_folder(source: Path | str, revision: str | None) -> Path:
    """The folder of a model's weights: a hub id is looked up in the cache, or fetched."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    patterns = [_WEIGHTS, "*.json"]
    return Path(snapshot_download(str(source), revision=revision, allow_patterns=patterns))


def _merge(
    folder: Path,
    students: Sequence[Path],
    combine: Callable[[str, Sequence[torch.Tensor]], torch.Tensor],
) -> dict[str, Any]:
    files = [_files_of(student) for student in students]
    _check_fit(students, files)
    first = files[0]
    count = 0
    for file in dict.fromkeys(first.values()):
        merged = {}
        for name in [name for name, of in first.items() if of == file]:
            tensors = [_read(found[name], name) for found in files]
            merged[name] = _combined(name, tensors, combine)
            count += merged[name].numel()
        save_file(merged, folder / file.name, metadata={"format": "pt"})
    for pattern in _COPIED:
        for path in students[0].glob(pattern):
            shutil.copyfile(path, folder / path.name)
    return {"students": len(students), "parameters": count}


def _files_of(student: Path) -> dict[str, Path]:
    """Find the file of every weight.

    Raises:
        StudentError: the folder holds an adapter, or no weights.
    """
    if is_adapter(student):
        raise StudentError(
            f"{student} is an adapter, whose factors cannot be combined in this way, or beside "
            "whole weights: merge adapters alone (merge=linear), or train it again with "
            "adapter.export=merged, which writes whole weights, and merge those"
        )
    found: dict[str, Path] = {}
    for file in sorted(student.glob(_WEIGHTS)):
        with safe_open(file, framework="pt") as weights:
            found |= dict.fromkeys(weights.keys(), file)
    if not found:
        raise StudentError(f"{student} holds no weights ({_WEIGHTS}): give a finished student")
    return found


def _check_fit(students: Sequence[Path], files: Sequence[Mapping[str, Path]]) -> None:
    """Refuse students of different models or vocabularies."""
    for student, found in zip(students, files, strict=True):
        other = sorted(set(found) ^ set(files[0]))
        if other:
            raise StudentError(
                f"{student} is another model than {students[0]}: {len(other)} weights are in one "
                f"of them only, for example {other[0]}"
            )
        words = [folder / "tokenizer.json" for folder in (students[0], student)]
        if all(path.is_file() for path in words) and len({p.read_bytes() for p in words}) > 1:
            raise StudentError(
                f"{student} has another vocabulary than {students[0]}: their weights mean "
                "different words"
            )


def _read(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as weights:
        tensor: torch.Tensor = weights.get_tensor(name)
    return tensor


def _combined(
    name: str,
    tensors: Sequence[torch.Tensor],
    combine: Callable[[str, Sequence[torch.Tensor]], torch.Tensor],
) -> torch.Tensor:
    first = tensors[0]
    if any(tensor.shape != first.shape for tensor in tensors):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise StudentError(f"the weight {name} has different shapes: {shapes}")
    if not first.is_floating_point():
        if any(not torch.equal(tensor, first) for tensor in tensors):
            raise StudentError(f"{name} is no number that can be averaged, and differs")
        return first
    merged = combine(name, [tensor.double() for tensor in tensors])
    if merged.shape != first.shape:
        raise StudentError(f"the merge gives {name} the shape {tuple(merged.shape)}")
    return merged.to(first.dtype).contiguous()
