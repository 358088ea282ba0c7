"""Plans -> what a large model says of them: alike the golden plan (paper), or a verifier's score.

Both are handed ``ask``; whoever answers it looks up, paces and retries. What cannot be answered or
read stays unknown and is never a 0.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from plan_tuning.config.reward import PlanRewardConfig
from plan_tuning.records import Ask, Request
from plan_tuning.rewards.plan_cases import Means, PlanCase, PlanRewardError
from plan_tuning.rewards.plan_similarity import judge_requests, read_similarity
from plan_tuning.text.parsing import HIGHEST, LOWEST, parse_score
from plan_tuning.text.prompts import render

logger = logging.getLogger(__name__)

_RE_ASK_SALT = 7  # another address in the store than the caller's own second tries
_MAX_CONSTRAINTS_TOKENS = 1024


async def judged(
    cases: Sequence[PlanCase], config: PlanRewardConfig, means: Means
) -> list[float | None]:
    """Ask how alike each plan and its golden plan are (paper): the judge's number, in [0, 1].

    A plan whose judge failed, could not be read twice or took longer than ``wait_s`` stays unknown.
    """
    ask = _asked(means)
    return list(await asyncio.gather(*(_within(_judge(c, config, ask), c, config) for c in cases)))


async def _judge(case: PlanCase, config: PlanRewardConfig, ask: Ask) -> float | None:
    def requests(is_reminded: bool) -> list[Request]:
        return judge_requests(
            case.problem.problem,
            case.teacher_plan,
            case.plan,
            config,
            problem_id=case.problem.id,
            style=case.problem.style,
            is_reminded=is_reminded,
        )

    values = await asyncio.gather(
        *(
            _vote(first, replace(second, attempt_salt=_RE_ASK_SALT), ask)
            for first, second in zip(requests(False), requests(True), strict=True)
        )
    )
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


async def _vote(request: Request, reminded: Request, ask: Ask) -> float | None:
    reply = await ask(request)
    if reply.status != "ok":  # whoever answers `ask` has tried again already
        return None
    value = read_similarity(reply.text)
    if value is not None:
        return value
    reply = await ask(reminded)
    return read_similarity(reply.text) if reply.status == "ok" else None


async def verified(
    cases: Sequence[PlanCase], config: PlanRewardConfig, means: Means
) -> list[float | None]:
    """Ask the Plan Verifier for each plan's score, without any golden plan.

    Two requests a plan, as distillation's: the problem's constraints, which are asked for once a
    problem (they are the same request), and the score. A score s in -100..100 earns (s + 100) / 200
    in [0, 1]; the verifier is told to give no more than 95, which earns .975.
    """
    ask = _asked(means)
    return list(await asyncio.gather(*(_within(_verify(c, config, ask), c, config) for c in cases)))


async def _verify(case: PlanCase, config: PlanRewardConfig, ask: Ask) -> float | None:
    constraints = await ask(
        Request(
            role="constraints",
            messages=render("constraints", style=case.problem.style, problem=case.problem.problem),
            temperature=0.0,
            max_tokens=_MAX_CONSTRAINTS_TOKENS,
            problem_id=case.problem.id,
        )
    )
    if constraints.status != "ok":
        return None
    for is_reminded in (False, True):
        reply = await ask(
            Request(
                role="verify",
                messages=render(
                    "verify",
                    style=case.problem.style,
                    is_reminded=is_reminded,
                    problem=case.problem.problem,
                    constraints=constraints.text.strip(),
                    plan=case.plan,
                ),
                temperature=config.temperature,
                max_tokens=config.max_reply_tokens,
                problem_id=case.problem.id,
                attempt_salt=_RE_ASK_SALT if is_reminded else 0,
            )
        )
        if reply.status != "ok":
            return None
        score = parse_score(reply.text).value
        if score is not None:
            return (score - LOWEST) / (HIGHEST - LOWEST)
    return None


async def _within(
    waited_for: Coroutine[Any, Any, float | None], case: PlanCase, config: PlanRewardConfig
) -> float | None:
    """Wait for an answer as long as ``wait_s`` says; then it stays unknown."""
    try:
        async with asyncio.timeout(config.wait_s):
            return await waited_for
    except TimeoutError:
        logger.warning(
            "the judge took more than reward.plan.wait_s=%g seconds over problem %s: "
            "that plan's reward stays unknown",
            config.wait_s,
            case.problem.id,
        )
        return None


def _asked(means: Means) -> Ask:
    if means.ask is None:
        raise PlanRewardError("a large model is asked about plans: nobody handed `ask` over")
    return means.ask
