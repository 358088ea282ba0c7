"""What a sweep's comparison is asked, and what is registered before its first job."""

from __future__ import annotations

from dataclasses import dataclass, field

from plan_tuning.config.checks import ConfigError, require, require_choice

METRICS = ("accuracy",)


@dataclass
class ComparisonConfig:
    """How the comparison at the end of a sweep reads its differences; part of no fingerprint."""

    smallest_effect: float | None = None  # points that would matter; None: registration's, or none

    def __post_init__(self) -> None:
        """Check ranges."""
        _check_effect("comparison.smallest_effect", self.smallest_effect)


@dataclass
class RegistrationConfig:
    """A question with its yardstick, written down before the first job; without one nothing is.

    Part of no fingerprint: a registration changes what may be claimed of the results.
    """

    hypothesis: str | None = None  # in one sentence; None: the sweep is exploratory
    claims: list[str] = field(default_factory=list)  # ids in comparison/published.yaml it is about
    metric: str = "accuracy"
    benchmark: str | None = None  # the primary one; None: the first
    smallest_effect: float | None = None  # points that would matter
    seeds: list[int] = field(default_factory=list)  # of every arm; empty: those of the sweep

    def __post_init__(self) -> None:
        """Check ranges, and that nothing is registered without its hypothesis."""
        require_choice("registration.metric", self.metric, METRICS)
        _check_effect("registration.smallest_effect", self.smallest_effect)
        named = self.claims or self.benchmark or self.smallest_effect or self.seeds
        require(
            bool(self.hypothesis and self.hypothesis.strip()) or not named,
            "registration.hypothesis",
            self.hypothesis,
            "a sentence, where anything else is registered",
            "'registration.hypothesis=M1 beats SFT'",
        )
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(
                "registration.seeds", self.seeds, "each seed once", "'registration.seeds=[0,1,2]'"
            )

    @property
    def is_made(self) -> bool:
        """Whether there is anything to register."""
        return self.hypothesis is not None


def _check_effect(key: str, points: float | None) -> None:
    require(
        points is None or 0 < points <= 100,
        key,
        points,
        "points of accuracy, above 0 and at most 100",
        f"{key}=2",
    )
