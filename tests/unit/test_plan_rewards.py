"""Plan rewards against oracles: what each must say where the truth is known, and to every hack."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.extensions import Extension, names
from plan_tuning.config.grading import GradingConfig
from plan_tuning.config.registration import register
from plan_tuning.config.reward import GUARDS, PlanRewardConfig, RewardConfig
from plan_tuning.config.typed import composed
from plan_tuning.distillation.reference_executions import human_execution, right_executions
from plan_tuning.grading.grader import Grader
from plan_tuning.job.audit import _opened
from plan_tuning.records import Completion, Problem, Reply, Request, Trajectory, Verdict
from plan_tuning.rewards.execution import logistic
from plan_tuning.rewards.hack_probes import PROBES, probe_cases, probe_rates
from plan_tuning.rewards.hashed_encoder import HashedEncoder
from plan_tuning.rewards.plan_cases import Means, PlanCase, PlanRewardError
from plan_tuning.rewards.plan_rewards import PlanReward, missing_means, plan_rewards
from plan_tuning.tasks.microworld_text import execution_text, parse_plan, parse_problem, steps_of
from plan_tuning.teachers.scripted import ScriptedTeacher
from plan_tuning.text.formats import Conditioned
from plan_tuning.training.grpo.executor_baselines import Baselines
from plan_tuning.training.grpo.reward import RewardWorker

STORIES = (
    ("22 coins are Cara's . 1-fewer-than Eve is Bob's . 2-more-than Cara is Eve's . "
     "5 coins are Ned's . How-many coins are Bob's ?", "Bob's Eve's Cara's ;", "23"),
    ("3 coins are Ann's . 2-times Ann is Dan's . 1-more-than Dan is Mia's . "
     "9 coins are Leo's . How-many coins are Mia's ?", "Mia's Dan's Ann's ;", "7"),
)  # fmt: skip
KINDS = ("judge", "steps", "embedding", "verifier", "roscoe", "executability", "uplift",
         "likelihood")  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    kind: {"kind": kind, **({"encoder": "hashed"} if kind in ("roscoe", "embedding") else {})}
    for kind in KINDS
}


def case(number: int = 0, plan: str | None = None) -> PlanCase:
    text, golden, answer = STORIES[number]
    problem = Problem(f"p{number}", text, answer, style="microworld", true_plan=golden)
    execution = execution_text(steps_of(parse_problem(text), parse_plan(golden)))
    return PlanCase(problem, golden if plan is None else plan, golden, execution)


CASES = [case(0), case(1)]


class OracleExecutor:
    """Carries a plan out to the letter; without one it is right in one execution of two."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []  # problem, plan, sample

    def generate(
        self, texts: Sequence[Conditioned], keys: Sequence[tuple[str, int]]
    ) -> list[Completion]:
        return [self._write(text, sample) for text, (_, sample) in zip(texts, keys, strict=True)]

    def _write(self, text: Conditioned, sample: int) -> Completion:
        problem = text.messages[-1]["content"]
        plan = text.before.partition("<plan>")[2].partition("</plan>")[0].strip()
        self.asked.append((problem, plan, sample))
        story = parse_problem(problem)
        known = [name for name in parse_plan(plan) if name in story.by_owner()]
        if plan and known:
            answer = execution_text(steps_of(story, known))
        else:
            right = next(a for t, _, a in STORIES if t in problem)
            answer = f"\\boxed{{ {right if not plan and sample % 2 == 0 else 0} }}"
        return Completion(answer, (1,), "stop", 1)

    def log_probs(self, texts: Sequence[Conditioned]) -> list[list[float]]:
        """A right plan makes each token .3 nats likelier, a wrong one .2 less likely."""
        found = []
        for text in texts:
            plan = text.before.partition("<plan>")[2].partition("</plan>")[0].strip()
            golden = next(g for t, g, _ in STORIES if t in text.messages[-1]["content"])
            value = -0.4 if not plan else -0.1 if plan == golden else -0.6
            found.append([value] * len(text.target.split()))
        return found


async def grade(execution: Completion, problem: Problem) -> bool | None:
    found = re.search(r"\\boxed\{ (-?\d+) \}", execution.text)
    return found is not None and found[1] == problem.answer


async def ask(request: Request) -> Reply:
    return Reply(ScriptedTeacher().answer(request))


