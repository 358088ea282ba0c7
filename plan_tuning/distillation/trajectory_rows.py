"""Row of somebody's file -> what it says of one problem: its plan, execution and score.

Pure functions, one a shape. ``flat``: a column each. ``chat``: messages of one user and one
assistant, whose turn holds ``<plan>…</plan>`` and what follows from it. ``socratic``: an answer of
lines ``sub-question ** step``, as GSM8K's configuration of that name has. Thoughts are cut off, as
those of a teacher are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plan_tuning.config.checks import require, require_choice
from plan_tuning.config.extensions import own_styles
from plan_tuning.distillation.filters import ABSENT, UNSCORED
from plan_tuning.distillation.synthesis import MISSING, OK, TRUNCATED
from plan_tuning.records import Problem
from plan_tuning.tasks.socratic import (
    SEPARATOR,
    SocraticError,
    numbered,
    read_socratic,
    without_annotations,
)
from plan_tuning.text.formats import boxed, parse_output
from plan_tuning.text.parsing import HIGHEST, LOWEST, PARSED, Score, parse_plan, parse_score
from plan_tuning.text.thoughts import split_thoughts

Row = Mapping[str, Any]

AUTO = "auto"  # the first row tells the shape
EMPTY = "empty"
_OPENED, _CLOSED = "<plan>", "</plan>"
_INPUT, _INPUT_END = "<input>", "</input>"
_SHAREGPT = "conversations"  # of messages with "from" and "value"
_SPEAKERS = {"human": "user", "gpt": "assistant"}
_YES_OR_NO = {"true": "yes", "false": "no"}
_WORDS = ("problem", "plan", "execution", "solution")  # what no number can be
_NO_SCORE = Score(None, UNSCORED)


class ColumnError(ValueError):
    """A row that cannot be used: which column, and what is wrong with it.

    Args:
        column: that was asked for.
        reason: the same words for every such row, so that rows are counted by them.
        role: what the column was to hold, where another column may hold it; empty: no other would.
    """

    def __init__(self, column: str, reason: str, role: str = "") -> None:
        super().__init__(f"column {column!r} {reason}")
        self.column = column
        self.reason = reason
        self.role = role


@dataclass(frozen=True)
class Columns:
    """Which column of a row holds what; None: none does."""

    problem: str | None = "problem"  # None: problems are joined by their ids
    answer: str | None = "answer"  # the gold answer; None: it is joined from a set of problems
    plan: str = "plan"
    execution: str | None = None
    score: str | None = None
    solution: str | None = None
    id: str | None = None
    difficulty: str | None = None
    messages: str = "messages"


@dataclass(frozen=True)
class RowReading:
    """How the rows of a file are read, and how their answers are graded."""

    shape: str = AUTO
    columns: Columns = Columns()
    style: str = "math"

    def __post_init__(self) -> None:
        """Check the choices."""
        require_choice("--shape", self.shape, (AUTO, *SHAPES))
        require_choice("--style", self.style, own_styles())
        named = list(self.columns_read.values())
        require(
            all(name.strip() for name in named) and len(set(named)) == len(named),
            "--*-key",
            ", ".join(named),
            "a column of its own for each part",
            "--problem-key question --answer-key final_answer --plan-key plan",
        )

    @property
    def columns_read(self) -> dict[str, str]:
        """The columns that are read in this shape, by what they hold."""
        unread = _UNREAD.get(self.shape, ("messages",))
        named = vars(self.columns).items()
        return {role: name for role, name in named if name is not None and role not in unread}


@dataclass(frozen=True, slots=True)
class GivenTrajectory:
    """What one row says; the texts are empty where it says nothing."""

    problem: Problem  # its id is empty unless a column holds it; so is its answer
    plan: str
    plan_status: str  # ok, empty, truncated
    score: Score = _NO_SCORE
    score_text: str = ""
    execution: str = ""
    annotated_execution: str | None = None  # with its equations as <<a=b>>, of the socratic shape
    execution_status: str = ABSENT


_UNREAD = {"chat": ("problem", "plan"), "socratic": ("plan", "messages")}


def read_row(row: Row, reading: RowReading, source: str) -> GivenTrajectory:
    """Read one row.

    Args:
        row: of the file.
        reading: which columns, in which shape.
        source: name of the set that the problems come from.

    Raises:
        ColumnError: a column is absent or holds something else than it should.
    """
    return SHAPES[reading.shape](row, reading, source)


def told_by(row: Row, reading: RowReading) -> RowReading:
    r"""Settle a shape that the first row of the file is to tell.

    >>> told_by({"messages": []}, RowReading()).shape, told_by({"plan": ""}, RowReading()).shape
    ('chat', 'flat')
    >>> told_by({"question": "", "answer": "Left? ** 5-2=3\n#### 3"}, RowReading()).shape
    'socratic'
    """
    columns, shape, style = reading.columns, reading.shape, reading.style
    answer = row.get(columns.answer or "")
    talk = next((name for name in (columns.messages, _SHAREGPT) if name in row), None)
    if shape == AUTO and columns.plan in row:
        shape = "flat"
    elif shape == AUTO and talk is not None:
        shape = "chat"
    elif shape == AUTO:
        is_socratic = isinstance(answer, str) and SEPARATOR in answer and "####" in answer
        shape = "socratic" if is_socratic else "flat"
    if shape == "chat" and talk is not None:
        columns = replace(columns, messages=talk)
    if shape == "socratic":
        style = "gsm8k"
        if columns.problem not in row and "question" in row:
            columns = replace(columns, problem="question")
    return RowReading(shape, columns, style)


def check_columns(present: Row, reading: RowReading) -> None:
    """Refuse columns that no row of the file has; a row of its own may lack one, as sparse rows do.

    Args:
        present: every column of the file.
        reading: with a settled shape.

    Raises:
        ColumnError: one is absent.
    """
    for role, column in reading.columns_read.items():
        if column not in present:
            raise ColumnError(column, "is absent", role)


def _flat(row: Row, reading: RowReading, source: str) -> GivenTrajectory:
    columns = reading.columns
    steps = row.get(columns.plan)
    if isinstance(steps, list) and all(isinstance(step, str) for step in steps):
        row = {**row, columns.plan: numbered(steps)}
    plan, status = _plan(_text(row, columns.plan, "plan", may_be_empty=True))
    given = GivenTrajectory(_problem(row, reading, source), plan, status)
    if columns.execution is not None:
        given = _executed(given, _text(row, columns.execution, "execution", may_be_empty=True))
    return _scored(given, row, columns)


def _chat(row: Row, reading: RowReading, source: str) -> GivenTrajectory:
    columns = reading.columns
    asked, said = _turns(row, columns.messages)
    question = asked.partition(_INPUT)[2].partition(_INPUT_END)[0] or asked
    problem = _problem(row, reading, source, question=question)
    text = split_thoughts(said).text
    if _OPENED not in text:
        return _scored(GivenTrajectory(problem, "", EMPTY), row, columns)
    if _CLOSED not in text:
        plan = parse_plan(text)
        return _scored(GivenTrajectory(problem, plan, TRUNCATED), row, columns)
    plan, status = _plan(text)
    given = _executed(GivenTrajectory(problem, plan, status), text)
    return _scored(given, row, columns)


def _socratic(row: Row, reading: RowReading, source: str) -> GivenTrajectory:
    columns = reading.columns
    column = columns.answer or Columns().answer or ""
    text = _text(row, column, "answer")
    try:
        read = read_socratic(text)
    except SocraticError as error:
        raise ColumnError(column, "is not of the socratic form", "answer") from error
    problem = _problem(row, reading, source)
    problem = replace(problem, answer=read.number, solution=read.rationale)
    given = GivenTrajectory(problem, read.plan, OK)
    if read.rationale.strip():
        given = _executed(given, boxed(read.rationale, read.number))
        given = replace(given, annotated_execution=read.annotated)
    return _scored(given, row, columns)


def _turns(row: Row, column: str) -> tuple[str, str]:
    """Take what the user asks and what the assistant says; a system's words are left out."""
    messages = row.get(column)
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ColumnError(column, "is no list of messages", "messages")
    turns: list[tuple[str, str]] = []
    for message in messages:
        if not isinstance(message, Mapping):
            raise ColumnError(column, "holds something else than messages of role and content")
        speaker = str(message.get("role", message.get("from", "")))
        text = message.get("content", message.get("value"))
        if isinstance(text, list):
            text = "".join(str(part.get("text", "")) for part in text if isinstance(part, Mapping))
        if not isinstance(text, str):
            raise ColumnError(column, "holds a message without a text")
        if speaker != "system":
            turns.append((_SPEAKERS.get(speaker, speaker), text))
    if [speaker for speaker, _ in turns] != ["user", "assistant"]:
        raise ColumnError(column, "holds other turns than one of the user and one of the assistant")
    return turns[0][1], turns[1][1]


