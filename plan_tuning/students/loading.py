"""A checkpoint folder or hub id to a student: model, tokenizer and the ids that end its texts."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.students import templates
from plan_tuning.students.adapters import quiet_peft, wrap
from plan_tuning.students.memory import keep_freed_memory

logger = logging.getLogger(__name__)

ADAPTER_FILE = "adapter_config.json"


class StudentError(ValueError):
    """A student cannot be loaded."""


@dataclass
class Student:
    """A small language model with everything that inference and training need."""

    model: Any  # PreTrainedModel, or PeftModel around one
    tokenizer: Any
    end_ids: tuple[int, ...]  # every id that ends a generation
    turn_end: tuple[int, ...]  # what stands behind a completion in training
    origin: dict[str, Any] = field(default_factory=dict)  # base, revision, architecture, parameters

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def causal_lm(self) -> Any:
        """The model of transformers, with adapter layers inside where there are any."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def pad_id(self) -> int:
        """Fills batches; masked everywhere, so any id would do."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else self.end_ids[0]


def load_student(
    folder_or_id: str | Path,
    model: ModelConfig,
    *,
    device: str = "cpu",
    for_training: bool = False,
    adapter: AdapterConfig | None = None,
) -> Student:
    """Load weights or an adapter folder; weights come from safetensors only.

    Args:
        folder_or_id: a folder with weights, a folder with a peft adapter (its base is recorded in
            it), or a hub id.
        model: dtype, attention implementation, revision, trust.
        device: cpu, cuda or cuda:N.
        for_training: keep an adapter trainable and wrap a new one around plain weights when
            ``adapter`` asks for it; an earlier student's adapter is merged first.
        adapter: which weights are trained; only read for training.

    Raises:
        StudentError: the folder does not exist or holds neither weights nor an adapter.
    """
    if device == "cpu":
        keep_freed_memory()
    folder = Path(folder_or_id)
    adapter = adapter or AdapterConfig()
    is_adapter = folder.is_dir() and (folder / ADAPTER_FILE).is_file()
    if for_training and adapter.name == "qlora":
        check_four_bits()
        if is_adapter:
            raise StudentError(
                f"{folder} is an adapter, and 4-bit weights cannot take it up: begin from a folder "
                "of merged weights, or use adapter=lora"
            )
        loaded, tokenizer, origin = _load_weights(
            str(folder_or_id), model, device, is_four_bits=True
        )
    elif is_adapter:
        loaded, tokenizer, origin = _load_adapter(folder, model, device)
        if for_training:
            loaded = loaded.merge_and_unload()
        else:
            loaded.requires_grad_(False)
    else:
        loaded, tokenizer, origin = _load_weights(str(folder_or_id), model, device)
    if for_training:
        loaded = wrap(loaded, model, adapter)
    else:
        loaded.eval()
    generation = getattr(loaded, "generation_config", None)
    return Student(
        model=loaded,
        tokenizer=tokenizer,
        end_ids=templates.end_ids(tokenizer, generation, loaded.config),
        turn_end=tuple(templates.turn_end_ids(tokenizer)),
        origin=origin,
    )


@contextmanager
def without_bars() -> Iterator[None]:
    """Silence the bars that transformers draws for every file of weights."""
    from transformers.utils import logging as transformers_logging

    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bar:
            transformers_logging.enable_progress_bar()


def merge_for_inference(student: Student) -> Student:
    """Fold a frozen adapter into its weights, which saves its extra layers at every token."""
    if not hasattr(student.model, "peft_config"):
        return student
    merged = student.model.merge_and_unload()
    merged.eval()
    return Student(merged, student.tokenizer, student.end_ids, student.turn_end, student.origin)


def for_inference(student: Student) -> Student:
    """Make inference as cheap as it can be: adapters merged, and bfloat16 on CUDA.

    A token's cost on a card is that of reading the weights once, so half the bytes are half the
    time; on a CPU bfloat16 is slow, and the weights stay as they are.
    """
    merged = merge_for_inference(student)
    if merged.device.type == "cuda" and torch.cuda.is_bf16_supported():
        cast_weights(merged.model, torch.bfloat16)
    return merged


def cast_weights(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Change the precision of all floating-point weights in place, and of nothing else.

    The frequencies of rotary embeddings are buffers: in bfloat16 they would turn far positions by
    whole radians.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def check_four_bits() -> None:
    """Refuse ``adapter=qlora`` where it cannot work.

    Raises:
        ConfigError: there is no CUDA device, or bitsandbytes is not installed.
    """
    if not torch.cuda.is_available():
        raise ConfigError(
            "adapter", "qlora", "4-bit base weights need a CUDA device", "adapter=lora"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "adapter",
            "qlora",
            "4-bit base weights need bitsandbytes: pip install 'plan-tuning[qlora]'",
            "adapter=lora",
        )


def _load_weights(
    source: str, model: ModelConfig, device: str, *, is_four_bits: bool = False
) -> tuple[Any, Any, dict[str, Any]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(source)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise StudentError(
            f"{folder} is no student: neither config.json nor {ADAPTER_FILE} is in it. "
            "Give the folder that a finished training wrote, for example student.path=FOLDER"
        )
    is_local = folder.is_dir()
    shared: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if model.revision is not None and not is_local:
        shared["revision"] = model.revision
    quantised: dict[str, Any] = {}
    if is_four_bits:
        from transformers import BitsAndBytesConfig

        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        quantised = {
            "quantization_config": settings,
            "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))},
        }
    try:
        with without_bars():
            tokenizer = AutoTokenizer.from_pretrained(source, **shared)
            loaded = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=getattr(torch, model.dtype),
                attn_implementation=model.attention,
                use_safetensors=True,
                **quantised,
                **shared,
            )
    except OSError as error:
        raise StudentError(
            f"model.path={source} cannot be loaded: {error}. Give a folder with config.json and "
            "safetensors weights or a hub id, for example model.path=Qwen/Qwen3-0.6B"
        ) from error
    if not is_four_bits:
        loaded.to(device)
    origin = {
        "base": str(folder.resolve()) if is_local else source,
        "revision": None if is_local else getattr(loaded.config, "_commit_hash", model.revision),
        "architecture": type(loaded).__name__,
        "parameters": sum(p.numel() for p in loaded.parameters()),
    }
    return loaded, tokenizer, origin


def _load_adapter(folder: Path, model: ModelConfig, device: str) -> tuple[Any, Any, dict[str, Any]]:
    from peft import PeftModel
    from transformers import AutoTokenizer

    base, revision = base_of_adapter(folder)
    if revision is not None:  # what the hub holds today may not be what the adapter belongs to
        model = replace(model, revision=revision)
    if (Path(base) / ADAPTER_FILE).is_file():  # trained on from an earlier student
        earlier, _, origin = _load_adapter(Path(base), model, device)
        loaded = earlier.merge_and_unload()
    else:
        loaded, _, origin = _load_weights(base, model, device)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    with quiet_peft():
        wrapped = PeftModel.from_pretrained(loaded, folder, torch_device=device)
    return wrapped, tokenizer, {**origin, "adapter": str(folder.resolve())}


def base_of_adapter(folder: Path) -> tuple[str, str | None]:
    """Name the base of an adapter folder, a hub id or a folder, and its commit where recorded.

    Artifacts may have been moved together since the adapter was written; the base is then looked
    for by name among the artifacts around ``folder``.

    Raises:
        StudentError: the recorded base is a folder that is nowhere to be found.
    """
    settings = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
    recorded = str(settings["base_model_name_or_path"])
    if not Path(recorded).is_absolute() or Path(recorded).is_dir():
        return recorded, settings.get("revision")
    around = folder.resolve().parent.parent
    places = [around / kind / Path(recorded).name for kind in ("bases", "students")]
    for moved in places:
        if moved.is_dir():
            return str(moved), None
    raise StudentError(
        f"the adapter in {folder} belongs to the base {recorded}, a folder of the machine that "
        f"trained it, which is not there. Copy it to {places[0]}, or correct "
        f"base_model_name_or_path in {folder / ADAPTER_FILE}; a student trained with "
        "adapter.export=merged needs no base"
    )
