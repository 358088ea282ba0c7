"""What a kind of problems says about itself: words, answers, grading, rows, difficulty.

A task is one file with one :class:`Task`, which a record of the kind ``task`` names, built in or
from outside (:mod:`plan_tuning.config.extensions`). What it does not say it does as mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plan_tuning.grading import answers, equivalence
from plan_tuning.grading.answers import Extraction
from plan_tuning.grading.programs import UnitTests
from plan_tuning.grading.scalars import Criteria
from plan_tuning.records import Problem
from plan_tuning.text.prompts import Words

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """A kind of problems.

    Args:
        words: its own requests to teacher, judge and executor by name, each with ``system``,
            ``user`` and ``reminder`` and the fields of the file in text/prompts; and ``student``.
        extract: text, style, whether a committed answer is required -> the answer.
        compare: gold, answer, criteria -> equal or not; None where algebra is needed.
        gold_defect: gold answer and style -> why it cannot be graded against; None: it can.
        stated: rationale and gold answer -> the rationale that ends in it; None: in a box.
        program: answer and problem -> the whole program that is run; of a task whose record needs
            ``run_code``, as the next one.
        tests: problem -> the tests that it has to pass.
        read: row and what was read of it by the names of its fields -> the problem of a set of
            one's own; raises RowError.
        difficulty: problem -> what accuracy is reported by, where its row does not say.
    """

    words: Words = field(default_factory=dict)
    extract: Callable[..., Extraction] = answers.extract
    compare: Callable[[str, str, Criteria], bool | None] = equivalence.compare
    gold_defect: Callable[[str, str], str | None] = equivalence.gold_defect
    stated: Callable[[str, str], str] | None = None
    program: Callable[[str, Problem], str] | None = None
    tests: Callable[[Problem], UnitTests] | None = None
    read: Callable[[Row, Problem], Problem] | None = None
    difficulty: Callable[[Problem], str] | None = None
