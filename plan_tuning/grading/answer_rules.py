"""style -> the rules by which answers of that style are found and compared: those of its task."""

from __future__ import annotations

from typing import Protocol

from plan_tuning.config.checks import require
from plan_tuning.config.extensions import task_of
from plan_tuning.grading.answers import Extraction
from plan_tuning.grading.programs import UnitTests
from plan_tuning.grading.scalars import Criteria
from plan_tuning.records import Problem


class AnswerRules(Protocol):
    """What a task says about answers; all but the last two are pure text work."""

    def extract(self, text: str, *, style: str, require_box: bool) -> Extraction:
        """Find the answer of a completion."""

    def compare(self, gold: str, answer: str, criteria: Criteria) -> bool | None:
        """Compare by text work; None where algebra is needed."""

    def gold_defect(self, answer: str, style: str) -> str | None:
        """Say why a gold answer cannot be graded against."""

    def program(self, answer: str, problem: Problem) -> str:
        """Write the program that an answer is."""

    def tests(self, problem: Problem) -> UnitTests:
        """Take the tests of a problem out of it."""


def is_run(style: str) -> bool:
    """Whether answers of a style are programs, which only running decides: the record says it."""
    return "run_code" in task_of(style).needs


def rules_of(style: str) -> AnswerRules:
    """Find the rules of a style; of an unknown one they are those of mathematics.

    Raises:
        ConfigError: its task needs ``run_code`` and does not say what is run.
    """
    task = task_of(style)
    found: AnswerRules = task.load()
    require(
        not is_run(style) or None not in (found.program, found.tests),
        "data.extension",
        task.name,
        "a task that needs run_code says what is run: its program and its tests",
        "Task(program=…, tests=…)",
    )
    return found


def problem_defect(problem: Problem) -> str | None:
    """Say why a problem cannot be graded: by its gold answer, or because it has no tests."""
    rules = rules_of(problem.style)
    found = rules.gold_defect(problem.answer, problem.style)
    if found is None and is_run(problem.style) and not rules.tests(problem).test.strip():
        return "there are no tests"
    return found
