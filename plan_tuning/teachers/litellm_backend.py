"""Any provider, through litellm: used for its provider mapping alone.

Its retries, cache, router, budget and callbacks stay off: the caller does all of that once. What
litellm does on import (a download, reading ``.env``, a handler on its logger) is switched off too.
"""

from __future__ import annotations

import logging
import os
from types import ModuleType
from typing import Any

from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.records import Reply, Request
from plan_tuning.teachers.errors import CallFailure, Rejected, Transient, read_key, redact
from plan_tuning.teachers.failures import classify
from plan_tuning.teachers.pricing import Price

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
    for name in _LOGGERS:
        noisy = logging.getLogger(name)
        noisy.handlers.clear()
        noisy.setLevel(logging.ERROR)
    module: ModuleType = litellm
    return module


def _full_name(config: TeacherConfig) -> str:
    prefix = _PREFIX.get(config.provider, config.provider)
    return f"{prefix}/{config.model}" if prefix else config.model


def known_price(config: TeacherConfig) -> Price | None:
    """Look the model up in litellm's bundled price list; None where it is not in it."""
    prices: dict[str, Any] = _litellm().model_cost
    entry = prices.get(_full_name(config)) or prices.get(config.model) or {}
    both = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    if both[0] is None or both[1] is None:
        return None
    return Price(1e6 * float(both[0]), 1e6 * float(both[1]), "litellm")


class LitellmBackend:
    """One provider through litellm.

    Raises:
        FatalTeacherError: the key is required and not in the environment.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self._key = read_key(config.api_key_env, is_required=config.requires_key)
        self._litellm = _litellm()
        self._arguments: dict[str, Any] = {
            "model": _full_name(config),
            "timeout": 2 * config.timeout_s,  # the caller limits the call; this is the last resort
            "max_retries": 0,
            "num_retries": 0,
            "caching": False,
            "drop_params": False,
        }
        if config.api_base:
            self._arguments["api_base"] = config.api_base
        if self._key or config.provider == "openai_compatible":
            self._arguments["api_key"] = self._key or "none"

    async def complete(self, request: Request) -> Reply:
        """Ask once.

        Raises:
            CallFailure: there is no answer; its class says whether a later try may get one.
        """
        arguments = dict(self._arguments)
        if request.top_p != 1.0:
            arguments["top_p"] = request.top_p
        if request.seed is not None:
            arguments["seed"] = request.seed
        import openai

        try:
            response = await self._litellm.acompletion(
                messages=[dict(message) for message in request.messages],
                temperature=request.temperature,
                max_tokens=request.max_tokens,
                **arguments,
            )
        except openai.APIError as error:  # the root of every litellm exception of a provider
            raise self._failure(error) from None
        return _read(response)

    def _failure(self, error: Exception) -> CallFailure:
        """Turn litellm's exception back into a status, headers and a body, and classify these."""
        status = int(getattr(error, "status_code", 0) or 0)
        headers = dict(getattr(error, "litellm_response_headers", None) or {})
        message = redact(str(getattr(error, "message", "") or error), (self._key or "",))
        if isinstance(error, self._litellm.ContextWindowExceededError):
            return Rejected("context", message, status=status)
        if isinstance(error, self._litellm.ContentPolicyViolationError):
            return Rejected("policy", message, status=status)
        if isinstance(error, self._litellm.Timeout):
            return Transient("timeout", message, status=status)
        if isinstance(error, self._litellm.APIConnectionError):
            return Transient("connection", message, status=status)
        if status == 0:
            return Transient("unknown", message)
        return classify(status, headers, message)

    async def close(self) -> None:
        """Close litellm's clients of this event loop."""
        from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

        await close_litellm_async_clients()


def _read(response: Any) -> Reply:
    """Take the first choice out of litellm's response.

    Raises:
        Transient: it holds none.
    """
    if not response.choices:
        raise Transient("no_choice", "the body holds no choice", status=200)
    choice = response.choices[0]
    usage = getattr(response, "usage", None)
    return Reply(
        text=choice.message.content or "",
        finish_reason=choice.finish_reason or "stop",
        prompt_tokens=int(getattr(usage, "prompt_tokens", 0) or 0),
        completion_tokens=int(getattr(usage, "completion_tokens", 0) or 0),
        served_model=str(response.model or ""),
    )
