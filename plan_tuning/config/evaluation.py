"""Groups ``evaluation`` and ``executor``: how students are tested."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from typing import Any, ClassVar

from plan_tuning.config.checks import (
    AUTO,
    require,
    require_choice,
    require_positive,
    require_tokens,
)
from plan_tuning.config.extensions import check_extension, names, record
from plan_tuning.config.grading import GradingConfig
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.teacher import TeacherConfig, check_address, check_key_variable

PLANS = ("own", "none", "teacher", "true", "other")
# What a reference execution is put behind (experiments/METHOD.md section 10)
PLAN_CONDITIONS = (
    "none", "own", "teacher", "dataset", "true", "other", "shuffled", "number_swapped",
    "step_dropped",
)  # fmt: skip
DISTILLED_HERE = "distil"  # plan_value_corpus: the job distils the test set itself
DECODINGS = ("auto", "dynamic", "static")

_RUNTIME = {"runtime": True}


@dataclass
class ExecutorConfig:
    """Who executes the plans of M2 (experiments/METHOD.md section 3)."""

    name: str = "base"  # base: the untuned model (paper); self; model; teacher
    model: ModelConfig | None = None  # with name=model
    teacher: TeacherConfig | None = None  # with name=teacher; None: the teacher of the corpus
    # What the executor solves without any plan, beside what it solves with one
    zero_shot: bool = field(default=True, metadata=_RUNTIME)
    extension: str | None = field(default=None, metadata=_RUNTIME)  # module that brings it

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("executor.name", self.name, names("executor"))
        check_extension("executor", self.name, self.extension)
        require(
            self.name != "model" or self.model is not None,
            "executor.name",
            self.name,
            "this executor needs executor.model, which its choice brings along",
            "executor=model executor.model.path=Qwen/Qwen3-4B",
        )


PROTOCOLS = (AUTO, "tokens", "chat")


@dataclass
class ServerAddress:
    """An OpenAI-compatible server, and the patience that it is asked with."""

    place: ClassVar[str]  # in the configuration

    api_base: str | None = field(default=None, metadata=_RUNTIME)
    model: str = ""  # the name under which the server serves the weights
    api_key_env: str | None = field(default=None, metadata=_RUNTIME)  # NAME of a variable
    concurrency: int = field(default=64, metadata=_RUNTIME)
    timeout_s: float = field(default=600.0, metadata=_RUNTIME)

    def __post_init__(self) -> None:
        """Check ranges, and that no secret is in what is written down."""
        check_address(f"{self.place}.api_base", self.api_base)
        check_key_variable(f"{self.place}.api_key_env", self.api_key_env)
        for key in ("concurrency", "timeout_s"):
            require_positive(f"{self.place}.{key}", getattr(self, key), f"{self.place}.{key}=64")


@dataclass
class ServerConfig(ServerAddress):
    """A server that answers in the student's place (engine=server)."""

    place: ClassVar[str] = "evaluation.server"

    # Token ids in and out, or messages and texts; auto: token ids where the server has them
    protocol: str = field(default=AUTO, metadata=_RUNTIME)

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        require_choice(f"{self.place}.protocol", self.protocol, PROTOCOLS)


# Options of `vllm serve` on which the tokens of an answer hang no more than on a batch's shape.
RUNTIME_OPTIONS = frozenset({
    "gpu-memory-utilization", "kv-cache-memory-bytes", "swap-space", "cpu-offload-gb",
    "block-size", "max-model-len", "max-num-seqs", "max-num-batched-tokens", "enforce-eager",
    "compilation-config", "tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size",
    "enable-prefix-caching", "disable-log-requests", "disable-log-stats", "uvicorn-log-level",
    "download-dir", "enable-lora", "max-loras", "max-lora-rank", "max-logprobs",
    "trust-remote-code",
})  # fmt: skip
# What a job says itself: where it listens, what it serves, and to whom.
SAID_OPTIONS = ("dtype", "generation-config", "logprobs-mode")  # of which null is another answer
_SECRET = re.compile(r"(token|key|secret|password)$")
OWN_OPTIONS = ("host", "port", "model", "served-model-name", "api-key", "revision")


