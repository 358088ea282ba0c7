"""What can go wrong when a large model is asked, and which of it ends a run.

A :class:`TeacherError` ends the run cleanly: everything paid for is stored, and its one line says
what to do. The :class:`CallFailure` classes never leave teachers/: they tell the caller whether
asking again can help.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_SECRETS = re.compile(
    r"(?i)(?:(?:x-api-key|authorization)[\"']?\s*[:=]\s*[\"']?(?:bearer\s+)?\S+|bearer\s+\S+"
    r"|\b(?:sk|pk|rk|xai|gsk|hf)[-_][A-Za-z0-9_-]{6,}|\bAIza[A-Za-z0-9_-]{10,}"
    r"|(?<=[?&])(?:key|api_key|token)=[^&\s\"']+)"
)
_MESSAGE_LENGTH = 500


class TeacherError(ValueError):
    """The run cannot go on; its exit code tells scripts why."""

    exit_code = 3


class FatalTeacherError(TeacherError):
    """Asking again cannot help: wrong key, no credit, unknown model."""


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


class InterruptedByUserError(TeacherError):
    """Ctrl-C: in-flight calls were waited for and stored."""

    exit_code = 130


class CallFailure(Exception):  # noqa: N818 - not every one of them is an error to a person
    """One request failed.

    Args:
        kind: short word for the record: rate_limit, http_500, timeout, …
        message: what the provider said, scrubbed of secrets.
        status: HTTP status; 0 where there was none.
        wait_s: how long the provider asked to wait; None where it did not say.
    """

    def __init__(
        self, kind: str, message: str, *, status: int = 0, wait_s: float | None = None
    ) -> None:
        self.message = scrub(message).encode(errors="replace").decode()  # the store takes UTF-8
        super().__init__(self.message)
        self.kind = kind
        self.status = status
        self.wait_s = wait_s


class RateLimited(CallFailure):
    """429: wait; it consumes no attempt."""


class Transient(CallFailure):
    """A fault that a later attempt may not meet."""


class Rejected(CallFailure):
    """The provider refuses this request for good (too long, content policy); others may pass."""


class Fatal(CallFailure):
    """The provider will refuse every request; the message says what to do."""


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Remove secrets from a message, then cut it to a readable length; see :func:`redact`."""
    return redact(text, secrets)[:_MESSAGE_LENGTH]


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Remove keys and authorisation headers from a text.

    Always before the text is cut: of a key on the cut a readable part would be left.

    >>> redact("401 for Bearer sk-abcdefgh at https://x/?key=AIzaSyD-1234567890")
    '401 for [secret] at https://x/?[secret]'
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[secret]")
    return _SECRETS.sub("[secret]", text)


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
