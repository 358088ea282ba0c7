"""What a teacher's backend is to its caller: one request, one try."""

from __future__ import annotations

from typing import Protocol

from plan_tuning.records import Reply, Request


class Backend(Protocol):
    """Reaches one provider; it never retries, stores or waits for its turn."""

    async def complete(self, request: Request) -> Reply:
        """Ask once; raise a CallFailure where there is no answer."""
