"""A thin client of OpenAI-compatible servers (vLLM, llama.cpp, SGLang, most providers).

It spends about a twentieth of litellm's CPU time a call, which counts where a local server answers
hundreds of them a second.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from plan_tuning.config.teacher import TeacherConfig, is_loopback
from plan_tuning.records import Reply, Request
from plan_tuning.teachers.address import misplaced
from plan_tuning.teachers.errors import read_key
from plan_tuning.teachers.failures import CallFailure, Transient, scrub
from plan_tuning.teachers.replies import read_response

_CONNECT_S = 30.0


class HttpBackend:
    """One keep-alive session with one server; made on the running event loop.

    Raises:
        FatalTeacherError: the key is required and not in the environment.
    """

    def __init__(self, config: TeacherConfig) -> None:
        import aiohttp

        self._model = config.model
        self._address = (config.api_base or "").rstrip("/")
        self._extra = config.thinking_fields()
        self._has_answered = False
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
            trust_env=not is_loopback(self._address),
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
        payload |= {**self._extra, **request.extra}
        headers: dict[str, str] = {}
        text = ""
        try:
            async with self._session.post(
                f"{self._address}/chat/completions",
                data=json.dumps(payload),
                allow_redirects=False,  # of a POST they would make a GET
            ) as response:
                body = await response.read()
                headers, text = dict(response.headers), body.decode("utf-8", "replace")
                reply = read_response(response.status, headers, text, self._key or "")
        except self._failures as error:
            said = scrub(str(error) or type(error).__name__, (self._key or "",))
            kind = "connection" if isinstance(error, self._unreached) else "disconnected"
            raise await self._explained(Transient(kind, said), headers, text) from None
        except CallFailure as failure:
            raise await self._explained(failure, headers, text) from None
        self._has_answered = True
        return reply

    async def _explained(
        self, failure: CallFailure, headers: dict[str, str], body: str
    ) -> CallFailure:
        """Say which address would work, where the address is at fault."""
        if self._has_answered:
            return failure
        found = await misplaced(self._address, failure, headers, body)
        return found or failure

    async def close(self) -> None:
        """End the session and its connections."""
        await self._session.close()
