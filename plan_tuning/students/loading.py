"""A checkpoint folder or hub id to a student: model, tokenizer and the ids that end its texts."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.students import templates
from plan_tuning.students.adapters import merge_rounding_once, quiet_peft, wrap
from plan_tuning.students.image_towers import park_tower
from plan_tuning.students.memory import keep_freed_memory
from plan_tuning.students.rounding import as_float32, round_frozen

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
    tower: dict[str, Any] = field(default_factory=dict)  # image modules that text has no use for
    is_rounded: bool = False  # frozen weights hold what bfloat16 has, see students/rounding.py

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
    rounds_base: bool = False,
) -> Student:
    """Load weights or an adapter folder; weights come from safetensors only.

    They are read into the machine's memory in the precision in which they are used, and moved to
    the device last.

    Args:
        folder_or_id: a folder with weights, a folder with a peft adapter (its base is recorded in
            it), or a hub id.
        model: dtype, attention implementation, revision, trust.
        device: cpu, cuda or cuda:N.
        for_training: keep an adapter trainable and wrap a new one around plain weights when
            ``adapter`` asks for it; an earlier student's adapter is merged first.
        adapter: which weights are trained; only read for training.
        rounds_base: let frozen weights beside an adapter hold what a bfloat16 pass reads of them,
            in it or in float32 (``adapter.base_dtype``); only read for training, and only with
            ``model.dtype=float32``.

    Raises:
        StudentError: the folder does not exist or holds neither weights nor an adapter.
    """
    if device == "cpu":
        keep_freed_memory()
    folder = Path(folder_or_id)
    adapter = adapter or AdapterConfig()
    is_four_bits = for_training and adapter.name == "qlora"
    is_rounded = for_training and rounds_base and model.dtype == "float32"
    is_wide = adapter.base_dtype == "float32"
    if is_four_bits:
        check_four_bits()
        check_quantisable(folder)
    if is_adapter(folder):
        loaded, tokenizer, origin = _load_adapter(folder, model)
        if for_training:
            loaded = loaded.merge_and_unload()
        else:
            loaded.requires_grad_(False)
    else:
        keeps = is_rounded and not is_wide and is_stored_rounded(folder_or_id, model)
        dtype = torch.bfloat16 if keeps else None
        loaded, tokenizer, origin = _load_weights(
            str(folder_or_id), model, dtype, is_four_bits=is_four_bits
        )
    tower = park_tower(loaded)
    if is_four_bits:
        tower = {}  # its student is an adapter, and the card needs the room
    if for_training:
        with as_float32(loaded) if is_rounded else nullcontext():
            loaded = wrap(loaded, model, adapter)
        if is_rounded:
            round_frozen(loaded, is_wide=is_wide)
    else:
        loaded.eval()
    if not is_four_bits:
        loaded.to(device)
    generation = getattr(loaded, "generation_config", None)
    return Student(
        model=loaded,
        tokenizer=tokenizer,
        end_ids=templates.end_ids(tokenizer, generation, loaded.config),
        turn_end=tuple(templates.turn_end_ids(tokenizer)),
        origin=origin,
        tower=tower,
        is_rounded=is_rounded,
    )


def load_for_inference(
    folder_or_id: str | Path, model: ModelConfig, *, device: str = "cpu", waits: bool = False
) -> Student:
    """Load a student so that inference is as cheap as it can be: merged, and bfloat16 on CUDA.

    A token's cost on a card is that of reading the weights once, so half the bytes are half the
    time; on a CPU bfloat16 is slow, and the weights stay as they are. An adapter is merged in
    float32 and rounded once, in the machine's memory.

    Args:
        folder_or_id: weights, an adapter or a hub id.
        model: how they are loaded.
        device: where it shall compute: cpu, cuda or cuda:N.
        waits: leave it in the machine's memory, in the precision of that device.

    Raises:
        StudentError: the folder does not exist or holds neither weights nor an adapter.
    """
    dtype, place = inference_dtype(device), "cpu" if waits else device
    if dtype is None:
        found = merge_for_inference(load_student(folder_or_id, model))
        found.model.to(place)
        return found
    folder = Path(folder_or_id)
    if is_adapter(folder):
        base, _ = base_of_adapter(folder)
        keeps = not is_adapter(Path(base)) and is_stored_rounded(base, model)
        loaded, tokenizer, origin = _load_adapter(folder, model, dtype if keeps else None)
        loaded = merge_rounding_once(loaded, dtype)
    else:
        loaded, tokenizer, origin = _load_weights(str(folder_or_id), model, dtype)
    park_tower(loaded)
    cast_weights(loaded, dtype)
    loaded.requires_grad_(False)
    loaded.eval().to(place)
    return Student(
        model=loaded,
        tokenizer=tokenizer,
        end_ids=templates.end_ids(tokenizer, loaded.generation_config, loaded.config),
        turn_end=tuple(templates.turn_end_ids(tokenizer)),
        origin=origin,
    )


def inference_dtype(device: str) -> torch.dtype | None:
    """Choose the precision of inference; None: that of the stored weights."""
    return torch.bfloat16 if device.startswith("cuda") and has_bfloat16() else None


def has_bfloat16() -> bool:
    """Whether a card computes in bfloat16 by itself: older ones, a T4 for instance, emulate it."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a peft adapter."""
    return (folder / ADAPTER_FILE).is_file()


