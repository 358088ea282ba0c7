"""One call fails -> what to do about it: wait, retry, give this request up, or stop the run.

The :class:`CallFailure` classes never leave teachers/: they tell the caller whether a retry can
help. :func:`classify` chooses one for a response.
"""

from __future__ import annotations

import datetime
import email.utils
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_SECRETS = re.compile(
    r"(?i)(?:(?:x-api-key|authorization)[\"']?\s*[:=]\s*[\"']?(?:bearer\s+)?\S+|bearer\s+\S+"
    r"|\b(?:sk|pk|rk|xai|gsk|hf)[-_][A-Za-z0-9_-]{6,}|\bAIza[A-Za-z0-9_-]{10,}"
    r"|(?<=[?&])(?:key|api_key|token)=[^&\s\"']+)"
)
_MESSAGE_LENGTH = 500
# What providers call in words what HTTP has a status for.
_STATUS_OF_WORD = {
    word: status
    for status, words in {
        400: "invalid_request_error invalid_request invalid_argument bad_request badrequesterror "
        "failed_precondition context_length_exceeded content_filter content_policy_violation",
        401: "unauthenticated unauthorized invalid_api_key authentication_error auth_error",
        402: "payment_required insufficient_balance insufficient_credits insufficient_funds "
        "billing_error billing_hard_limit_reached",
        403: "permission_denied permission_error forbidden",
        404: "not_found not_found_error model_not_found notfounderror",
        429: "rate_limit_error rate_limit_exceeded rate_limit resource_exhausted "
        "too_many_requests insufficient_quota quota_exceeded throttling",
        500: "internal internal_error internal_server_error server_error api_error",
        503: "unavailable service_unavailable overloaded overloaded_error engine_overloaded",
        504: "deadline_exceeded timeout timeout_error gateway_timeout",
    }.items()
    for word in words.split()
}
_CODE_NAMES = ("code", "status", "status_code", "statusCode", "type")
_SECONDS = re.compile(r"\A\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h)?\s*\Z")
_SAID_LENGTH = 300
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_COMPOSED = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|h|m|s)")
_RETRY_INFO = re.compile(r"[\"']retryDelay[\"']\s*:\s*[\"']([0-9.]+s)[\"']")
_NO_CREDIT = re.compile(
    r"(?i)insufficient_quota|insufficient (?:funds|balance|credit)|credit balance is too low"
    r"|billing_hard_limit|payment required"
)
_PER_DAY = re.compile(r"(?i)PerDay|per day|daily (?:limit|quota)")
_PER_MINUTE = re.compile(r"(?i)PerMinute|per minute")
_NO_QUOTA = re.compile(r"(?i)\blimit: 0\b")
_TOO_LONG = re.compile(
    r"(?i)context_length_exceeded|maximum context length|context window|too many tokens"
    r"|input is too long|prompt is too long|exceeds the maximum number of tokens"
)
_POLICY = re.compile(r"(?i)content[_ ]?(?:filter|policy|management)|safety|ResponsibleAI|blocked")
_BUSY = re.compile(r"(?i)rate.?limit|too many requests|quota|throttl")
_BAD_KEY = re.compile(r"(?i)api[_ ]?key (?:not valid|invalid|expired)|invalid[_ ]api[_ ]key")


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
    """A fault that a retry may not meet."""


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


