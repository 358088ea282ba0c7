"""Rollouts to rewards by part, in a thread of its own, so that a judge is waited for while we work.

The judge is reached through the ``ask`` that whoever starts the training opens; it looks up, paces
and retries. What it cannot answer stays unknown (NaN) and is never a 0.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from plan_tuning.config.extensions import record
from plan_tuning.config.reward import RewardConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Ask, Attempt, Reply, Request, Verdict
from plan_tuning.rewards.plan_similarity import (
    embedding_similarity,
    guarded,
    judge_requests,
    read_similarity,
    step_similarity,
)
from plan_tuning.rewards.rules import correct_reward, format_reward, leak_reward, length_reward
from plan_tuning.text.formats import has_plan
from plan_tuning.text.thoughts import split_thoughts
from plan_tuning.training.grpo.rollout import Rollout

logger = logging.getLogger(__name__)

OpenAsk = Callable[[], AbstractAsyncContextManager[Ask]]
"""Opens the way to the judge; entered and left in the worker's own event loop."""

Embed = Callable[[Sequence[str]], np.ndarray[Any, Any]]
"""From N texts to vectors (N, D)."""

_RE_ASK_SALT = 7  # another address in the store than the caller's own second tries


class RewardError(ValueError):
    """Rewards that cannot be computed as they are asked for."""


