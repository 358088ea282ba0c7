"""Reading data sets: published schemas, known defects, errors that say where and what."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.config.extensions import records
from plan_tuning.tasks.benchmarks import benchmark_named, load, read, source_spec
from plan_tuning.tasks.json_rows import DataError


def write(folder: Path, *rows: Any, name: str = "test.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def one(name: str, tmp_path: Path, row: dict[str, Any], split: str = "test") -> Any:
    write(tmp_path, row, name=f"{split}.jsonl")
    problems = load(name, split=split, path=str(tmp_path))
    assert len(problems) == 1
    return problems[0]


def test_gsm8k_in_its_own_schema(tmp_path: Path) -> None:
    problem = one(
        "gsm8k",
        tmp_path,
        {"question": "2+2?", "answer": "It is 2+2=<<2+2=4>>4.\nTimes 300.\n#### 1,200"},
    )
    assert (problem.id, problem.answer, problem.style) == ("gsm8k-test-0", "1,200", "gsm8k")
    assert problem.solution == "It is 2+2=4.\nTimes 300."
    assert problem.source == "gsm8k"


def test_plain_rows_keep_their_ids(tmp_path: Path) -> None:
    problem = one(
        "gsm8k",
        tmp_path,
        {"id": "x-1", "problem": "p", "answer": "7", "solution": "3+4=<<3+4=7>>7"},
    )
    assert (problem.id, problem.problem, problem.solution) == ("x-1", "p", "3+4=7")


@pytest.mark.parametrize("level", ["Level 3", 3, "3"])
def test_math_takes_the_box_of_its_solution(tmp_path: Path, level: Any) -> None:
    row = {"problem": "p", "level": level, "type": "Algebra", "solution": r"so \boxed{\frac12}."}
    problem = one("math500", tmp_path, row)
    assert (problem.answer, problem.difficulty) == (r"\frac12", "3")


def test_math_without_level_or_gold(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"problem": "a", "level": "Level ?", "solution": r"\boxed{1}"},
        {"problem": "b", "level": "Level 1", "solution": r"there are $\boxed{}$ primes"},
        {"problem": " a", "solution": r"\boxed{1}"},
    )
    reading = read("math500", split="test", path=str(tmp_path))
    assert [problem.difficulty for problem in reading.problems] == [""]
    assert reading.left_out == {
        "the gold answer is empty": ["math500-test-1"],
        "repeats an earlier row": ["math500-test-2"],
    }


def test_olympiadbench_with_unit_tolerance_and_list(tmp_path: Path) -> None:
    row = {
        "id": 1606, "question": "q", "context": "Given c.", "solution": ["first", "second"],
        "final_answer": ["$1$", "$2$"], "is_multiple_answer": True,
        "unit": "%", "error": "1e-1,2e-1",
        "answer_type": "Numerical", "subfield": "Algebra",
    }  # fmt: skip
    problem = one("olympiadbench", tmp_path, row)
    assert (problem.id, problem.answer, problem.problem) == ("1606", "$1$, $2$", "Given c.\n\nq")
    assert (problem.unit, problem.tolerance, problem.is_multiple_answer) == ("%", 0.1, True)
    assert (problem.solution, problem.difficulty) == ("first\n\nsecond", "Algebra")


@pytest.mark.parametrize(
    ("row", "answer", "accepted", "year"),
    [
        ({"ID": "1983-1", "Year": 1983, "Question": "q", "Answer": "60"}, "60", (), "1983"),
        ({"id": "2000-I-2", "problem": "q", "answer": "025"}, "025", (), "2000"),
        ({"id": 60, "problem": "q", "answer": 204, "year": "2024"}, "204", (), "2024"),
        (
            {"ID": "1995-3", "Question": "q", "Answer": "080 or 081 (both were accepted)"},
            "080", ("081",), "1995",
        ),
    ],
)  # fmt: skip
def test_aime(
    tmp_path: Path, row: dict[str, Any], answer: str, accepted: tuple[str, ...], year: str
) -> None:
    problem = one("aime_1983_2024", tmp_path, row)
    assert (problem.answer, problem.accepted_answers, problem.difficulty) == (
        answer,
        accepted,
        year,
    )


def test_aime_problem_fifteen_is_not_zero(tmp_path: Path) -> None:
    row = {"ID": "1990-0", "Problem Number": 0, "Question": "q", "Answer": "1"}
    assert one("aime_1983_2024", tmp_path, row).metadata["Problem Number"] == 15


@pytest.mark.parametrize(("value", "answer"), [(True, "yes"), (False, "no"), ("No", "no")])
def test_strategyqa(tmp_path: Path, value: Any, answer: str) -> None:
    row = {
        "qid": "q1",
        "question": "q",
        "answer": value,
        "facts": ["f", "g"],
        "decomposition": ["d"],
    }
    problem = one("strategyqa", tmp_path, row)
    assert (problem.id, problem.answer, problem.solution) == ("q1", answer, "f g")
    assert problem.metadata["decomposition"] == ["d"]


def test_parquet_and_json_give_the_same_problems(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"id": str(n), "problem": f"p{n}", "answer": str(n)} for n in range(3)]
    lines = write(tmp_path, *rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    expected = load("gsm8k", split="test", path=str(lines))
    assert len(expected) == 3
    for name in ("rows.parquet", "rows.json"):
        assert load("gsm8k", split="test", path=str(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"answer": "1"}], r"test\.jsonl, row 1, field 'problem': is absent"),
        ([{"problem": "p"}], r"test\.jsonl, row 1, field 'answer': is absent"),
        ([{"problem": "p", "answer": None}], r"row 1, field 'answer': is null"),
        ([{"problem": "p", "answer": "1"}, [1]], r"row 2: is list, expected an object"),
        ([{"problem": {"a": 1}, "answer": "1"}], r"row 1, field 'problem': is dict, expected text"),
        ([{"problem": " ", "answer": "1"}], r"row 1, field 'problem': is empty"),
        ([{"question": "p", "answer": "no marker"}], r"field 'answer': has no '####'"),
        (
            [
                {"id": "a", "problem": "p", "answer": "1"},
                {"id": "a", "problem": "q", "answer": "1"},
            ],
            r"row 2, field 'id': 'a' is the id of row 1 too",
        ),
        ([], r"holds no rows"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    path = write(tmp_path, *rows)
    with pytest.raises(DataError, match=message):
        load("gsm8k", split="test", path=str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{"problem": "p"', r"rows\.jsonl, row 1: is not JSON"),
        ("rows.jsonl", b"\xff\xfe", "is not UTF-8 text"),
        ("rows.json", b"{}", "holds dict, expected a list of rows"),
        ("rows.json", b"[", "is not JSON"),
        ("rows.parquet", b"PAR", "is not a parquet file"),
        ("rows.csv", b'a,b\n"1,2', "is not CSV"),
        ("rows.txt", b"a,b", r"\.txt is none of \.jsonl"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("gsm8k", split="test", path=str(tmp_path / name))


def test_strategyqa_and_tolerance_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected true, false, yes or no"):
        one("strategyqa", tmp_path, {"question": "q", "answer": "perhaps"})
    row = {"question": "q", "final_answer": ["1"], "error": "small"}
    with pytest.raises(DataError, match="expected an absolute tolerance"):
        one("olympiadbench", tmp_path, row)


def test_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose one of gsm8k, math"):
        load("gsm9k", split="test")
    with pytest.raises(DataError, match="olympiadbench has no split 'train'"):
        load("olympiadbench", split="train")
    with pytest.raises(DataError, match="does not exist"):
        load("gsm8k", split="test", path=str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"holds no train\.jsonl"):
        load("gsm8k", split="train", path=str(tmp_path))


def test_the_spec_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"problem": "p", "answer": "1"})
    second = write(tmp_path / "b", {"problem": "p", "answer": "1"})
    third = write(tmp_path / "c", {"problem": "p", "answer": "2"})
    specs = [source_spec("gsm8k", "test", str(path)) for path in (first, second, third)]
    assert specs[0] == specs[1] != specs[2]
    assert source_spec("gsm8k", "test", str(tmp_path / "a")) == specs[0]
    hub = source_spec("gsm8k", "train")
    assert hub["repository"] == "openai/gsm8k"
    assert source_spec("gsm8k", "train", revision="main")["revision"] == "main"


def test_every_hub_source_is_pinned() -> None:
    for spec in [benchmark_named(one.name) for one in records("data") if not one.needs]:
        for source in (*spec.splits.values(), *spec.without.values()):
            assert len(source.revision) == 40
            int(source.revision, 16)


def test_bad_golds_are_reported_by_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, {"id": "g", "problem": "p", "answer": "1"},
                 {"id": "b", "problem": "q", "answer": "many"})  # fmt: skip
    with caplog.at_level(logging.WARNING):
        problems = load("gsm8k", split="test", path=str(path))
    assert [problem.id for problem in problems] == ["g"]
    assert "the gold answer is no number (b)" in caplog.text


def test_advice_without_a_network_is_a_command_that_works() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    with pytest.raises(DataError, match="cannot be read from the Hub") as caught:
        read("gsm8k", split="test", revision="0" * 40)  # no cache holds such a revision
    advice = str(caught.value).rpartition("data.path=FOLDER or ")[2]
    (word,) = shlex.split(advice)
    override = OverridesParser.create().parse_override(word)
    assert override.key_or_group == "evaluation.benchmarks"
    assert override.value() == ["gsm8k=FOLDER"]


def test_what_a_file_holds_is_logged_once_a_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, {"question": "1?", "answer": "#### 1"}, {"question": "1?", "answer": "#### 1"})
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            load("gsm8k", split="test", path=str(tmp_path))
    counted, left_out = sorted(caplog.messages, key=lambda text: "left out" in text)
    assert "2 rows; on the Hub gsm8k test has 1319" in counted
    assert "1 rows left out: repeats an earlier row" in left_out
