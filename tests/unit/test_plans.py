"""What plans give away, and how alike they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plan_tuning.text.plans import (
    distinct_n,
    has_box,
    is_spoiler,
    leaks,
    repetition,
    self_bleu,
    similarity,
    steps,
)

PROBLEM = "A baker makes 12 trays of 8 rolls and sells 61 rolls. How many are left?"


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("1. Add.\n2. Halve.", ["Add.", "Halve."]),
        ("Step 1: Add.\nSub-goal 2. Halve.\n(3) Report.", ["Add.", "Halve.", "Report."]),
        ("- Add.\n* Halve.", ["Add.", "Halve."]),
        ("Add.\n\n\n", ["Add."]),
        ("", []),
    ],
)
def test_steps(plan: str, expected: list[str]) -> None:
    assert steps(plan) == expected


@pytest.mark.parametrize(
    ("plan", "answer", "leaked"),
    [
        ("1. Multiply trays by rolls.\n2. Subtract what was sold.", "35", False),
        ("1. Multiply.\n2. So the final answer is 35.", "35", True),
        ("1. Multiply.\n2. Get 35 rolls.", "35", True),
        ("1. Multiply.\n2. Get 350 rolls, or 3.35.", "35", False),
        ("1. Take the 12 trays.", "12", False),  # the problem holds it
        ("1. Take the 12 trays. The answer is 12.", "12", True),
        ("1. Go.\n2. Go on.\n3. Stop.", "3", False),  # a step's number
        (r"1. Report \boxed{1}.", "35", True),
        ("1. Get 1,234 rolls.", "1234", True),
        (r"1. Conclude x \in \{1,2\}", r"x\in\{1,2\}", True),
        ("1. Go.", "", False),
        ("1. Multiply.\n2. Get = 35.0 rolls.", "35", True),  # the same number, written otherwise
        ("1. Multiply.\n2. Get 35 rolls.", "35.00", True),
        ("1. Multiply.\n2. Get thirty-five rolls.", "35", True),
        ("1. Multiply.\n2. Get thirty five rolls.", "35", True),
        ("1. Multiply.\n2. Get thirty or five rolls.", "35", False),
        ("1. Add the two amounts.", "2", False),  # a word of any plan ...
        ("1. Add. So the answer is two.", "2", True),  # ... but not here
        ("1. Take the sixty-one rolls.", "61", False),  # the problem holds it in digits
        ("1. Get " + "9" * 5000 + " rolls.", "35", False),
    ],
)
def test_leaks(plan: str, answer: str, leaked: bool) -> None:
    assert leaks(plan, answer, PROBLEM) is leaked


def test_boxes_and_spoilers() -> None:
    assert has_box(r"so \boxed{3}")
    assert not has_box("box the answer")
    assert is_spoiler("12 * 8 = 96")
    assert not is_spoiler("Let x = the rolls that are left.")


def test_repetition_counts_repeated_steps() -> None:
    assert repetition("1. Add.\n2. Halve.") == 0.0
    assert repetition("1. Add.\n2. add\n3. ADD!\n4. Halve.") == 0.5
    assert repetition("") == 0.0


@given(st.text(), st.text())
def test_similarity_is_symmetric_and_bounded(first: str, second: str) -> None:
    value = similarity(first, second)
    assert 0.0 <= value <= 1.0
    assert value == similarity(second, first)
    assert similarity(first, first) == 1.0


def test_diversity_has_its_extremes() -> None:
    same = ["1. Add the apples and the pears."] * 3
    other = ["Add all apples here.", "Halve every pear now.", "Count what is left over."]
    assert self_bleu(same) == pytest.approx(1.0)
    assert self_bleu(other) < 0.3
    assert distinct_n(same) == pytest.approx(1 / 3)
    assert distinct_n(other) == 1.0
    assert self_bleu(["one plan"]) == 0.0
    assert distinct_n([]) == 0.0


def test_self_bleu_of_two_plans_by_hand() -> None:
    # unigrams 2/3, bigrams (1 + 1) / (2 + 1), trigrams (0 + 1) / (1 + 1), no 4-gram: 1 / 1
    expected = (2 / 3 * 2 / 3 * 1 / 2 * 1) ** 0.25
    assert self_bleu(["add the apples", "add the pears"]) == pytest.approx(expected)