def retry_after(
    headers: Mapping[str, str], body: str, *, now: datetime.datetime | None = None
) -> float | None:
    """Read how long the provider asks to wait, in seconds; None where it does not say.

    Understood are ``retry-after-ms``, ``Retry-After`` in seconds or as an HTTP date, OpenAI's
    ``x-ratelimit-reset-*`` durations and Gemini's ``RetryInfo.retryDelay`` in the body.

    >>> retry_after({"Retry-After": "2.5"}, ""), retry_after({"retry-after-ms": "300"}, "")
    (2.5, 0.3)
    >>> retry_after({}, '{"@type": "…RetryInfo", "retryDelay": "26s"}')
    26.0
    """
    lower = {key.lower(): value for key, value in headers.items()}
    milliseconds = _number(lower.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = lower.get("retry-after")
    if value is not None:
        seconds = _number(value)
        return seconds if seconds is not None else _until(value, now)
    info = _RETRY_INFO.search(body)
    if info:
        return _number(info[1])
    resets = [
        _duration(lower[key])
        for kind in ("requests", "tokens")
        if lower.get(f"x-ratelimit-remaining-{kind}") == "0"
        and (key := f"x-ratelimit-reset-{kind}") in lower
    ]
    waits = [wait for wait in resets if wait is not None]
    return max(waits) if waits else None


def _number(text: str | None) -> float | None:
    found = _SECONDS.match(text) if text else None
    return float(found[1]) * _UNITS[found[2] or "s"] if found else None


def _duration(text: str) -> float | None:
    """Read "1m30.5s" or "250ms"."""
    parts = _COMPOSED.findall(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else _number(text)


def _until(text: str, now: datetime.datetime | None) -> float | None:
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return max(0.0, (date - (now or datetime.datetime.now(datetime.UTC))).total_seconds())


def error_in(body: Any) -> tuple[int, str] | None:
    """Find the error in a body that came with status 200, as proxies and routers send them.

    Args:
        body: the parsed body.

    Returns:
        The status that the error would have had by its own code, 0 where it cannot be told, and
        the error as JSON; None where the body holds no error.

    >>> error_in({"error": {"code": "402", "message": "No credit."}})
    (402, '{"error": {"code": "402", "message": "No credit."}}')
    >>> error_in({"error": {}, "choices": [{"message": {}}]}) is None
    True
    """
    if isinstance(body, list) and body:
        body = body[0]  # Gemini's errors come in a list
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    places = [body.get("error"), choice.get("error") if isinstance(choice, dict) else None]
    if choice is None:  # some servers put the error's fields at the top
        places += [body.get("errors"), body if _speaks(body) else None]
    for error in places:
        if error is True:
            error = {name: value for name, value in body.items() if name != "error"}
        if not _is_error(error):
            continue
        said = json.dumps({"error": error}, ensure_ascii=False)
        return _status_of(error, body) or _status_by_words(said), said
    return None


def _speaks(body: Mapping[str, Any]) -> bool:
    return any(body.get(name) for name in ("message", "detail", "error_message"))


def _is_error(error: Any) -> bool:
    """Whether something is said; some servers send an empty error with every answer."""
    if isinstance(error, dict):
        return _speaks(error) or bool(_status_of(error, {}))
    return bool(error) and error is not True


def _status_of(error: Any, body: Mapping[str, Any]) -> int:
    """Read the status out of an error's code; 0 where there is none."""
    if isinstance(error, int | float):
        return _as_status(error)
    for source in (error, body):
        if isinstance(source, dict):
            for name in _CODE_NAMES:
                status = _as_status(source.get(name))
                if status:
                    return status
    return 0


def _as_status(code: Any) -> int:
    if isinstance(code, str):
        word = code.strip().lower().replace("-", "_").replace(" ", "_")
        if not word[:3].isdecimal() or not word.isascii():
            return _STATUS_OF_WORD.get(word, 0)
        code = int(word[:3])
    if isinstance(code, bool) or not isinstance(code, int | float):
        return 0
    if 40000 <= code < 60000:  # FastChat's: a status and two digits
        code //= 100
    return int(code) if 400 <= code < 600 else 0


def _status_by_words(said: str) -> int:
    """Guess the status of an error without a code from what it says; 0: of the moment."""
    for words, status in ((_NO_CREDIT, 402), (_BAD_KEY, 401), (_TOO_LONG, 400), (_BUSY, 429)):
        if words.search(said):
            return status
    return 0


def classify(
    status: int,
    headers: Mapping[str, str],
    body: str,
    *,
    secrets: Iterable[str] = (),
    is_hidden: bool = False,
) -> CallFailure:
    """Say what a response with an error status means for the request and for the run.

    Never by the word "quota" alone: Gemini says it of a limit per minute as well.

    Args:
        status: HTTP status, or the code of an error that came with status 200; 0: neither.
        headers: of the response.
        body: of the response, whole.
        secrets: keys that were sent; the failure's message holds no part of them.
        is_hidden: the error came with status 200.
    """
    place = f"HTTP 200 with error {status or 'of no code'}" if is_hidden else f"HTTP {status}"
    message = f"{place}: {redact(_said(body), secrets)[:_SAID_LENGTH]}"
    if not status:
        return Transient("error", message, wait_s=retry_after(headers, body))
    wait_s = retry_after(headers, body)
    if status == 429 or (status == 529 and wait_s is None):
        is_daily = _PER_DAY.search(body) and not _PER_MINUTE.search(body)
        if _NO_CREDIT.search(body) or _NO_QUOTA.search(body) or (is_daily and wait_s is None):
            return Fatal(
                "quota", _advice("the account's credit or quota is used up", message), status=status
            )
        if is_daily and wait_s is not None and wait_s > 3600:
            return Fatal(
                "quota", _advice("the quota of the day is used up", message), status=status
            )
        return RateLimited("rate_limit", message, status=status, wait_s=wait_s)
    if status in (401, 403) or (status == 400 and _BAD_KEY.search(body)):
        return Fatal(
            "auth",
            _advice("the provider refuses the key (see teacher.api_key_env)", message),
            status=status,
        )
    if status == 402:
        return Fatal("quota", _advice("the account has no credit", message), status=status)
    if status == 404:
        return Fatal(
            "unknown_model",
            _advice("no such model or address: check teacher.model and teacher.api_base", message),
            status=status,
        )
    if status in (408, 409, 425) or status >= 500:
        return Transient(f"http_{status}", message, status=status, wait_s=wait_s)
    if _TOO_LONG.search(body) or status == 413:
        return Rejected("context", message, status=status)
    if _POLICY.search(body):
        return Rejected("policy", message, status=status)
    return Fatal(
        "bad_request",
        _advice("the provider does not accept the request's parameters", message),
        status=status,
    )


def _advice(what: str, message: str) -> str:
    said = message.rstrip(".")
    return f"{what}. The provider said: {said}. Put it right, then run the same command again"


def _said(body: str) -> str:
    """The error's text out of a JSON body, else the body itself."""
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        return " ".join(body.split()) or "(empty body)"
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    if isinstance(error, dict):
        said = error.get("message") or error.get("detail") or json.dumps(error, ensure_ascii=False)
        metadata = error.get("metadata")  # OpenRouter's, with the words of the provider behind it
        raw = metadata.get("raw") if isinstance(metadata, dict) else None
        error = f"{said} ({raw})" if raw else said
    return " ".join(str(error).split())
