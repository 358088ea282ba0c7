"""How a teacher is reached: what a backend does, which one a teacher has, and the one of replay.

The others are modules of their own, loaded when they are chosen: http_backend for a server that
speaks OpenAI's protocol, litellm_backend for any provider, scripted for the micro-world's teacher.
"""

from __future__ import annotations

from typing import Protocol

from plan_tuning.config.extensions import record
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.records import Reply, Request
from plan_tuning.teachers.errors import MissingReplyError


class Backend(Protocol):
    """Reaches one provider; it never retries, stores or waits for its turn."""

    async def complete(self, request: Request) -> Reply:
        """Ask once; raise a CallFailure where there is no answer."""


def connect(config: TeacherConfig) -> Backend:
    """Make the backend that a teacher's config names.

    Raises:
        FatalTeacherError: its key is required and not in the environment.
    """
    backend: Backend = record("teacher", config.backend).load()(config)
    return backend


class ReplayBackend:
    """The store alone answers, so nothing can be spent: reached only where a reply is missing."""

    def __init__(self, config: TeacherConfig) -> None:
        self._config = config

    async def complete(self, request: Request) -> Reply:
        """Report the missing reply.

        Raises:
            MissingReplyError: always.
        """
        raise MissingReplyError(
            f"teacher={self._config.backend}: the store holds no reply to the {request.role} "
            f"request of problem {request.problem_id} (sample {request.sample_index}). Ask the "
            "teacher that filled the store, for example: teacher=openai_compatible teacher.api_base=http://127.0.0.1:8000/v1"
        )
