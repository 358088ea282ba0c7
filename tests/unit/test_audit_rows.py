"""Which plans an audit rewards, beside which golden plan, and what is known of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plan_tuning.comparison.audit_rows import audit_rows
from plan_tuning.config.checks import ConfigError
from plan_tuning.records import Problem, Trajectory, Verdict


def row(problem: str, candidate: int, plan: str, **values: object) -> Trajectory:
    given = {
        "verdict": Verdict.CORRECT,
        "execution": f"run of {plan}",
        "true_plan": "Bob's Eve's ;",
    }
    return Trajectory(
        problem,
        candidate,
        f"text of {problem}",
        "5",
        "human",
        plan,
        **(given | values),  # type: ignore[arg-type]
    )


ROWS = [
    row("a", 0, "Eve's ;", plan_score=85, verdict=Verdict.WRONG),
    row("a", 1, "Bob's  Eve's ;", plan_score=92),
    row("a", 2, "Bob's ;", plan_score=None, verdict=Verdict.BAD_GOLD),
    row("a", 3, "", plan_status="truncated"),
    row("b", 0, "Eve's ;", plan_score=80, verdict=Verdict.WRONG),
    row("b", 1, "Bob's Eve's ;", plan_score=80),
    row("c", 0, "Bob's Eve's ;"),
]
PROBLEMS = [Problem("a", "text of a", "5", solution="human", style="microworld")]


def test_the_best_scored_plan_is_golden_and_not_rewarded() -> None:
    found = audit_rows(ROWS, PROBLEMS)
    golden = {one.problem_id: one.case.teacher_plan for one in found.golden}
    assert golden == {"a": "Bob's  Eve's ;", "b": "Eve's ;"}  # of equal scores the earlier one
    rewarded = [(one.problem_id, one.case.plan) for one in found.rows]
    assert rewarded == [("a", "Eve's ;"), ("a", "Bob's ;"), ("b", "Bob's Eve's ;")]
    assert all(one.case.teacher_plan == golden[one.problem_id] for one in found.rows)
    assert found.problems == 3  # c has no plan beside its golden one


def test_the_labels_are_kept_apart_and_unknown_stays_unknown() -> None:
    labels = [(one.plan_right, one.execution_right) for one in audit_rows(ROWS, PROBLEMS).rows]
    assert labels == [(False, False), (False, None), (True, True)]
    plain = [row(r.problem_id, r.candidate, r.plan, true_plan="", verdict=None) for r in ROWS]
    assert {(one.plan_right, one.execution_right) for one in audit_rows(plain, []).rows} == {
        (None, None)
    }


def test_reference_executions_are_right_ones_and_never_mixed_with_the_humans() -> None:
    rows = [*ROWS, row("d", 0, "x", verdict=Verdict.WRONG), row("d", 1, "y", verdict=None)]
    found = {one.problem_id: one.case.execution for one in audit_rows(rows, PROBLEMS).golden}
    assert found == {"a": "run of Bob's  Eve's ;", "b": "run of Bob's Eve's ;", "d": ""}
    bare = [replace(one, verdict=None) for one in rows]
    human = {one.case.execution for one in audit_rows(bare, PROBLEMS).golden}
    assert human == {"human\nThe answer is \\boxed{5}."}
    program = "def f(x):\n    return {5: x}"
    of_code = [replace(one, style="code", solution=program, answer=program) for one in bare]
    human = {one.case.execution for one in audit_rows(of_code, []).golden}
    assert human == {f"```python\n{program}\n```"}


def test_so_many_problems_are_drawn_by_the_seed() -> None:
    many = [row(f"p{i}", c, f"plan {c}") for i in range(30) for c in (0, 1)]
    drawn = [
        tuple(one.problem_id for one in audit_rows(many, [], limit=5, seed=seed).rows)
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 5


def test_planted_flaws_take_the_place_of_candidates() -> None:
    plans = [row(n, 0, f"1. Add {n} and 40.\n2. Halve {n}.", style="gsm8k") for n in ("x", "y")]
    found = audit_rows(plans, [], is_planted=True)
    assert {one.problem_id for one in found.rows} == {"x", "y"}
    assert all(one.plan_right == (one.kind in ("reworded", "renumbered")) for one in found.rows)
    assert all(one.execution_right is None for one in found.rows)  # nobody executed them
    foreign = next(one for one in found.rows if one.kind == "step_foreign")
    assert foreign.problem_id == "x"
    assert "y" in foreign.case.plan  # the step that the next problem lends


def test_a_corpus_without_a_second_plan_is_refused_with_what_helps() -> None:
    with pytest.raises(ConfigError, match="--plant makes flawed plans"):
        audit_rows(ROWS[-1:], [])
    micro = [row("a", 0, "Bob's Eve's ;", style="microworld")]
    with pytest.raises(ConfigError, match="plans of one line have no steps"):
        audit_rows(micro, [], is_planted=True)
