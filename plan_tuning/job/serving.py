"""Students → a vLLM server that the job starts for them; one at a time in a process.

Whole weights are what a server is started for; adapters upon them are loaded while it runs. So the
second call of M2, an executor, several benchmarks and, where jobs run one after another in one
process, several jobs share a server as long as they share the weights; another one ends it first.
"""

from __future__ import annotations

import atexit
import gc
import itertools
import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.job.cards import share_of_card
from plan_tuning.job.decoding_memory import served
from plan_tuning.job.stage_memory import PROMPT_TOKENS
from plan_tuning.students.footprint import FLOAT, HALF, cache_bytes
from plan_tuning.students.generation.protocol import (
    EngineError,
    EngineLostError,
    Vocabulary,
)
from plan_tuning.students.generation.vllm_engine import VLLMEngine
from plan_tuning.students.generation.vllm_server import (
    LORA_ENVIRONMENT,
    Serving,
    VLLMServer,
    lora_options,
)
from plan_tuning.students.loading import ADAPTER_FILE, base_of_adapter, inference_dtype, is_adapter
from plan_tuning.students.memory import release_card_memory
from plan_tuning.students.shapes import shape_of

logger = logging.getLogger(__name__)

LOG_FILE = "vllm.log"  # in the folder of the job that starts the server
_LENGTHS = 1024  # tokens that the longest row of a server is a multiple of
_PLAIN_CACHE_GIB = 4  # on a CPU, of a model whose shape nobody knows
_GIB = 2**30


@dataclass(frozen=True)
class Weights:
    """What answers: whole weights, and an adapter upon them."""

    whole: str  # folder or hub id
    revision: str | None = None
    adapter: Path | None = None
    rank: int = 0  # of the adapter


@dataclass(frozen=True)
class Wanted:
    """What somebody asks the server of this process for.

    Args:
        weights: that answer.
        vocabulary: of these.
        config: the job's.
        model: what the weights are loaded as.
        device: cuda or cpu.
        tokens: of the longest row, its prompt included.
        log: file that a new server writes to.
    """

    weights: Weights
    vocabulary: Vocabulary
    config: Config
    model: ModelConfig
    device: str
    tokens: int
    log: Path

    @property
    def length(self) -> int:
        """Tokens that a row of the server may have, with room for the job's other calls."""
        evaluation = self.config.evaluation
        plan = evaluation.max_plan_tokens if self.config.method.has_two_calls else 0
        usual = 2 * PROMPT_TOKENS + plan + evaluation.max_new_tokens
        return math.ceil(max(self.tokens, usual) / _LENGTHS) * _LENGTHS

    @property
    def revision(self) -> str | None:
        """The commit of a hub id that is served; None: a folder, or the newest."""
        if Path(self.weights.whole).is_dir():
            return None
        return self.weights.revision or self.model.revision

    @property
    def rank(self) -> int:
        """The rank that adapters may have: that of this one, or of those that the job trains."""
        own = self.config.adapter
        is_none = own.name == "full" or own.export == "merged"
        return max(self.weights.rank, 0 if is_none else own.rank)


def weights_of(where: str | Path) -> Weights:
    """Say what a folder of a student, or a hub id, consists of.

    Raises:
        ConfigError: it is an adapter upon an adapter.
    """
    folder = Path(where)
    if not is_adapter(folder):
        return Weights(_whole(str(where)))
    base, revision = base_of_adapter(folder)
    if is_adapter(Path(base)):
        raise ConfigError(
            "evaluation.engine",
            "vllm",
            f"{folder} is an adapter upon an adapter, of which vLLM loads none",
            "adapter.export=merged, or evaluation.engine=native",
        )
    settings = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
    ranks = [int(settings["r"]), *map(int, (settings.get("rank_pattern") or {}).values())]
    return Weights(_whole(base), revision, folder, max(ranks))


def _whole(source: str) -> str:
    """A hub id, or the whole path of a folder: a server may have another working directory."""
    return str(Path(source).resolve()) if Path(source).is_dir() else source


