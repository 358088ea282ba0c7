"""Groups ``model`` and ``adapter``: the student and which of its weights are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from plan_tuning.config.checks import require, require_choice, require_positive
from plan_tuning.config.microworld import MicroBaseConfig, MicroworldConfig

KINDS = ("pretrained", "tiny", "micro")
FAMILIES = ("qwen3", "gemma3", "llama", "auto")
DTYPES = ("float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
ADAPTERS = ("full", "lora", "qlora")
EXPORTS = ("auto", "adapter", "merged")
BASE_DTYPES = ("auto", "float32", "bfloat16")
EXPORT_DTYPES = ("bfloat16", "float16")

_RUNTIME = {"runtime": True}


@dataclass
class ModelConfig:
    """A causal language model of transformers."""

    name: str = "???"  # label in tables and folder names
    kind: str = "pretrained"  # pretrained (path), tiny (random weights, tests), micro (built here)
    path: str | None = None  # hub id, local folder or GGUF file of a pretrained model
    revision: str | None = None  # commit of the hub repository
    family: str = "auto"  # selects LoRA targets and tiny configurations
    dtype: str = "float32"  # master weights; full fine-tuning in bfloat16 loses small updates
    attention: str = "sdpa"
    trust_remote_code: bool = False
    seed: int = 0  # of random weights (tiny, micro)

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("model.kind", self.kind, KINDS)
        require_choice("model.family", self.family, FAMILIES)
        require_choice("model.dtype", self.dtype, DTYPES)
        require_choice("model.attention", self.attention, ATTENTIONS)
        require(
            self.kind != "pretrained" or bool(self.path) or self.name == "???",
            "model.path",
            self.path,
            "a pretrained model (or executor.model) needs a hub id, a folder or a GGUF file",
            "model=path model.path=Qwen/Qwen3-0.6B",
        )
        require(
            self.kind == "pretrained" or self.path is None,
            "model.path",
            self.path,
            f"not read for model={self.name}, whose weights are made here (kind={self.kind})",
            f"model=path model.path={self.path}",
        )


@dataclass
class MicroModelConfig(ModelConfig):
    """The micro-world's student: its world (vocabulary) and how its base is trained."""

    world: MicroworldConfig = field(default_factory=MicroworldConfig)
    base: MicroBaseConfig = field(default_factory=MicroBaseConfig)
    # Words and documents of all three questions (data.question), not of that for a number alone
    domains: bool = False


@dataclass
class AdapterConfig:
    """Which weights are trained."""

    name: str = "full"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: Any = "family"  # family: all linear layers of the model's family; or a list
    export: str = (
        "auto"  # adapter; merged weights; auto: merged where the base is an adapter itself
    )
    export_dtype: str | None = None  # of a further copy, for serving; None: no copy
    # How frozen weights beside a lora adapter are stored; the results are equal to the bit
    base_dtype: str = field(default="auto", metadata=_RUNTIME)

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("adapter.name", self.name, ADAPTERS)
        require_choice("adapter.export", self.export, EXPORTS)
        require_choice("adapter.base_dtype", self.base_dtype, BASE_DTYPES)
        if self.export_dtype is not None:
            require_choice("adapter.export_dtype", self.export_dtype, EXPORT_DTYPES)
        require(
            self.name != "qlora" or self.export != "merged",
            "adapter.export",
            self.export,
            "4-bit weights cannot be exported merged; evaluation merges into the unquantised ones",
            "adapter=qlora adapter.export=adapter",
        )
        require_positive("adapter.rank", self.rank, "adapter.rank=16")
        require_positive("adapter.alpha", self.alpha, "adapter.alpha=32")
        require(
            0.0 <= self.dropout < 1.0,
            "adapter.dropout",
            self.dropout,
            "at least 0 and below 1",
            "adapter.dropout=0.05",
        )
        require(
            self.target_modules == "family"
            or (
                isinstance(self.target_modules, list)
                and bool(self.target_modules)
                and all(isinstance(name, str) for name in self.target_modules)
            ),
            "adapter.target_modules",
            self.target_modules,
            "family, or a list of module names",
            "'adapter.target_modules=[q_proj,v_proj]'",
        )

    def rounds_base(self, precision: str, strategy: str = "auto") -> bool:
        """Whether frozen weights are stored as the training's passes read them, in bfloat16.

        Args:
            precision: ``trainer.precision``.
            strategy: ``trainer.strategy``; fsdp gathers its shards in bfloat16 by itself.
        """
        is_beside_adapter = self.name == "lora" and self.base_dtype != "float32"
        return is_beside_adapter and precision == "bf16" and strategy != "fsdp"

    def samples_rounded(self, precision: str) -> bool:
        """Whether a policy's frozen weights hold what its passes read, however they are stored.

        Rollouts come from these weights too, outside autocast. Rounded in one storage alone they
        would be others there, and ``base_dtype`` would be no matter of memory only.

        Args:
            precision: ``trainer.precision``.
        """
        return self.name == "lora" and precision == "bf16"
