"""A user's text files: a byte order mark is no part of the first row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from plan_tuning.cli import app
from plan_tuning.tasks.benchmarks import load
from plan_tuning.tasks.contamination import contaminated_ids
from plan_tuning.tasks.json_rows import DataError, json_lines, read_json

MARK = b"\xef\xbb\xbf"
ROW = {"question": "What is 1 + 1?", "answer": "1 + 1 = 2\n#### 2"}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_data_with_a_byte_order_mark(tmp_path: Path, name: str) -> None:
    rows = json.dumps([ROW] if name.endswith(".json") else ROW)
    (tmp_path / name).write_bytes(MARK + rows.encode())
    assert [p.answer for p in load("gsm8k", split="test", path=str(tmp_path / name))] == ["2"]


def test_joined_files_hold_a_mark_in_their_middle(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(MARK + b'{"a": "\xef\xbb\xbfb"}\r\n\n' + MARK + b'{"a": 2}\n')
    assert list(json_lines(file)) == [(1, {"a": "\ufeffb"}), (3, {"a": 2})]


def test_a_file_of_marks_alone_has_no_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(MARK + b"\n")
    assert list(json_lines(file)) == []


def test_grade_and_decontaminate_read_the_mark(tmp_path: Path) -> None:
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    row = {"id": "é", "prediction": r"\boxed{5}", "gold": "5"}
    file.write_bytes(MARK + json.dumps(row, ensure_ascii=False).encode())
    ran = CliRunner().invoke(app, ["grade", str(file), "--out", str(out), "--workers", "1"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(out.read_text(encoding="utf-8"))["verdict"] == "correct"
    report = tmp_path / "report.json"
    report.write_bytes(MARK + json.dumps({"test": {"gsm8k": {"ids": ["1"]}}}).encode())
    assert contaminated_ids(report, "gsm8k") == {"1"}


def test_other_encodings_are_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes('{"a": 1}'.encode("utf-16"))
    with pytest.raises(DataError, match=r"rows\.jsonl is not UTF-8"):
        list(json_lines(file))
    with pytest.raises(DataError, match=r"rows\.jsonl is not UTF-8"):
        read_json(file)
    with pytest.raises(DataError, match=r"absent\.jsonl cannot be read"):
        read_json(tmp_path / "absent.jsonl")
