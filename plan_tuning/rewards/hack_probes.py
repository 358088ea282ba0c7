"""Plans that deserve nothing: how each is made, and how it is told among a student's plans.

A reward that pays for one of them is gamed sooner or later. An audit writes them itself and asks a
reward about them; a training counts how often a student has come to write one. Pure functions.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from plan_tuning.rewards.plan_cases import PlanCase
from plan_tuning.rewards.plan_similarity import guarded
from plan_tuning.text.formats import is_micro
from plan_tuning.text.plan_edits import plan_steps, shuffled

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_FEWEST_REPEATS = 3
_PLAN_END = ";"  # of a plan of the micro-world

Write = Callable[[PlanCase, PlanCase | None], str | None]
"""From a case with a golden plan, and a case of another problem, to a plan that deserves nothing;
None where this case has no such plan."""

IsSeen = Callable[[PlanCase], bool]
"""Whether the plan of a case is of that kind."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One way of earning without planning."""

    write: Write
    is_seen: IsSeen


def written(steps: Sequence[str], style: str) -> str:
    r"""Write steps as a plan: numbered lines, or one line of the micro-world.

    >>> written(["Add.", "Halve."], "math"), written(["Bob's"], "microworld")
    ('1. Add.\n2. Halve.', "Bob's ;")
    """
    if is_micro(style):
        return " ".join([*steps, _PLAN_END])
    return "\n".join(f"{place}. {step}" for place, step in enumerate(steps, start=1))


def echo(case: PlanCase, other: PlanCase | None = None) -> str | None:
    """Repeat the problem, sentence by sentence."""
    text = case.problem.problem.strip()
    if is_micro(case.problem.style):
        return text
    return written(_SENTENCE_END.split(text), case.problem.style)


def one_step(case: PlanCase, other: PlanCase | None = None) -> str | None:
    """Say the golden plan's first step alone; None where it has no other."""
    steps = plan_steps(case.teacher_plan, case.problem.style)
    return written(steps[:1], case.problem.style) if len(steps) > 1 else None


def repetition(case: PlanCase, other: PlanCase | None = None) -> str | None:
    """Say the golden plan's first step as often as that plan has steps, thrice at least."""
    steps = plan_steps(case.teacher_plan, case.problem.style)
    repeats = max(_FEWEST_REPEATS, len(steps))
    return written(steps[:1] * repeats, case.problem.style) if steps else None


def pasted_answer(case: PlanCase, other: PlanCase | None = None) -> str | None:
    """End the golden plan in the answer."""
    steps, style = plan_steps(case.teacher_plan, case.problem.style), case.problem.style
    answer = case.problem.answer
    last = answer if is_micro(style) else f"The final answer is {answer}."
    return written([*steps, last], style) if steps else None


def another_plan(case: PlanCase, other: PlanCase | None = None) -> str | None:
    """Say another problem's golden plan; None where there is none, or it is the same."""
    plan = "" if other is None else other.teacher_plan
    return plan if plan.strip() and plan != case.teacher_plan else None


def shuffled_steps(case: PlanCase, other: PlanCase | None = None) -> str | None:
    """Put the golden plan's steps into another order; None where there is none."""
    return shuffled(case.teacher_plan, case.problem.id, case.problem.style)


def empty(case: PlanCase, other: PlanCase | None = None) -> str | None:
    """Say nothing."""
    return ""


def _runs_into(guard: str) -> IsSeen:
    """Tell by the very rule that a guard refuses plans by, be it switched on or not."""

    def is_seen(case: PlanCase) -> bool:
        found = guarded(
            case.plan,
            reference=case.teacher_plan,
            problem=case.problem.problem,
            answer=case.problem.answer,
            guards=[guard],
        )
        return found == guard

    return is_seen


def _has_one_step(case: PlanCase) -> bool:
    own, golden = _steps(case)
    return len(own) == 1 < len(golden)


def _is_reordered(case: PlanCase) -> bool:
    own, golden = _steps(case)
    return own != golden and sorted(own) == sorted(golden)


def _steps(case: PlanCase) -> tuple[list[str], list[str]]:
    style = case.problem.style
    return plan_steps(case.plan, style), plan_steps(case.teacher_plan, style)


def _is_empty(case: PlanCase) -> bool:
    return not case.plan.strip()


ANOTHER = "another_plan"  # seen among the plans of several problems only

PROBES: Mapping[str, Probe] = {
    "echo": Probe(echo, _runs_into("echo")),
    "one_step": Probe(one_step, _has_one_step),
    "repetition": Probe(repetition, _runs_into("repetition")),
    "pasted_answer": Probe(pasted_answer, _runs_into("answer")),
    ANOTHER: Probe(another_plan, lambda _: False),
    "shuffled_steps": Probe(shuffled_steps, _is_reordered),
    "empty": Probe(empty, _is_empty),
}
"""All probes by name, in the order of tables."""


def probe_cases(cases: Sequence[PlanCase], name: str) -> list[PlanCase]:
    """Put a probe's plan in the place of each case's; cases without one are left out.

    Args:
        cases: with golden plans, of several problems; the next one of another problem lends its
            plan to :func:`another_plan`.
        name: of PROBES.
    """
    found = []
    for place, case in enumerate(cases):
        around = [*cases[place + 1 :], *cases[:place]]
        other = next((one for one in around if one.problem.id != case.problem.id), None)
        plan = PROBES[name].write(case, other)
        if plan is not None:
            found.append(replace(case, plan=plan))
    return found


def probe_rates(cases: Sequence[PlanCase]) -> dict[str, float]:
    """Say which share of a student's plans each probe describes, 0..1; one plan may be of several.

    A plan counts as another problem's where it is that problem's golden plan, or where the student
    has written it for several problems.

    Args:
        cases: the student's plans of a step, of several problems.
    """
    if not cases:
        return {}
    golden: dict[str, set[str]] = defaultdict(set)
    told: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        golden[case.teacher_plan.strip()].add(case.problem.id)
        told[case.plan.strip()].add(case.problem.id)

    def is_anothers(case: PlanCase) -> bool:
        plan = case.plan.strip()
        owners = golden.get(plan, set())
        return bool(plan) and case.problem.id not in owners and bool(owners or len(told[plan]) > 1)

    tests = {name: probe.is_seen for name, probe in PROBES.items()} | {ANOTHER: is_anothers}
    return {name: sum(map(test, cases)) / len(cases) for name, test in tests.items()}
