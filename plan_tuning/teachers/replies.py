"""A provider's response -> the reply: read alike, whichever backend carried it.

The store keeps what the provider sent: the text with its thoughts, the finish reason in the
provider's own word. :func:`settled` makes of it what whoever asked is given, when it is bought and
whenever it is read again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from plan_tuning.records import Reply
from plan_tuning.teachers.failures import CallFailure, Transient, classify, error_in, redact
from plan_tuning.text.parsing import is_refusal
from plan_tuning.text.thoughts import join_thoughts, split_thoughts

_MAX_TOKENS = 10**9  # no request has more; the store holds 64 bits
_SHOWN_CHARACTERS = 80
_LENGTH = frozenset(
    {
        "length", "max_tokens", "max_output_tokens", "max_new_tokens", "max_completion_tokens",
        "max_length", "model_length", "token_limit", "context_length", "context_length_exceeded",
        "model_context_window_exceeded", "incomplete",
    }
)  # fmt: skip
_FILTERED = frozenset(
    {
        "content_filter", "content_filtered", "safety", "recitation", "blocklist",
        "prohibited_content", "spii", "image_safety", "guardrail_intervened", "sensitive",
    }
)  # fmt: skip
_TOOLS = frozenset(
    {
        "tool_calls", "tool_call", "tool_use", "function_call",
        "malformed_function_call", "unexpected_tool_call",
    }
)  # fmt: skip


def finish_word(reason: str) -> str:
    """Give a provider's finish reason in OpenAI's word; one that is unknown stays as it is.

    >>> finish_word("MAX_TOKENS"), finish_word("SAFETY"), finish_word("stop")
    ('length', 'content_filter', 'stop')
    """
    plain = reason.strip().lower().rpartition(".")[2]  # also "FinishReason.MAX_TOKENS"
    for word, names in (
        ("length", _LENGTH),
        ("content_filter", _FILTERED),
        ("tool_calls", _TOOLS),
    ):
        if plain in names:
            return word
    return reason


def settled(reply: Reply) -> Reply:
    """Cut the thoughts off a reply as it was sent, and say what is left is worth.

    Args:
        reply: its text is raw; ``status`` ok: nothing is known against it yet.

    Returns:
        The reply with the text that follows its thoughts, the finish reason in OpenAI's word, and
        ok, truncated, empty, refused, filtered, or the status that it had.
    """
    said = split_thoughts(reply.text)
    finish = finish_word(reply.finish_reason)
    if said.is_open and finish != "content_filter":
        finish = "length"
    status = reply.status
    if status == "ok":
        if finish == "content_filter":
            status = "filtered"
        elif finish == "length":
            status = "truncated"
        elif not said.text.strip():
            status = "empty"
        elif is_refusal(said.text):
            status = "refused"
    return dataclasses.replace(
        reply, text=said.text, thoughts=said.thoughts, finish_reason=finish, status=status
    )


def storable(text: str) -> str:
    """Join split surrogate pairs and replace lone surrogates, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def read_response(status: int, headers: Mapping[str, str], body: str, key: str = "") -> Reply:
    """Read a response of OpenAI's protocol.

    Args:
        status: HTTP status.
        headers: of the response.
        body: of the response, whole.
        key: what was sent; no failure repeats it.

    Raises:
        CallFailure: an error, also one that came with status 200; or no answer: a body cut short,
            an HTML page, one without a choice, or with fields of other types than the protocol has.
    """
    if not 200 <= status < 300:
        raise classify(status, headers, body, secrets=(key,))
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        shown = redact(body, (key,))[:_SHOWN_CHARACTERS]
        raise Transient("bad_body", f"the body is no JSON: {shown!r}", status=200) from None
    found = error_in(parsed)
    if found is not None:
        raise classify(found[0], headers, found[1], secrets=(key,), is_hidden=True)
    choices = parsed.get("choices") if isinstance(parsed, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Transient("no_choice", "the body holds no choice", status=200)
    return _choice(choices[0], parsed)


def _choice(choice: Mapping[str, Any], parsed: Mapping[str, Any]) -> Reply:
    message = choice.get("message") or {}
    usage = parsed.get("usage") or {}
    finish_reason = choice.get("finish_reason") or "stop"
    for name, value, kind in (
        ("message", message, dict),
        ("usage", usage, dict),
        ("finish_reason", finish_reason, str),
    ):
        if not isinstance(value, kind):
            raise _bad_field(name, value)
    content = message.get("content")
    if content is None and "message" not in choice:
        content = choice.get("text")  # of servers that answer as the older protocol did
    thoughts, text = _parts(content)
    thoughts = thoughts or _thoughts(message)
    if not text.strip() and message.get("tool_calls") and finish_reason == "stop":
        finish_reason = "tool_calls"
    is_open = not text.strip() and finish_word(finish_reason) == "length"
    raw = join_thoughts(thoughts, text, is_open=is_open)
    return Reply(
        text=raw,
        status="refused" if not raw and message.get("refusal") else "ok",
        finish_reason=finish_reason,
        prompt_tokens=_count("prompt_tokens", usage),
        completion_tokens=_count("completion_tokens", usage),
        served_model=str(parsed.get("model") or ""),
    )


def _parts(content: Any) -> tuple[str, str]:
    """Read a message's content: a text, nothing, or a list of parts; thoughts and text apart."""
    if content is None or isinstance(content, str):
        return "", content or ""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise _bad_field("content", content)
    texts = [
        part.get("text") for part in content if part.get("type", "text") in ("text", "output_text")
    ]
    if not all(isinstance(text, str) for text in texts):
        raise _bad_field("content", content)
    thoughts = [
        _plain(part.get("thinking") or part.get("text"))
        for part in content
        if part.get("type") in ("thinking", "reasoning")
    ]
    return "".join(thoughts), "".join(texts)


def _thoughts(message: Mapping[str, Any]) -> str:
    """Read the thoughts that a server sends apart from the content."""
    return _plain(message.get("reasoning_content")) or _plain(message.get("reasoning"))


def _plain(value: Any) -> str:
    """Read a thought: a text, or parts with texts; of anything else nothing is wanted."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [part.get("text") for part in value if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return ""


def _count(name: str, usage: Mapping[str, Any]) -> int:
    """Read a number of tokens; 0 where the server counts none."""
    value = usage.get(name) or 0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _MAX_TOKENS:  # also refuses NaN
        raise _bad_field(name, value)
    return int(value)


def _bad_field(name: str, value: Any) -> CallFailure:
    """What to say of a field of another type; its content may be anything and is not repeated."""
    kind = type(value).__name__
    return Transient("bad_body", f"the body's {name} cannot be read ({kind})", status=200)
