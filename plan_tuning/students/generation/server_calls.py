"""Requests to one server over HTTP: repeated where it may answer the next time, else explained."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from plan_tuning.config.teacher import is_loopback
from plan_tuning.students.generation.protocol import EngineError, EngineLostError

if TYPE_CHECKING:
    from aiohttp import ClientSession

logger = logging.getLogger(__name__)

TRIES = 4  # of a request that a server could answer better the next time
_FIRST_WAIT_S = 0.25  # doubled after each try
_CONNECT_S = 30.0
_HEAD = 300  # characters of an answer that an error quotes
_BUSY = 429

T = TypeVar("T")
Call = Callable[..., Awaitable[Any]]
"""Called with method, path and payload (None: none); returns what the body says."""


class RefusedError(EngineError):
    """A request that a server answered, and will not do.

    Args:
        message: what it says, in one line.
        status: of HTTP.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ServerCalls:
    """A server's address, with the key and the patience that it is asked with.

    Args:
        api_base: up to and including ``/v1``.
        api_key: sent as a bearer token.
        concurrency: requests under way.
        timeout_s: of one answer.
    """

    def __init__(
        self, api_base: str, *, api_key: str | None, concurrency: int, timeout_s: float
    ) -> None:
        self.api_base = api_base.rstrip("/")
        self._api_key = api_key
        self.concurrency = concurrency
        self._timeout_s = timeout_s

    def once(self, method: str, path: str, payload: Any = None, *, tries: int = TRIES) -> Any:
        """Ask one thing and wait for it.

        Args:
            method: GET or POST.
            path: behind the address.
            payload: sent as JSON; None: nothing.
            tries: 1 for what must not be done twice.

        Returns:
            What the body says: JSON, or a text.

        Raises:
            EngineLostError: nobody answers.
            RefusedError: the server will not do it.
        """
        return self.together(lambda call: call(method, path, payload, tries=tries))

    def together(self, ask: Callable[[Call], Awaitable[T]]) -> T:
        """Run what asks many things at once over one session, and wait for it."""

        async def run() -> T:
            import aiohttp

            headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
            async with aiohttp.ClientSession(
                headers=headers,
                connector=aiohttp.TCPConnector(limit=self.concurrency),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=_CONNECT_S),
                trust_env=not is_loopback(self.api_base),
            ) as session:

                async def call(
                    method: str, path: str, payload: Any = None, *, tries: int = TRIES
                ) -> Any:
                    return await self._call(session, method, path, payload, tries)

                return await ask(call)

        return asyncio.run(run())

    async def _call(
        self, session: ClientSession, method: str, path: str, payload: Any, tries: int
    ) -> Any:
        wait = _FIRST_WAIT_S
        while True:
            tries -= 1
            try:
                return await self._try(session, method, path, payload)
            except EngineLostError as lost:
                if tries < 1:
                    raise
                logger.debug("%s; asked again", lost)
            except RefusedError as refused:
                is_passing = refused.status >= 500 or refused.status == _BUSY
                if not is_passing or tries < 1:
                    raise
                logger.debug("%s; asked again", refused)
            await asyncio.sleep(wait)
            wait *= 2

    async def _try(self, session: ClientSession, method: str, path: str, payload: Any) -> Any:
        import aiohttp

        try:
            async with session.request(
                method, self.api_base + path, json=payload, allow_redirects=False
            ) as response:
                status, body = response.status, (await response.read()).decode(errors="replace")
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            said = str(error) or type(error).__name__
            raise EngineLostError(f"{self.api_base} does not answer: {said}") from error
        found = _read(body)
        if status != 200:
            said = " ".join(str(_message(found)).split())[:_HEAD]
            raise RefusedError(f"{self.api_base}{path} refused ({status}): {said}", status)
        return found


def quoted(value: Any) -> str:
    """Show the beginning of an answer."""
    return json.dumps(value, default=str)[:_HEAD]


def _read(body: str) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body


def _message(found: Any) -> Any:
    """Find what a refusal says."""
    if isinstance(found, dict):
        inner = found.get("error", found)
        return inner.get("message", inner) if isinstance(inner, dict) else inner
    return found
