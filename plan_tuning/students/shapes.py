"""A model's name to its shape: how many layers of which widths, without loading a weight.

A shape is what the memory of a pass is computed from. It comes from ``config.json`` of the model's
folder, of the Hub's cache on this machine or of the Hub itself (a few kilobytes, asked for with a
short timeout); where none of them can be reached, from the table of published shapes below.
"""

from __future__ import annotations

import functools
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from plan_tuning.config.model import MicroModelConfig, ModelConfig
from plan_tuning.students import gguf

_TIMEOUT_S = 3.0  # for the few kilobytes of a config.json
_TINY_VOCABULARY = 1024
GGUF = ".gguf"
TABLE = "table"  # where a shape came from: nothing of the model itself was read


@dataclass(frozen=True)
class Shape:
    """Widths and counts of a decoder of transformers: what its memory depends on.

    Args:
        family: llama, qwen3 or gemma3: which norms a layer has.
        width: of the hidden states.
        inner: of the feed-forward layer.
        layers: decoder layers.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        vocabulary: rows of the embedding.
        is_tied: the output layer is the embedding.
        window: tokens that a sliding layer sees; None: there is none.
        sliding_layers: layers that see a window only.
    """

    family: str
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    is_tied: bool
    window: int | None = None
    sliding_layers: int = 0

    @property
    def query(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of all key heads together, and of the value heads."""
        return self.kv_heads * self.head_dim

    @property
    def has_head_norms(self) -> bool:
        """Whether queries and keys are normalised head by head."""
        return self.family in ("qwen3", "gemma3")

    @property
    def norms(self) -> int:
        """Norms of a layer over the hidden states."""
        return 4 if self.family == "gemma3" else 2

    @property
    def linear_weights(self) -> int:
        """Weights of a layer's seven matrices: four of attention, three of the feed-forward."""
        attention = 2 * self.width * self.query + 2 * self.width * self.key
        return attention + 3 * self.width * self.inner

    @property
    def linear_sides(self) -> int:
        """Inputs and outputs of a layer's seven matrices: LoRA's weights at rank 1."""
        attention = 4 * self.width + 2 * self.query + 2 * self.key
        return attention + 3 * (self.width + self.inner)

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and of the output layer."""
        return self.vocabulary * self.width

    @property
    def tables(self) -> int:
        """Weights of embedding and output layer together; tied ones count once."""
        return self.embedding * (1 if self.is_tied else 2)

    @property
    def matrices(self) -> int:
        """Weights that inputs are multiplied with: those of all layers and the output layer."""
        return self.layers * self.linear_weights + self.embedding

    @property
    def parameters(self) -> int:
        """All weights of the language model; a tied output layer counts once."""
        norms = self.norms * self.width + (2 * self.head_dim if self.has_head_norms else 0)
        return self.layers * (self.linear_weights + norms) + self.width + self.tables


def _qwen3(width: int, inner: int, layers: int, heads: int, *, is_tied: bool = True) -> Shape:
    return Shape("qwen3", width, inner, layers, heads, 8, 128, 151_936, is_tied)


def _gemma3(
    width: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int, window: int
) -> Shape:
    sliding = layers - layers // 6  # five of six layers
    return Shape(
        "gemma3", width, inner, layers, heads, kv_heads, 256, vocabulary, True, window, sliding
    )


# As published in config.json of each repository's main branch: the widths that the technical
# reports of Qwen3 (arXiv 2505.09388, table 1), Gemma 3 (arXiv 2503.19786, tables 1 and 2, language
# model), and the model cards of Llama 3.2 and SmolLM2 (arXiv 2502.02737) count parameters of.
PUBLISHED: dict[str, Shape] = {
    "Qwen/Qwen3-0.6B": _qwen3(1024, 3072, 28, 16),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 6144, 28, 16),
    "Qwen/Qwen3-4B": _qwen3(2560, 9728, 36, 32),
    "Qwen/Qwen3-8B": _qwen3(4096, 12_288, 36, 32, is_tied=False),
    "google/gemma-3-1b-it": _gemma3(1152, 6912, 26, 4, 1, 262_144, 512),
    "google/gemma-3-4b-it": _gemma3(2560, 10_240, 34, 8, 4, 262_208, 1024),
    "google/gemma-3-12b-it": _gemma3(3840, 15_360, 48, 16, 8, 262_208, 1024),
    "meta-llama/Llama-3.2-1B-Instruct": Shape(
        "llama", 2048, 8192, 16, 32, 8, 64, 128_256, True
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape(
        "llama", 576, 1536, 30, 9, 3, 64, 49_152, True
    ),
    "HuggingFaceTB/SmolLM2-360M-Instruct": Shape(
        "llama", 960, 2560, 32, 15, 5, 64, 49_152, True
    ),
}  # fmt: skip


def shape_of(model: ModelConfig) -> tuple[Shape, str] | None:
    """Find a model's shape, and where it was found.

    Args:
        model: a preset, a folder or a Hub id; models that are made here are known without a file.

    Returns:
        The shape, and ``config.json of PLACE``, a file's name, ``made here`` or ``table``; None
        where nothing says how the model is built, or where it is of an unknown kind.
    """
    if model.kind != "pretrained":
        return _made_here(model), "made here"
    source = str(model.path)
    folder = Path(source).expanduser()
    if folder.is_dir():
        base = _base_of_adapter(folder)
        if base is not None:
            return shape_of(replace(model, path=base, revision=None))
        found = _read_folder(folder)
        return None if found is None else (found, f"config.json of {folder.name}")
    if folder.is_file():
        found = parse_shape(gguf.settings_of(folder))
        return None if found is None else (found, folder.name)
    if source.endswith(GGUF):  # a file of published weights bears their repository's name
        return next(
            ((shape, TABLE) for name, shape in PUBLISHED.items()
             if folder.name.startswith(f"{name.rpartition('/')[2]}.")),
            None,
        )  # fmt: skip
    settings = _published_settings(source, model.revision)
    found = None if settings is None else parse_shape(settings)
    if found is not None:
        return found, f"config.json of {source}"
    return (PUBLISHED[source], TABLE) if source in PUBLISHED else None


def parse_shape(settings: Mapping[str, Any]) -> Shape | None:
    """Read the shape out of a ``config.json``; None for a family that is not known here.

    Of a model with an image tower the language model counts.

    Args:
        settings: what stands in the file.
    """
    text = settings.get("text_config") or settings
    family = _family(str(text.get("model_type", settings.get("model_type", ""))))
    # Gemma 3's larger models leave values out that are the defaults of their configuration class.
    defaults = _GEMMA3_DEFAULTS if family == "gemma3" else {}
    known = {**defaults, **text}
    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    if family is None or any(key not in known for key in (*needed, "vocab_size")):
        return None
    width, heads, layers = (int(known[key]) for key in (needed[0], needed[3], needed[2]))
    window, sliding = known.get("sliding_window"), 0
    if window is not None and known.get("layer_types"):
        sliding = list(known["layer_types"]).count("sliding_attention")
    elif window is not None and family == "gemma3":
        sliding = layers - layers // int(known["sliding_window_pattern"])
    return Shape(
        family=family,
        width=width,
        inner=int(known["intermediate_size"]),
        layers=layers,
        heads=heads,
        kv_heads=int(known.get("num_key_value_heads") or heads),
        head_dim=int(known.get("head_dim") or width // heads),
        vocabulary=int(known["vocab_size"]),
        is_tied=bool(settings.get("tie_word_embeddings", family == "gemma3")),
        window=int(window) if window is not None and sliding else None,
        sliding_layers=sliding,
    )


_GEMMA3_DEFAULTS = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window_pattern": 6,
}


def _family(model_type: str) -> str | None:
    """Say which of the known layers a model is made of."""
    if model_type in ("llama", "mistral", "qwen2"):
        return "llama"
    if model_type in ("gemma3", "gemma3_text"):
        return "gemma3"
    return "qwen3" if model_type == "qwen3" else None


def _made_here(model: ModelConfig) -> Shape:
    """The shapes of :mod:`plan_tuning.students.micro` and :mod:`plan_tuning.students.tiny`."""
    if isinstance(model, MicroModelConfig):
        from plan_tuning.tasks.microworld_text import vocabulary

        world, base = model.world, model.base
        words = vocabulary(
            num_names=world.num_names, max_value=world.max_value, max_operand=world.max_operand
        )
        return Shape(
            "qwen3", base.hidden_size, base.intermediate_size, base.num_layers, base.num_heads,
            base.num_heads, base.head_dim, len(words), True, base.sliding_window, 1,
        )  # fmt: skip
    is_tied, window = model.family != "llama", 16 if model.family == "gemma3" else None
    return Shape(
        model.family, 64, 128, 2, 4, 2, 16, _TINY_VOCABULARY, is_tied, window, int(bool(window))
    )


def _read_folder(folder: Path) -> Shape | None:
    """Read the shape of a folder of weights."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    settings: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return parse_shape(settings)


def _base_of_adapter(folder: Path) -> str | None:
    """The folder or Hub id that an adapter belongs to; None for a folder of whole weights."""
    file = folder / "adapter_config.json"
    if not file.is_file() or (folder / "config.json").is_file():
        return None
    base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    return str(base) if base else None


def is_published_rounded(model: ModelConfig) -> bool:
    """Whether a model's weights lie in bfloat16, as far as their place tells.

    Args:
        model: a preset, a folder or a Hub id.
    """
    source = str(model.path)
    if model.kind != "pretrained" or source.endswith(GGUF):
        return False
    file = Path(source).expanduser() / "config.json"
    if not file.is_file():
        return not Path(source).expanduser().exists()  # published ones are, on the Hub
    settings = json.loads(file.read_text(encoding="utf-8"))
    return "bfloat16" in (settings.get("dtype"), settings.get("torch_dtype"))


@functools.cache
def _published_settings(source: str, revision: str | None) -> Mapping[str, Any] | None:
    """Find ``config.json`` of a Hub id: in the cache of this machine, or on the Hub."""
    from huggingface_hub import constants, get_token, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(source, "config.json", revision=revision)
    except HFValidationError:  # a folder that is not there, and no id
        return None
    if isinstance(cached, str):
        found: Mapping[str, Any] = json.loads(Path(cached).read_text(encoding="utf-8"))
        return found
    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE") or not _hub_answers():
        return None
    address = f"{constants.ENDPOINT}/{source}/resolve/{revision or 'main'}/config.json"
    token = get_token()
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        settings: Mapping[str, Any] = json.loads(_fetched(address, headers))
    except (OSError, ValueError):  # a gated repository, no such file, no connection
        return None
    return settings


@functools.cache
def _hub_answers() -> bool:
    """Try the Hub once a process: where it cannot be reached, no model waits for it again."""
    from huggingface_hub import constants

    try:
        _fetched(constants.ENDPOINT, {}, method="HEAD")
    except urllib.error.HTTPError:  # an answer all the same
        return True
    except OSError:
        return False
    return True


class _OwnHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but tells the Hub's token to no other address than the Hub's."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Leave the token out where scheme, host or port are others."""
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        if found is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            found.remove_header("Authorization")
        return found


def _fetched(address: str, headers: Mapping[str, str], method: str = "GET") -> bytes:
    request = urllib.request.Request(address, headers=dict(headers), method=method)
    with urllib.request.build_opener(_OwnHost).open(request, timeout=_TIMEOUT_S) as reply:
        body: bytes = reply.read()
    return body
