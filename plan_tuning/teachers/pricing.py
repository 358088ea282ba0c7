"""Tokens -> USD: what a teacher's calls cost, and the budget that no call may exceed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.records import Request
from plan_tuning.teachers.errors import BudgetError

logger = logging.getLogger(__name__)

_WARN_AT = 0.8
_PER_MILLION = 1e-6
_CHARACTERS_PER_TOKEN = 4
_MESSAGE_TOKENS = 4  # role and separators of a chat message


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens, and where the figure comes from: free, configured or litellm."""

    input: float
    output: float
    source: str

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Cost of one call.

        >>> Price(0.1, 0.4, "configured").usd(1_000_000, 500_000)
        0.3
        """
        cost = prompt_tokens * self.input + completion_tokens * self.output
        return round(cost * _PER_MILLION, 12)


def price_of(config: TeacherConfig) -> Price | None:
    """Find a teacher's price; None where it is unknown."""
    if isinstance(config.price, dict):
        return Price(float(config.price["input"]), float(config.price["output"]), "configured")
    if config.price == "free":
        return Price(0.0, 0.0, "free")
    from plan_tuning.teachers.litellm_backend import listed_price

    listed = listed_price(config)
    return None if listed is None else Price(*listed, "litellm")


def shown_usd(usd: float | None) -> str:
    """Write an amount for a person.

    >>> shown_usd(0.25), shown_usd(None)
    ('0.2500 USD', 'unknown (the price of the model is)')
    """
    return "unknown (the price of the model is)" if usd is None else f"{usd:.4f} USD"


def check_payment(config: TeacherConfig, price: Price | None) -> None:
    """Refuse to spend money that nobody agreed to spend.

    Raises:
        ConfigError: the price is unknown and a budget is set, or the teacher is paid and neither a
            budget nor a confirmation is given.
    """
    if price is None and config.budget_usd is not None:
        raise ConfigError(
            "teacher.budget_usd",
            config.budget_usd,
            f"the price of {config.model} is unknown, so a budget could not be kept",
            "'teacher.price={input: 0.1, output: 0.4}'",
        )
    is_paid = price is None or price.input > 0 or price.output > 0
    if is_paid and config.budget_usd is None and not config.confirm_paid:
        raise ConfigError(
            "teacher.confirm_paid",
            "false",
            f"{config.model} costs money: agree to it, or set a limit in USD (dry_run=true shows "
            "the estimate)",
            "teacher.budget_usd=5",
        )


def estimate_prompt_tokens(request: Request) -> int:
    """Estimate a request's prompt tokens from its length."""
    return sum(estimate_tokens(m["content"]) + _MESSAGE_TOKENS for m in request.messages)


def estimate_tokens(text: str) -> int:
    """Estimate a text's tokens: a quarter of its characters, rounded up."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


class Budget:
    """Reserves a call's highest possible cost before it goes out and settles it afterwards.

    Args:
        limit_usd: None: no limit.
        spent: tells what this teacher was paid so far, by every process on the store.
    """

    def __init__(self, limit_usd: float | None, spent: Callable[[], float]) -> None:
        self._limit = limit_usd
        self._spent = spent
        self._reserved = 0.0
        self._settled = asyncio.Event()
        self._has_warned = False

    async def reserve(self, usd: float) -> None:
        """Set ``usd`` aside, waiting for calls in flight to settle where that may make room.

        Raises:
            BudgetError: the call could exceed the budget.
        """
        self._warn()
        while self._limit is not None and self._spent() + self._reserved + usd > self._limit:
            if self._reserved <= 0:
                raise BudgetError(
                    f"teacher.budget_usd={self._limit:g} is used up: {self._spent():.4f} USD are "
                    f"spent and the next call could cost {usd:.4f}. Everything paid for is kept; "
                    f"to go on, run the same command with teacher.budget_usd={2 * self._limit:g}"
                )
            self._settled.clear()
            await self._settled.wait()
        self._reserved += usd

    def _warn(self) -> None:
        if self._limit is None or self._has_warned:
            return
        spent = self._spent()
        if spent >= _WARN_AT * self._limit:
            self._has_warned = True
            logger.warning("%.4f of the %g USD of teacher.budget_usd are spent", spent, self._limit)

    def settle(self, usd: float) -> None:
        """Release what was set aside; the real cost is in the store by now."""
        self._reserved = max(0.0, self._reserved - usd)
        if self._reserved < 1e-12:
            self._reserved = 0.0
        self._settled.set()