@dataclass
class VLLMConfig:
    """A vLLM server that the job starts for its own student (engine=vllm)."""

    # Words that run vLLM's program, in one text or a list: /ENV/bin/vllm, a container, srun
    command: Any = field(default="vllm", metadata=_RUNTIME)
    # Further options of `vllm serve`, by name; true: a flag, null: without one that the job gives
    options: Any = None
    start_timeout_s: float = field(default=1800.0, metadata=_RUNTIME)  # to load and to compile
    concurrency: int = field(default=256, metadata=_RUNTIME)  # requests under way
    timeout_s: float = field(default=3600.0, metadata=_RUNTIME)  # of one answer

    def __post_init__(self) -> None:
        """Check ranges, and take the command apart."""
        words = self.command
        listed = shlex.split(words) if isinstance(words, str) else list(words or [])
        require(
            bool(listed) and all(isinstance(word, str) and word for word in listed),
            "evaluation.vllm.command",
            words,
            "the words of a command, in one text or a list",
            "evaluation.vllm.command=/ENV/bin/vllm",
        )
        # No shell expands a tilde behind an equals sign.
        self.command = [os.path.expanduser(word) for word in listed]
        require(
            self.options is None or isinstance(self.options, dict),
            "evaluation.vllm.options",
            self.options,
            "options by name",
            "'evaluation.vllm.options={max_num_seqs: 64}'",
        )
        given = self.options or {}
        self.options = {str(name).replace("_", "-"): value for name, value in given.items()}
        own = [name for name in self.options if name in OWN_OPTIONS]
        secret = [name for name in self.options if _SECRET.search(name) and name not in own]
        require(
            not secret,
            "evaluation.vllm.options",
            ", ".join(secret),
            "no secrets, which command lines, logs and manifests would show: the server has the "
            "environment of this command",
            "HF_TOKEN=… plan-tuning …",
        )
        require(
            not own,
            "evaluation.vllm.options",
            ", ".join(own),
            "options other than those by which the job finds its own server",
            "'evaluation.vllm.options={max_num_seqs: 64}'",
        )
        for key in ("start_timeout_s", "concurrency", "timeout_s"):
            require_positive(
                f"evaluation.vllm.{key}", getattr(self, key), f"evaluation.vllm.{key}=600"
            )

    def spec(self) -> dict[str, Any]:
        """The options that determine answers; of most servers none."""
        return {
            name: value
            for name, value in sorted(self.options.items())
            if name not in RUNTIME_OPTIONS and (value is not None or name in SAID_OPTIONS)
        }


