"""Planted flaws: each kind does to a plan what its name says, and sound variants do not."""

from __future__ import annotations

from collections import Counter

import pytest

from plan_tuning.text.plan_edits import plan_steps
from plan_tuning.text.plan_flaws import REWORDED, Variant, variants

PLAN = "1. How many eggs are left?\n2. What do 7 eggs bring?\n3. Add both days."
OTHER = "1. Buy a cow.\n2. Milk it."
PROBLEM = "Ann has 16 eggs."


@pytest.fixture
def found() -> dict[str, Variant]:
    return {one.kind: one for one in variants(PLAN, "p1", PROBLEM, "gsm8k", OTHER)}


def steps(plan: str) -> list[str]:
    return plan_steps(plan, "gsm8k")


def test_every_kind_is_there_and_only_rewordings_are_sound(found: dict[str, Variant]) -> None:
    flaws = {"step_dropped", "steps_shuffled", "number_swapped", "step_foreign", "step_repeated"}
    assert set(found) == {*REWORDED, *flaws}
    assert {kind for kind, one in found.items() if one.is_flawed} == flaws
    assert len({one.plan for one in found.values()} | {PLAN}) == len(found) + 1


def test_each_flaw_is_of_its_kind(found: dict[str, Variant]) -> None:
    own = steps(PLAN)
    dropped = steps(found["step_dropped"].plan)
    assert len(dropped) == 2
    assert dropped == [step for step in own if step in dropped]
    shuffled = steps(found["steps_shuffled"].plan)
    assert shuffled != own
    assert sorted(shuffled) == sorted(own)
    foreign = steps(found["step_foreign"].plan)
    assert sum(step in own for step in foreign) == 2
    assert sum(step in steps(OTHER) for step in foreign) == 1
    repeated = steps(found["step_repeated"].plan)
    assert len(repeated) == 3
    assert max(Counter(repeated).values()) == 2
    swapped = found["number_swapped"].plan
    assert "7 eggs" not in swapped
    assert swapped.count("eggs bring") == 1


def test_sound_variants_say_every_step_in_its_order(found: dict[str, Variant]) -> None:
    assert steps(found["renumbered"].plan) == steps(PLAN)
    assert found["reworded"].plan == (
        "1. Determine how many eggs are left.\n2. Determine what do 7 eggs bring.\n"
        "3. Next, add both days."
    )


def test_what_is_drawn_hangs_on_the_problem_alone() -> None:
    assert variants(PLAN, "p1", PROBLEM, "gsm8k", OTHER) == variants(
        PLAN, "p1", PROBLEM, "gsm8k", OTHER
    )
    drawn = {
        tuple(one.plan for one in variants(PLAN, f"p{i}", PROBLEM, "gsm8k", OTHER))
        for i in range(8)
    }
    assert len(drawn) > 1


def test_a_plan_of_one_step_has_few_flaws() -> None:
    kinds = {one.kind for one in variants("1. Add.", "p", PROBLEM, "gsm8k", "1. Add.")}
    assert kinds == set(REWORDED)
