"""Replies that can be read, and those that must not become a number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plan_tuning.text.parsing import (
    is_refusal,
    parse_plan,
    parse_score,
    parse_score_released,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Score: 85", 85),
        ("Score: 85.", 85),
        ("Score: 80", 80),
        ("Score: 79", 79),
        ("**Score:** 85", 85),
        ("**Score: 85**", 85),
        ("**Score:** 85/100", 85),
        ("Score: 85 / 100.", 85),
        ("Score: 85 out of 100", 85),
        ("Score: [85]", 85),
        ("Score: [85/100]", 85),
        ("Score = 85", 85),
        ("Score: +85", 85),
        ("Score: -40", -40),
        ("Score: −40", -40),
        ("Score: –40", -40),
        ("score:\n\n91", 91),
        ("Final Score: 90.", 90),
        ('{"score": 70}', 70),
        ("Score：85", 85),
        (r"Score: \boxed{85}", 85),
        ("Score: $85$", 85),
        ("Score: `85`", 85),
        ("Score: 85.0", 85),
        ("Score: 85 (a solid plan)", 85),
        ("Score: 85, because every step is there.", 85),
        ("Score: 40\nafter a second look\nFinal Score: 90", 90),
        ("Initial Score: 90 … Score: -10", -10),
        ("Score: 100", 100),
        ("Score: -100", -100),
        ("Give `Score: N`.\nScore: 0", 0),
    ],
)
def test_a_readable_score_is_read(text: str, value: int) -> None:
    score = parse_score(text)
    assert (score.value, score.status) == (value, "parsed")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Score:",
        "Score: N/A",
        "Score: ninety",
        "Score: 95.5",
        "Score: 80-90",
        "Score: 80 to 90",
        "Score: 80 or 90",
        "Score: 8/10",
        "Score: 9 out of 10",
        "Score: 1,000",
        "Score: 85%",
        "Score: 85x",
        "Score: 8 5",
        "Score: 1e2",
        "Underscore: 85",
        "Scores: 85",
        "The score is 85",
        "85",
        "Score: 90. No, on reflection, Score: ninety",
        "19 :erocS",
    ],
)
def test_what_cannot_be_read_is_unparsed(text: str) -> None:
    score = parse_score(text)
    assert (score.value, score.status) == (None, "unparsed")


@pytest.mark.parametrize("text", ["Score: 105", "Score: 1000", "Score: -101", "Score: 101/100"])
def test_out_of_range_is_no_score(text: str) -> None:
    score = parse_score(text)
    assert (score.value, score.status) == (None, "out_of_range")


@given(st.text(), st.integers(-100, 100))
def test_a_last_line_in_the_asked_form_always_counts(before: str, value: int) -> None:
    assert parse_score(f"{before}\nScore: {value}").value == value


@given(st.text(alphabet="Score: =*[]-+.,/%0123456789\n −", max_size=60))
def test_no_text_gives_a_number_out_of_range(text: str) -> None:
    score = parse_score(text)
    assert (score.value is None) == (score.status != "parsed")
    assert score.value is None or -100 <= score.value <= 100


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Score: 85", 85),
        ("Score: 85.", 8),
        ("**Score:** 85", -100),
        ("Score: 95.5", 9),
        ("Score: 105", 100),
        ("Score: 40 … Final Score: 90", 40),
        ("Initial Score: 90 … Score: -10", 90),
        ("Score: -40", -100),
        ("Score: [85]", -100),
        ("Score = 85", -100),
        ("Score: +85", -100),
        ("Score: −40", -100),
        ("nothing", -100),
    ],
)
def test_the_released_parser_keeps_its_defects(text: str, value: int) -> None:
    assert parse_score_released(text).value == value


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("1. Add.\n2. Halve.", "1. Add.\n2. Halve."),
        ("  1. Add.\n\n\n2. Halve.  \n", "1. Add.\n2. Halve."),
        ("1. Add.\r\n\r\n2. Halve.\r\n", "1. Add.\n2. Halve."),
        ("<plan>\n1. Add.\n</plan>", "1. Add."),
        ("Here it is: <plan>1. Add.", "1. Add."),
        ("```\n1. Add.\n```", "1. Add."),
        ("1. Add.\n   - all of it", "1. Add.\n   - all of it"),
        (" \n\t\n", ""),
    ],
)
def test_plans_lose_their_wrapping(text: str, plan: str) -> None:
    assert parse_plan(text) == plan


@given(st.text())
def test_a_parsed_plan_parses_to_itself(text: str) -> None:
    plan = parse_plan(text)
    if "plan>" not in plan.lower() and "```" not in plan:
        assert parse_plan(plan) == plan


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot assist with this request.", True),
        ("I’m sorry, I am unable to provide a plan.", True),
        ("As an AI model I must not. I cannot", False),
        ("1. I cannot see x, so find y first.", False),
        ("I can't tell x apart, so the plan takes y.", False),
        ("I cannot help. " + "But here is a plan. " * 40, False),
        ("", False),
    ],
)
def test_only_refusals_are_refusals(text: str, refuses: bool) -> None:
    assert is_refusal(text) is refuses
