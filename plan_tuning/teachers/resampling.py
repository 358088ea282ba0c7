"""Reply -> whether it stands, and which sample of the request is drawn where it does not.

An answer that is empty, cut short, declined or filtered was paid for and is stored, but it is not
what was wanted: another sample is drawn, at most twice, each under its own address. A later run
walks the same samples through the store and so buys none of them again. This is no retry: a retry
repeats a call that got no answer (:mod:`plan_tuning.teachers.caller`).
"""

from __future__ import annotations

import dataclasses

from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.records import Reply, Request
from plan_tuning.teachers.store import CallStore, call_fingerprint, teacher_fingerprint

MAX_RESAMPLES = 2
_SALT_SEED = 1_000_003  # a prime far above any sample index
_ANSWERED = ("ok", "rejected", "failed")


def seeded(request: Request, config: TeacherConfig, role_seed: int = 0) -> Request:
    """Give a request the seed that will be sent: none where the provider takes none."""
    if request.seed is None:
        return request
    seed = request.seed + role_seed if config.seeded else None
    return request if seed == request.seed else dataclasses.replace(request, seed=seed)


def next_sample(first: Request, asked: Request, reply: Reply, *, is_seeded: bool) -> Request | None:
    """Choose the sample to draw after a reply; None where the reply stands.

    Args:
        first: the request as it was asked for.
        asked: the one of its samples that was asked last.
        reply: the reply to ``asked``.
        is_seeded: whether the provider takes seeds.
    """
    salt = asked.attempt_salt + 1
    if reply.status in _ANSWERED or salt - first.attempt_salt > MAX_RESAMPLES:
        return None
    max_tokens = asked.max_tokens
    if reply.status == "truncated":
        if max_tokens > first.max_tokens:
            return None  # twice the room did not do
        max_tokens *= 2
    seed = (first.seed or 0) + _SALT_SEED * salt if is_seeded else None
    return dataclasses.replace(asked, attempt_salt=salt, max_tokens=max_tokens, seed=seed)


def peek(store: CallStore, config: TeacherConfig, request: Request) -> Reply | None:
    """Find the stored reply that stands for a request; None: somebody has to be asked."""
    teacher = teacher_fingerprint(config.spec())
    first = asked = seeded(request, config)
    while True:
        reply = store.get(call_fingerprint(teacher, asked))
        if reply is None:
            return None
        following = next_sample(first, asked, reply, is_seeded=config.seeded)
        if following is None:
            return reply
        asked = following