def _plan(text: str) -> tuple[str, str]:
    said = split_thoughts(text)
    plan = parse_plan(said.text)
    if said.is_open:
        return plan, TRUNCATED
    return plan, OK if plan else EMPTY


def _executed(given: GivenTrajectory, text: str) -> GivenTrajectory:
    """Add an execution: what follows the plan, without the tags; a blank one is none."""
    said = split_thoughts(text)
    execution = parse_output(said.text)
    if said.is_open:
        return replace(given, execution_status=TRUNCATED)
    if not execution:
        return given
    return replace(given, execution=execution, execution_status=OK)


def _scored(given: GivenTrajectory, row: Row, columns: Columns) -> GivenTrajectory:
    """Add a score: a whole number, or a verifier's reply that ends in one; null is none.

    Raises:
        ColumnError: it is another number.
    """
    if columns.score is None:
        return given
    value = row.get(columns.score)
    if _is_nothing(value):
        return replace(given, score=Score(None, MISSING))
    number = _number(value)
    if number is None and isinstance(value, str):
        return replace(given, score=parse_score(value), score_text=value)
    if number is None or number != int(number) or not LOWEST <= number <= HIGHEST:
        raise ColumnError(
            columns.score,
            f"is no whole number from {LOWEST} to {HIGHEST}, the scale of the Plan Verifier and of "
            "filter.plan_score_threshold",
        )
    return replace(given, score=Score(int(number), PARSED))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _problem(row: Row, reading: RowReading, source: str, *, question: str | None = None) -> Problem:
    """Read the problem; ``question`` is its text where no column holds it."""
    columns, style = reading.columns, reading.style
    if question is None:
        question = _text(row, columns.problem, "problem")
    solution = _text(row, columns.solution, "solution", may_be_empty=True)
    answer = _text(row, columns.answer, "answer", may_be_empty=True).strip()
    if style == "gsm8k" and "####" in answer:  # as GSM8K itself writes it
        rationale, _, answer = answer.rpartition("####")
        solution = solution or without_annotations(rationale)
    if style == "strategyqa":
        answer = _YES_OR_NO.get(answer.lower(), answer.lower())
    return Problem(
        id=_text(row, columns.id, "id").strip(),
        problem=question.strip(),
        answer=answer.strip(),
        solution=solution.strip(),
        source=source,
        style=style,
        difficulty=_text(row, columns.difficulty, "difficulty", may_be_empty=True).strip(),
    )


def _text(row: Row, column: str | None, role: str, *, may_be_empty: bool = False) -> str:
    """Take a text; nothing where no column holds it.

    Raises:
        ColumnError: it is no text, or blank though it must not be.
    """
    if column is None:
        return ""
    value = row.get(column)
    if _is_nothing(value) or not str(value).strip():
        if may_be_empty:
            return ""
        raise ColumnError(column, "is empty", role)
    if not isinstance(value, str if role in _WORDS else str | int | float):
        raise ColumnError(column, f"holds {type(value).__name__} instead of a text", role)
    return str(value)


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


Shape = Callable[[Row, RowReading, str], GivenTrajectory]

SHAPES: Mapping[str, Shape] = {"flat": _flat, "chat": _chat, "socratic": _socratic}
"""How a row is read, by the name of its shape."""
