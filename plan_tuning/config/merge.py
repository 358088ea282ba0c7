"""Group ``merge``: several students become one, by their weights or behind a router."""

from __future__ import annotations

from dataclasses import dataclass, field

from plan_tuning.config.checks import require, require_choice, require_positive
from plan_tuning.config.extensions import check_extension, names

NONE = "none"
ROUTER = "router"
ROUTERS = ("oracle", "nearest")


@dataclass
class MergeConfig:
    """Which students become one, instead of training one."""

    name: str = NONE
    # Sources of the data, fingerprints, or folders; SOURCE=FINGERPRINT: the student of a source.
    # None: every source of the data has its own
    students: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # one a student; none: all alike
    density: float = 0.5  # ties, dare_ties: share of each difference to the base that stays
    scale: float = 1.0  # task_arithmetic, ties, dare_ties: of the merged difference
    seed: int = 0  # dare_ties: which entries are dropped
    rank: int | None = None  # of a merged adapter, by its largest singular values; None: exact
    router: str = "oracle"  # by the benchmark's source, or that of the nearest training problems
    neighbours: int = 15  # nearest: how many of them vote
    encoder: str | None = None  # nearest: folder of an encoder; None: hashed n-grams
    extension: str | None = field(default=None, metadata={"runtime": True})  # what brings it

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("merge.name", self.name, (NONE, *names("merge")))
        check_extension("merge", self.name, self.extension)
        example = f"merge={self.name} 'merge.students=[FINGERPRINT,FOLDER]'"
        require(
            not self.is_merged or len(self.students) != 1,
            "merge.students",
            self.students,
            "the fingerprints or folders of two finished students or more, or sources of the data; "
            "none: all sources",
            example,
        )
        require(
            self.is_merged or not (self.students or self.weights),
            "merge.students",
            self.students,
            "not read with merge=none",
            "merge=linear 'merge.students=[FINGERPRINT,FOLDER]'",
        )
        is_fitting = not self.students or len(self.weights) == len(self.students)
        require(
            not self.weights or (is_fitting and sum(self.weights) > 0),
            "merge.weights",
            self.weights,
            f"one a student, {len(self.students)} here, and not all of them 0",
            f"{example} 'merge.weights=[0.7,0.3]'",
        )
        for weight in self.weights:
            require_positive("merge.weights", weight, "'merge.weights=[0.7,0.3]'", zero=True)
        require(
            0.0 < self.density <= 1.0,
            "merge.density",
            self.density,
            "above 0 and at most 1",
            "merge.density=0.5",
        )
        for key in ("scale", "rank", "neighbours"):
            require_positive(f"merge.{key}", getattr(self, key), f"merge.{key}=8")
        require_choice("merge.router", self.router, ROUTERS)

    @property
    def is_merged(self) -> bool:
        """Whether students become one at all."""
        return self.name != NONE

    @property
    def is_routed(self) -> bool:
        """Whether they stay apart, and one of them is asked for each problem."""
        return self.name == ROUTER

    @property
    def shares(self) -> list[float]:
        """The weights such that they sum to 1."""
        return self.shares_of(len(self.students))

    def shares_of(self, count: int) -> list[float]:
        """The weights of so many students such that they sum to 1."""
        weights = self.weights or [1.0] * count
        return [weight / sum(weights) for weight in weights]
