r"""GSM8K's "socratic" answers -> sub-questions, steps and the final number.

Upstream an answer is one line a step, ``sub-question ** step``, and a last line ``#### number``.
The sub-questions were written by a model that OpenAI tuned on about 800 examples; the steps are
those of the human rationale, with the calculator's annotations ``<<a=b>>`` in them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SEPARATOR = "**"
_LEVEL = "####"
_ANNOTATION = re.compile(r"<<[^<>]*>>")


class SocraticError(ValueError):
    """An answer that is not of the socratic form."""


@dataclass(frozen=True, slots=True)
class SocraticAnswer:
    """What a socratic answer says, step by step."""

    questions: tuple[str, ...]
    steps: tuple[str, ...]  # with their annotations, one for each question; a few are empty
    number: str  # behind ####

    @property
    def plan(self) -> str:
        """The sub-questions as a numbered list: an ordered plan, written before anything solved."""
        return numbered(self.questions)

    @property
    def annotated(self) -> str:
        """The steps with their annotations, a line each."""
        return "\n".join(step for step in self.steps if step)

    @property
    def rationale(self) -> str:
        """The steps without their annotations, a line each: what a student may learn."""
        return without_annotations(self.annotated)


def read_socratic(answer: str) -> SocraticAnswer:
    r"""Read an answer of the socratic form.

    Raises:
        SocraticError: there is no final number, no step, or a line without a sub-question.

    >>> read = read_socratic("How many are left? ** 5-2=<<5-2=3>>3 are left.\n#### 3")
    >>> read.plan, read.rationale, read.number
    ('1. How many are left?', '5-2=3 are left.', '3')
    """
    body, mark, number = answer.rpartition(_LEVEL)
    if not mark or not number.strip():
        raise SocraticError("has no '####' with a final number behind its steps")
    lines = [line.strip() for line in body.strip().split("\n") if line.strip()]
    if not lines:
        raise SocraticError("has no step before its final number")
    questions, steps = [], []
    for line in lines:
        question, found, step = line.partition(SEPARATOR)
        if not found or not question.strip():  # one test problem has a question without its step
            raise SocraticError(f"has a line that is no 'sub-question ** step': {line[:60]!r}")
        questions.append(question.strip())
        steps.append(step.strip())
    return SocraticAnswer(tuple(questions), tuple(steps), number.strip())


def numbered(items: Sequence[str]) -> str:
    r"""Write the steps of a plan as a numbered list.

    >>> numbered(["Add.", "Halve."])
    '1. Add.\n2. Halve.'
    """
    return "\n".join(f"{place}. {item.strip()}" for place, item in enumerate(items, start=1))


def without_annotations(text: str) -> str:
    """Take the calculator's annotations out of a rationale.

    >>> without_annotations("2+2=<<2+2=4>>4")
    '2+2=4'
    """
    return _ANNOTATION.sub("", text)
