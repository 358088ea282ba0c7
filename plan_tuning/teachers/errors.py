"""What ends a run: each error keeps everything paid for, and its one line says what to do.

What one call may meet, and whether a retry can help, is :mod:`plan_tuning.teachers.failures`.
"""

from __future__ import annotations

import os


class TeacherError(ValueError):
    """The run cannot go on; its exit code tells scripts why."""

    exit_code = 3


class FatalTeacherError(TeacherError):
    """A retry cannot help: wrong key, no credit, unknown model."""


class MissingReplyError(TeacherError):
    """The store was to answer alone and lacks a reply."""


class BreakerError(TeacherError):
    """Too many calls fail: the provider is in trouble, and resuming later is cheaper."""

    exit_code = 4


class BudgetError(TeacherError):
    """The next call could exceed the budget."""

    exit_code = 5


class HolesError(TeacherError):
    """Calls kept failing, and what is made of the rest would lack them for good."""

    exit_code = 4


class UnusableError(TeacherError):
    """No answer of one kind can be used: the rest would be paid for in vain."""

    exit_code = 6


class InterruptedByUserError(TeacherError):
    """Ctrl-C: in-flight calls were waited for and stored."""

    exit_code = 130


def read_key(variable: str | None, *, is_required: bool) -> str | None:
    """Take the API key out of the environment.

    Raises:
        FatalTeacherError: a key is required and the variable is absent or empty.
    """
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key and is_required:
        name = variable or "(teacher.api_key_env names no variable)"
        raise FatalTeacherError(
            f"teacher.api_key_env={name}: this teacher needs a key and the environment variable is "
            f"not set. Try: export {variable or 'NAME'}=YOUR_KEY, then the same command again"
        )
    return key or None