def is_stored_rounded(source: str | Path, model: ModelConfig) -> bool:
    """Whether the weights lie in bfloat16 where they come from, so that nothing is lost in it.

    Args:
        source: a folder or hub id.
        model: its revision, and whether its code is trusted.

    Raises:
        StudentError: there is no model.
    """
    from transformers import AutoConfig

    _require_config(Path(source))
    try:
        config = AutoConfig.from_pretrained(str(source), **_shared(str(source), model))
    except OSError as error:
        raise _cannot_be_loaded(str(source), error) from error
    return str(getattr(config, "dtype", None)).removeprefix("torch.") == "bfloat16"


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
    return replace(student, model=merged)


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


def check_quantisable(folder: Path) -> None:
    """Refuse to load an adapter's folder in four bits.

    Raises:
        StudentError: it is one.
    """
    if is_adapter(folder):
        raise StudentError(
            f"{folder} is an adapter, and 4-bit weights cannot take it up: begin from a folder "
            "of merged weights, or use adapter=lora"
        )


def _shared(source: str, model: ModelConfig) -> dict[str, Any]:
    """What every loader of transformers is told."""
    shared: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if model.revision is not None and not Path(source).is_dir():
        shared["revision"] = model.revision
    return shared


def _require_config(folder: Path) -> None:
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise StudentError(
            f"{folder} is no student: neither config.json nor {ADAPTER_FILE} is in it. "
            "Give the folder that a finished training wrote, for example student.path=FOLDER"
        )


def _cannot_be_loaded(source: str, error: OSError) -> StudentError:
    return StudentError(
        f"model.path={source} cannot be loaded: {error}. Give a folder with config.json and "
        "safetensors weights or a hub id, for example model.path=Qwen/Qwen3-0.6B"
    )


def _load_weights(
    source: str,
    model: ModelConfig,
    dtype: torch.dtype | None = None,
    *,
    is_four_bits: bool = False,
) -> tuple[Any, Any, dict[str, Any]]:
    """Read weights into the machine's memory; ``dtype`` None: as ``model.dtype`` says."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(source)
    _require_config(folder)
    is_local = folder.is_dir()
    shared = _shared(source, model)
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
                dtype=dtype or getattr(torch, model.dtype),
                attn_implementation=model.attention,
                use_safetensors=True,
                **quantised,
                **shared,
            )
    except OSError as error:
        raise _cannot_be_loaded(source, error) from error
    origin = {
        "base": str(folder.resolve()) if is_local else source,
        "revision": None if is_local else getattr(loaded.config, "_commit_hash", model.revision),
        "architecture": type(loaded).__name__,
        "parameters": sum(p.numel() for p in loaded.parameters()),
    }
    return loaded, tokenizer, origin


def _load_adapter(
    folder: Path, model: ModelConfig, dtype: torch.dtype | None = None
) -> tuple[Any, Any, dict[str, Any]]:
    from peft import PeftModel
    from transformers import AutoTokenizer

    base, revision = base_of_adapter(folder)
    if revision is not None:  # what the hub holds today may not be what the adapter belongs to
        model = replace(model, revision=revision)
    if is_adapter(Path(base)):  # trained on from an earlier student
        earlier, _, origin = _load_adapter(Path(base), model)
        loaded = earlier.merge_and_unload()
    else:
        loaded, _, origin = _load_weights(base, model, dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    with quiet_peft():
        wrapped = PeftModel.from_pretrained(loaded, folder, torch_device="cpu")
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
    around = folder.resolve().parents  # an adapter of a routed student lies two folders deeper
    kinds = ("bases", "students")
    places = [around[n] / kind / Path(recorded).name for n in (1, 3) for kind in kinds]
    for moved in places:
        if moved.is_dir():
            return str(moved), None
    raise StudentError(
        f"the adapter in {folder} belongs to the base {recorded}, a folder of the machine that "
        f"trained it, which is not there. Copy it to {places[0]}, or correct "
        f"base_model_name_or_path in {folder / ADAPTER_FILE}; a student trained with "
        "adapter.export=merged needs no base"
    )
