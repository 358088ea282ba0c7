"""A provider's refusal -> what to do about it: wait, try again, give this request up, or stop."""

from __future__ import annotations

import datetime
import email.utils
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from plan_tuning.teachers.errors import (
    CallFailure,
    Fatal,
    RateLimited,
    Rejected,
    Transient,
    redact,
)

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
_BAD_KEY = re.compile(r"(?i)api[_ ]?key (?:not valid|invalid|expired)|invalid[_ ]api[_ ]key")


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


def classify(
    status: int, headers: Mapping[str, str], body: str, *, secrets: Iterable[str] = ()
) -> CallFailure:
    """Say what a response with an error status means for the request and for the run.

    Never by the word "quota" alone: Gemini says it of a limit per minute as well.

    Args:
        status: HTTP status.
        headers: of the response.
        body: of the response, whole.
        secrets: keys that were sent; the failure's message holds no part of them.
    """
    message = f"HTTP {status}: {redact(_said(body), secrets)[:_SAID_LENGTH]}"
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
    return f"{what}. The provider said: {message}. Put it right, then run the same command again"


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
        error = error.get("message") or json.dumps(error, ensure_ascii=False)
    return " ".join(str(error).split())
