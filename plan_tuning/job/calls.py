"""The way from requests to replies of a large model or of a student's server, for one job."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from plan_tuning.config.run import Config, PathsConfig
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.distillation.corpus import OnUsage
from plan_tuning.job.graph import Stage
from plan_tuning.records import Reply, Request

if TYPE_CHECKING:
    from plan_tuning.evaluation.text_writers import AskAll


def ask_server(config: Config, student: Stage | None, on_usage: OnUsage) -> AskAll:
    """Ask the server of ``evaluation.server``; its answers belong to this student alone.

    Args:
        config: the job.
        student: who answers there; None: a model that nobody trained or made here.
        on_usage: told what was paid.
    """
    server = config.evaluation.server
    teacher = TeacherConfig(
        backend="http",
        model=server.model,
        label=f"student {student.fingerprint if student else config.model.path}",
        provider="openai_compatible",
        api_base=server.api_base,
        api_key_env=server.api_key_env,
        concurrency=server.concurrency,
        timeout_s=server.timeout_s,
    )
    # A student's first answer counts, be it empty or cut.
    return ask_all(teacher, config.paths, on_usage, resamples=False)


def ask_all(
    teacher: TeacherConfig, paths: PathsConfig, on_usage: OnUsage, *, resamples: bool = True
) -> AskAll:
    """Ask a large model or a server many things at once.

    Args:
        teacher: who is asked.
        paths: where answers are stored.
        on_usage: told what was paid.
        resamples: ask once more where an answer is unusable.
    """

    async def ask_each(requests: Sequence[Request]) -> list[Reply]:
        from plan_tuning.teachers.factory import open_caller
        from plan_tuning.teachers.usage import Usage

        usage = Usage(teacher.model)
        try:
            async with open_caller(
                teacher, paths.calls, resamples=resamples, usage=usage
            ) as caller:
                return await asyncio.gather(*(caller.ask(request) for request in requests))
        finally:  # calls under way when it ended were paid too
            on_usage(usage.bought, usage.usd)

    return lambda requests: asyncio.run(ask_each(requests))
