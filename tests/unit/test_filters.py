"""Which trajectories become training rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plan_tuning.config.filter import SELECTIONS, FilterConfig
from plan_tuning.distillation.filters import (
    STANDARD_FILTERS,
    FilterError,
    advice,
    decisions,
    filter_trajectories,
)
from plan_tuning.records import Trajectory, Verdict

NONE, PLAN_ONLY, ANSWER_ONLY, TWO_STAGE = STANDARD_FILTERS


def row(candidate: int, score: int | None, is_right: bool, **values: Any) -> Trajectory:
    defaults: dict[str, Any] = {
        "problem_id": "p",
        "candidate": candidate,
        "problem": "What is left?",
        "answer": "35",
        "solution": "35",
        "plan": f"Plan number {candidate} is its own.",
        "plan_score": score,
        "score_status": "unparsed" if score is None else "parsed",
        "execution": "done",
        "execution_status": "ok",
        "verdict": Verdict.CORRECT if is_right else Verdict.WRONG,
    }
    return Trajectory(**(defaults | values))


ROWS = [
    row(0, 60, False),
    row(1, 85, False),
    row(2, 70, True),
    row(3, 80, True),
    row(4, 90, True),
    row(5, 90, True),
    row(6, None, True),
]


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (NONE, [0]),
        (PLAN_ONLY, [4]),
        (ANSWER_ONLY, [2]),
        (TWO_STAGE, [4]),
        (dataclasses.replace(TWO_STAGE, selection="all"), [3, 4, 5]),
        (dataclasses.replace(TWO_STAGE, selection="first"), [3]),
        (dataclasses.replace(TWO_STAGE, plan_score_threshold=81, selection="all"), [4, 5]),
        (dataclasses.replace(TWO_STAGE, plan_score_threshold=91), []),
        (dataclasses.replace(ANSWER_ONLY, selection="best"), [4]),
        (dataclasses.replace(NONE, selection="all"), [0, 1, 2, 3, 4, 5, 6]),
        (dataclasses.replace(NONE, selection="diverse"), [4]),  # the plans differ in one word
        (dataclasses.replace(NONE, selection="diverse", diverse_below=1.0), [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_selection(config: FilterConfig, kept: list[int]) -> None:
    result = filter_trajectories(ROWS, config)
    assert [row.candidate for row in result.kept] == kept
    assert sum(result.reasons.values()) == len(ROWS)
    assert result.problems == 1
    assert result.kept_problems == bool(kept)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (row(0, 79, True), "score_below_threshold"),
        (row(0, None, True), "score_unparsed"),
        (row(0, None, True, score_status="out_of_range"), "score_out_of_range"),
        (row(0, 95, False), "answer_wrong"),
        (row(0, 95, False, verdict=Verdict.NO_ANSWER), "answer_no_answer"),
        (row(0, 95, False, verdict=Verdict.TIMEOUT), "answer_timeout"),
        (row(0, 95, True, plan="", plan_status="refused"), "plan_refused"),
        (row(0, 95, True, plan=""), "plan_empty"),
        (row(0, 95, True, plan="The answer is 35."), "leak"),
        (row(0, 95, False, execution="", execution_status="filtered"), "execution_filtered"),
        (row(0, 95, True), "kept"),
    ],
)
def test_every_reason_has_a_name(candidate: Trajectory, reason: str) -> None:
    config = dataclasses.replace(TWO_STAGE, drop_leaks=True)
    assert filter_trajectories([candidate], config).reasons == {reason: 1}


def test_equal_plans_are_never_kept_twice() -> None:
    rows = [row(0, 90, True, plan="same"), row(1, 90, True, plan="same", duplicate_of=0)]
    config = dataclasses.replace(TWO_STAGE, selection="all")
    result = filter_trajectories(rows, config)
    assert [row.candidate for row in result.kept] == [0]
    assert result.reasons == {"kept": 1, "not_selected": 1}


def test_missing_executions_are_refused_only_where_they_matter() -> None:
    rows = [row(0, 50, False, execution="", execution_status="missing", verdict=None)]
    assert filter_trajectories(rows, TWO_STAGE).reasons == {"score_below_threshold": 1}
    assert len(filter_trajectories(rows, NONE).kept) == 1
    with pytest.raises(FilterError, match=r"distillation\.execution=all"):
        filter_trajectories(rows, ANSWER_ONLY)


def test_subsamples_are_nested_and_blind_to_order() -> None:
    rows = [row(0, 90, True, problem_id=f"p{i}") for i in range(50)]

    def kept(count: int, seed: int, given: list[Trajectory]) -> set[str]:
        config = dataclasses.replace(TWO_STAGE, max_rows=count, seed=seed)
        return {row.problem_id for row in filter_trajectories(given, config).kept}

    assert len(kept(20, 1, rows)) == 20
    assert kept(10, 1, rows) < kept(20, 1, rows)
    assert kept(20, 1, rows) == kept(20, 1, rows[::-1])
    assert kept(20, 1, rows) != kept(20, 2, rows)
    assert filter_trajectories(rows, dataclasses.replace(TWO_STAGE, max_rows=20)).reasons == {
        "kept": 20,
        "over_max_rows": 30,
    }


@given(
    st.lists(st.tuples(st.none() | st.integers(-100, 100), st.booleans()), min_size=1, max_size=6),
    st.sampled_from(SELECTIONS),
    st.booleans(),
    st.booleans(),
)
def test_a_filter_keeps_only_what_passes(
    given_rows: list[tuple[int | None, bool]], selection: str, plan: bool, answer: bool
) -> None:
    rows = [row(i, score, right) for i, (score, right) in enumerate(given_rows)]
    config = FilterConfig(plan=plan, answer=answer, selection=selection)
    result = filter_trajectories(rows, config)
    passing = [
        row
        for row in rows
        if (not plan or (row.plan_score is not None and row.plan_score >= 80))
        and (not answer or row.is_correct)
    ]
    assert bool(result.kept) == bool(passing)
    assert all(row in passing for row in result.kept)
    assert sum(result.reasons.values()) == len(rows)


def test_learners_of_executions_refuse_a_corpus_that_lacks_them() -> None:
    missing = {"execution": "", "execution_status": "missing", "verdict": None}
    rows = [row(0, 95, True), row(1, 50, False, **missing)]
    for config in (NONE, dataclasses.replace(PLAN_ONLY, plan_score_threshold=40)):
        assert len(filter_trajectories(rows, config).kept) == 1, "learners of plans may use it"
        with pytest.raises(FilterError, match=r"learns executions.*distillation\.execution=all"):
            filter_trajectories(rows, config, needs_execution=True)
        with pytest.raises(FilterError, match="candidate 1"):
            decisions(rows, config, needs_execution=True)
    kept = filter_trajectories(rows, PLAN_ONLY, needs_execution=True).kept
    assert [row.candidate for row in kept] == [0], "what was not executed does not pass"


@pytest.mark.parametrize("config", STANDARD_FILTERS, ids=lambda config: config.name)
def test_a_cut_execution_is_never_learnt(config: FilterConfig) -> None:
    cut = row(0, 95, True, execution_status="truncated")
    result = filter_trajectories([cut], config, needs_execution=True)
    assert result.reasons == {"execution_truncated": 1}
    assert decisions([cut], config, needs_execution=True)[0]["reason"] == "execution_truncated"
    assert filter_trajectories([cut], config).reasons == {"kept": 1}, "its plan is whole"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_rows_are_drawn_evenly(seed: int) -> None:
    rows = [
        row(candidate, 90, True, problem_id=f"p{i}")
        for i in range(1000)
        for candidate in range(1 + i % 5)
    ]
    config = dataclasses.replace(TWO_STAGE, selection="random", max_rows=200, seed=seed)
    kept = filter_trajectories(rows, config).kept
    counts = [sum(int(row.problem_id[1:]) % 5 == k for row in kept) for k in range(5)]
    assert sum(counts) == 200
    assert all(20 <= count <= 60 for count in counts), counts  # 40 each; 5.7 is one deviation
    least = dataclasses.replace(config, selection="best")
    same = {row.problem_id for row in filter_trajectories(rows, least).kept}
    assert same == {row.problem_id for row in kept}, "the same problems under every selection"


def test_the_filter_is_not_blamed_where_no_plan_can_be_used() -> None:
    truncated = [row(index, None, False, plan_status="truncated", plan="") for index in range(3)]
    assert "distillation.max_plan_tokens" in advice(truncated)
    assert "3 truncated" in advice(truncated)
    assert "oosen" not in advice(truncated)
    empty = [row(0, None, False, plan_status="empty", plan="")]
    assert "teacher.model" in advice(empty)
    assert "oosen the filter" in advice([*truncated, row(4, 10, False)])