def means(**further: Any) -> Means:
    executor = OracleExecutor()
    handed = {
        "ask": ask, "embed": HashedEncoder(), "generate": executor.generate, "grade": grade,
        "log_probs": executor.log_probs, "asked_as": "m1",
    }  # fmt: skip
    return Means(**(handed | further))


def earned(
    cases: Sequence[PlanCase], kind: str, handed: Means | None = None, **settings: Any
) -> list[PlanReward]:
    config = PlanRewardConfig(**(SETTINGS[kind] | settings))
    return asyncio.run(plan_rewards(cases, config, handed or means()))


def values(cases: Sequence[PlanCase], kind: str, **settings: Any) -> list[float | None]:
    return [one.value for one in earned(cases, kind, **settings)]


def test_all_kinds_are_looked_at() -> None:
    assert set(KINDS) == set(names("plan_similarity"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_golden_plan_earns_more_than_any_probe_and_guarded_hacks_nothing(kind: str) -> None:
    golden = values(CASES, kind)
    assert all(value is not None and 0.5 < value <= 1.0 for value in golden)
    for name in PROBES:
        hacks = probe_cases(CASES, name)
        assert len(hacks) == len(CASES), name
        found = earned(hacks, kind)
        if name in ("echo", "repetition", "pasted_answer", "empty"):
            assert {one.value for one in found} == {0.0}, name
            assert all(one.guard for one in found), name
        else:
            assert all(
                one.value is None or one.value <= best  # shuffled steps keep ROSCOE's sums
                for one, best in zip(found, golden, strict=True)
            ), (name, found, golden)


FOOLED: dict[str, set[str]] = {
    "judge": {"pasted_answer"}, "verifier": {"pasted_answer"},
    "steps": set(), "embedding": set(), "likelihood": set(),
    # One compares sums over steps, the others execute what comes to the same here.
    "roscoe": {"pasted_answer", "shuffled_steps"},
    "executability": {"pasted_answer", "shuffled_steps"},
    "uplift": {"pasted_answer", "shuffled_steps"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_without_guards_the_probes_say_what_fools_a_reward(kind: str) -> None:
    golden = values(CASES, kind, guards=[])
    seen = set()
    for name in PROBES:
        found = values(probe_cases(CASES, name), kind, guards=[])
        if any(v is not None and v >= g for v, g in zip(found, golden, strict=True)):
            seen.add(name)
    assert seen == FOOLED[kind]


def test_executability_is_the_share_of_right_executions() -> None:
    wrong = case(0, "Bob's Cara's ;")
    assert values([case(0), wrong], "executability") == [1.0, 0.0]


def test_uplift_takes_off_what_is_solved_without_a_plan_once_a_problem() -> None:
    executor, baselines = OracleExecutor(), {}
    handed = means(generate=executor.generate, baselines=baselines)
    cases = [case(0), case(0, "Bob's Cara's ;"), case(1), case(0)]
    found = [one.value for one in earned(cases, "uplift", handed)]
    assert found == [0.75, 0.25, 0.75, 0.75], "(1 + with - without) / 2, without is a half"
    unplanned = [asked for asked in executor.asked if not asked[1]]
    assert len(unplanned) == 2 * 4
    assert baselines == {"success/p0": 0.5, "success/p1": 0.5}
    planned = len(executor.asked) - len(unplanned)
    assert planned == 3 * 4, "equal plans of a problem are executed once"
    earned(cases, "uplift", handed)
    assert sum(not asked[1] for asked in executor.asked) == 8


def test_likelihood_is_the_gain_in_nats_a_token_on_a_logistic_curve() -> None:
    found = values([case(0), case(0, "Bob's Cara's ;")], "likelihood", likelihood_scale=0.25)
    assert found == [
        pytest.approx(1 / (1 + math.exp(-0.3 / 0.25))),
        pytest.approx(1 / (1 + math.exp(0.2 / 0.25))),
    ]
    without = replace(case(0), execution=" ")
    assert values([without, case(0)], "likelihood")[0] is None
    assert logistic(1.0) == pytest.approx(1 / (1 + math.exp(-1.0)))


def test_a_grader_that_fails_leaves_a_plan_unknown() -> None:
    async def failing(execution: Completion, problem: Problem) -> bool | None:
        return None

    for kind in ("executability", "uplift"):
        assert earned([case(0)], kind, means(grade=failing))[0].value is None


def test_a_baseline_that_nobody_knows_is_asked_for_again() -> None:
    failed: list[str] = []

    async def failing_once(execution: Completion, problem: Problem) -> bool | None:
        if len(failed) < 4:  # the samples without a plan
            failed.append(problem.id)
            return None
        return await grade(execution, problem)

    handed = means(grade=failing_once, baselines={})
    assert earned([case(0)], "uplift", handed)[0].value is None
    assert not handed.baselines
    assert earned([case(0)], "uplift", handed)[0].value == 0.75


async def graded_in_training(execution: Completion, problem: Problem) -> bool | None:
    """As what a training hands to its rewards grades it."""
    with Grader(GradingConfig()) as grader:
        reward = RewardConfig(plan=PlanRewardConfig(weight=1.0, kind="steps"))
        with RewardWorker(reward, grader, max_new_tokens=8) as worker:
            return await worker._is_right(execution, problem)


async def graded_in_audit(execution: Completion, problem: Problem) -> bool | None:
    """As what an audit hands to its rewards grades it."""
    with Grader(GradingConfig()) as grader:
        register()
        async with _opened(composed([]), {}, grader) as handed:
            assert handed.grade is not None
            return await handed.grade(execution, problem)


@pytest.mark.parametrize("graded", [graded_in_training, graded_in_audit])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So it comes to \\boxed{42}.", True),
        ("So it comes to \\boxed{41}.", False),
        ("So it comes to 42", False),  # of a reward, only a box is an answer
        ("<think>\\boxed{41}?</think>It is \\boxed{42}.", True),
        ("<think>It is \\boxed{42}.", False),  # a thought that never ended says nothing
    ],
)
def test_an_execution_is_graded_alike_in_a_training_and_in_an_audit(
    graded: Callable[[Completion, Problem], Awaitable[bool | None]], text: str, expected: bool
) -> None:
    problem = Problem("p", "6 times 7?", "42", style="math")
    assert asyncio.run(graded(Completion(text, (1,), "stop", 1), problem)) is expected  # type: ignore[arg-type]


def outside(
    value: object, monkeypatch: pytest.MonkeyPatch, kind: str = "mine"
) -> list[float | None]:
    """What plans earn by a function from outside that answers the same of all."""
    record = Extension("plan_similarity", kind, module=__name__, attribute="answer", source="x")
    monkeypatch.setattr("plan_tuning.rewards.plan_rewards.record", lambda *_: record)
    monkeypatch.setitem(globals(), "answer", lambda reference, plan: value)
    return [one.value for one in asyncio.run(plan_rewards([case(0)], PlanRewardConfig(), Means()))]


def test_a_plan_reward_from_outside_answers_in_its_range_or_that_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for known in (0, 0.25, 1.0, np.float32(0.5)):
        assert outside(known, monkeypatch) == [pytest.approx(float(known))]
    for unknown in (None, math.nan, np.float64("nan")):
        assert outside(unknown, monkeypatch) == [None]
    for wrong in (math.inf, -math.inf, 1.5, -0.1, "0.5"):
        with pytest.raises(PlanRewardError, match=r"the plan reward \w+ returned .* problem p0"):
            outside(wrong, monkeypatch)


def test_the_verifier_s_score_is_mapped_linearly_and_read_again_once() -> None:
    replies = {"constraints": ["- all"], "verify": ["no number", "Score: 60"]}
    asked: list[Request] = []

    async def scoring(request: Request) -> Reply:
        asked.append(request)
        return Reply(replies[request.role].pop(0))

    assert earned([case(0)], "verifier", means(ask=scoring))[0].value == 0.8
    assert [request.role for request in asked] == ["constraints", "verify", "verify"]
    assert "- all" in asked[1].messages[-1]["content"]
    assert all(STORIES[0][1] in request.messages[-1]["content"] for request in asked[1:])

    async def failing(request: Request) -> Reply:
        return Reply("", status="failed")

    assert earned([case(0)], "verifier", means(ask=failing))[0].value is None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "steps"])
