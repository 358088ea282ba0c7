"""The start of a training as a server can hold it, and how a server that would do is started."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from plan_tuning.config.evaluation import VLLMConfig
from plan_tuning.config.grpo import RolloutServerConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.students.export import export_student
from plan_tuning.students.generation.protocol import Vocabulary
from plan_tuning.students.generation.token_server import TokenServer
from plan_tuning.students.generation.vllm_server import Serving, VLLMServer
from plan_tuning.students.loading import is_adapter, load_student, merge_for_inference
from plan_tuning.training.grpo.rollout_server import Address, Open

RUNTIME_ADAPTERS = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"  # variable of vLLM's own
SHARED_MEMORY = Path("/dev/shm")
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that --max-lora-rank may be
_COMPLETE = "complete"  # a file that is written last


def server_options(rank: int) -> dict[str, Any]:
    """Name the options of ``vllm serve`` that a training needs, for an adapter of a rank."""
    return {
        "enable-lora": True,
        "max-loras": 2,
        "max-lora-rank": next((r for r in _RANKS if r >= rank), rank),
        "logprobs-mode": "processed_logprobs",
    }


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
    return f"{RUNTIME_ADAPTERS}=True vllm serve {weights} {' '.join(words)}"


def adapter_folder(sync_dir: str | None, name: str, num_bytes: int) -> Path:
    """Choose where adapters are written: the given folder, else one in the machine's memory.

    Args:
        sync_dir: ``method.sync_dir``.
        name: of the training.
        num_bytes: of an adapter; several have to fit.
    """
    if sync_dir is not None:
        return Path(sync_dir).expanduser().resolve() / name
    root = SHARED_MEMORY
    fits = root.is_dir() and os.access(root, os.W_OK)
    if not fits or shutil.disk_usage(root).free < 4 * num_bytes:
        root = Path(tempfile.gettempdir())
    return root / f"plan_tuning_{os.getuid()}" / name


def whole_start(start: Path | str, model: ModelConfig, folder: Path) -> str:
    """Name the start as whole weights: an adapter is merged, since servers put none upon another.

    Args:
        start: folder or hub id.
        model: how it is loaded.
        folder: receives merged weights, once.
    """
    if not is_adapter(Path(start)):
        return str(start)
    if not (folder / _COMPLETE).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        merged = merge_for_inference(load_student(start, model))
        export_student(merged, folder, base=start, model=model, adapter=AdapterConfig(), facts={})
        (folder / _COMPLETE).touch()
    return str(folder)


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


def own_server(
    weights: str, config: VLLMConfig, vocabulary: Vocabulary, options: Mapping[str, Any], log: Path
) -> Open:
    """Make what starts a vLLM server of this training's own.

    Args:
        weights: folder or hub id of whole weights.
        config: how vLLM is run.
        vocabulary: of the weights.
        options: of ``vllm serve`` that the training needs.
        log: file that the server's words are added to.
    """
    serving = Serving(
        weights,
        tuple(config.command),
        {**config.options, **options},
        {RUNTIME_ADAPTERS: "True"},
        config.start_timeout_s,
    )
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
