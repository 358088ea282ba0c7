"""Any provider, through litellm: used for its provider mapping alone.

Its retries, cache, router, budget and callbacks stay off: the caller does all of that once. What
litellm does on import (a download, reading ``.env``, a handler on its logger) is switched off too.
"""

from __future__ import annotations

import logging
import os
import warnings
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any

from plan_tuning.config.teacher import TeacherConfig, is_loopback
from plan_tuning.records import Reply, Request
from plan_tuning.teachers.address import misplaced
from plan_tuning.teachers.errors import read_key
from plan_tuning.teachers.failures import CallFailure, Rejected, Transient, classify, redact
from plan_tuning.teachers.replies import finish_word, read_response
from plan_tuning.text.thoughts import join_thoughts

if TYPE_CHECKING:
    import httpx
    from openai import AsyncOpenAI

_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
}
_PREFIX = {"openai_compatible": "openai", "openai": "openai"}
_LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")


def _litellm() -> ModuleType:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import litellm

    litellm.suppress_debug_info = True
    # Said of every answer whose fields have other types than OpenAI's client knows.
    warnings.filterwarnings("ignore", message="Pydantic serializer warnings")
    for name in _LOGGERS:
        noisy = logging.getLogger(name)
        noisy.handlers.clear()
        noisy.setLevel(logging.ERROR)
    module: ModuleType = litellm
    return module


def _full_name(config: TeacherConfig) -> str:
    prefix = _PREFIX.get(config.provider, config.provider)
    return f"{prefix}/{config.model}" if prefix else config.model


def listed_price(config: TeacherConfig) -> tuple[float, float] | None:
    """Look the model up in litellm's bundled price list.

    Returns:
        USD per million prompt and completion tokens; None where the model is not in the list.
    """
    prices: dict[str, Any] = _litellm().model_cost
    entry = prices.get(_full_name(config)) or prices.get(config.model) or {}
    both = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    if both[0] is None or both[1] is None:
        return None
    return 1e6 * float(both[0]), 1e6 * float(both[1])


_received: ContextVar[list[httpx.Response]] = ContextVar("received")


async def _keep_response(response: httpx.Response) -> None:
    """Keep what the server sent, before litellm takes thoughts, errors and reasons out of it."""
    await response.aread()
    _received.get([]).append(response)


