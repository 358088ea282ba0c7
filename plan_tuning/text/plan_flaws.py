"""A plan -> the same plan with a flaw of a known kind, and the same plan in other words.

Whoever judges plans should tell the two apart: what is planted is known, so no label has to be
bought. Pure functions of texts; what is drawn depends on the problem's id alone. A flaw is a defect
of the plan as a text (a step that is missing, foreign, repeated, out of order, about another
number); whether an executor would be misled by it is another question.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from plan_tuning.text.plan_edits import (
    joined_steps,
    plan_steps,
    shuffled,
    with_number_swapped,
    with_step_dropped,
)

REWORDED = ("reworded", "renumbered")
"""Kinds without a flaw."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What became of a plan."""

    kind: str
    plan: str

    @property
    def is_flawed(self) -> bool:
        """Whether the plan has a flaw."""
        return self.kind not in REWORDED


def variants(
    plan: str, problem_id: str, problem: str, style: str, other_plan: str
) -> list[Variant]:
    r"""Write every variant of a plan that there is, none of them twice and none equal to it.

    Args:
        plan: of several lines, one step each.
        problem_id: what is drawn hangs on it.
        problem: the problem's text.
        style: of the problem.
        other_plan: another problem's plan, which lends a step.

    >>> found = variants("1. Add both.\n2. Halve it.", "p", "2 and 4?", "math", "1. Buy a cow.")
    >>> [one.kind for one in found if not one.is_flawed]
    ['reworded', 'renumbered']
    """
    written: dict[str, str | None] = {
        "reworded": _reworded(plan, style),
        "renumbered": _renumbered(plan, style),
        "step_dropped": with_step_dropped(plan, problem_id, style),
        "steps_shuffled": shuffled(plan, problem_id, style),
        "number_swapped": _number_swapped(plan, problem_id, problem, style),
        **{name: write(plan, problem_id, style, other_plan) for name, write in _REPLACED.items()},
    }
    found: dict[str, Variant] = {}
    for kind, text in written.items():
        if text is not None and text != plan:
            found.setdefault(text, Variant(kind, text))
    return list(found.values())


def _reworded(plan: str, style: str) -> str | None:
    """Say every step in a frame of other words."""
    return joined_steps(plan, [_framed(step) for step in plan_steps(plan, style)], style)


def _framed(step: str) -> str:
    start = step[:1].lower() + step[1:]
    if step.endswith("?"):
        return f"Determine {start[:-1].rstrip()}."
    return f"Next, {start}"


def _renumbered(plan: str, style: str) -> str | None:
    """Write the numbers of the steps in another way."""
    steps = plan_steps(plan, style)
    return "\n".join(f"Step {place}: {step}" for place, step in enumerate(steps, start=1))


def _number_swapped(plan: str, problem_id: str, problem: str, style: str) -> str | None:
    swap = with_number_swapped(plan, problem_id, problem, style)
    return None if swap is None else swap.plan


def _foreign(plan: str, problem_id: str, style: str, other_plan: str) -> str | None:
    """Put another plan's step in place of one; None where it has none that is new here."""
    steps = plan_steps(plan, style)
    strange = [step for step in plan_steps(other_plan, style) if step not in steps]
    if not strange or not steps:
        return None
    rng = random.Random(f"foreign/{problem_id}")
    place = rng.randrange(len(steps))
    return joined_steps(plan, [*steps[:place], rng.choice(strange), *steps[place + 1 :]], style)


def _repeated(plan: str, problem_id: str, style: str, other_plan: str) -> str | None:
    """Say a step again where the next one should stand; None where there is no next one."""
    steps = plan_steps(plan, style)
    if len(steps) < 2:
        return None
    place = random.Random(f"repeated/{problem_id}").randrange(len(steps) - 1)
    return joined_steps(plan, [*steps[: place + 1], steps[place], *steps[place + 2 :]], style)


_REPLACED: Mapping[str, Callable[[str, str, str, str], str | None]] = {
    "step_foreign": _foreign,
    "step_repeated": _repeated,
}
