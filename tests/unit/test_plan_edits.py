"""Counterfactual plans: what is edited, what stays, and that the problem's id alone decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plan_tuning.tasks.socratic import read_socratic
from plan_tuning.text.plan_edits import (
    has_number,
    plan_steps,
    shuffled,
    with_number_swapped,
    with_step_dropped,
)

PLAN = "1. Find the eggs laid in 2 days.\n2. Take 3 away.\n3. Multiply by the price."
MICRO = "Bob's Eve's Cara's ;"


def test_shuffled_steps_are_the_same_steps_under_the_same_numbers() -> None:
    text = shuffled(PLAN, "p", "math")
    assert text is not None
    assert text != PLAN
    assert [line[:3] for line in text.split("\n")] == ["1. ", "2. ", "3. "]
    assert sorted(plan_steps(text, "math")) == sorted(plan_steps(PLAN, "math"))
    assert shuffled(PLAN, "p", "math") == text
    assert len({shuffled(PLAN, f"p{i}", "math") for i in range(40)}) == 5  # 3! orders but its own


def test_a_plan_of_one_step_or_of_equal_ones_has_no_other_order() -> None:
    assert shuffled("1. Add.", "p", "math") is None
    assert shuffled("1. Add.\n2. Add.", "p", "math") is None
    assert shuffled("", "p", "math") is None
    assert with_step_dropped("1. Add.", "p", "math") is None


def test_a_dropped_step_leaves_the_others_numbered_from_one() -> None:
    found = {with_step_dropped(PLAN, f"p{i}", "math") for i in range(40)}
    assert found == {
        "1. Take 3 away.\n2. Multiply by the price.",
        "1. Find the eggs laid in 2 days.\n2. Multiply by the price.",
        "1. Find the eggs laid in 2 days.\n2. Take 3 away.",
    }


def test_the_micro_worlds_known_number_is_never_dropped() -> None:
    found = {with_step_dropped(MICRO, f"p{i}", "microworld") for i in range(40)}
    assert found == {"Eve's Cara's ;", "Bob's Cara's ;"}
    assert shuffled("Bob's Eve's ;", "p", "microworld") == "Eve's Bob's ;"
    assert with_step_dropped("Bob's ;", "p", "microworld") is None


def test_a_swapped_number_is_new_everywhere_and_step_numbers_stay() -> None:
    plan = "1. Take 20 off.\n2. Add 20 to 7."
    swaps = [with_number_swapped(plan, f"p{i}", "What is 50 - 20?", "math") for i in range(40)]
    assert {swap.old for swap in swaps if swap} == {"20", "7"}
    for swap in swaps:
        assert swap is not None
        assert swap.plan == "\n".join(
            f"{line[:3]}{line[3:].replace(swap.old, swap.new)}" for line in plan.split("\n")
        )
        assert len(swap.new) == len(swap.old)
        assert swap.new not in ("50", "20", "7")
        assert not has_number(plan, swap.new)


@pytest.mark.parametrize("plan", ["1. Add both.\n2. Halve.", "", MICRO, "1. Do the 1st thing."])
def test_a_plan_without_a_number_has_none_to_swap(plan: str) -> None:
    assert with_number_swapped(plan, "p", "3 + 4?", "math") is None


def test_nine_digits_that_are_all_taken_give_way_to_two(root: Path) -> None:
    swap = with_number_swapped("Take 5 off.", "p", "1 2 3 4 5 6 7 8 9", "math")
    assert swap is not None
    assert len(swap.new) == 2


def test_the_socratic_plans_that_hold_a_number(shared: Path) -> None:
    lines = (shared / "data/gsm8k_socratic/test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    plans = [read_socratic(row["answer"]) for row in rows]
    texts = ["\n".join(plan.questions) for plan in plans]
    assert (len(rows), sum(any(c.isdigit() for c in text) for text in texts)) == (1319, 231)
    swaps = [
        with_number_swapped(plan.plan, row["question"], row["question"], "gsm8k")
        for plan, row in zip(plans, rows, strict=True)
    ]
    assert sum(swap is not None for swap in swaps) == 229  # two hold "1st" or the like alone