def test_what_a_kind_needs_has_to_be_handed_over(kind: str) -> None:
    config = PlanRewardConfig(**SETTINGS[kind])
    assert missing_means(config, means()) == []
    with pytest.raises(PlanRewardError, match=f"kind={kind} needs"):
        asyncio.run(plan_rewards([case(0)], config, Means()))


def test_probes_are_told_among_plans() -> None:
    for name in PROBES:
        rates = probe_rates(probe_cases(CASES, name))
        assert rates.pop(name) == 1.0, name
        assert set(rates.values()) == {0.0}, (name, rates)
    assert set(probe_rates(CASES).values()) == {0.0}
    told = [replace(one, plan="Leo's Ned's ;") for one in CASES]
    assert probe_rates(told)["another_plan"] == 1.0, "one plan for all problems"
    assert probe_rates([]) == {}


def test_probes_of_plans_of_several_lines() -> None:
    golden = "1. Find the cups.\n2. Add both."
    first = PlanCase(Problem("a", "Ada has 3 cups. She finds 4 more. How many?", "7"), "", golden)
    second = PlanCase(Problem("b", "Bo has 2 hats. How many?", "2"), "", "1. Count.\n2. Report.")
    written = {name: probe_cases([first, second], name)[0].plan for name in PROBES}
    assert written == {
        "echo": "1. Ada has 3 cups.\n2. She finds 4 more.\n3. How many?",
        "one_step": "1. Find the cups.",
        "repetition": "1. Find the cups.\n2. Find the cups.\n3. Find the cups.",
        "pasted_answer": "1. Find the cups.\n2. Add both.\n3. The final answer is 7.",
        "another_plan": "1. Count.\n2. Report.",
        "shuffled_steps": "1. Add both.\n2. Find the cups.",
        "empty": "",
    }


