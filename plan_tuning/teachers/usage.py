"""What one run asked, got from the store, and paid."""

from __future__ import annotations

import logging

from plan_tuning.records import Reply

logger = logging.getLogger(__name__)


class Usage:
    """Counters of one caller.

    ``usd`` is what this run bought, ``total_usd`` the price of every reply that was used, whenever
    it was bought. Both are None as soon as one reply's price is unknown.

    Args:
        model: what is asked for; another one that answers is reported.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._counted: set[str] = set()
        self.bought = 0
        self.cached = 0
        self.failed_attempts = 0
        self.left_out = 0  # calls that failed to the end
        self.prompt_tokens = 0  # of what this run bought
        self.completion_tokens = 0
        self.usd: float | None = 0.0
        self.total_usd: float | None = 0.0
        self.served_models: set[str] = set()

    def on_stored(self, reply: Reply) -> None:
        """Count a reply that the store had."""
        self.cached += 1
        self._count(reply)

    def on_bought(self, reply: Reply) -> None:
        """Count a reply that was asked for."""
        self.bought += 1
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.usd = _sum(self.usd, reply.cost_usd)
        self._count(reply)

    def _count(self, reply: Reply) -> None:
        is_open = reply.cost_usd != 0 and self.total_usd is not None
        if is_open and reply.key not in self._counted:
            self._counted.add(reply.key)
            self.total_usd = _sum(self.total_usd, reply.cost_usd)
        served = reply.served_model
        if served and served not in self.served_models:
            self.served_models.add(served)
            if not served.rpartition("/")[2].startswith(self._model.rpartition("/")[2]):
                logger.warning(
                    "teacher.model=%s was asked for, but %s answers: the provider serves another "
                    "model",
                    self._model,
                    served,
                )


def _sum(total: float | None, usd: float | None) -> float | None:
    return None if total is None or usd is None else total + usd
