"""The micro-world's three tasks: a number, yes or no, and a program that is run in the sandbox."""

from __future__ import annotations

from dataclasses import replace

from plan_tuning.grading import answers, equivalence
from plan_tuning.grading.answers import Extraction
from plan_tuning.grading.programs import UnitTests
from plan_tuning.grading.scalars import Criteria
from plan_tuning.records import Problem
from plan_tuning.tasks.microworld_questions import ENTRY_POINT
from plan_tuning.tasks.task import Task

_POLAR = "strategyqa"  # the grading style of yes and no


def _extract_polar(text: str, *, style: str, require_box: bool = False) -> Extraction:
    return answers.extract(text, style=_POLAR, require_box=require_box)


def _same_polar(gold: str, answer: str, criteria: Criteria) -> bool | None:
    return equivalence.compare(gold, answer, replace(criteria, style=_POLAR))


def _polar_defect(answer: str, style: str) -> str | None:
    return equivalence.gold_defect(answer, _POLAR)


def _extract_boxed(text: str, *, style: str, require_box: bool = False) -> Extraction:
    """Take a program out of its box; there is no other place for one."""
    return answers.extract(text, require_box=True)


def _program(answer: str, problem: Problem) -> str:
    """Make a function of the assignments: given the story's numbers, it returns the asked one."""
    told = problem.metadata
    lines = [line.strip() for line in answer.split(";") if line.strip()]
    lines.append(f"return {told['target']}")
    return "\n    ".join([f"def {ENTRY_POINT}({', '.join(told['inputs'])}):", *lines])


def _tests(problem: Problem) -> UnitTests:
    test = problem.metadata.get("test")
    return UnitTests(entry_points=(ENTRY_POINT,), test=test if isinstance(test, str) else "")


NUMBERS = Task()
YES_NO = Task(extract=_extract_polar, compare=_same_polar, gold_defect=_polar_defect)
PROGRAMS = Task(
    extract=_extract_boxed,
    compare=lambda gold, answer, criteria: None,
    gold_defect=lambda answer, style: None if "=" in answer else "the gold program assigns nothing",
    program=_program,
    tests=_tests,
)
