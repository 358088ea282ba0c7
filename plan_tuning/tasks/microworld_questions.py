r"""The three questions that a story of the micro-world can be asked: three kinds of problems.

The stories and the plans are the same; what is asked for, and so the execution, is not::

    number   How-many pens are Bob's ?            … Bob's -1 24 = 23 . \boxed{ 23 }
    yes_no   Yes-or-no : 20 pens are Bob's ?      … Bob's -1 24 = 23 . \boxed{ yes }
    program  Program : How-many pens are Bob's ?  \boxed{ Eve = Cara +2 ; Bob = Eve -1 }

A yes-or-no question asks whether they are so many or more. A program gets the numbers that the
story tells by their owners' names and computes the asked one. It is Python as it stands. Its tests
call it with other numbers than those of the story, so that a number that was worked out does not
pass for a program. Pure functions of plain data.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from plan_tuning.tasks.microworld_text import (
    SIGNS,
    Step,
    Story,
    apply,
    box,
    execution_text,
    needed_chain,
    rationale_text,
)

ENTRY_POINT = "program"
_NUM_TESTS = 3
_LARGEST = 30


def asked(story: Story, question: str, *, max_value: int) -> Story:
    """Ask a story another question."""
    least = least_number(max_value) if question == "yes_no" else 0
    return replace(story, question=question, least=least)


def execution_of(story: Story, steps: Sequence[Step]) -> str:
    """Write a teacher's execution of a plan, in the form that the question asks for."""
    if story.question == "program":
        return box(program_text(story, steps))
    if story.question == "yes_no":
        return _judged(story, steps, execution_text(steps))
    return execution_text(steps)


def rationale_of(story: Story, steps: Sequence[Step]) -> str:
    """Write a human rationale: a teacher's execution without the names, where it has any."""
    if story.question == "number":
        return rationale_text(steps)
    if story.question == "yes_no":
        return _judged(story, steps, rationale_text(steps))
    return execution_of(story, steps)


def answer_of(story: Story, steps: Sequence[Step]) -> str:
    """Say what the steps come to: a number, yes or no, or a program."""
    if story.question == "program":
        return program_text(story, steps)
    return _verdict(story, steps) if story.question == "yes_no" else str(steps[-1].value)


def _judged(story: Story, steps: Sequence[Step], text: str) -> str:
    """Have an execution end in yes or no, not in its number."""
    lines = text.rpartition("\\boxed")[0]
    return f"{lines}{box(_verdict(story, steps))}"


def _verdict(story: Story, steps: Sequence[Step]) -> str:
    return "yes" if steps[-1].value >= story.least else "no"


def program_text(story: Story, steps: Sequence[Step]) -> str:
    """Write steps as a program of assignments; a number that the story tells is an input of it."""
    facts = story.by_owner()
    known: set[str] = set()
    lines: list[str] = []
    for place, step in enumerate(steps):
        parent = facts[step.owner].parent
        if parent:
            # A plan that passes the parent over goes on from the one before, if there is one.
            before = steps[place - 1].owner if place else str(step.operand)
            base = parent if parent in known else before
            lines.append(f"{step.owner} = {base} {SIGNS[step.operation]}{step.operand}")
        known.add(step.owner)
    if steps[-1].owner != story.target or not lines:
        lines.append(f"{story.target} = {steps[-1].owner}")
    return " ; ".join(lines)


def least_number(max_value: int) -> int:
    """Say what a yes-or-no question asks for: so many at least, the same number in all of a world.

    About half the answers are yes. Which numbers are so large is a table of forty words to a model;
    whether two numbers are equal is a skill that one of 0.2M parameters does not learn in minutes.
    """
    return max_value // 2


def tests_text(story: Story, key: str) -> dict[str, Any]:
    """Write the tests of a program: calls with numbers of their own, drawn by ``key``."""
    rng = random.Random(f"microworld/tests/{key}")
    inputs = [fact.owner for fact in story.facts if not fact.parent]
    lines = []
    for _ in range(_NUM_TESTS):
        given = {owner: rng.randint(2, _LARGEST) for owner in inputs}
        value = 0
        for owner in reversed(needed_chain(story)):
            fact = story.by_owner()[owner]
            is_given = not fact.parent
            value = given[owner] if is_given else apply(fact.operation, fact.operand, value)
        called = ", ".join(map(str, given.values()))
        lines.append(f"assert {ENTRY_POINT}({called}) == {value}")
    return {
        "entry_point": ENTRY_POINT,
        "inputs": inputs,
        "target": story.target,
        "test": "\n".join(lines),
    }
