"""A student without weights, for processes that get theirs from the one that has read the files.

Its parameters have shapes and no contents (torch's meta device); buffers are computed as always.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.students import templates
from plan_tuning.students.adapters import wrap
from plan_tuning.students.image_towers import park_tower
from plan_tuning.students.loading import Student, base_of_adapter, is_adapter, without_bars


def load_skeleton(
    folder_or_id: str | Path, model: ModelConfig, *, adapter: AdapterConfig
) -> Student:
    """Make what :func:`load_student` makes for training, with parameters on the meta device.

    Args:
        folder_or_id: weights, an earlier student's adapter, or a hub id; no weights are read.
        model: dtype, attention implementation, revision, trust.
        adapter: which weights are trained.
    """
    from accelerate import init_empty_weights  # which peft brings
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = Path(folder_or_id)
    name: str = str(folder_or_id)
    while is_adapter(source):  # it is merged where the weights are
        name, revision = base_of_adapter(source)
        source, model = Path(name), replace(model, revision=revision or model.revision)
    shared = {"trust_remote_code": model.trust_remote_code}
    pinned = {} if source.is_dir() else {"revision": model.revision}
    with without_bars():
        tokenizer = AutoTokenizer.from_pretrained(
            folder_or_id, **shared, **({} if Path(folder_or_id).is_dir() else pinned)
        )
        config = AutoConfig.from_pretrained(name, **shared, **pinned)
        with init_empty_weights(include_buffers=False):
            loaded = AutoModelForCausalLM.from_config(
                config,
                dtype=getattr(torch, model.dtype),
                attn_implementation=model.attention,
                **shared,
            )
    loaded.tie_weights()
    loaded.eval()
    park_tower(loaded)
    wrapped = wrap(loaded, model, adapter)
    for parameter in wrapped.parameters():  # new adapter weights are drawn elsewhere, too
        parameter.data = parameter.data.to("meta")
    return Student(
        model=wrapped,
        tokenizer=tokenizer,
        end_ids=templates.end_ids(tokenizer, loaded.config),
        turn_end=tuple(templates.turn_end_ids(tokenizer)),
    )
