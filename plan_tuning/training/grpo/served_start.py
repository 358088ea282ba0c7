"""The start of a training as a server can hold it, and how a server that would do is started."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from plan_tuning.config.evaluation import VLLMConfig
from plan_tuning.config.grpo import RolloutServerConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.students.export import export_student
from plan_tuning.students.footprint import FLOAT, cache_bytes
from plan_tuning.students.generation.protocol import EngineError, Vocabulary
from plan_tuning.students.generation.token_server import TokenServer
from plan_tuning.students.generation.vllm_server import (
    LORA_ENVIRONMENT,
    Serving,
    VLLMServer,
    lora_options,
)
from plan_tuning.students.loading import (
    inference_dtype,
    is_adapter,
    load_student,
    merge_for_inference,
)
from plan_tuning.students.shapes import shape_of
from plan_tuning.training.grpo.rollout_server import Address, Open

SHARED_MEMORY = Path("/dev/shm")
_LENGTHS = 256  # tokens that the longest row of a server is a multiple of
_GIB = 2**30
_PLAIN_CACHE = 4 * _GIB  # on a CPU, of a model whose shape nobody knows
_COMPLETE = "complete"  # a file that is written last


def server_options(rank: int) -> dict[str, Any]:
    """Name the options of ``vllm serve`` that a training needs, for an adapter of a rank.

    Raises:
        EngineError: vLLM takes none of that rank.
    """
    return lora_options(rank) | {"logprobs-mode": "processed_logprobs"}


def server_line(weights: str, rank: int) -> str:
    """Write the command line of a server that would do.

    >>> server_line("START", 16)  # doctest: +NORMALIZE_WHITESPACE
    'VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve START --enable-lora --max-loras 2
     --max-lora-rank 16 --logprobs-mode processed_logprobs'
    """
    words = [
        f"--{name}" if value is True else f"--{name} {value}"
        for name, value in server_options(rank).items()
    ]
    variables = " ".join(f"{name}={value}" for name, value in LORA_ENVIRONMENT.items())
    return f"{variables} vllm serve {weights} {' '.join(words)}"


def adapter_folder(sync_dir: str | None, name: str, num_bytes: int, *, run: Path) -> Path:
    """Choose where adapters are written: the given folder, else one in the machine's memory.

    Args:
        sync_dir: ``method.sync_dir``.
        name: of the training.
        num_bytes: of an adapter; several have to fit.
        run: folder of the training, so that two of the same settings have two folders.

    Raises:
        EngineError: somebody else owns the folder in the machine's memory.
    """
    name = f"{name}-{hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:8]}"
    if sync_dir is not None:
        return Path(sync_dir).expanduser().resolve() / name
    root = SHARED_MEMORY
    fits = root.is_dir() and os.access(root, os.W_OK)
    if not fits or shutil.disk_usage(root).free < 4 * num_bytes:
        root = Path(tempfile.gettempdir())
    own = root / f"plan_tuning_{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.is_symlink() or own.stat().st_uid != os.getuid():
        raise EngineError(f"{own} is somebody else's: choose another folder by method.sync_dir")
    return own / name


def whole_start(start: Path | str, model: ModelConfig, folder: Path, *, rank: int) -> str:
    """Name the start as whole weights: an adapter is merged, since servers put none upon another.

    Args:
        start: folder or hub id.
        model: how it is loaded.
        folder: receives merged weights, once.
        rank: of this process; the first one merges, and starts the server.
    """
    found = Path(start)
    if not is_adapter(found):
        return str(found.resolve()) if found.is_dir() else str(start)
    if rank == 0 and not (folder / _COMPLETE).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        merged = merge_for_inference(load_student(start, model))
        export_student(merged, folder, base=start, model=model, adapter=AdapterConfig(), facts={})
        (folder / _COMPLETE).touch()
    return str(folder.resolve())


def running_server(config: RolloutServerConfig, vocabulary: Vocabulary) -> Open:
    """Make what opens the way to a server that somebody else has started."""
    key = None if config.api_key_env is None else os.environ.get(config.api_key_env)

    def open_server(address: Address | None) -> AbstractContextManager[TokenServer]:
        return TokenServer(
            str(config.api_base),
            config.model,
            vocabulary,
            api_key=key,
            concurrency=config.concurrency,
            timeout_s=config.timeout_s,
        )

    return open_server


def own_server(serving: Serving, config: VLLMConfig, vocabulary: Vocabulary, log: Path) -> Open:
    """Make what starts a vLLM server of this training's own.

    Args:
        serving: of the start.
        config: how it is asked.
        vocabulary: of the weights.
        log: file that the server's words are added to.
    """
    server = VLLMServer(serving, log)

    @contextmanager
    def open_server(address: Address | None) -> Iterator[TokenServer]:
        with server if address is None else nullcontext():
            mine = (server.api_base, server.served_model, server.api_key)
            api_base, served_model, key = address or mine
            with TokenServer(
                api_base,
                served_model,
                vocabulary,
                api_key=key,
                concurrency=config.concurrency,
                timeout_s=config.timeout_s,
            ) as client:
                yield client

    return open_server


def rollout_serving(
    weights: str,
    config: VLLMConfig,
    model: ModelConfig,
    *,
    rank: int,
    row_tokens: int,
    cache_tokens: int,
    share: float | None,
) -> Serving:
    """Say how the server of a training's rollouts is started, in the precision of inference.

    Args:
        weights: folder or hub id of the start.
        config: the command, and options of the user's.
        model: how the start is loaded.
        rank: of the adapter.
        row_tokens: of the longest row, its prompt included.
        cache_tokens: of all rows that are written side by side, in the machine's memory.
        share: of a card's memory; None: on a CPU.
    """
    dtype = inference_dtype("cpu" if share is None else "cuda")
    options: dict[str, Any] = {
        "dtype": model.dtype if dtype is None else str(dtype).removeprefix("torch."),
        "max-model-len": math.ceil(row_tokens / _LENGTHS) * _LENGTHS,
        "generation-config": "vllm",  # requests say everything themselves
        "trust-remote-code": model.trust_remote_code,
        **server_options(rank),
    }
    if model.revision is not None and not Path(weights).is_dir():
        options["revision"] = model.revision
    environment = {**LORA_ENVIRONMENT, "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
    if share is None:
        found, held = shape_of(model), max(cache_tokens, row_tokens)
        size = _PLAIN_CACHE if found is None else cache_bytes(found[0], FLOAT) * held
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(math.ceil(size / _GIB))
    else:
        options["gpu-memory-utilization"] = share
    return Serving(
        weights,
        tuple(config.command),
        options | config.options,
        environment,
        config.start_timeout_s,
    )