def test_a_problem_s_execution_is_the_teacher_s_right_one_of_the_best_plan() -> None:
    def row(score: int | None, execution: str, verdict: Verdict) -> Trajectory:
        return Trajectory("p", 0, "?", "7", "3+4=7", "plan", plan_score=score,
                          execution=execution, verdict=verdict)  # fmt: skip

    rows = [row(60, "poor", Verdict.CORRECT), row(95, "wrong", Verdict.WRONG),
            row(90, " good ", Verdict.CORRECT), row(None, "unread", Verdict.CORRECT)]  # fmt: skip
    assert right_executions(rows) == {"p": "good"}
    assert right_executions(rows[1:2]) == {}
    assert human_execution(Problem("p", "?", "7", solution="3+4=7")).endswith("\\boxed{7}.")
    assert human_execution(Problem("p", "?", "7")) == ""


def test_baselines_outlive_the_process_but_for_a_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "baselines.jsonl"
    first = Baselines(path)
    first["a"], first["b"] = 0.1 + 0.2, math.nan
    with path.open("a") as file:
        file.write('["c", 0.')
    again = Baselines(path)
    assert again["a"] == 0.1 + 0.2
    assert math.isnan(again["b"])
    assert list(again) == ["a", "b"]
    again["c"] = 1.0
    assert dict(Baselines(path)).keys() == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"kind": "roscoe"}, "encoder"),
        ({"kind": "roscoe", "encoder": "hashed", "scores": []}, "scores"),
        ({"kind": "roscoe", "encoder": "hashed", "scores": ["fluency"]}, "scores"),
        ({"kind": "roscoe", "encoder": "hashed", "scores": ["coherence_step"]}, "nli"),
        ({"kind": "roscoe", "encoder": "hashed", "compat": "code"}, "compat"),
        ({"kind": "roscoe", "encoder": "http://127.0.0.1:1/v1"}, "encoder_model"),
        ({"kind": "uplift", "executor": "teacher"}, "executor"),
        ({"kind": "uplift", "engine": "server"}, "engine"),
        ({"kind": "uplift", "engine": "vllm"}, "engine"),
        ({"kind": "uplift", "engine": "continuous_batching"}, "engine"),
        ({"kind": "uplift", "samples": 0}, "samples"),
        ({"kind": "uplift", "execution_temperature": 0.0}, "execution_temperature"),
        ({"kind": "likelihood", "likelihood_scale": 0.0}, "likelihood_scale"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"reward\.plan\.{key}"):
        PlanRewardConfig(weight=1.0, **settings)


def test_who_needs_a_frozen_executor() -> None:
    def reward(kind: str, weight: float = 1.0) -> RewardConfig:
        return RewardConfig(plan=PlanRewardConfig(weight=weight, kind=kind, encoder="hashed"))

    assert [kind for kind in KINDS if reward(kind).uses_frozen] == [
        "executability", "uplift", "likelihood"
    ]  # fmt: skip
    assert [kind for kind in KINDS if reward(kind).writes_executions] == ["executability", "uplift"]
    assert [kind for kind in KINDS if reward(kind).uses_judge] == ["judge", "verifier"]
    assert not reward("uplift", weight=0.0).uses_frozen
    assert set(GUARDS) == set(PlanRewardConfig().guards)
