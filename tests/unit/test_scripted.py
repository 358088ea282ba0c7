"""The scripted teacher: reads text only, answers the same request alike, errs as configured."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.microworld import MicroworldConfig, ScriptedTeacherConfig
from plan_tuning.records import Problem, Request
from plan_tuning.tasks.microworld_problems import load_microworld
from plan_tuning.tasks.microworld_text import (
    execution_text,
    needed_chain,
    parse_plan,
    parse_problem,
    steps_of,
)
from plan_tuning.teachers.scripted import (
    GOOD_SCORE,
    ScriptedTeacher,
    ScriptedTeacherError,
    plan_similarity,
)

PERFECT = ScriptedTeacherConfig(
    bad_plan_rate=0.0, missed_rate=0.0, rejected_rate=0.0, misread_rate=0.0, slip_rate=0.0
)
PROBLEM = (
    "22 coins are Cara's . 5-fewer-than Eve is Bob's . 2-more-than Cara is Eve's . "
    "3-more-than Bob is Ned's . 9 coins are Ivan's . How-many coins are Ned's ?"
)
PLAN = "Ned's Bob's Eve's Cara's ;"
SKIPPED = "Ned's Eve's Cara's ;"


def ask(
    teacher: ScriptedTeacher,
    role: str,
    problem: str = PROBLEM,
    plan: str = "",
    *,
    sample: int = 0,
    temperature: float = 0.0,
    text: str | None = None,
) -> str:
    content = text or f"Work it out. <problem>\n{problem}\n</problem>\n<plan>\n{plan}\n</plan>"
    request = Request(
        role=role,
        messages=({"role": "user", "content": content},),
        temperature=temperature,
        max_tokens=100,
        sample_index=sample,
    )
    reply = asyncio.run(teacher.complete(request))
    assert reply.status == "ok"
    assert reply.cost_usd == 0.0
    return reply.text


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return load_microworld(MicroworldConfig(train_size=600, test_size=20), "train", seed=3)


def score(reply: str) -> int:
    found = re.search(r"Score: (-?\d+)\Z", reply)
    assert found is not None
    return int(found[1])


def test_perfect_teacher_goes_through_every_stage() -> None:
    teacher = ScriptedTeacher(PERFECT)
    assert "asked: the number of Ned's coins" in ask(teacher, "constraints")
    assert ask(teacher, "plan", temperature=0.7) == PLAN
    assert GOOD_SCORE <= score(ask(teacher, "verify", plan=PLAN)) <= 95
    assert score(ask(teacher, "verify", plan=SKIPPED)) < GOOD_SCORE
    assert ask(teacher, "execute", plan=PLAN) == (
        r"Cara's 22 . Eve's +2 22 = 24 . Bob's -5 24 = 19 . Ned's +3 19 = 22 . \boxed{ 22 }"
    )


def test_execution_follows_a_bad_plan_or_repairs_it() -> None:
    follows = ScriptedTeacher(replace(PERFECT, repair_rate=0.0))
    assert ask(follows, "execute", plan=SKIPPED) == (
        r"Cara's 22 . Eve's +2 22 = 24 . Ned's +3 24 = 27 . \boxed{ 27 }"
    )
    repairs = ScriptedTeacher(replace(PERFECT, repair_rate=1.0))
    assert ask(repairs, "execute", plan=SKIPPED).endswith(r"\boxed{ 22 }")


def test_careless_executor_always_misreads_the_same_sentences() -> None:
    teacher = ScriptedTeacher(replace(PERFECT, misread_rate=1.0))
    assert "Bob's +5 24 = 29 ." in ask(teacher, "execute", plan=PLAN)
    small = PROBLEM.replace("5-fewer-than", "3-fewer-than")
    assert "Bob's -3 24 = 21 ." in ask(teacher, "execute", small, PLAN)


def test_numbers_stay_in_the_students_vocabulary(problems: list[Problem]) -> None:
    teacher = ScriptedTeacher(replace(PERFECT, repair_rate=0.0, slip_rate=0.5, misread_rate=0.5))
    for problem in problems[:200]:
        plan = parse_plan(problem.true_plan)
        for followed in (plan, plan[:1], [plan[0], *plan[2:]], list(reversed(plan))):
            text = " ".join(f"{name}'s" for name in followed)
            numbers = re.findall(r"(?<=[= ])\d+", ask(teacher, "execute", problem.problem, text))
            assert all(0 <= int(number) <= 40 for number in numbers)


def test_same_request_same_answer_and_samples_differ() -> None:
    first, second = ScriptedTeacher(), ScriptedTeacher()
    drawn = [ask(first, "plan", sample=k, temperature=0.7) for k in range(12)]
    assert drawn == [ask(second, "plan", sample=k, temperature=0.7) for k in range(12)]
    assert len(set(drawn)) > 1
    greedy = {ask(first, "plan", sample=k) for k in range(12)}
    assert len(greedy) == 1
    other = ScriptedTeacher(ScriptedTeacherConfig(seed=1))
    assert drawn != [ask(other, "plan", sample=k, temperature=0.7) for k in range(12)]


def test_noise_has_the_configured_rates(problems: list[Problem]) -> None:
    """Bands of four standard errors around the configured rates, on 600 problems."""
    config = ScriptedTeacherConfig()
    teacher = ScriptedTeacher(config)
    bad = missed = rejected = good = repaired = 0
    expected_bad = 0.0
    for problem in problems:
        plan = ask(teacher, "plan", problem.problem, temperature=0.7)
        judged = score(ask(teacher, "verify", problem.problem, plan))
        expected_bad += min(
            config.max_bad_plan_rate, config.bad_plan_rate * int(problem.difficulty)
        )
        if plan == problem.true_plan:
            good += 1
            rejected += judged < GOOD_SCORE
            continue
        bad += 1
        missed += judged >= GOOD_SCORE
        calm = ScriptedTeacher(replace(config, misread_rate=0.0, slip_rate=0.0))
        story = parse_problem(problem.problem)
        right = execution_text(steps_of(story, needed_chain(story)))
        repaired += ask(calm, "execute", problem.problem, plan) == right

    def is_near(count: int, of: int, rate: float) -> bool:
        return abs(count / of - rate) <= 4 * (rate * (1 - rate) / of) ** 0.5

    assert is_near(bad, len(problems), expected_bad / len(problems))
    assert is_near(missed, bad, config.missed_rate)
    assert is_near(rejected, good, config.rejected_rate)
    assert is_near(repaired, bad, config.repair_rate)


def test_judge_compares_links() -> None:
    text = f"<reference_plan>\n{PLAN}\n</reference_plan>\n<candidate_plan>\n{{}}\n</candidate_plan>"
    teacher = ScriptedTeacher()
    same = ask(teacher, "judge", text=text.format(PLAN))
    near = ask(teacher, "judge", text=text.format(SKIPPED))
    none = ask(teacher, "judge", text=text.format("Ivan's ;"))
    assert same.endswith("Similarity: 1.00")
    assert near.endswith("Similarity: 0.67")
    assert none.endswith("Similarity: 0.00")


def test_similarity_counts_the_ends() -> None:
    assert plan_similarity(["Bob", "Eve", "Cara"], ["Bob", "Eve"]) == pytest.approx(4 / 7)
    assert plan_similarity(["Bob"], []) == 0.0


def test_last_problem_of_the_text_is_meant() -> None:
    """Instructions and examples may hold the tag before the problem itself does."""
    text = (
        "The problem stands in <problem>…</problem>, for example <problem>\n1 coins are Bob's . "
        f"How-many coins are Bob's ?\n</problem>.\n<problem>\n{PROBLEM}\n</problem>"
    )
    assert ask(ScriptedTeacher(PERFECT), "plan", text=text) == PLAN


@pytest.mark.parametrize(
    ("role", "text", "named"),
    [
        ("plan", "no tags at all", "<problem>"),
        ("plan", "<problem>What is 2 + 3?</problem>", "teacher=openai_compatible"),
        ("paint", "<problem>x</problem>", "paint"),
        ("execute", f"<problem>{PROBLEM}</problem>", "<plan>"),
    ],
)
def test_what_it_cannot_answer_is_said(role: str, text: str, named: str) -> None:
    with pytest.raises(ScriptedTeacherError, match=re.escape(named)):
        ask(ScriptedTeacher(), role, text=text)


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"missed_rate": 1.2}, "teacher.scripted.missed_rate=1.2"),
        ({"slip_rate": -0.1}, "teacher.scripted.slip_rate=-0.1"),
        ({"misread_fewer_from": 0}, "teacher.scripted.misread_fewer_from=0"),
    ],
)
def test_impossible_noise_is_refused(knobs: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        ScriptedTeacherConfig(**knobs)  # type: ignore[arg-type]
