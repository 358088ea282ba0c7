"""Plans -> how well a frozen executor does with them: executability, uplift, likelihood.

None of the three needs a golden plan or a large model. The executor is handed over as ``generate``
and ``log_probs`` and stays as it is while the student learns: a student that shapes its own judge
would be paid for plans that only it can read.

Within a group of completions of one problem, what the executor does without a plan is a constant:
a group's mean takes it off again. Uplift therefore teaches exactly what executability of half the
weight does wherever advantages are differences to a group's mean; it says more where problems are
compared with each other, in an audit or on a curve. Of likelihood's gain the constant decides where
on the logistic curve a group lies.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

from plan_tuning.config.reward import PlanRewardConfig
from plan_tuning.records import Completion, Problem
from plan_tuning.rewards.plan_cases import (
    Generate,
    Grade,
    LogProbs,
    Means,
    PlanCase,
    PlanRewardError,
)
from plan_tuning.text.formats import Conditioned, conditioned

SUCCESS, LOG_PROB = "success", "log_prob"  # what baselines are of


async def executability(
    cases: Sequence[PlanCase], config: PlanRewardConfig, means: Means
) -> list[float | None]:
    """Let the executor carry each plan out (PTA-GRPO, arXiv 2510.01833, r_analytic).

    The share of ``samples`` executions whose answer is right: 0, 1/K, ..., 1, as it stands.
    """
    return await _success(cases, [case.plan for case in cases], config, means, "executed")


async def uplift(
    cases: Sequence[PlanCase], config: PlanRewardConfig, means: Means
) -> list[float | None]:
    """Take off what the executor solves without a plan (EAGLET, arXiv 2510.05608).

    The difference of two shares, in [-1, 1]; u earns (1 + u) / 2, so that a plan that changes
    nothing earns 0.5. The share without a plan is found once a problem, by as many samples.
    """
    first = _unknown(cases, SUCCESS, means)
    found = await _success(first, [""] * len(first), config, means, "unplanned")
    for case, share in zip(first, found, strict=True):
        if share is not None:  # else it is asked for again the next time
            means.baselines[_name(SUCCESS, case)] = share
    with_plan = await executability(cases, config, means)
    without = [means.baselines.get(_name(SUCCESS, case)) for case in cases]
    return [
        None if share is None or base is None else (1.0 + share - base) / 2.0
        for share, base in zip(with_plan, without, strict=True)
    ]


async def likelihood(
    cases: Sequence[PlanCase], config: PlanRewardConfig, means: Means
) -> list[float | None]:
    """Ask how much likelier the executor finds a right execution behind the plan.

    The gain in nats a token over the same execution without a plan (experiments/METHOD.md section
    10), any number; g earns 1 / (1 + exp(-g / ``likelihood_scale``)), so that a plan that changes
    nothing earns 0.5. One forward pass a plan, and one a problem. A problem without a right
    execution has no reward.
    """
    known = [case for case in cases if case.execution.strip()]
    first = _unknown(known, LOG_PROB, means)
    values = await _per_token(first, [""] * len(first), means)
    means.baselines.update(zip([_name(LOG_PROB, case) for case in first], values, strict=True))
    with_plan = iter(await _per_token(known, [case.plan for case in known], means))
    found: list[float | None] = []
    for case in cases:
        if not case.execution.strip():
            found.append(None)
            continue
        gain = next(with_plan) - means.baselines[_name(LOG_PROB, case)]
        found.append(logistic(gain / config.likelihood_scale))
    return found


def logistic(value: float) -> float:
    """Squash any number into [0, 1].

    >>> logistic(0.0), logistic(-1e9), logistic(1e9)
    (0.5, 0.0, 1.0)
    """
    return (1.0 + math.tanh(value / 2.0)) / 2.0


def _unknown(cases: Sequence[PlanCase], kind: str, means: Means) -> list[PlanCase]:
    """One case of each problem whose baseline is not known yet."""
    found = {_name(kind, case): case for case in cases}
    return [case for name, case in found.items() if name not in means.baselines]


def _name(kind: str, case: PlanCase) -> str:
    return f"{kind}/{case.problem.id}"


def plan_functions(case: PlanCase, means: Means) -> dict[str, Callable[..., Any]]:
    """Make what a reward from outside is handed of a frozen model, for one problem.

    Returns:
        ``generate(plan, samples=1)``, completions that carry a plan out; ``log_probs(plan,
        execution)``, those of the execution's tokens behind it. An empty plan is none.
    """

    def generate(plan: str, samples: int = 1) -> list[Completion]:
        write, _ = _writing(means)
        text = _conditioned_on(case.problem, plan, "", means)
        keys = [(f"outside/{case.problem.id}/{plan}", sample) for sample in range(samples)]
        return write([text] * samples, keys)

    def log_probs(plan: str, execution: str) -> list[float]:
        text = _conditioned_on(case.problem, plan, execution, means)
        return _computing(means)([text])[0]

    return {"generate": generate, "log_probs": log_probs}


async def _success(
    cases: Sequence[PlanCase],
    plans: Sequence[str],
    config: PlanRewardConfig,
    means: Means,
    phase: str,
) -> list[float | None]:
    """Execute plans ``samples`` times each; None where the grader failed at all of them.

    What is drawn hangs on the problem, the plan and the sample alone: a plan that is written twice
    is executed once, and earns the same at every step.
    """
    generate, grade = _writing(means)
    pairs = [(case.problem.id, plan) for case, plan in zip(cases, plans, strict=True)]
    wanted = list(dict.fromkeys(pairs))
    by_id = {case.problem.id: case.problem for case in cases}
    asked = [
        (by_id[name], plan, sample) for name, plan in wanted for sample in range(config.samples)
    ]
    if not asked:
        return []
    texts = [_conditioned_on(problem, plan, "", means) for problem, plan, _ in asked]
    keys = [(f"{phase}/{problem.id}/{plan}", sample) for problem, plan, sample in asked]
    written: list[Completion] = await asyncio.to_thread(generate, texts, keys)
    grades = await asyncio.gather(
        *(grade(text, problem) for text, (problem, _, _) in zip(written, asked, strict=True))
    )
    shares: dict[tuple[str, str], float | None] = {}
    for place, key in enumerate(wanted):
        own = grades[place * config.samples : (place + 1) * config.samples]
        known = [is_right for is_right in own if is_right is not None]
        shares[key] = sum(known) / len(known) if known else None
    return [shares[pair] for pair in pairs]


async def _per_token(cases: Sequence[PlanCase], plans: Sequence[str], means: Means) -> list[float]:
    """Log-probability of each case's execution behind a plan, in nats a token; equal ones once."""
    log_probs = _computing(means)
    texts: dict[tuple[str, str], Conditioned] = {}
    for case, plan in zip(cases, plans, strict=True):
        text = _conditioned_on(case.problem, plan, case.execution, means)
        texts.setdefault((case.problem.id, plan), text)
    if not texts:
        return []
    computed = await asyncio.to_thread(log_probs, list(texts.values()))
    found = {
        name: math.fsum(values) / len(values) for name, values in zip(texts, computed, strict=True)
    }
    return [found[case.problem.id, plan] for case, plan in zip(cases, plans, strict=True)]


def _conditioned_on(problem: Problem, plan: str, target: str, means: Means) -> Conditioned:
    return conditioned(
        problem.problem,
        plan,
        target,
        method=means.asked_as,
        prompt=means.prompt,
        style=problem.style,
    )


def _writing(means: Means) -> tuple[Generate, Grade]:
    if means.generate is None or means.grade is None:
        raise PlanRewardError("plans are executed: nobody handed `generate` and `grade` over")
    return means.generate, means.grade


def _computing(means: Means) -> LogProbs:
    if means.log_probs is None:
        raise PlanRewardError("executions are weighed: nobody handed `log_probs` over")
    return means.log_probs
