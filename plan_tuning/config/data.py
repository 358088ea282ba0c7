"""Group ``data``: the training problems, and the test sets that belong to them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from plan_tuning.config.checks import require, require_choice, require_positive
from plan_tuning.config.extensions import check_extension
from plan_tuning.config.microworld import MicroworldConfig

SPLITS = ("train", "test")


@dataclass
class DataConfig:
    """Where training problems come from and how many of them are used."""

    name: str = "???"
    path: str | None = None  # folder or file; without it the set is loaded from the Hub
    revision: str | None = None  # commit on the Hub; None: the revision that was tested
    split: str = "train"  # test: to distil teacher plans for a plan swap; never trained on
    limit: int | None = None  # at most so many problems
    fraction: float = 1.0  # share of the problems; smaller shares are subsets of larger ones
    seed: int = 42  # order from which limit and fraction take the first
    benchmarks: list[str] = field(default_factory=list)  # default of evaluation.benchmarks
    extension: str | None = field(default=None, metadata={"runtime": True})  # what brings it

    def __post_init__(self) -> None:
        """Check ranges."""
        check_extension("data", self.name, self.extension)
        require_choice("data.split", self.split, SPLITS)
        require_positive("data.limit", self.limit, "data.limit=1000")
        require(
            0.0 < self.fraction <= 1.0,
            "data.fraction",
            self.fraction,
            "above 0 and at most 1",
            "data.fraction=0.25",
        )

    @property
    def is_microworld(self) -> bool:
        """Whether the problems are made offline."""
        return False


@dataclass
class MicroworldDataConfig(DataConfig, MicroworldConfig):
    """The offline world: its problems are made, not read; its knobs are keys of ``data`` too."""

    def __post_init__(self) -> None:
        """Check the ranges of both parents."""
        DataConfig.__post_init__(self)
        MicroworldConfig.__post_init__(self)

    @property
    def is_microworld(self) -> bool:
        """Whether the problems are made offline."""
        return True

    def world(self) -> MicroworldConfig:
        """The knobs that determine the world's problems, without those of ``data``."""
        return MicroworldConfig(**{f.name: getattr(self, f.name) for f in fields(MicroworldConfig)})
