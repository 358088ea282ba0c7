"""Groups ``evaluation`` and ``executor``: how students are tested."""

from __future__ import annotations

from dataclasses import dataclass, field

from plan_tuning.config.checks import require, require_choice, require_positive
from plan_tuning.config.grading import GradingConfig

EXECUTORS = ("self", "base")

_RUNTIME = {"runtime": True}


@dataclass
class ExecutorConfig:
    """Who executes the plans of M2 (METHOD.md section 3)."""

    name: str = "base"  # base: the untuned model (paper); self: the student itself

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("executor.name", self.name, EXECUTORS)


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
    decontaminate: str | None = (
        None  # file of `plan-tuning contamination`: scores without those ids too
    )
    grading: GradingConfig = field(default_factory=GradingConfig)
    batch_tokens: int = field(
        default=16384, metadata=_RUNTIME
    )  # prompt + new tokens decoded at once
    progress: bool = field(default=True, metadata=_RUNTIME)

    def __post_init__(self) -> None:
        """Check ranges."""
        require_positive("evaluation.limit", self.limit, "evaluation.limit=100")
        for key in ("max_new_tokens", "max_plan_tokens", "num_samples", "batch_tokens"):
            require_positive(f"evaluation.{key}", getattr(self, key), f"evaluation.{key}=512")
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
        require(
            len(set(self.benchmarks)) == len(self.benchmarks),
            "evaluation.benchmarks",
            self.benchmarks,
            "each benchmark once",
            "'evaluation.benchmarks=[gsm8k,math500]'",
        )