def serving_of(wanted: Wanted) -> Serving:
    """Say how a server is started: in the precision of inference here, with a limit of memory."""
    config, weights = wanted.config, wanted.weights
    chosen = config.evaluation.vllm
    dtype = inference_dtype(wanted.device)
    precision = wanted.model.dtype if dtype is None else str(dtype).removeprefix("torch.")
    options: dict[str, Any] = {
        "dtype": precision,
        "max-model-len": wanted.length,
        "generation-config": "vllm",  # requests say everything themselves
        "trust-remote-code": wanted.model.trust_remote_code,
    }
    if wanted.revision is not None:
        options["revision"] = wanted.revision
    environment = {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}  # positions go on, as they do here
    if wanted.rank:
        options |= lora_options(wanted.rank)
        environment |= LORA_ENVIRONMENT
    limits, of_cpu = _memory(wanted, FLOAT if precision == "float32" else HALF)
    return Serving(
        weights.whole,
        tuple(chosen.command),
        options | limits | chosen.options,
        environment | of_cpu,
        chosen.start_timeout_s,
    )


def _memory(wanted: Wanted, width: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The options and the environment that limit a server's memory to what the ledger says."""
    found = shape_of(wanted.model)
    tokens = max(int(wanted.config.evaluation.batch_tokens), wanted.length)
    if wanted.device == "cpu":
        gib = _PLAIN_CACHE_GIB
        if found is not None:
            gib = math.ceil(cache_bytes(found[0], width) * tokens / _GIB)
        return {}, {"VLLM_CPU_KVCACHE_SPACE": str(gib)}
    needed = math.inf if found is None else sum(served(found[0], width, tokens, "cuda").values())
    return {"gpu-memory-utilization": share_of_card(needed)}, {}


class Host:
    """The server of this process, if there is one."""

    def __init__(self) -> None:
        self._engine: VLLMEngine | None = None
        self._for: Wanted | None = None
        self._adapter: Path | None = None
        self._numbers = itertools.count(1)

    @contextmanager
    def lend(self, wanted: Wanted) -> Iterator[VLLMEngine]:
        """Have somebody's weights answer; the server stays for who comes next.

        Raises:
            EngineError: it does not start, or does not take the adapter.
            EngineLostError: it ended; the next one who asks gets a new one.
        """
        try:
            engine = self._opened(wanted)
            self._load(engine, wanted.weights.adapter)
            yield engine
        except EngineLostError:
            self.close()
            raise

    def close(self) -> None:
        """End the server."""
        engine, self._engine = self._engine, None
        if engine is not None:
            logger.info("the vLLM server is ended")
            engine.close()

    def _opened(self, wanted: Wanted) -> VLLMEngine:
        """The server that is there, if it does, else a new one in its place."""
        if self._engine is not None and self._for is not None and _does(self._for, wanted):
            return self._engine
        self.close()
        gc.collect()  # a trained student of this process is on the card until then
        release_card_memory()
        chosen = wanted.config.evaluation.vllm
        engine = VLLMEngine(
            VLLMServer(serving_of(wanted), wanted.log),
            wanted.vocabulary,
            concurrency=chosen.concurrency,
            timeout_s=chosen.timeout_s,
        )
        self._engine, self._for, self._adapter = engine.__enter__(), wanted, None
        return engine

    def _load(self, engine: VLLMEngine, adapter: Path | None) -> None:
        """Have an adapter answer, or the whole weights."""
        if adapter == self._adapter:
            return
        if adapter is None:
            engine.drop_adapter()
        else:
            # Never the same name twice: what was read of prompts is kept by it.
            name = f"{adapter.name}-{next(self._numbers)}"
            try:
                engine.load_adapter(adapter.resolve(), name)
            except EngineLostError:
                raise
            except EngineError as error:
                self.close()  # which adapter it answers with, nobody knows
                raise EngineError(
                    f"vLLM does not take the adapter in {adapter}: {error}. Whole weights it does, "
                    "which adapter.export=merged writes; evaluation.engine=native takes both"
                ) from error
        self._adapter = adapter


def _does(there: Wanted, wanted: Wanted) -> bool:
    """Whether a server that was started for one does for another."""

    def settings(one: Wanted) -> tuple[Any, ...]:
        chosen = one.config.evaluation.vllm
        return (
            one.weights.whole, one.revision, one.model.dtype, one.model.trust_remote_code,
            one.device, chosen.command, chosen.options, one.config.evaluation.batch_tokens,
            one.vocabulary.end_ids, len(one.vocabulary.tokenizer),
        )  # fmt: skip

    return (
        settings(there) == settings(wanted)
        and wanted.length <= there.length
        and wanted.rank <= there.rank
    )


HOST = Host()
atexit.register(HOST.close)
