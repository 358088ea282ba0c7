"""A checkpoint folder or hub id → what is known of a student without its weights.

Whoever has the weights somewhere else, behind a server, needs the student's tokenizer, the ids that
end its texts, and the sizes of its layers, by which its operations are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from plan_tuning.config.model import ModelConfig
from plan_tuning.students.generation.protocol import Vocabulary
from plan_tuning.students.loading import StudentError, base_of_adapter, is_adapter
from plan_tuning.students.templates import end_ids


@dataclass(frozen=True)
class Outline:
    """A student without its weights.

    Args:
        vocabulary: what turns texts into its tokens and back.
        causal_lm: a model of the same shape, without contents.
    """

    vocabulary: Vocabulary
    causal_lm: Any


def load_outline(folder_or_id: str | Path, model: ModelConfig) -> Outline:
    """Read a student as :func:`plan_tuning.students.loading.load_student` does, but no weights.

    Args:
        folder_or_id: a folder with weights, a folder with a peft adapter, or a hub id.
        model: revision, trust.

    Raises:
        StudentError: there is no model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    weights, revision = str(folder_or_id), model.revision
    if is_adapter(Path(folder_or_id)):
        weights, recorded = base_of_adapter(Path(folder_or_id))
        revision = recorded or revision
    trust = model.trust_remote_code
    shared: dict[str, Any] = {"trust_remote_code": trust}
    if revision is not None and not Path(weights).is_dir():
        shared["revision"] = revision
    try:
        if weights == str(folder_or_id):
            tokenizer = AutoTokenizer.from_pretrained(weights, **shared)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder_or_id, trust_remote_code=trust)
        config = AutoConfig.from_pretrained(weights, **shared)
    except OSError as error:
        raise StudentError(
            f"{weights} cannot be read: {error}. Give a folder with config.json and safetensors "
            "weights or a hub id, for example student.path=FOLDER"
        ) from error
    with torch.device("meta"):
        causal_lm = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    try:
        generation: Any = GenerationConfig.from_pretrained(weights, **shared)
    except OSError:  # there is no such file: the model's configuration says it
        generation = causal_lm.generation_config
    return Outline(Vocabulary(tokenizer, end_ids(tokenizer, generation, config)), causal_lm)
