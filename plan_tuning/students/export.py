"""A trained student to a folder that transformers, peft and inference servers load."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.students.image_towers import with_tower
from plan_tuning.students.loading import (
    ADAPTER_FILE,
    Student,
    base_of_adapter,
    is_adapter,
    load_student,
    without_bars,
)

logger = logging.getLogger(__name__)

SERVING = "serving"  # folder of the smaller copy, inside that of the student
# What servers ask for beside a tokenizer; a base that reads text only has none of them.
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)


def export_student(
    student: Student,
    folder: Path,
    *,
    base: Path | str,
    model: ModelConfig,
    adapter: AdapterConfig,
    facts: Mapping[str, Any],
    weights: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write weights or adapter, tokenizer, chat template, generation config and model card.

    Weights keep the precision of the training. With ``adapter.export_dtype`` a smaller copy for
    servers lies in ``serving/`` beside them.

    Args:
        student: the trained student.
        folder: an existing or new folder.
        base: what the student began from.
        model: how it was loaded.
        adapter: which weights were trained.
        facts: how the training went, for the card.
        weights: the whole weights by name, where the student itself holds a part of them only.
        provenance: what the training stands on (method, data, teacher, filter, fingerprints).
    """
    folder.mkdir(parents=True, exist_ok=True)
    has_adapter = hasattr(student.model, "peft_config")
    if has_adapter and _is_merged(base, adapter):
        student = _merged(student, base, model, adapter)
        has_adapter = False
    causal_lm = student.causal_lm
    causal_lm.config.use_cache = True  # switched off for training only
    causal_lm.generation_config.eos_token_id = (
        student.end_ids[0] if len(student.end_ids) == 1 else list(student.end_ids)
    )
    tower = {} if has_adapter else student.tower
    with with_tower(causal_lm, tower):
        if weights and tower:
            seen = {n: t for n, t in causal_lm.state_dict().items() if _is_of(n, tower)}
            weights = {**weights, **seen}
        _write(student, folder, weights, base)
        if has_adapter:
            _record_base(folder, base, student.origin.get("revision") or model.revision)
        if adapter.export_dtype is not None:
            dtype: torch.dtype = getattr(torch, adapter.export_dtype)
            _write_for_serving(student, folder / SERVING, weights, base, dtype)
            if has_adapter:
                revision = student.origin.get("revision") or model.revision
                _record_base(folder / SERVING, base, revision)
    card = _card(student, base, model, adapter, {**(provenance or {}), **facts})
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write(
    student: Student, folder: Path, weights: Mapping[str, Any] | None, base: Path | str
) -> None:
    """Write everything that a loader reads."""
    with without_bars():
        # safetensors is the only format it writes
        student.model.save_pretrained(folder, state_dict=weights and dict(weights))
    student.causal_lm.generation_config.save_pretrained(folder)
    student.tokenizer.save_pretrained(folder)
    sees_images = getattr(student.causal_lm.config, "vision_config", None) is not None
    found = processor_files(base, student.origin.get("revision"), is_asked=sees_images)
    for path in found:
        shutil.copyfile(path, folder / path.name)
    if sees_images and not found:
        logger.warning(
            "no %s beside %s: a server that reads images as well may refuse the student",
            " or ".join(PROCESSOR_FILES[:2]),
            base,
        )