class RewardWorker:
    """Rewards rollouts; a context manager, for the event loop and the judge's connection."""

    def __init__(
        self,
        reward: RewardConfig,
        grader: Grader,
        *,
        max_new_tokens: int,
        open_ask: OpenAsk | None = None,
        embed: Embed | None = None,
    ) -> None:
        if reward.uses_judge and open_ask is None:
            raise RewardError(
                "this reward asks a large model (reward.plan.kind=judge, or one of reward.extra): "
                "give a teacher, or choose reward.plan.kind=steps"
            )
        if reward.plan.weight > 0 and "encoder" in reward.plan.needs and embed is None:
            raise RewardError(
                f"reward.plan.kind={reward.plan.kind} needs reward.plan.encoder=FOLDER"
            )
        self.reward = reward
        self.weights = reward.weights
        self._grader = grader
        self._max_new_tokens = max_new_tokens
        self._open_ask = open_ask if reward.uses_judge else None
        self._embed = embed
        self._ask: Ask | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rewards", daemon=True)
        self._stack = AsyncExitStack()
        self._extra = {n: record("reward", n) for n in reward.extra if n in self.weights}
        self.unknown_plans = 0
        self.guarded_plans = 0
        self.compared_plans = 0

    @property
    def is_slow(self) -> bool:
        """Whether there is waiting in which something else can be computed."""
        return self._open_ask is not None

    def __enter__(self) -> RewardWorker:
        self._thread.start()
        if self._open_ask is not None:
            self._ask = self._run(self._stack.enter_async_context(self._open_ask())).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._run(self._stack.aclose()).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def submit(self, rollouts: Sequence[Rollout]) -> Future[list[dict[str, float]]]:
        """Begin to reward; the result has one mapping from part to reward for each rollout."""
        return self._run(self._reward_all(rollouts))

    async def _reward_all(self, rollouts: Sequence[Rollout]) -> list[dict[str, float]]:
        tasks = [asyncio.create_task(self._rewards_of(rollout)) for rollout in rollouts]
        try:
            return await asyncio.gather(*tasks)
        finally:  # the first error ends the others
            for task in tasks:
                task.cancel()

    async def _rewards_of(self, rollout: Rollout) -> dict[str, float]:
        """Reward one rollout; a part that is unknown is NaN, one without a weight only shown."""
        problem, said = rollout.problem, split_thoughts(rollout.completion.text)
        text = said.text
        found: dict[str, float | None] = {}
        # Being right is known also where it earns nothing: what a plan reward is worth shows in its
        # correlation with it. An answer that is boxed in the plan is none: the solution says it.
        solution = text.rpartition("</plan>")[2] if has_plan(text) else text
        grade = await self._grader.grade_async(
            solution,
            problem,
            finish_reason="length" if said.is_open else rollout.completion.finish_reason,
            require_box=True,
        )
        found["correct"] = correct_reward(grade.verdict)
        if "plan" in self.weights:
            found["plan"] = await self._plan_reward(rollout)
        if "format" in self.weights:
            found["format"] = format_reward(text)
        if "length" in self.weights:
            found["length"] = length_reward(len(rollout), self._max_new_tokens)
        if "leak" in self.weights:
            leaks_nothing = leak_reward(rollout.plan, problem.answer, problem.problem)
            found["leak"] = leaks_nothing if rollout.plan else 0.0
        for name in self._extra:
            found[name] = await self._extra_reward(name, rollout, grade.verdict)
        return {name: float("nan") if v is None else v for name, v in found.items()}

    async def _extra_reward(self, name: str, rollout: Rollout, verdict: Verdict) -> float | None:
        """Call a reward from outside; None and NaN: not known.

        Raises:
            RewardError: what it returns is neither None nor a number.
        """
        extension = self._extra[name]
        attempt = Attempt(
            problem=rollout.problem,
            text=rollout.completion.text,
            plan=rollout.plan,
            teacher_plan=rollout.teacher_plan,
            verdict=verdict,
            finish_reason=rollout.completion.finish_reason,
            num_tokens=len(rollout),
            max_new_tokens=self._max_new_tokens,
        )
        asking = {"ask": self._asked} if "ask" in extension.needs else {}
        value: Any = extension.load()(attempt, **asking)
        if inspect.isawaitable(value):
            value = await value
        if value is not None and not isinstance(value, int | float | np.number):
            raise RewardError(
                f"the reward {name} returned {value!r} for problem {rollout.problem.id}: a number "
                "is a reward, None says that there is none"
            )
        if value is not None and math.isinf(value):
            raise RewardError(f"the reward {name} is infinite for problem {rollout.problem.id}")
        return None if value is None else float(value)

    async def _plan_reward(self, rollout: Rollout) -> float | None:
        config, problem = self.reward.plan, rollout.problem
        self.compared_plans += 1
        refused = guarded(
            rollout.plan,
            reference=rollout.teacher_plan,
            problem=problem.problem,
            answer=problem.answer,
            guards=config.guards,
        )
        if refused is not None:
            self.guarded_plans += 1
            return 0.0
        similarity = record("plan_similarity", config.kind)
        if similarity.is_outside:
            return float(similarity.load()(rollout.teacher_plan, rollout.plan))
        if config.kind == "steps":
            return step_similarity(rollout.teacher_plan, rollout.plan, metric=config.metric)
        if config.kind == "embedding" and self._embed is not None:
            return embedding_similarity(rollout.teacher_plan, rollout.plan, self._embed)
        value = await self._judge(rollout)
        if value is None:
            self.unknown_plans += 1
        return value

    async def _judge(self, rollout: Rollout) -> float | None:
        """Ask the judge; None where it failed, could not be read twice, or took too long."""
        config = self.reward.plan

        def requests(is_reminded: bool) -> list[Request]:
            return judge_requests(
                rollout.problem.problem,
                rollout.teacher_plan,
                rollout.plan,
                config,
                problem_id=rollout.problem.id,
                style=rollout.problem.style,
                is_reminded=is_reminded,
            )

        try:
            async with asyncio.timeout(config.wait_s):
                values = await asyncio.gather(
                    *(
                        self._vote(first, replace(second, attempt_salt=_RE_ASK_SALT))
                        for first, second in zip(requests(False), requests(True), strict=True)
                    )
                )
        except TimeoutError:
            logger.warning(
                "the judge took more than reward.plan.wait_s=%g seconds over problem %s: "
                "that plan's reward stays unknown",
                config.wait_s,
                rollout.problem.id,
            )
            return None
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    async def _vote(self, request: Request, reminded: Request) -> float | None:
        reply = await self._asked(request)
        if reply.status != "ok":  # whoever answers `ask` has tried again already
            return None
        value = read_similarity(reply.text)
        if value is not None:
            return value
        reply = await self._asked(reminded)
        return read_similarity(reply.text) if reply.status == "ok" else None

    async def _asked(self, request: Request) -> Reply:
        if self._ask is None:
            raise RewardError("the worker was used before it was opened")
        return await self._ask(request)
