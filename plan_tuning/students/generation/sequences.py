"""One completion while it grows: its tokens, its noise, and when it has ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from plan_tuning.students.loading import Student


class GenerationError(ValueError):
    """A prompt for which no completion can be generated."""


@dataclass
class Row:
    """One completion while it grows."""

    index: int  # position in the caller's list
    noise: np.random.Generator | None
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish_reason: str = "length"


@dataclass(frozen=True)
class Settings:
    """How the completions of a call are generated."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    stop_strings: tuple[str, ...]
    return_log_probs: bool
    is_static: bool


def has_ended(student: Student, row: Row, settings: Settings) -> bool:
    """Say whether a row's newest token is its last, and why."""
    if row.tokens[-1] in student.end_ids:
        row.finish_reason = "stop"
        return True
    if settings.stop_strings:
        # A token is at least one byte, so a stop string lies within as many tokens as it has
        # bytes; some more let multi-byte characters at the cut be whole.
        window = max(len(stop.encode()) for stop in settings.stop_strings) + 8
        tail = student.tokenizer.decode(row.tokens[-window:])
        if any(stop in tail for stop in settings.stop_strings):
            row.finish_reason = "stop_string"
            return True
    return False
