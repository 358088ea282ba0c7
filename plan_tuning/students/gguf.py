"""A GGUF file to a folder of plain weights, once: from then on a student like any other.

Weights that the file holds in few bits stay rounded as they are: what they mean is written out in
float32, beside the file's own tokenizer and chat template.
"""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

from plan_tuning.config.checks import ConfigError

ROUNDING = "rounding"  # the fact of a base's manifest that says how its weights were stored

_MAGIC = b"GGUF"
_SUFFIX = ".gguf"
_WHOLE = ("F64", "F32", "F16", "BF16")  # types that are no blocks of few bits
# Vocabularies whose texts are split at every digit, by llama.cpp's name for how: transformers
# reads these as GPT-2's, which takes blanks before a digit apart.
_SPLIT_AT_DIGITS = ("smollm",)
_PUBLISHED = {"SmolLM2-135M-Instruct.Q4_1.gguf": "smollm2"}  # what ``plan-tuning fetch`` gets


def file_of(path: str | None) -> Path | None:
    """Name the GGUF file that ``model.path`` is; None for a folder or a hub id.

    Raises:
        ConfigError: there is no such file, or it is one of another kind.
    """
    if path is None:
        return None
    file = Path(path).expanduser()
    if file.is_file():
        with file.open("rb") as opened:
            if opened.read(len(_MAGIC)) == _MAGIC:
                return file
        raise ConfigError(
            "model.path",
            path,
            "a hub id, a folder with safetensors, or a GGUF file, which this file is not",
            "model=path model.path=FILE.gguf",
        )
    if file.suffix.lower() != _SUFFIX:
        return None
    published = _PUBLISHED.get(file.name)
    command = f"plan-tuning fetch {published} --out {file.parent}" if published else ""
    raise ConfigError(
        "model.path",
        path,
        "an existing GGUF file" + (", which one command puts there" if command else ""),
        command or "model=path model.path=FILE.gguf",
    )


def check_reader(file: str | Path) -> None:
    """Refuse a GGUF file where the package that reads it is absent.

    Raises:
        ConfigError: gguf is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(
            "model.path",
            file,
            "a GGUF file is read by the package gguf, which is not installed",
            "pip install 'plan-tuning[gguf]'",
        )


def dequantise(folder: Path, file: Path) -> dict[str, Any]:
    """Write the weights of a GGUF file as float32 safetensors, with tokenizer and chat template.

    Args:
        folder: receives what a pretrained model's folder holds, and a card.
        file: any architecture that transformers reads.

    Returns:
        Plain facts for a manifest: the file, how its weights were rounded, parameters.

    Raises:
        StudentError: transformers cannot read the file.
    """
    check_reader(file)
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from plan_tuning.students.loading import StudentError, without_bars

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        reader = GGUFReader(file)
        counted = stored_types(reader)
        with without_bars():
            tokenizer = AutoTokenizer.from_pretrained(**where)
            # Left packed, the weights could be neither trained nor saved.
            model = AutoModelForCausalLM.from_pretrained(
                **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
            )
    except (ValueError, KeyError, IndexError, RuntimeError) as error:  # of one reader or the other
        raise StudentError(
            f"model.path={file} cannot be dequantised: {error}. Is the file whole?"
        ) from error
    split_as_trained(tokenizer, reader)
    with without_bars():
        model.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {
        "file": file.name,
        ROUNDING: rounding(counted, file.name),
        "bits_per_weight": round(8 * file.stat().st_size / sum(counted.values()), 2),
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "architecture": type(model).__name__,
        "dtype": "float32",
    }
    rows = "".join(f"| {key} | {value} |\n" for key, value in facts.items())
    (folder / "README.md").write_text(
        f"# {file.name}, dequantised\n\nThe weights keep the rounding of that file; written out "
        f"in float32 by plan_tuning.\n\n| fact | value |\n|---|---|\n{rows}",
        encoding="utf-8",
    )
    return facts


_SETTINGS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "sliding_window": "attention.sliding_window",
}


def settings_of(file: Path) -> dict[str, Any]:
    """Read out of a file what ``config.json`` says of a model's widths and counts.

    Returns:
        The settings; nothing where the package gguf, which reads it, is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        return {}
    state = file.stat()
    return _settings(file, state.st_size, state.st_mtime_ns)


@functools.cache
def _settings(file: Path, size: int, mtime_ns: int) -> dict[str, Any]:
    """Read a file once a process, unless it changes: its vocabulary takes seconds."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    family = reader.get_field("general.architecture").contents()
    fields = {key: reader.get_field(f"{family}.{name}") for key, name in _SETTINGS.items()}
    known = {key: field.contents() for key, field in fields.items() if field is not None}
    names = [tensor.name for tensor in reader.tensors]
    return known | {
        "model_type": family,
        "vocab_size": len(reader.get_field("tokenizer.ggml.tokens").data),
        "tie_word_embeddings": "output.weight" not in names,
    }


def split_as_trained(tokenizer: Any, reader: Any) -> None:
    """Split texts before merging as this vocabulary was learned.

    Args:
        tokenizer: a fast one, changed in place.
        reader: of the GGUF file, which names the way of splitting.
    """
    from tokenizers import pre_tokenizers

    named = reader.get_field("tokenizer.ggml.pre")
    if named is not None and named.contents() in _SPLIT_AT_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )


def stored_types(reader: Any) -> Counter[str]:
    """Count a file's weights by the type that they are stored in, such as Q4_1 or F32."""
    counted: Counter[str] = Counter()
    for tensor in reader.tensors:
        counted[tensor.tensor_type.name] += int(tensor.n_elements)
    return counted


def rounding(counted: Counter[str], name: str) -> str:
    """Say in words what weights went through that were stored in these types.

    >>> rounding(Counter({"Q4_1": 790, "Q8_0": 200, "F32": 10}), "a.gguf")
    'rounded in a.gguf: 79.0 % of the weights as Q4_1, 20.0 % as Q8_0; 1.0 % F32 are not rounded'
    >>> rounding(Counter({"F16": 4}), "b.gguf")
    'as stored in b.gguf: 100.0 % F16'
    """
    total = sum(counted.values())
    shares = [(kind, f"{100 * count / total:.1f} %") for kind, count in counted.most_common()]
    rounded = [(share, kind) for kind, share in shares if kind not in _WHOLE]
    whole = ", ".join(f"{share} {kind}" for kind, share in shares if kind in _WHOLE)
    if not rounded:
        return f"as stored in {name}: {whole}"
    first, *more = rounded
    listed = [f"{first[0]} of the weights as {first[1]}", *(f"{s} as {kind}" for s, kind in more)]
    kept = f"; {whole} are not rounded" if whole else ""
    return f"rounded in {name}: {', '.join(listed)}{kept}"
