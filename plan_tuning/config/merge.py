"""Group ``merge``: finished students whose weights become those of one."""

from __future__ import annotations

from dataclasses import dataclass, field

from plan_tuning.config.checks import require, require_choice, require_positive
from plan_tuning.config.extensions import check_extension, names

NONE = "none"


@dataclass
class MergeConfig:
    """Which students are merged, instead of training one."""

    name: str = NONE
    students: list[str] = field(default_factory=list)  # fingerprints, or folders of whole weights
    weights: list[float] = field(default_factory=list)  # one a student; none: all alike
    extension: str | None = field(default=None, metadata={"runtime": True})  # what brings it

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("merge.name", self.name, (NONE, *names("merge")))
        check_extension("merge", self.name, self.extension)
        example = f"merge={self.name} 'merge.students=[FINGERPRINT,FOLDER]'"
        require(
            not self.is_merged or len(self.students) >= 2,
            "merge.students",
            self.students,
            "the fingerprints or folders of two finished students or more",
            example,
        )
        require(
            self.is_merged or not (self.students or self.weights),
            "merge.students",
            self.students,
            "not read with merge=none",
            "merge=linear 'merge.students=[FINGERPRINT,FOLDER]'",
        )
        require(
            not self.weights or (len(self.weights) == len(self.students) and sum(self.weights) > 0),
            "merge.weights",
            self.weights,
            f"one a student, {len(self.students)} here, and not all of them 0",
            f"{example} 'merge.weights=[0.7,0.3]'",
        )
        for weight in self.weights:
            require_positive("merge.weights", weight, "'merge.weights=[0.7,0.3]'", zero=True)

    @property
    def is_merged(self) -> bool:
        """Whether students are merged at all."""
        return self.name != NONE

    @property
    def shares(self) -> list[float]:
        """The weights such that they sum to 1."""
        weights = self.weights or [1.0] * len(self.students)
        return [weight / sum(weights) for weight in weights]
