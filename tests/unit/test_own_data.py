"""Problems of a user's own: which files and fields are read, and what a mistake is told."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from composition import config_of

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.data import KeyNames, OwnDataConfig, RowForm
from plan_tuning.config.filter import FilterConfig
from plan_tuning.config.mixture import MixtureDataConfig, SourceConfig
from plan_tuning.config.training import MethodConfig, PromptConfig
from plan_tuning.job.graph import job_graph
from plan_tuning.job.inputs import load_benchmark, load_problems
from plan_tuning.records import Problem
from plan_tuning.tasks.benchmarks import DataError, load, read, source_spec
from plan_tuning.training.sft.batches import RowError
from plan_tuning.training.sft.data import training_rows

ROWS: list[dict[str, Any]] = [
    {"question": "What is 1 + 1?", "final": 2, "why": "1 + 1 = 2", "level": 3, "topic": "sums"},
    {"question": 'Say "a, b".\nWhat is 2 + 2?', "final": "4"},
]
KEYS = KeyNames(problem="question", answer="final", solution="why", difficulty="level")


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    elif file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        with file.open("w", encoding="utf-8-sig", newline="") as lines:
            table = csv.DictWriter(lines, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    return file


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
def test_every_format_gives_the_same_problems(tmp_path: Path, suffix: str) -> None:
    rows = [row | {"final": str(row["final"])} for row in ROWS]
    write(tmp_path / f"train.{suffix}", rows)
    first, second = load("mine", split="train", path=str(tmp_path), form=RowForm("gsm8k", KEYS))
    assert first == Problem(
        id="mine-train-0", problem="What is 1 + 1?", answer="2", solution="1 + 1 = 2",
        source="mine", style="gsm8k", difficulty="3", metadata={"topic": "sums"},
    )  # fmt: skip
    assert (second.problem, second.solution, second.difficulty) == (
        'Say "a, b".\nWhat is 2 + 2?', "", "",
    )  # fmt: skip


def test_yes_or_no_answers_of_ones_own(tmp_path: Path) -> None:
    rows = [{"problem": "p", "answer": True}, {"problem": "q", "answer": "No"}]
    file = write(tmp_path / "rows.jsonl", rows)
    problems = load("mine", split="test", path=str(file), form=RowForm("strategyqa"))
    assert [problem.answer for problem in problems] == ["yes", "no"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "p", "answer": "1"}, ["row 2, field 'problem'", "question", "data.keys.pro"]),
        ({"problem": "p", "gold": "1"}, ["row 2, field 'answer'", "data.keys.answer=FIELD"]),
        ({"problem": "p", "answer": ["1"]}, ["row 2, field 'answer'", "is list, expected text"]),
        ({"problem": "p", "answer": "1", "solution": {"a": 1}}, ["row 2, field 'solution'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_a_wrong_row_is_named_with_its_key(
    tmp_path: Path, row: dict[str, Any], words: list[str]
) -> None:
    file = write(tmp_path / "rows.jsonl", [{"problem": "o", "answer": "0"}, row])
    with pytest.raises(DataError) as caught:
        load("mine", split="train", path=str(file))
    for word in (str(file), *words):
        assert word in str(caught.value)


def test_a_csv_with_a_cell_too_many_says_how_to_write_it(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("problem,answer\nWhat is 1, plus 1?,2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"row 1: has more cells.*double quotes"):
        load("mine", split="train", path=str(file))


def test_a_published_set_says_when_the_rows_may_be_anybodys(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"problem": "p", "answer": "1"}])
    note = read("gsm8k", split="train", path=str(file)).note
    assert "reported as gsm8k" in note
    assert "data=jsonl data.name=mine data.path=FILE" in note
    own = write(tmp_path / "own.jsonl", [{"question": "p", "answer": "so\n#### 1"}])
    assert not read("gsm8k", split="train", path=str(own)).note
    with pytest.raises(DataError, match="Problems of your own: data=jsonl"):
        load("gsm8k", split="train", path=str(write(tmp_path / "bad.jsonl", [{"prompt": "p"}])))


def test_the_form_of_the_rows_is_part_of_what_they_are(tmp_path: Path) -> None:
    file = str(write(tmp_path / "rows.jsonl", [{"problem": "p", "answer": "1"}]))
    plain = source_spec("mine", "train", file)
    assert source_spec("mine", "train", file, None, RowForm()) == plain
    assert source_spec("mine", "train", file, None, RowForm("gsm8k")) != plain
    assert "form" not in source_spec("gsm8k", "train", file, None, RowForm("gsm8k"))


def own_job(folder: Path, *words: str) -> Any:
    return config_of(
        "data=jsonl", "data.name=mine", f"data.path={folder}", "model=tiny_qwen3", "method=sft",
        *words,
    )  # fmt: skip


def test_a_job_reads_its_own_set_and_other_benchmarks(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "test.csv", [ROWS[0]])
    other = write(tmp_path / "other.jsonl", [ROWS[1]])
    words = ["data.keys.problem=question", "data.keys.answer=final", "data.style=gsm8k"]
    config = own_job(tmp_path, *words)
    assert [problem.source for problem in load_problems(config)] == ["mine", "mine"]
    assert config.benchmarks == ["mine"]
    assert [problem.id for problem in load_benchmark("mine", config)] == ["mine-test-0"]
    (problem,) = load_benchmark(f"other={other}", config)
    assert (problem.id, problem.style) == ("other-test-0", "gsm8k")
    assert [stage.label for stage in job_graph(config).predictions] == ["mine"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data.name=gsm8k"], "data.name=gsm8k is not allowed"),
        (["data.name=a/b"], "data.name=a/b is not allowed"),
        (["data.style=words"], "data.style=words is not allowed"),
        (["data.keys.answer=problem"], "five different names"),
        (["data.path=null"], "data=jsonl data.name=mine data.path=FILE"),
        (["data.path=FILE"], "say where the test set lies"),
    ],
    ids=" ".join,
)
def test_mistakes_about_ones_own_data(tmp_path: Path, words: list[str], expected: str) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "test.jsonl", ROWS)
    given = [word.replace("FILE", str(tmp_path / "train.jsonl")) for word in words]
    with pytest.raises((ConfigError, DataError)) as caught:
        job_graph(own_job(tmp_path, *given))
    assert expected in str(caught.value)


def rows_of(problems: list[Problem], mixture: MixtureDataConfig | None = None) -> Any:
    return training_rows(
        method=MethodConfig(name="sft"),
        prompt=PromptConfig(),
        chosen=FilterConfig(),
        problems=problems,
        corpus=None,
        mixture=mixture,
    )


def test_sft_without_rationales_says_what_it_needs() -> None:
    bare = Problem("a", "p", "1", source="mine")
    with pytest.raises(RowError) as caught:
        rows_of([bare])
    assert "method=sft needs a `solution` in each row" in str(caught.value)
    assert "ilter (filter=none)" not in str(caught.value)
    full = Problem("b", "q", "2", solution="1 + 1 = 2", source="gsm8k")
    mixture = MixtureDataConfig("both", sources={"gsm8k": SourceConfig(), "mine": SourceConfig()})
    with pytest.raises(RowError, match=r"no row of mine has a rationale.*needs a `solution`"):
        rows_of([bare, full], mixture)


def test_a_set_of_ones_own_is_its_own_benchmark() -> None:
    assert OwnDataConfig(name="mine").benchmarks == ["mine"]


def test_advice_repeats_the_words_that_chose_the_set(tmp_path: Path) -> None:
    words = ["data=jsonl", "data.name=mine", f"data.path={tmp_path}"]
    with pytest.raises(
        ConfigError, match=rf"data=jsonl data\.name=mine data\.path={tmp_path} model="
    ):
        config_of(*words, "model=micro")
