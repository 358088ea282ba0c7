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
from plan_tuning.teachers.errors import Transient, read_key, scrub
from plan_tuning.teachers.failures import classify

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


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
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=config.concurrency, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None),  # the caller limits the whole call
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
        try:
            async with self._session.post(self._url, data=json.dumps(payload)) as response:
                body = await response.read()
                status, headers = response.status, response.headers
        except self._failures as error:
            said = scrub(str(error) or type(error).__name__, (self._key or "",))
            raise Transient("connection", said) from None
        text = body.decode("utf-8", "replace")
        if status != 200:
            failure = classify(status, headers, text)
            failure.message = scrub(failure.message, (self._key or "",))
            raise failure
        return _read(text)

    async def close(self) -> None:
        """End the session and its connections."""
        await self._session.close()


def _read(body: str) -> Reply:
    """Take the first choice out of a response's body.

    Raises:
        Transient: the body is no answer: cut short, an HTML page, or without a choice.
    """
    try:
        parsed = json.loads(body)
    except ValueError:
        raise Transient("bad_body", f"the body is no JSON: {body[:80]!r}", status=200) from None
    choices = parsed.get("choices") if isinstance(parsed, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Transient("no_choice", "the body holds no choice", status=200)
    message = choices[0].get("message") or {}
    usage = parsed.get("usage") or {}
    content = message.get("content")
    status = "refused" if not content and message.get("refusal") else "ok"
    return Reply(
        text=content if isinstance(content, str) else "",
        status=status,
        finish_reason=choices[0].get("finish_reason") or "stop",
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        served_model=str(parsed.get("model") or ""),
    )
