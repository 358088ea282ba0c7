"""A plan -> counterfactuals of it: steps shuffled, a step dropped, a number swapped.

Pure functions of texts. What is drawn depends on the problem's id alone, so every student of a
sweep is asked about the same edit of the same plan. A step is a line of the plan; in the
micro-world, whose plans are one line, it is a name. Numbers and bullets in front of steps stay
where they are: an edited plan is still numbered from one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from plan_tuning.text.formats import is_micro
from plan_tuning.text.plans import marked_steps

_DIGITS = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_NUMBER = re.compile(rf"(?<![\w.,]){_DIGITS.pattern}(?!\w)")
_PLAN_END = ";"  # of a plan of the micro-world
_LONGEST = 6  # digits of a number that is drawn


@dataclass(frozen=True, slots=True)
class NumberSwap:
    """A plan in which one number is another one."""

    plan: str
    old: str
    new: str  # in neither the plan nor the problem


def plan_steps(plan: str, style: str) -> list[str]:
    """Split a plan into its steps.

    >>> plan_steps("Bob's Eve's ;", "microworld")
    ["Bob's", "Eve's"]
    """
    if is_micro(style):
        return [word for word in plan.split() if word.endswith("'s")]
    return [text for _, text in marked_steps(plan)]


def shuffled(plan: str, problem_id: str, style: str) -> str | None:
    r"""Put a plan's steps into another order; None where there is no other one.

    >>> shuffled("1. Add.\n2. Halve.", "p", "math")
    '1. Halve.\n2. Add.'
    """
    steps = plan_steps(plan, style)
    if len(set(steps)) < 2:
        return None
    rng = random.Random(f"shuffled/{problem_id}")
    order = list(steps)
    while order == steps:
        rng.shuffle(order)
    return joined_steps(plan, order, style)


def with_step_dropped(plan: str, problem_id: str, style: str) -> str | None:
    r"""Leave one step out; None where the plan has a single one.

    The micro-world's last step, the known number that everything is computed from, stays.

    >>> with_step_dropped("Bob's Eve's ;", "p", "microworld")
    "Eve's ;"
    """
    steps = plan_steps(plan, style)
    if len(steps) < 2:
        return None
    rng = random.Random(f"dropped/{problem_id}")
    place = rng.randrange(len(steps) - is_micro(style))
    return joined_steps(plan, [*steps[:place], *steps[place + 1 :]], style)


def with_number_swapped(plan: str, problem_id: str, problem: str, style: str) -> NumberSwap | None:
    """Write another number in place of one of the plan's, wherever it stands; None without any.

    Numbers of steps do not count. The new number has as many digits as the old one where such a
    number is free, and stands in neither plan nor problem.

    >>> with_number_swapped("1. Take 20 off.", "p", "What is 50 - 20?", "math").old
    '20'
    """
    steps = plan_steps(plan, style)
    numbers = [
        found[0] for text in steps for found in _NUMBER.finditer(text) if len(found[0]) <= _LONGEST
    ]
    if not numbers:
        return None
    rng = random.Random(f"swapped/{problem_id}")
    old = rng.choice(numbers)
    taken = {number.replace(",", "") for number in _DIGITS.findall(f"{plan}\n{problem}")}
    new = _free_number(rng, len(old.partition(".")[0].replace(",", "")), taken)
    edited = [_NUMBER.sub(lambda found: new if found[0] == old else found[0], t) for t in steps]
    return NumberSwap(joined_steps(plan, edited, style), old, new)


def has_number(text: str, number: str) -> bool:
    """Whether a number stands in a text as it is written.

    >>> has_number("It is 17.", "17"), has_number("It is 170.", "17")
    (True, False)
    """
    return number in {found[0].replace(",", "") for found in _DIGITS.finditer(text)}


def _free_number(rng: random.Random, digits: int, taken: set[str]) -> str:
    """Draw a number of so many digits, or of more, that is not taken."""
    while True:
        free = [n for n in range(10 ** (digits - 1), 10**digits) if str(n) not in taken]
        if free:
            return str(rng.choice(free))
        digits += 1


def joined_steps(plan: str, steps: Sequence[str], style: str) -> str:
    """Write steps as the plan writes them, behind its marks in their order."""
    if is_micro(style):
        return " ".join([*steps, _PLAN_END])
    marks = [mark for mark, _ in marked_steps(plan)]
    return "\n".join(f"{mark}{text}" for mark, text in zip(marks, steps, strict=False))
