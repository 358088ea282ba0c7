"""One row of somebody's file: what is read as its plan, its score and its execution."""

from __future__ import annotations

from typing import Any

import pytest

from plan_tuning.distillation.trajectory_rows import (
    ColumnError,
    Columns,
    RowReading,
    read_row,
    told_by,
)


def reading(**values: Any) -> RowReading:
    shape = values.pop("shape", "flat")
    return RowReading(shape, Columns(**values))


def flat(**values: Any) -> dict[str, Any]:
    return {"problem": "What is 1 + 1?", "answer": "2", "plan": "1. Add."} | values


@pytest.mark.parametrize(
    ("score", "value", "status"),
    [
        (80, 80, "parsed"),
        (80.0, 80, "parsed"),
        ("-20", -20, "parsed"),
        ("Fine. Score: 85/100", 85, "parsed"),
        ("no idea", None, "unparsed"),
        (None, None, "missing"),
        (float("nan"), None, "missing"),
    ],
)
def test_a_score_is_a_number_or_a_verifiers_reply(
    score: Any, value: int | None, status: str
) -> None:
    row = read_row(flat(score=score), reading(score="score"), "mine")
    assert (row.score.value, row.score.status) == (value, status)


@pytest.mark.parametrize("score", [0.85, 101, "7.5", True, [90]])
def test_a_score_on_another_scale_is_refused(score: Any) -> None:
    with pytest.raises(ColumnError, match="no whole number from -100 to 100"):
        read_row(flat(score=score), reading(score="score"), "mine")


@pytest.mark.parametrize(
    ("plan", "text", "status"),
    [
        ("<plan>\n1. Add.\n\n2. Stop.\n</plan>", "1. Add.\n2. Stop.", "ok"),
        (["Add.", "Stop."], "1. Add.\n2. Stop.", "ok"),
        ("<think>Hm.</think>1. Add.", "1. Add.", "ok"),
        ("<think>Hm.", "", "truncated"),
        ("  ", "", "empty"),
        (None, "", "empty"),
    ],
)
def test_a_plan_is_read_as_a_teachers_is(plan: Any, text: str, status: str) -> None:
    row = read_row(flat(plan=plan), reading(), "mine")
    assert (row.plan, row.plan_status) == (text, status)


def chat(said: str, **values: Any) -> dict[str, Any]:
    turns = [
        {"role": "system", "content": "Plan first."},
        {"role": "user", "content": "<input>What is 1 + 1?</input>"},
        {"role": "assistant", "content": said},
    ]
    return {"messages": turns, "answer": "2"} | values


@pytest.mark.parametrize(
    ("said", "plan", "status", "execution"),
    [
        ("<plan>1. Add.</plan>\n<output>\\boxed{2}</output>", "1. Add.", "ok", "\\boxed{2}"),
        ("<plan>1. Add.</plan> So it is 2.", "1. Add.", "ok", "So it is 2."),
        ("<plan>1. Add.</plan>", "1. Add.", "ok", ""),
        ("<plan>1. Add", "1. Add", "truncated", ""),
        ("<think><plan>x</plan></think>It is 2.", "", "empty", ""),
    ],
)
def test_a_chat_is_read_by_its_tags(said: str, plan: str, status: str, execution: str) -> None:
    row = read_row(chat(said), reading(shape="chat"), "mine")
    assert row.problem.problem == "What is 1 + 1?"
    assert (row.plan, row.plan_status, row.execution) == (plan, status, execution)
    assert row.execution_status == ("ok" if execution else "absent")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hello", "no list of messages"),
        ([{"role": "user", "content": "?"}], "other turns"),
        ([{"role": "user", "content": "?"}, {"role": "assistant", "content": None}], "without a"),
    ],
)
def test_a_chat_of_another_form_is_refused(messages: Any, words: str) -> None:
    with pytest.raises(ColumnError, match=words):
        read_row({"messages": messages, "answer": "2"}, reading(shape="chat"), "mine")


def test_other_peoples_chats_are_told_by_their_columns() -> None:
    turns = [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "<plan>Add.</plan>"}]
    row = {"conversations": turns, "answer": "2"}
    settled = told_by(row, RowReading())
    assert settled.shape == "chat"
    assert read_row(row, settled, "mine").plan == "Add."
