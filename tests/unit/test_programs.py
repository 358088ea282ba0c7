"""What a completion's program is, whole or the inside of a function, and how tests are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from plan_tuning.grading.programs import completed, defines
from plan_tuning.records import Problem
from plan_tuning.tasks import code
from plan_tuning.tasks.code import read_tests
from plan_tuning.tasks.grade_command import grade
from plan_tuning.tasks.schemas import RowError

HEAD = 'from typing import List\n\ndef f(x):\n    """Say one more."""\n'


@pytest.mark.parametrize(
    "answer",
    [
        "def f(x):\n    return x + 1",
        "async def f(x):\n    return x + 1",
        "f = lambda x: x + 1",
        "f: object = (1).__add__",
        "g, f = 1, (1).__add__",
        "from operator import neg as f",
        "from math import *\nif True:\n    f = (1).__add__\nelse:\n    from other import f",
        "class f:\n    pass",
        "(f := (1).__add__)",
    ],
)
@pytest.mark.parametrize("setup", ["", "import math", HEAD])
def test_a_bound_name_is_a_whole_program(answer: str, setup: str) -> None:
    assert defines(answer, "f")
    assert completed(setup, answer, "f") == f"{setup}\n\n{answer}\n"


@pytest.mark.parametrize(
    "answer",
    ["g = [f for f in range(3)]", "def g():\n    f = 1", "g = f", "x.f = 1", "f(1)", "def f(:",
     "class A:\n    def f(self): pass"],
)  # fmt: skip
def test_other_names_bind_nothing(answer: str) -> None:
    assert not defines(answer, "f")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("    return x + 1", 2), ("return x + 1", 2), ("y = x\nreturn y + 1", 2),
     ("def g(y):\n    return y + 1\nreturn g(x)", 2), ("x.append(1)", None)],
)  # fmt: skip
def test_an_inside_is_put_below_its_head(answer: str, expected: int | None) -> None:
    namespace: dict[str, Any] = {}
    for head in (HEAD, "def f(x):"):
        exec(completed(head, answer, "f"), namespace)
        assert namespace["f"]([] if expected is None else 1) == expected


def test_a_program_without_a_head_is_run_as_it_stands() -> None:
    answer = "globals()['f'] = lambda x: x + 1"
    namespace: dict[str, Any] = {}
    exec(completed("import math", answer, "f"), namespace)
    assert namespace["f"](1) == 2


ROW: dict[str, Any] = {"test": "assert f(1) == 2", "entry_point": "f"}


def test_the_tests_of_a_row_are_texts() -> None:
    assert read_tests(ROW) == ROW
    listed = read_tests({**ROW, "test": ["a = 1", "assert a"], "setup": ["import re"], "x": 1})
    assert listed == {"test": "a = 1\nassert a", "setup": "import re", "entry_point": "f"}
    others = {"test": (None, ["a", 1], 1, " ", []), "entry_point": (["f"],), "setup": (1, [1])}
    for key, value in [(key, value) for key, values in others.items() for value in values]:
        with pytest.raises(RowError) as caught:
            read_tests({**ROW, key: value})
        assert caught.value.field == key


@pytest.mark.parametrize("key", ["test", "entry_point"])
@pytest.mark.parametrize("value", [None, ["assert False"], 1, {}])
def test_what_is_no_text_tests_nothing(key: str, value: object) -> None:
    problem = Problem("p", "", "", style="code", metadata=ROW)
    assert code.tests_of(problem).test == ROW["test"]
    assert not code.tests_of(replace(problem, metadata={**ROW, key: value})).test


def graded(tmp_path: Path, rows: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    app = typer.Typer()
    app.command("grade")(grade)
    app.callback()(lambda: None)
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps({"gold": "f = 1", **row}) + "\n" for row in rows))
    words = ["grade", str(file), "--out", str(out), "--style", "code", "--run-code"]
    output = CliRunner().invoke(app, words).output
    found = out.read_text().splitlines() if out.exists() else []
    return " ".join(output.split()), [json.loads(line) for line in found]


@pytest.mark.parametrize("test", [None, ["assert f(1) == 2", 3], 4])
def test_a_row_whose_test_is_no_text_is_named(tmp_path: Path, test: object) -> None:
    wrong = {"prediction": "```python\ndef f(x):\n    return 0\n```", **ROW}
    shown, found = graded(tmp_path, [wrong, {**wrong, "test": test}])
    assert "row 2, field 'test': is absent or no text" in shown
    assert not found


def test_a_list_of_tests_decides(tmp_path: Path) -> None:
    text = "```python\nf = lambda x: x {} 1\n```"
    rows = [{"prediction": text.format(sign), **ROW, "test": ["a = 1", "assert f(a) == 2"]}
            for sign in "+-"]  # fmt: skip
    _, found = graded(tmp_path, rows)
    assert [row["verdict"] for row in found] == ["correct", "wrong"]
