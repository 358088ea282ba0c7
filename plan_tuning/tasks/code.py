"""The task of problems whose answer is a program: a plan is its outline, unit tests decide.

What a problem needs beside its text lies in its metadata: ``entry_point`` (the function that is
asked for), ``test`` (raises where it is wrong) and ``setup`` (imports, or the head of the function:
executed before the tests, and before the program).
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from plan_tuning.grading.programs import UnitTests, completed, extract_program, program_defect
from plan_tuning.records import Problem
from plan_tuning.tasks.schemas import RowError
from plan_tuning.tasks.task import Task
from plan_tuning.text.prompts import read_words

_LINES = (5, 10, 20)


def tests_of(problem: Problem) -> UnitTests:
    """Take the tests of a problem out of its metadata; empty where it has none, or no text."""
    setup, name, test = (_told(problem, key) for key in ("setup", "entry_point", "test"))
    return UnitTests(setup, (name,), test) if name else UnitTests()


def program_of(answer: str, problem: Problem) -> str:
    """Write the whole program that an answer is."""
    return completed(_told(problem, "setup"), answer, _told(problem, "entry_point"))


def _told(problem: Problem, key: str) -> str:
    found = problem.metadata.get(key)
    return found if isinstance(found, str) else ""


def read_tests(row: Mapping[str, Any]) -> dict[str, str]:
    """Read what a row says about its tests: ``test``, ``entry_point``, ``setup`` if it has one.

    Tests and setup may be lists of texts, one a line, as MBPP writes them.

    Raises:
        RowError: a field is absent or no text.
    """
    lines = {
        key: "\n".join(row[key])
        for key in ("setup", "test")
        if isinstance(row.get(key), list) and all(isinstance(one, str) for one in row[key])
    }
    found = {**row, **lines}
    if found.get("setup") is not None and not isinstance(found["setup"], str):
        raise RowError("setup", "is no text")
    told = {"setup": found["setup"]} if found.get("setup") is not None else {}
    return told | {key: _text(found, key) for key in ("test", "entry_point")}


def fenced(rationale: str, answer: str) -> str:
    r"""End a rationale in its program, unless it has one in a fence.

    >>> fenced("", "def f():\n    return 1")
    '```python\ndef f():\n    return 1\n```'
    """
    if "```" in rationale:
        return rationale
    # A rationale that is the program itself is not said twice.
    text = "" if rationale.strip() in answer else f"{rationale.strip()}\n"
    return f"{text}```python\n{answer.strip()}\n```"


def humaneval(row: Mapping[str, Any], default_id: str, source: str) -> Problem:
    """Read HumanEval: ``prompt`` (or ``problem``), the gold body, ``test`` and ``entry_point``.

    Raises:
        RowError: a field is absent or no text.
    """
    prompt = _text(row, "prompt", "problem")
    body = _text(row, "canonical_solution", "answer")
    name = _text(row, "entry_point")
    program = prompt + body
    return Problem(
        id=_text(row, "task_id", "id", default=default_id),
        problem=prompt,
        answer=program,
        solution=fenced("", program),
        source=source,
        style="code",
        metadata={
            "entry_point": name,
            "setup": prompt,
            "test": f"{_text(row, 'test')}\n\ncheck({name})\n",
        },
    )


def mbpp(row: Mapping[str, Any], default_id: str, source: str) -> Problem:
    """Read MBPP: ``text`` (or ``prompt``), ``code``, and ``test_list`` with its set-up.

    The first test is shown with the problem, as its authors do: it says what the function is
    called.

    Raises:
        RowError: a field is absent, or no test calls a function of the code.
    """
    question = _text(row, "text", "prompt", "problem")
    code = _text(row, "code", "answer").replace("\r\n", "\n")
    tests = row.get("test_list")
    if not isinstance(tests, list) or not all(isinstance(one, str) for one in tests) or not tests:
        raise RowError("test_list", "is no list of tests")
    setup = row.get("test_setup_code") or "\n".join(map(str, row.get("test_imports") or ()))
    if not isinstance(setup, str):
        raise RowError("test_setup_code", "is no text")
    defined = _functions(code)
    named = (name for one in tests for name in re.findall(r"(?<![\w.])(\w+)\(", one))
    called = Counter(name for name in named if name in defined)
    if not called:
        raise RowError("test_list", "calls no function that is defined in the code")
    return Problem(
        id=str(row.get("task_id", row.get("id", default_id))),
        problem=f"{question.strip()}\n\nThe function has to pass this test:\n{tests[0]}",
        answer=code,
        solution=fenced("", code),
        source=source,
        style="code",
        metadata={
            "entry_point": called.most_common(1)[0][0],
            "setup": setup,
            "test": "\n".join(tests),
        },
    )


def _functions(code: str) -> list[str]:
    """Name the functions at the top of a program.

    Raises:
        RowError: it is no Python.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError) as error:
        raise RowError("code", f"is no Python ({error})") from error
    return [one.name for one in tree.body if isinstance(one, ast.FunctionDef)]


def _own(row: Mapping[str, Any], problem: Problem) -> Problem:
    """Complete a problem of one's own: its row says ``test`` and ``entry_point``."""
    return replace(
        problem,
        solution=fenced(problem.solution, problem.answer),
        metadata={**problem.metadata, **read_tests(row)},
    )


def _lines(problem: Problem) -> str:
    """Say how long the gold program is, beside the head that the problem gives."""
    given = len(problem.problem.splitlines()) if problem.answer.startswith(problem.problem) else 0
    lines = [line for line in problem.answer.splitlines()[given:] if line.strip()]
    most = next((bound for bound in _LINES if len(lines) <= bound), None)
    return f"over {_LINES[-1]} lines" if most is None else f"up to {most} lines"


def _text(row: Mapping[str, Any], *names: str, default: str | None = None) -> str:
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value
    if default is not None:
        return default
    present = ", ".join(sorted(map(str, row))) or "none"
    raise RowError(names[0], f"is absent or no text (fields of the row: {present})")


TASK = Task(
    words=read_words("code"),
    extract=extract_program,
    compare=lambda gold, answer, criteria: None,
    gold_defect=program_defect,
    stated=fenced,
    program=program_of,
    tests=tests_of,
    read=_own,
    difficulty=_lines,
)
