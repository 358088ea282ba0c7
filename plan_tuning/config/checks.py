"""Range checks of configuration values, and the one error that a bad value ends in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

AUTO = "auto"  # a number that is found out where the job runs


class ConfigError(ValueError):
    """A value that cannot be used: the message names key, value, what is allowed and a fix.

    With its first argument alone that is the whole message: so pickle and OmegaConf rebuild it.
    """

    def __init__(
        self, key: str, value: object = None, allowed: str = "", example: str = ""
    ) -> None:
        if not allowed:
            super().__init__(key)
            return
        super().__init__(f"{key}={value!s} is not allowed: {allowed}. Try for example: {example}")


def require(condition: bool, key: str, value: object, allowed: str, example: str) -> None:
    """Refuse ``value`` unless ``condition`` holds.

    Raises:
        ConfigError: the condition does not hold.
    """
    if not condition:
        raise ConfigError(key, value, allowed, example)


def require_choice(key: str, value: str, choices: Collection[str]) -> None:
    """Refuse ``value`` unless it is one of ``choices``.

    Raises:
        ConfigError: it is not.
    """
    options = list(choices)
    require(
        value in options, key, value, f"choose one of {', '.join(options)}", f"{key}={options[0]}"
    )


def require_positive(key: str, value: float | None, example: str, *, zero: bool = False) -> None:
    """Refuse a negative number (and 0, unless ``zero``); None means "not set" and passes.

    Raises:
        ConfigError: the value is out of range.
    """
    if value is None:
        return
    good = value >= 0 if zero else value > 0
    require(good, key, value, "a number of 0 or more" if zero else "a number above 0", example)


def require_tokens(key: str, value: object) -> None:
    """Refuse what is neither a number of tokens above 0 nor ``auto``.

    Raises:
        ConfigError: it is neither.
    """
    is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
    require(
        is_count or value == AUTO,
        key,
        value,
        "a number of tokens above 0, or auto: as many as the free memory holds",
        f"{key}=auto",
    )


def require_rate(key: str, value: float, example: str) -> None:
    """Refuse a fraction outside 0..1.

    Raises:
        ConfigError: it is outside.
    """
    require(0.0 <= value <= 1.0, key, value, "a fraction between 0 and 1", example)


@dataclass(frozen=True)
class Finding:
    """What a check of a job came to, in one line; with an error the job cannot work."""

    kind: str  # ok, note, error
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"
