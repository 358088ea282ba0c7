"""Typical mistakes: one clear message that names the fault, no traceback, before any work."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .conftest import Run, command

pytestmark = pytest.mark.e2e

GSM8K = ("data=gsm8k", "model=tiny_qwen3", "method=sft", "debug=fast", "logger=csv")
ROW = {"question": "What is 1 + 1?", "answer": "1 + 1 = 2\n#### 2"}
SERVER = ("teacher=openai_compatible", "teacher.model=any", "teacher.max_wait_s=1")


def write_rows(folder: Path, name: str, *rows: object) -> None:
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


def good_data(folder: Path) -> None:
    write_rows(folder, "train", *[ROW | {"question": f"What is {i} + 1?"} for i in range(6)])
    write_rows(folder, "test", ROW)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["trainer.learnin_rate=1"],
            ["learnin_rate=1", "Try for example: trainer.learning_rate=1"],
        ),
        (["method=m3"], ["method=m3", "m1", "m2"]),
        (["method.group_size=4"], ["method=grpo method.group_size=4"]),
        (["method=grpo", "trainer.epochs=2"], ["method.epochs=2, or start.trainer.epochs=2"]),
        (["distillation.max_tokens_plan=9"], ["distillation.max_plan_tokens=9"]),
        (["trainer.learning_rate=fast"], ["trainer.learning_rate", "fast"]),
        (["trainer.learning_rate=-1"], ["trainer.learning_rate=-1", "above 0"]),
        (["distillation.num_candidates=0"], ["distillation.num_candidates=0"]),
        ([*GSM8K, "data.path=nowhere"], ["data.path", "nowhere"]),
        (["paths.outputs=/dev/null/x"], ["paths.outputs=/dev/null/x"]),
        (["corpus.path=nowhere"], ["corpus.path=nowhere"]),
        (["student.path=nowhere", "stages=[evaluate]"], ["student.path=nowhere"]),
        (["stages=[evaluate]", "debug=fast", "logger=csv"], ["stages=", "train"]),
        (["compare", "nowhere"], ["nowhere"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_mistakes_on_the_command_line(
    plan_tuning: Run, arguments: list[str], expected: list[str]
) -> None:
    ran = plan_tuning(*arguments)
    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr
    for words in expected:
        assert words in ran.stderr


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], ["train.jsonl", "holds no rows"]),
        ([ROW, "{'question': 1}"], ["train.jsonl", "2"]),
        ([{"prompt": "What?"}], ["train.jsonl", "row 1", "answer"]),
    ],
    ids=["empty", "unreadable", "schema"],
)
def test_mistakes_in_the_data(
    plan_tuning: Run, tmp_path: Path, rows: list[object], expected: list[str]
) -> None:
    write_rows(tmp_path / "data", "train", *rows)
    write_rows(tmp_path / "data", "test", ROW)
    ran = plan_tuning(*GSM8K, "data.path=data")
    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr
    for words in expected:
        assert words in ran.stderr


def test_a_missing_key_is_named_and_nothing_is_asked(plan_tuning: Run, tmp_path: Path) -> None:
    good_data(tmp_path / "data")
    ran = plan_tuning(
        *GSM8K, "data.path=data", "method=m1", "teacher=openai", "teacher.budget_usd=1"
    )
    assert ran.returncode == 3
    assert "OPENAI_API_KEY" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_closed_port_says_so(plan_tuning: Run, tmp_path: Path) -> None:
    good_data(tmp_path / "data")
    ran = plan_tuning(
        *GSM8K, "data.path=data", "method=m1", *SERVER, "teacher.api_base=http://127.0.0.1:9/v1",
        "teacher.max_attempts=1",
    )  # fmt: skip
    assert ran.returncode in (3, 4)
    assert "127.0.0.1:9" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("words", [["method=sft"], ["-m", "method=sft,m1"]], ids=" ".join)
def test_who_cannot_be_interrupted_says_how_to_end_it(
    tmp_path: Path, environment: dict[str, str], words: list[str]
) -> None:
    """The way in which a script's background job is started: ``plan-tuning … &``."""
    given = command(*words, "dry_run=true")
    ran = subprocess.run(
        ["sh", "-c", 'trap "" INT; "$@" & wait $!', "sh", *given],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Ctrl-C (SIGINT) ignored" in ran.stderr
    assert "end it with: kill " in ran.stderr
