r"""one row of a published data set -> one problem: what the fields of each set mean.

Every reader takes the set's own schema as it is published and the plain schema
``id, problem, answer, solution``; known defects of the sets are repaired here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from plan_tuning.config.data import RowForm
from plan_tuning.config.extensions import task_of
from plan_tuning.grading.answers import extract
from plan_tuning.records import Problem
from plan_tuning.tasks.socratic import SocraticError, read_socratic, without_annotations

Row = Mapping[str, Any]
RowReader = Callable[[Row, str, str], Problem]
"""row, the id to use where it has none, the set's name -> problem; raises RowError."""

_KNOWN = frozenset({"id", "problem", "question", "answer", "solution", "hub_config", "hub_split"})
_EITHER = re.compile(r"(-?\d+)\s+or\s+(-?\d+)\b")


class RowError(ValueError):
    """A row that cannot be read, with the field that is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def gsm8k(row: Row, default_id: str, source: str) -> Problem:
    """Read GSM8K: ``answer`` holds rationale, ``####``, number; or the plain schema."""
    answer = _text(row, "answer")
    solution = _text(row, "solution", required=False)
    if "####" in answer:
        solution, _, answer = answer.rpartition("####")
    elif "question" in row and not solution:
        raise RowError("answer", "has no '####' before its final number, as GSM8K's answers have")
    return Problem(
        id=_id(row, default_id),
        problem=_text(row, "problem", "question"),
        answer=answer.strip(),
        solution=without_annotations(solution).strip(),
        source=source,
        style="gsm8k",
        metadata=_rest(row),
    )


def gsm8k_socratic(row: Row, default_id: str, source: str) -> Problem:
    """Read GSM8K's configuration "socratic": lines ``sub-question ** step``, ``####``, number.

    The sub-questions are the plan and the steps are the human rationale; the steps with their
    annotations stay in the metadata (see :mod:`plan_tuning.tasks.dataset_plans`).
    """
    try:
        read = read_socratic(_text(row, "answer"))
    except SocraticError as error:
        raise RowError("answer", str(error)) from error
    return Problem(
        id=_id(row, default_id),
        problem=_text(row, "question", "problem"),
        answer=read.number,
        solution=read.rationale,
        source=source,
        style="gsm8k",
        metadata={**_rest(row), "plan": read.plan, "annotated_execution": read.annotated},
    )


def math(row: Row, default_id: str, source: str) -> Problem:
    """Read MATH: the gold answer is ``answer``, or the last box of ``solution``."""
    solution = _text(row, "solution", required=False)
    if row.get("answer") is not None:
        answer = _text(row, "answer", allow_empty=True)
    elif solution:
        answer = extract(solution, style="math", require_box=True).answer
    else:
        raise RowError("answer", "is absent, and there is no solution whose box would hold it")
    level = re.search(r"\d", str(row.get("level", "")))  # "Level 3", 3, or "Level ?" in two rows
    return Problem(
        id=_id(row, default_id),
        problem=_text(row, "problem", "question"),
        answer=answer,
        solution=solution,
        source=source,
        style="math",
        difficulty=level.group() if level else "",
        metadata=_rest(row),
    )


def olympiadbench(row: Row, default_id: str, source: str) -> Problem:
    """Read OlympiadBench: a list of final answers, with units, tolerance and several values.

    In 15 relay problems the text refers to an earlier answer T: copies differ in whether T is
    filled in, so the two texts are different benchmarks for these rows. ``problem_original``, where
    a copy has it, is kept in the metadata.
    """
    final = row.get("final_answer")
    if isinstance(final, list) and final:
        answer = ", ".join(str(item).strip() for item in final)
    elif isinstance(final, str) and final.strip():
        answer = final.strip()
    else:
        answer = _text(row, "answer")
    solution = row.get("solution")
    if isinstance(solution, list):
        solution = "\n\n".join(str(item) for item in solution)
    context = _text(row, "context", required=False)
    problem = _text(row, "problem", "question")
    return Problem(
        id=_id(row, default_id),
        problem=f"{context}\n\n{problem}" if context else problem,
        answer=answer,
        solution=str(solution or ""),
        source=source,
        style="olympiadbench",
        difficulty=_text(row, "subject", "subfield", required=False),
        is_multiple_answer=bool(row.get("is_multiple_answer")),
        unit=_text(row, "unit", required=False).strip(),
        tolerance=_tolerance(row.get("error")),
        metadata=_rest(row),
    )


def _tolerance(value: Any) -> float | None:
    if value is None or not str(value).strip():
        return None
    try:
        # one figure per value of a multiple answer; the smallest is safe for all of them
        return min(float(part) for part in str(value).split(",") if part.strip())
    except ValueError as error:
        raise RowError("error", f"is {value!r}, expected an absolute tolerance as 1e-1") from error