def _write_for_serving(
    student: Student,
    folder: Path,
    weights: Mapping[str, Any] | None,
    base: Path | str,
    dtype: torch.dtype,
) -> None:
    """Write a copy in ``dtype``, for servers that choose their precision by that of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    named = weights if weights is not None else _saved_weights(student)
    rounded: dict[int, Any] = {}  # a tied weight stays tied
    for tensor in named.values():
        if id(tensor) not in rounded:
            is_cast = tensor.is_floating_point()
            rounded[id(tensor)] = tensor.detach().to(dtype) if is_cast else tensor.detach()
    _write(student, folder, {name: rounded[id(t)] for name, t in named.items()}, base)
    path = folder / "config.json"
    if path.is_file():  # transformers writes the precision of the model, not that of the weights
        settings = json.loads(path.read_text(encoding="utf-8"))
        for part in (settings, *(v for v in settings.values() if isinstance(v, dict))):
            if "dtype" in part:
                part["dtype"] = str(dtype).removeprefix("torch.")
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _saved_weights(student: Student) -> dict[str, Any]:
    """What ``save_pretrained`` takes from a student: all weights, or those of its adapter."""
    found = student.model.state_dict(keep_vars=True)
    if not hasattr(student.model, "peft_config"):
        return dict(found)
    return {name: tensor for name, tensor in found.items() if tensor.requires_grad}


def _is_of(name: str, tower: Mapping[str, Any]) -> bool:
    return any(f".{part}." in f".{name}" for part in tower)


def _merged(
    student: Student, base: Path | str, model: ModelConfig, adapter: AdapterConfig
) -> Student:
    """Fold the trained adapter into whole weights, in the precision of the master weights."""
    if not student.is_rounded:
        return replace(student, model=student.model.merge_and_unload())
    # The stored base has lost digits that the master weights have: they are read once more.
    whole = load_student(base, model, for_training=True, adapter=adapter)
    trained = {n: p for n, p in student.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in whole.model.named_parameters():
            if name in trained:
                parameter.copy_(trained[name])
    merged = whole.model.merge_and_unload()
    return replace(student, model=merged, tower=whole.tower, is_rounded=False)


def processor_files(
    base: Path | str, revision: str | None = None, *, is_asked: bool = False
) -> list[Path]:
    """Find the files of a base that say how images are read, which servers load at start.

    Args:
        base: a folder, or a hub id.
        revision: commit of the hub repository.
        is_asked: whether the hub is asked for them, where they are not in its cache.
    """
    folder = Path(base)
    if is_adapter(folder):
        below, commit = base_of_adapter(folder)
        return processor_files(below, commit, is_asked=is_asked)
    if folder.is_dir():
        return [folder / name for name in PROCESSOR_FILES if (folder / name).is_file()]
    if not is_asked:
        return []
    from transformers.utils import cached_file

    found = [
        cached_file(
            str(base),
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        for name in PROCESSOR_FILES
    ]
    return [Path(path) for path in found if path is not None]


def _is_merged(base: Path | str, adapter: AdapterConfig) -> bool:
    """Whether whole weights are written; peft and vLLM load no adapter upon an adapter."""
    if adapter.export == "auto":
        return is_adapter(Path(base))
    return adapter.export == "merged"


def _record_base(folder: Path, base: Path | str, revision: str | None) -> None:
    """Name the base, and its commit, so that peft finds it from any working directory."""
    path = folder / ADAPTER_FILE
    settings = json.loads(path.read_text(encoding="utf-8"))
    local = Path(base)
    settings["base_model_name_or_path"] = str(local.resolve()) if local.is_dir() else str(base)
    settings["revision"] = None if local.is_dir() else revision
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _card(
    student: Student,
    base: Path | str,
    model: ModelConfig,
    adapter: AdapterConfig,
    facts: Mapping[str, Any],
) -> str:
    name = Path(base).name if Path(base).is_dir() else str(base)
    is_adapter = hasattr(student.model, "peft_config")
    library = "peft" if is_adapter else "transformers"
    head = ["---", f"library_name: {library}", "tags: [plan-tuning, sft]"]
    if not Path(base).is_dir():
        head.append(f"base_model: {base}")
    revision = student.origin.get("revision")
    lines = [
        *head,
        "---",
        f"# A plan-tuned {model.name}",
        "",
        "Trained by plan_tuning (PLAN-TUNING, arXiv 2507.07495). `manifest.json`, where it lies "
        "beside this file, holds the whole specification and the versions of all libraries.",
        "",
        "| fact | value |",
        "|---|---|",
        f"| begins from | {name} |",
        *([f"| commit of that | {revision} |"] if revision else []),
        f"| architecture | {student.origin.get('architecture', '')} |",
        f"| trained weights | {adapter.name}{'' if is_adapter else ', exported whole'} |",
    ]
    lines += [
        f"| {key} | {value} |" for key, value in facts.items() if not isinstance(value, list | dict)
    ]
    if is_adapter and Path(base).is_dir():
        lines += [
            "",
            "`adapter_config.json` names the base by its folder on the machine that trained. "
            f"Elsewhere keep `bases/{name}` beside this folder's parent, where plan_tuning looks "
            "for it, or load it by hand: `PeftModel.from_pretrained(AutoModelForCausalLM."
            "from_pretrained(BASE), FOLDER)`. `adapter.export=merged` writes whole weights, which "
            "need no base.",
        ]
    return "\n".join(lines) + "\n"
