"""Rollouts to rewards by part, in a thread of its own, so that a judge is waited for while we work.

The judge is reached through the ``ask`` that whoever starts the training opens; it looks up, paces
and retries. What it cannot answer stays unknown (NaN) and is never a 0. A frozen executor's passes
are computed in that thread too, while the policy waits: two models share the device, not the time.
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

from plan_tuning.config.extensions import Extension, record
from plan_tuning.config.reward import RewardConfig
from plan_tuning.evaluation.frozen_executor import FrozenExecutor
from plan_tuning.evaluation.reward_means import is_right
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Ask, Attempt, Completion, Problem, Reply, Request, Verdict
from plan_tuning.rewards.execution import plan_functions
from plan_tuning.rewards.plan_cases import Means, PlanCase
from plan_tuning.rewards.plan_rewards import missing_means, plan_rewards
from plan_tuning.rewards.rules import correct_reward, format_reward, leak_reward, length_reward
from plan_tuning.students.flops import Passes
from plan_tuning.text.formats import has_plan
from plan_tuning.text.thoughts import split_thoughts
from plan_tuning.training.grpo.rollout import Rollout

logger = logging.getLogger(__name__)

OpenAsk = Callable[[], AbstractAsyncContextManager[Ask]]
"""Opens the way to the judge; entered and left in the worker's own event loop."""


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
        means: Means | None = None,
        executor: FrozenExecutor | None = None,
    ) -> None:
        if reward.uses_judge and open_ask is None:
            raise RewardError(
                f"this reward asks a large model (reward.plan.kind={reward.plan.kind}, or one of "
                "reward.extra): give a teacher, or choose reward.plan.kind=steps"
            )
        if reward.uses_frozen and executor is None:
            raise RewardError(
                f"this reward needs a frozen executor (reward.plan.kind={reward.plan.kind}, or one "
                "of reward.extra): hand one over, or choose reward.plan.kind=steps"
            )
        self.reward = reward
        self.weights = reward.weights
        self._grader = grader
        self._max_new_tokens = max_new_tokens
        self._open_ask = open_ask if reward.uses_judge else None
        self._ask: Ask | None = None
        self._executor = executor
        self._means = replace(
            means or Means(),
            ask=self._asked if reward.uses_judge else None,
            grade=self._is_right,
            generate=None if executor is None else executor.generate,
            log_probs=None if executor is None else executor.log_probs,
        )
        missing = missing_means(reward.plan, self._means) if reward.plan.weight > 0 else []
        if missing:
            raise RewardError(
                f"reward.plan.kind={reward.plan.kind} needs {' and '.join(missing)}: nobody handed "
                "that over"
            )
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
        return self._open_ask is not None and self._executor is None

    def taken_passes(self) -> Passes:
        """Hand over what has gone through the frozen executor since the last time."""
        return Passes() if self._executor is None else self._executor.taken()

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
        plans = asyncio.create_task(self._plan_rewards(rollouts))
        try:
            values, found = await asyncio.gather(plans, asyncio.gather(*tasks))
        finally:  # the first error ends the others
            for task in (plans, *tasks):
                task.cancel()
        for rewards, value in zip(found, values, strict=False):
            rewards["plan"] = math.nan if value is None else value
        return found

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
            found["plan"] = None  # its place; see _reward_all
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
            execution=rollout.execution,
        )
        value: Any = extension.load()(attempt, **self._handed(extension, rollout))
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

    def _handed(self, extension: Extension, rollout: Rollout) -> dict[str, Any]:
        """Find what a reward from outside says that it needs."""
        handed: dict[str, Any] = {"ask": self._asked}
        if self._executor is not None:
            handed |= plan_functions(plan_case(rollout), self._means)
        return {name: found for name, found in handed.items() if name in extension.needs}

    async def _plan_rewards(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        """Reward the plans of rollouts, all at once: a frozen model reads them in few passes.

        Returns:
            In their order; nothing where plans earn nothing.
        """
        if "plan" not in self.weights:
            return []
        cases = [plan_case(rollout) for rollout in rollouts]
        found = await plan_rewards(cases, self.reward.plan, self._means)
        self.compared_plans += len(found)
        self.guarded_plans += sum(one.guard is not None for one in found)
        self.unknown_plans += sum(one.value is None for one in found)
        return [one.value for one in found]

    async def _asked(self, request: Request) -> Reply:
        if self._ask is None:
            raise RewardError("the worker was used before it was opened")
        return await self._ask(request)

    async def _is_right(self, execution: Completion, problem: Problem) -> bool | None:
        return await is_right(self._grader, execution, problem)


def plan_case(rollout: Rollout) -> PlanCase:
    """Say of a rollout what a plan reward sees."""
    return PlanCase(rollout.problem, rollout.plan, rollout.teacher_plan, rollout.execution)