class LitellmBackend:
    """One provider through litellm.

    A server of OpenAI's protocol is read as the http backend reads it, from the response itself, so
    that both give equal replies; of other providers litellm's reading is all that there is.

    Raises:
        FatalTeacherError: the key is required and not in the environment.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self._key = read_key(config.api_key_env, is_required=config.requires_key)
        self._litellm = _litellm()
        self._address = (config.api_base or "").rstrip("/")
        self._extra = config.thinking_fields()
        self._has_answered = False
        self._client: AsyncOpenAI | None = None
        self._arguments: dict[str, Any] = {
            "model": _full_name(config),
            "timeout": 2 * config.timeout_s,  # the caller limits the call; this is the last resort
            "max_retries": 0,
            "num_retries": 0,
            "caching": False,
            "drop_params": False,
        }
        if self._address:
            self._arguments["api_base"] = self._address
        if config.provider in _PREFIX:
            self._client = self._connect(config)
            self._arguments |= {"client": self._client, "api_key": self._client.api_key}
        elif self._key:
            self._arguments["api_key"] = self._key
        if is_loopback(self._address):
            _reach_loopback_directly()

    def _connect(self, config: TeacherConfig) -> AsyncOpenAI:
        import httpx
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._address or None,
            max_retries=0,
            http_client=httpx.AsyncClient(
                event_hooks={"response": [_keep_response]},
                limits=httpx.Limits(max_connections=config.concurrency),
                timeout=2 * config.timeout_s,
                trust_env=not is_loopback(self._address),
                follow_redirects=False,  # of a POST they would make a GET
            ),
        )

    async def complete(self, request: Request) -> Reply:
        """Ask once.

        Raises:
            CallFailure: there is no answer; its class says whether a later try may get one.
        """
        import openai

        arguments = dict(self._arguments)
        if request.top_p != 1.0:
            arguments["top_p"] = request.top_p
        if request.seed is not None:
            arguments["seed"] = request.seed
        extra = {**self._extra, **request.extra}
        if self._client is None:
            arguments |= extra
        elif extra:
            arguments["extra_body"] = extra
        received: list[httpx.Response] = []
        token = _received.set(received)
        try:
            response = await self._litellm.acompletion(
                messages=[dict(message) for message in request.messages],
                temperature=request.temperature,
                max_tokens=request.max_tokens,
                **arguments,
            )
            reply = await self._reply(received[-1]) if received else _read(response)
        except openai.APIError as error:  # the root of every litellm exception of a provider
            if not received:
                raise await self._explained(self._failure(error), {}, "") from None
            reply = await self._reply(received[-1])
        finally:
            _received.reset(token)
        self._has_answered = True
        return reply

    async def _reply(self, received: httpx.Response) -> Reply:
        """Read what the server sent."""
        headers, text = dict(received.headers), received.content.decode("utf-8", "replace")
        try:
            return read_response(received.status_code, headers, text, self._key or "")
        except CallFailure as failure:
            raise await self._explained(failure, headers, text) from None

    async def _explained(
        self, failure: CallFailure, headers: dict[str, str], body: str
    ) -> CallFailure:
        """Say which address would work, where the address is at fault."""
        if self._has_answered or self._client is None or not self._address:
            return failure
        found = await misplaced(self._address, failure, headers, body)
        return found or failure

    def _failure(self, error: Exception) -> CallFailure:
        """Turn litellm's exception back into a status, headers and a body, and classify these."""
        said_status = getattr(error, "status_code", 0)
        status = said_status if isinstance(said_status, int) else 0
        headers = dict(getattr(error, "litellm_response_headers", None) or {})
        message = redact(str(getattr(error, "message", "") or error), (self._key or "",))
        if isinstance(error, self._litellm.ContextWindowExceededError):
            return Rejected("context", message, status=status)
        if isinstance(error, self._litellm.ContentPolicyViolationError):
            return Rejected("policy", message, status=status)
        if isinstance(error, self._litellm.Timeout):
            return Transient("timeout", message, status=status)
        fault = _transport_fault(error)
        if fault is not None:
            return fault
        if isinstance(error, self._litellm.APIConnectionError):
            return Transient("connection", message)
        if status == 0:
            return Transient("unknown", message)
        return classify(status, headers, message)

    async def close(self) -> None:
        """Close the clients of this event loop."""
        if self._client is not None:
            await self._client.close()
        from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

        await close_litellm_async_clients()


def _transport_fault(error: BaseException) -> Transient | None:
    """Find what went wrong with the connection behind litellm's words for it; None: nothing."""
    import httpx

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.TransportError):
            is_unreached = isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout)
            said = str(cause) or type(cause).__name__
            return Transient("connection" if is_unreached else "disconnected", said)
        cause = cause.__cause__ or cause.__context__
    return None


def _reach_loopback_directly() -> None:
    """Take loopback out of the environment's proxies; litellm's own clients read it there."""
    for name in ("NO_PROXY", "no_proxy"):
        places = [place for place in os.environ.get(name, "").split(",") if place]
        added = [place for place in ("localhost", "127.0.0.1", "::1") if place not in places]
        os.environ[name] = ",".join([*places, *added])


def _read(response: Any) -> Reply:
    """Take the first choice out of litellm's response.

    Raises:
        Transient: it holds none.
    """
    if not response.choices:
        raise Transient("no_choice", "the body holds no choice", status=200)
    choice = response.choices[0]
    usage = getattr(response, "usage", None)
    text, finish_reason = choice.message.content or "", choice.finish_reason or "stop"
    thoughts = getattr(choice.message, "reasoning_content", None) or ""
    is_open = not text.strip() and finish_word(finish_reason) == "length"
    return Reply(
        text=join_thoughts(thoughts, text, is_open=is_open),
        finish_reason=finish_reason,
        prompt_tokens=int(getattr(usage, "prompt_tokens", 0) or 0),
        completion_tokens=int(getattr(usage, "completion_tokens", 0) or 0),
        served_model=str(response.model or ""),
    )
