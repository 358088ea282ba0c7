"""A thin client of OpenAI-compatible servers (vLLM, llama.cpp, SGLang, most providers).

It spends about a twentieth of litellm's CPU time a call, which counts where a local server answers
hundreds of them a second.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.records import Reply, Request
from plan_tuning.teachers.errors import Transient, read_key, redact, scrub
from plan_tuning.teachers.failures import classify

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MAX_TOKENS = 10**9  # no request has more; the store holds 64 bits
_SHOWN_CHARACTERS = 80
_CONNECT_S = 30.0


class HttpBackend:
    """One keep-alive session with one server; made on the running event loop.

    Raises:
        FatalTeacherError: the key is required and not in the environment.
    """

    def __init__(self, config: TeacherConfig) -> None:
        import aiohttp

        self._model = config.model
        self._url = f"{(config.api_base or '').rstrip('/')}/chat/completions"
        self._key = read_key(config.api_key_env, is_required=config.requires_key)
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._failures = (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError)
        self._unreached = (
            aiohttp.ClientConnectorError,
            aiohttp.ServerTimeoutError,
            aiohttp.InvalidURL,
        )
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=config.concurrency, keepalive_timeout=30),
            # The caller limits the whole call.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            trust_env=urlsplit(self._url).hostname not in _LOOPBACK,
        )

    async def complete(self, request: Request) -> Reply:
        """Ask once.

        Raises:
            CallFailure: there is no answer; its class says whether a later try may get one.
        """
        payload: dict[str, Any] = {
            "model": self._model,
            "messages": [dict(message) for message in request.messages],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
        }
        if request.top_p != 1.0:
            payload["top_p"] = request.top_p
        if request.seed is not None:
            payload["seed"] = request.seed
        payload |= request.extra
        try:
            async with self._session.post(self._url, data=json.dumps(payload)) as response:
                body = await response.read()
                status, headers = response.status, response.headers
        except self._failures as error:
            said = scrub(str(error) or type(error).__name__, (self._key or "",))
            kind = "connection" if isinstance(error, self._unreached) else "disconnected"
            raise Transient(kind, said) from None
        text = body.decode("utf-8", "replace")
        if status != 200:
            raise classify(status, headers, text, secrets=(self._key or "",))
        return _read(text, self._key or "")

    async def close(self) -> None:
        """End the session and its connections."""
        await self._session.close()


def _read(body: str, key: str = "") -> Reply:
    """Take the first choice out of a response's body.

    Raises:
        Transient: the body is no answer: cut short, an HTML page, without a choice, or with fields
            of other types than the protocol has.
    """
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        shown = redact(body, (key,))[:_SHOWN_CHARACTERS]
        raise Transient("bad_body", f"the body is no JSON: {shown!r}", status=200) from None
    choices = parsed.get("choices") if isinstance(parsed, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Transient("no_choice", "the body holds no choice", status=200)
    message = choices[0].get("message") or {}
    usage = parsed.get("usage") or {}
    finish_reason = choices[0].get("finish_reason") or "stop"
    for name, value, kind in (
        ("message", message, dict),
        ("usage", usage, dict),
        ("finish_reason", finish_reason, str),
    ):
        if not isinstance(value, kind):
            raise _bad_field(name, value)
    text = _text(message.get("content"))
    return Reply(
        text=text,
        status="refused" if not text and message.get("refusal") else "ok",
        finish_reason=finish_reason,
        prompt_tokens=_count("prompt_tokens", usage),
        completion_tokens=_count("completion_tokens", usage),
        served_model=str(parsed.get("model") or ""),
    )


def _text(content: Any) -> str:
    """Read a message's content: a text, nothing, or a list of parts whose texts are joined."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise _bad_field("content", content)
    texts = [part.get("text") for part in content if part.get("type", "text") == "text"]
    if not all(isinstance(text, str) for text in texts):
        raise _bad_field("content", content)
    return "".join(texts)


def _count(name: str, usage: dict[str, Any]) -> int:
    """Read a number of tokens; 0 where the server counts none."""
    value = usage.get(name) or 0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _MAX_TOKENS:  # also refuses NaN
        raise _bad_field(name, value)
    return int(value)


def _bad_field(name: str, value: Any) -> Transient:
    """What to say of a field of another type; its content may be anything and is not repeated."""
    kind = type(value).__name__
    return Transient("bad_body", f"the body's {name} cannot be read ({kind})", status=200)