def aime(row: Row, default_id: str, source: str) -> Problem:
    """Read AIME: integers of 0 to 999, in some years with two accepted answers.

    Copies name their fields in capitals (``Question``), or number problem 15 as 0.
    """
    answer = _text(row, "answer", "Answer")
    accepted: tuple[str, ...] = ()
    either = _EITHER.match(answer)
    if either:
        answer, accepted = either.group(1), (either.group(2),)
    alternatives = row.get("accepted_answers")
    if isinstance(alternatives, list):
        accepted = tuple(dict.fromkeys((*accepted, *(str(item) for item in alternatives))))
    year = row.get("year", row.get("Year", ""))
    name = _text(row, "id", "ID", "unique_id", required=False)
    if not year:
        dated = re.match(r"(?:aime[-_ ]?)?((?:19|20)\d\d)\b", name, re.IGNORECASE)
        year = dated.group(1) if dated else ""
    metadata = _rest(row)
    for key in ("problem_number", "Problem Number"):
        if str(row.get(key, "")) == "0":
            metadata[key] = 15
    return Problem(
        id=name or default_id,
        problem=_text(row, "problem", "question", "Question", "Problem"),
        answer=answer,
        solution=_text(row, "solution", "Solution", required=False),
        source=source,
        style="aime",
        difficulty=str(year or ""),
        accepted_answers=tuple(item for item in accepted if item != answer),
        metadata=metadata,
    )


def strategyqa(row: Row, default_id: str, source: str) -> Problem:
    """Read StrategyQA: a yes/no question, its facts and a human decomposition (a gold plan)."""
    answer = _yes_or_no(row, "answer")
    facts = row.get("facts")
    solution = _text(row, "solution", required=False)
    if not solution and facts:
        solution = " ".join(map(str, facts)) if isinstance(facts, list) else str(facts)
    return Problem(
        id=_id(row, default_id, "qid"),
        problem=_text(row, "problem", "question"),
        answer=answer,
        solution=solution,
        source=source,
        style="strategyqa",
        metadata=_rest(row),
    )


def own(row: Row, default_id: str, source: str, *, form: RowForm) -> Problem:
    """Read a row of a user's own set: each field by the name that ``data.keys`` gives it."""
    keys = form.keys
    for key in ("problem", "answer"):
        name = getattr(keys, key)
        if row.get(name) is None:
            present = ", ".join(sorted(map(str, row))) or "none"
            raise RowError(
                name,
                f"is {'null' if name in row else 'absent'} (fields of the row: {present}). "
                f"If another field is the {key}: data=jsonl data.keys.{key}=FIELD",
            )
    is_yes_or_no = form.style == "strategyqa"
    answer = _yes_or_no(row, keys.answer) if is_yes_or_no else _text(row, keys.answer)
    used = _KNOWN | set(vars(keys).values())
    problem = Problem(
        id=_text(row, keys.id, required=False) or default_id,
        problem=_text(row, keys.problem),
        answer=answer,
        solution=_text(row, keys.solution, required=False),
        source=source,
        style=form.style,
        difficulty=_text(row, keys.difficulty, required=False),
        metadata={key: value for key, value in _rest(row).items() if key not in used},
    )
    complete = task_of(form.style).load().read
    completed: Problem = problem if complete is None else complete(row, problem)
    return completed


def _yes_or_no(row: Row, name: str) -> str:
    value = row.get(name)
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = _text(row, name).lower()
    answer = {"true": "yes", "false": "no"}.get(text, text)
    if answer not in ("yes", "no"):
        raise RowError(name, f"is {value!r}, expected true, false, yes or no")
    return answer


def _text(row: Row, *names: str, required: bool = True, allow_empty: bool = False) -> str:
    for name in names:
        value = row.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise RowError(name, f"is {type(value).__name__}, expected text")
        text = str(value)
        if text.strip() or allow_empty or not required:
            return text.strip() if len(names) == 1 else text
        raise RowError(name, "is empty")
    if required:
        present = ", ".join(sorted(map(str, row))) or "none"
        state = "null" if names[0] in row else "absent"
        raise RowError(names[0], f"is {state} (fields of the row: {present})")
    return ""


def _id(row: Row, default: str, *more: str) -> str:
    return _text(row, "id", *more, "unique_id", required=False).strip() or default


def _rest(row: Row) -> dict[str, Any]:
    return {str(k): v for k, v in row.items() if k not in _KNOWN and _is_plain(v)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return isinstance(value, str | int | float | bool)
