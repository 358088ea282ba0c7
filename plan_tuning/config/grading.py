"""Group ``evaluation.grading``: the points of grading on which reasonable graders differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from plan_tuning.config.checks import require, require_choice, require_positive

PERCENT_RULES = ("same_or_hundredth", "same", "exact")
UNIT_RULES = ("optional", "required")

_RUNTIME = {"runtime": True}


@dataclass
class SandboxConfig:
    """What a program that is run to be graded may use; beyond it, it has failed."""

    time_s: int = 5  # seconds of the processor; four times as many may pass
    memory_mb: int = 512  # address space of each of its processes in MiB
    files_mb: int = 8  # what it may write, all in a folder of its own that is gone afterwards
    output_kb: int = 1024  # of one value that it returns; what it prints is thrown away
    processes: int = 8  # it and what it starts, threads too

    def __post_init__(self) -> None:
        """Check ranges."""
        for key, least, good in (
            ("time_s", 1, 5), ("memory_mb", 64, 512), ("files_mb", 1, 8), ("output_kb", 1, 1024),
            ("processes", 1, 8),
        ):  # fmt: skip
            name, value = f"evaluation.grading.sandbox.{key}", getattr(self, key)
            require(value >= least, name, value, f"{least} or more", f"{name}={good}")


@dataclass
class GradingConfig:
    """Policy and limits of the grader, the same for filter, reward and benchmark."""

    # 50% against 50 is right (same); also 50% against 0.5 or 1/2, where the sign is written
    # (same_or_hundredth); only 50% against 50% (exact). 50 against 0.5 is always wrong.
    percent: str = "same_or_hundredth"
    # optional: 5 is right for "5 cm" and the other way round; required: the unit must be there.
    # Two units that are known to differ (cm against m) are wrong in both.
    units: str = "optional"
    # Relative error up to which a written decimal passes for a value that is no integer; 0: exact.
    rounding: float = 1e-6
    # True: 5! is right for 120, 2/4 for 1/2. False: where the gold is a plain number, the answer
    # must be a plain number in lowest terms, so that "evaluate 5!" is not answered by "5!".
    accept_unsimplified: bool = True
    # True: 2516 is right for 2516_8 (many models leave the base out).
    accept_missing_base: bool = False
    # Seconds that one symbolic comparison may take before its worker is killed.
    wall_s: float = 5.0
    # Address space of one worker in MiB.
    memory_mb: int = 2048
    # True: answers that are programs (HumanEval, MBPP) are run, in the sandbox, with their tests.
    # False: they cannot be graded, and a job that has such problems is refused.
    run_code: bool = False
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    # Worker processes for symbolic comparisons, and as many for programs; none is started before
    # the first of these.
    num_workers: int = field(default=2, metadata=_RUNTIME)
    # Remembered comparisons (gold, answer); 0 switches the cache off.
    cache_size: int = field(default=100_000, metadata=_RUNTIME)

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("evaluation.grading.percent", self.percent, PERCENT_RULES)
        require_choice("evaluation.grading.units", self.units, UNIT_RULES)
        require(
            0.0 <= self.rounding <= 0.01,
            "evaluation.grading.rounding",
            self.rounding,
            "a relative error between 0 and 0.01",
            "evaluation.grading.rounding=1e-6",
        )
        require_positive("evaluation.grading.wall_s", self.wall_s, "evaluation.grading.wall_s=5")
        require(
            self.memory_mb >= 512,
            "evaluation.grading.memory_mb",
            self.memory_mb,
            "512 MiB or more: the libraries alone need 300",
            "evaluation.grading.memory_mb=2048",
        )
        require_positive(
            "evaluation.grading.num_workers", self.num_workers, "evaluation.grading.num_workers=2"
        )
        require_positive(
            "evaluation.grading.cache_size",
            self.cache_size,
            "evaluation.grading.cache_size=100000",
            zero=True,
        )


def grading_from(values: Mapping[str, Any]) -> GradingConfig:
    """Rebuild a configuration from what a manifest holds of it; the rest had its defaults.

    Args:
        values: by field; those that there are no more are passed over, of the sandbox too.
    """
    found = _known(GradingConfig, values)
    if "sandbox" in found:
        found["sandbox"] = SandboxConfig(**_known(SandboxConfig, found["sandbox"]))
    return GradingConfig(**found)


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {key: value for key, value in values.items() if key in names}
