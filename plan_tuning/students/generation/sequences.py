"""One completion while it grows: its tokens, its noise, and when it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from plan_tuning.students.generation.protocol import EngineError
from plan_tuning.students.loading import Student


class GenerationError(EngineError):
    """A prompt for which no completion can be generated."""


@dataclass
class Row:
    """One completion while it grows."""

    index: int  # position in the caller's list
    prompt: tuple[int, ...]
    noise: np.random.Generator | None
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish_reason: str = "length"
    is_over: bool = False

    @property
    def text(self) -> tuple[int, ...]:
        """Its prompt and what it has written: what is read again where its cache is gone."""
        return (*self.prompt, *self.tokens)


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


def extend(
    student: Student,
    row: Row,
    tokens: Sequence[int],
    log_probs: Sequence[float] | None,
    settings: Settings,
) -> None:
    """Give a row its next tokens up to the one that ends it, each looked at as it comes.

    Args:
        student: whose tokens end a text.
        row: one that is not over.
        tokens: what was chosen after its newest token; what stands behind an end is dropped.
        log_probs: of the tokens; None where none were asked for.
        settings: of the call.
    """
    for place, token in enumerate(tokens):
        row.tokens.append(token)
        if log_probs is not None:
            row.log_probs.append(log_probs[place])
        if _has_stopped(student, row, settings) or len(row.tokens) == settings.max_new_tokens:
            row.is_over = True
            return


def _has_stopped(student: Student, row: Row, settings: Settings) -> bool:
    """Say whether a row's newest token ends it, and why."""
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
