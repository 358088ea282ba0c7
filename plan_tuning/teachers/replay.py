"""The store alone answers; nobody is asked, so nothing can be spent."""

from __future__ import annotations

from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.records import Reply, Request
from plan_tuning.teachers.errors import MissingReplyError


class ReplayBackend:
    """Reached only when the store lacks a reply, which it reports."""

    def __init__(self, config: TeacherConfig) -> None:
        self._config = config

    async def complete(self, request: Request) -> Reply:
        """Refuse.

        Raises:
            MissingReplyError: always.
        """
        raise MissingReplyError(
            f"teacher={self._config.backend}: the store holds no reply to the {request.role} "
            f"request of problem {request.problem_id} (sample {request.sample_index}). Ask the "
            "teacher that filled the store, for example: teacher=openai_compatible teacher.api_base=http://127.0.0.1:8000/v1"
        )