@dataclass
class EvaluationConfig:
    """Test sets and decoding."""

    benchmarks: list[str] = field(
        default_factory=list
    )  # NAME or NAME=PATH; the first is the objective
    limit: int | None = None  # test problems per benchmark
    max_new_tokens: int = 4096  # paper: 4096
    max_plan_tokens: int = 1024  # first call of M2
    temperature: float = 0.0  # paper: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    num_samples: int = 1  # completions per problem; above 1: pass@k, maj@k, avg@k
    seed: int = 42  # of sampling; paper: 42
    stop: list[str] = field(default_factory=list)  # end an answer, and stay in it
    plan_stop: list[str] = field(default_factory=list)  # end a plan of m2's first call
    decontaminate: str | None = (
        None  # file of `plan-tuning contamination`: accuracy without those ids too
    )
    plan: str = "own"  # whose plan m2's executor gets: own, none, teacher, true, other
    plan_corpus: str | None = None  # plan=teacher: a distilled test set; None: distilled by the job
    # What plans are worth to the student, by the log-probability of reference executions
    plan_value: bool = field(default=False, metadata=_RUNTIME)
    # The teacher's plans in it: a distilled test set, or distil; None: without them
    plan_value_corpus: str | None = field(default=None, metadata=_RUNTIME)
    engine: str = "native"  # who runs the student: native, continuous_batching, vllm, server
    server: ServerConfig = field(default_factory=ServerConfig)
    vllm: VLLMConfig = field(default_factory=VLLMConfig)
    # Nats by which a server may differ from what the student's training wrote down; None: any
    max_probe_gap: float | None = field(default=0.15, metadata=_RUNTIME)
    grading: GradingConfig = field(default_factory=GradingConfig)
    # Prompt and new tokens of all rows that are decoded at once: a number, or auto
    batch_tokens: Any = field(default=16384, metadata=_RUNTIME)
    # engine=native: steps of growing shapes, or of one shape (CUDA graphs); auto by the device
    decoding: str = field(default="auto", metadata=_RUNTIME)
    extension: str | None = field(default=None, metadata=_RUNTIME)  # module that brings the engine
    progress: bool = field(default=True, metadata=_RUNTIME)

    def __post_init__(self) -> None:
        """Check ranges."""
        require_positive("evaluation.limit", self.limit, "evaluation.limit=100")
        for key in ("max_new_tokens", "max_plan_tokens", "num_samples"):
            require_positive(f"evaluation.{key}", getattr(self, key), f"evaluation.{key}=512")
        require_tokens("evaluation.batch_tokens", self.batch_tokens)
        require_positive(
            "evaluation.max_probe_gap", self.max_probe_gap, "evaluation.max_probe_gap=0.15"
        )
        require_positive(
            "evaluation.temperature", self.temperature, "evaluation.temperature=0.7", zero=True
        )
        require_positive("evaluation.top_k", self.top_k, "evaluation.top_k=0", zero=True)
        require(
            0.0 < self.top_p <= 1.0,
            "evaluation.top_p",
            self.top_p,
            "above 0 and at most 1",
            "evaluation.top_p=0.95",
        )
        require(
            self.num_samples == 1 or self.temperature > 0,
            "evaluation.temperature",
            self.temperature,
            "above 0 when several completions are sampled: at 0 they would all be equal",
            "evaluation.num_samples=8 evaluation.temperature=0.7",
        )
        self.plan = self.plan.lower()  # `true` on a command line is read as a truth value
        require_choice("evaluation.plan", self.plan, PLANS)
        require(
            self.plan_corpus is None or self.plan == "teacher",
            "evaluation.plan_corpus",
            self.plan_corpus,
            "only read when the executor gets the teacher's plans",
            f"evaluation.plan=teacher evaluation.plan_corpus={self.plan_corpus}",
        )
        require_choice("evaluation.engine", self.engine, names("engine"))
        check_extension("engine", self.engine, self.extension)
        takes = record("engine", self.engine).needs
        require_choice("evaluation.decoding", self.decoding, DECODINGS)
        require(
            self.decoding == "auto" or "decoding" in takes,
            "evaluation.decoding",
            self.decoding,
            f"engine={self.engine} has a decoder of its own",
            f"evaluation.engine=native evaluation.decoding={self.decoding}",
        )
        require(
            all([*self.stop, *self.plan_stop]),
            "evaluation.stop",
            [*self.stop, *self.plan_stop],
            "texts that are not empty",
            "'evaluation.plan_stop=[\"</plan>\"]'",
        )
        require(
            "stop_strings" in takes or not (self.stop or self.plan_stop),
            "evaluation.stop",
            [*self.stop, *self.plan_stop],
            f"not with engine={self.engine}, which ends texts at tokens only",
            "evaluation.engine=native",
        )
        require(
            "server" not in takes or bool(self.server.api_base and self.server.model),
            "evaluation.server.api_base",
            self.server.api_base,
            f"engine={self.engine} needs the server's address and the student's name there",
            "evaluation.server.api_base=http://127.0.0.1:8000/v1 evaluation.server.model=student",
        )
        require(
            len({entry.partition("=")[0] for entry in self.benchmarks}) == len(self.benchmarks),
            "evaluation.benchmarks",
            self.benchmarks,
            "each benchmark once",
            "'evaluation.benchmarks=[gsm8k,math500]'",
        )

    def stop_strings(self, phase: str) -> list[str]:
        """The strings that end a text: of m2's ``planning`` call, or of any other one."""
        return self.plan_stop if phase == "planning" else self.stop
