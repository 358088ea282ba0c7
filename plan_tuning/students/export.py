"""A trained student to a folder that transformers, peft and inference servers load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.students.loading import ADAPTER_FILE, Student, without_bars


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
        merged = student.model.merge_and_unload()
        student = replace(student, model=merged)
        has_adapter = False
    causal_lm = student.causal_lm
    causal_lm.config.use_cache = True  # switched off for training only
    causal_lm.generation_config.eos_token_id = (
        student.end_ids[0] if len(student.end_ids) == 1 else list(student.end_ids)
    )
    with without_bars():
        # safetensors is the only format it writes
        student.model.save_pretrained(folder, state_dict=weights and dict(weights))
    causal_lm.generation_config.save_pretrained(folder)
    student.tokenizer.save_pretrained(folder)
    if has_adapter:
        _record_base(folder, base, student.origin.get("revision") or model.revision)
    card = _card(student, base, model, adapter, {**(provenance or {}), **facts})
    (folder / "README.md").write_text(card, encoding="utf-8")


def _is_merged(base: Path | str, adapter: AdapterConfig) -> bool:
    """Whether whole weights are written; peft and vLLM load no adapter upon an adapter."""
    if adapter.export == "auto":
        return (Path(base) / ADAPTER_FILE).is_file()
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
