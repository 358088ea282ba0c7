"""Somebody's trajectories as a corpus: what is read of each row, and what a mistake is told."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from imported_rows import ALL_KEYS, KEYS, ROWS, SET, imported, run, write
from typer.testing import CliRunner

from plan_tuning.artifacts import read_manifest
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.filter import FilterConfig
from plan_tuning.distillation.candidate_groups import JoinedProblems
from plan_tuning.distillation.corpus import read_problems, read_trajectories
from plan_tuning.distillation.corpus_command import app
from plan_tuning.distillation.filters import (
    RECOMPUTE,
    STANDARD_FILTERS,
    FilterError,
    filter_trajectories,
)
from plan_tuning.distillation.trajectory_file import TrajectoryFile
from plan_tuning.distillation.trajectory_rows import ColumnError, Columns, RowReading
from plan_tuning.records import Problem, Trajectory, Verdict
from plan_tuning.tasks.json_rows import DataError

PLAN_ONLY, TWO_STAGE = STANDARD_FILTERS[1], STANDARD_FILTERS[3]


def mistake(folder: Path, *words: str | Path) -> str:
    result = run(folder, *words)
    assert isinstance(result.exception, DataError | ConfigError), result.output
    assert not (folder / "out").exists(), "a mistake leaves nothing behind"
    return str(result.exception)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_rows_of_a_problem_become_its_candidates(tmp_path: Path, suffix: str) -> None:
    corpus = imported(tmp_path, write(tmp_path / f"mine.{suffix}", ROWS), *ALL_KEYS)
    first, second, third = read_trajectories(corpus)
    assert first == Trajectory(
        problem_id="mine-train-0", candidate=0, problem="What is 1 + 1?", answer="2", solution="",
        plan="1. Add.", plan_score=90, score_status="parsed", execution="It is \\boxed{2}.",
        execution_status="ok", execution_answer="2", verdict=Verdict.CORRECT, source="mine",
    )  # fmt: skip
    assert (second.problem_id, second.candidate, second.verdict) == ("mine-train-0", 1, "wrong")
    assert (third.problem_id, third.candidate, third.verdict) == ("mine-train-1", 0, None)
    assert [problem.id for problem in read_problems(corpus)] == ["mine-train-0", "mine-train-1"]
    facts = read_manifest(corpus)["facts"]
    assert (
        facts["funnel"] | {"problems": 2, "candidates": 3, "scored": 2, "executed": 2}
        == (facts["funnel"])
    )
    assert facts["kept_problems"]["two_stage"] == 1
    assert "Imported by plan-tuning from 3 rows" in (corpus / "README.md").read_text()


def test_the_same_file_is_found_again_and_another_reading_is_another_corpus(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", ROWS)
    first = run(tmp_path, file, *ALL_KEYS)
    corpus = imported(tmp_path, file, *ALL_KEYS)
    assert "imported before" not in first.output
    assert "imported before" in run(tmp_path, file, *ALL_KEYS).output
    copied = write(tmp_path / "elsewhere.jsonl", ROWS)
    assert imported(tmp_path, copied, *ALL_KEYS, "--name", "mine") == corpus
    assert imported(tmp_path, copied, *KEYS, "--name", "mine") != corpus
    manifest = read_manifest(corpus)
    spec = manifest["spec"]
    assert spec["import"]["reader"] == 1
    assert len(spec["import"]["digest"]) == 16
    assert spec["import"]["reading"]["columns"]["execution"] == "work"
    assert spec["problems"] == {"name": "mine", "split": "train"}
    assert str(tmp_path) not in json.dumps(manifest)


def test_the_commands_read_what_was_imported(tmp_path: Path) -> None:
    corpus = imported(tmp_path, write(tmp_path / "mine.jsonl", ROWS), *ALL_KEYS)
    runner = CliRunner()
    shown = runner.invoke(app, ["show", "mine-train-0", str(corpus)], env={"COLUMNS": "200"})
    assert "candidate 1: score 40, wrong" in shown.output
    status = runner.invoke(app, ["status", str(corpus)], env={"COLUMNS": "200"})
    assert "imported: 3 rows of mine.jsonl (flat), train problems" in status.output
    for words in (["card"], ["refilter"]):
        assert runner.invoke(app, [*words, str(corpus)]).exit_code == 0
    assert "was imported" in str(runner.invoke(app, ["rebuild", str(corpus)]).exception)
    exported = tmp_path / "kept.jsonl"
    assert runner.invoke(app, ["export", str(exported), str(corpus)]).exit_code == 0
    again = imported(tmp_path, exported, "--execution-key", "execution",
                     "--score-key", "plan_score", "--id-key", "problem_id")  # fmt: skip
    assert [row.verdict for row in read_trajectories(again)] == ["correct", "wrong", None]


def flat(**values: Any) -> dict[str, Any]:
    return {"problem": "What is 1 + 1?", "answer": "2", "plan": "1. Add."} | values


def test_gsm8ks_socratic_form_brings_plan_and_execution(tmp_path: Path) -> None:
    answer = "How many are left? ** 5-2=<<5-2=3>>3 are left.\nTwice? ** 3*2=<<3*2=6>>6\n#### 6"
    corpus = imported(tmp_path, write(tmp_path / "s.jsonl", [{"question": "5?", "answer": answer}]))
    (row,) = read_trajectories(corpus)
    assert row.plan == "1. How many are left?\n2. Twice?"
    assert row.execution == "5-2=3 are left.\n3*2=6\nThe answer is \\boxed{6}."
    assert (row.style, row.answer, row.verdict) == ("gsm8k", "6", Verdict.CORRECT)
    assert row.annotated_execution == "5-2=<<5-2=3>>3 are left.\n3*2=<<3*2=6>>6"
    assert len(filter_trajectories([row], RECOMPUTE).kept) == 1
    facts = read_manifest(corpus)["facts"]
    assert facts["kept_problems"] == {"none": 1, "answer_only": 1, "recompute": 1}
    assert "No plan has a score" in (corpus / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ["column 'problem' is absent", "columns: question, gold, plan, work, rating, writer",
              "--problem-key question --answer-key gold"]),
        (("--problem-key", "question", "--answer-key", "golden"),
         ["column 'golden' is absent", "--answer-key gold"]),
        ((*KEYS, "--plan-key", "outline"), ["column 'outline' is absent", "--answer-key gold"]),
        ((*KEYS, "--where", "model=a"), ["column 'model' is absent"]),
        ((*KEYS, "--plan-key", "rating"), ["row 1: column 'rating' holds int instead of a text"]),
        ((*KEYS, "--plan-key", "gold"), ["a column of its own for each part"]),
        ((*KEYS, "--style", "words"), ["--style=words is not allowed", "gsm8k"]),
        ((*KEYS, "--split", "dev"), ["--split=dev is not allowed", "train, test"]),
        ((*KEYS, "--where", "writer"), ["--where=writer is not allowed"]),
        ((*KEYS, "--where", "writer=c"), ["no row has a plan", "3 rows: other values"]),
        ((*KEYS, "--problems", "gsm8k"), ["the gold answers come from the set of --problems"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_a_wrong_column_is_named_with_a_command(
    tmp_path: Path, words: tuple[str, ...], expected: list[str]
) -> None:
    text = mistake(tmp_path, write(tmp_path / "mine.jsonl", ROWS), *words)
    for word in expected:
        assert word in text


def test_the_command_of_a_mistake_works(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", ROWS)
    advice = mistake(tmp_path, file, "--where", "writer=a").rpartition("for example: ")[2]
    words = shlex.split(advice)
    assert words[:3] == ["plan-tuning", "corpus", "import"]
    assert len(read_trajectories(imported(tmp_path, *words[3:]))) == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (flat(problem=" "), "row 4: column 'problem' is empty"),
        (flat(answer=None), "row 4: column 'answer' cannot be graded: the gold answer is empty"),
        (flat(answer="3"), "row 4: column 'answer' differs from that of an earlier row"),
        (flat(score=0.9), "row 4: column 'score' is no whole number"),
        (flat(plan={"a": 1}), "row 4: column 'plan' holds dict instead of a text"),
    ],
)
def test_a_wrong_row_is_named_or_left_out(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    good = [flat(), flat(problem="What is 2 + 2?", answer="4", score=90), flat(plan=None)]
    file = write(tmp_path / "mine.jsonl", [*good, row])
    text = mistake(tmp_path, file, "--score-key", "score")
    assert words in text
    assert text.endswith("--skip-bad")
    corpus = imported(tmp_path, file, "--score-key", "score", "--skip-bad")
    assert len(read_trajectories(corpus)) == 3
    assert list(read_manifest(corpus)["facts"]["imported"]["left_out"].values()) == [1]


def test_a_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(flat()) + "\n[1]\n", encoding="utf-8")
    assert "row 2: is list, expected an object" in mistake(tmp_path, file)
    assert "does not exist" in mistake(tmp_path, tmp_path / "none.jsonl")
    assert "holds no rows" in mistake(tmp_path, write(tmp_path / "empty.jsonl", []))


def test_a_data_set_of_the_hub_says_what_helps_without_a_network(tmp_path: Path) -> None:
    text = mistake(tmp_path, "nobody/no-such-set")
    assert "nobody/no-such-set at main cannot be read from the Hub" in text
    assert "plan-tuning corpus import FILE" in text


def rows_of(folder: Path, *words: str) -> list[Trajectory]:
    return read_trajectories(imported(folder, write(folder / "mine.jsonl", ROWS), *words))


def test_filters_say_what_was_not_imported(tmp_path: Path) -> None:
    bare = rows_of(tmp_path, *KEYS)
    with pytest.raises(FilterError, match="--execution-key"):
        filter_trajectories(bare, STANDARD_FILTERS[2])
    with pytest.raises(FilterError, match="method=m2 filter=none"):
        filter_trajectories(bare, STANDARD_FILTERS[0], needs_execution=True)
    assert len(filter_trajectories(bare, STANDARD_FILTERS[0]).kept) == 2
    for config in (PLAN_ONLY, TWO_STAGE):
        words = r"no Plan Verifier was asked.*--score-key" if config is PLAN_ONLY else "--execution"
        with pytest.raises(FilterError, match=words):
            filter_trajectories(bare, config)
    scored = rows_of(tmp_path, *KEYS, "--score-key", "rating")
    assert len(filter_trajectories(scored, PLAN_ONLY).kept) == 1
    executed = rows_of(tmp_path, *KEYS, "--execution-key", "work")
    kept = filter_trajectories(executed, FilterConfig("none", False, False), needs_execution=True)
    assert kept.reasons == {"execution_absent": 1, "kept": 1, "not_selected": 1}
    both = filter_trajectories(rows_of(tmp_path, *ALL_KEYS), TWO_STAGE)
    assert [row.candidate for row in both.kept] == [0]


def test_problems_and_answers_are_joined_from_a_set(tmp_path: Path) -> None:
    known = write(tmp_path / "set.jsonl", SET)
    file = write(tmp_path / "mine.jsonl", [{**row, "gold": "99"} for row in ROWS])
    words = ("--problem-key", "question", "--execution-key", "work")
    corpus = imported(tmp_path, file, *words, "--problems", f"known={known}", "--split", "test")
    rows = read_trajectories(corpus)
    assert [row.problem_id for row in rows] == ["p1", "p1", "p2"]
    assert [row.answer for row in rows] == ["2", "2", "5"]
    assert rows[0].problem == "What is $1 + 1$?", "the set's own text"
    assert (rows[0].source, rows[0].verdict) == ("known", Verdict.CORRECT)
    spec = read_manifest(corpus)["spec"]["problems"]
    assert (spec["name"], spec["split"], spec["joined"]["name"]) == ("known", "test", "known")
    bare = imported(tmp_path, file, *words, "--problems", known)
    assert {row.source for row in read_trajectories(bare)} == {"set"}


def test_rows_are_joined_by_id_and_others_are_named(tmp_path: Path) -> None:
    known = write(tmp_path / "set.jsonl", SET)
    named = [{"of": "p2", "plan": "1. Add."}, {"of": "p9", "plan": "1. Add."}]
    file = write(tmp_path / "mine.jsonl", named)
    words = ("--id-key", "of", "--problems", known)
    text = mistake(tmp_path, file, *words)
    assert "row 2: column 'of' names no problem of the set" in text
    (row,) = read_trajectories(imported(tmp_path, file, *words, "--skip-bad"))
    assert (row.problem_id, row.solution) == ("p2", "2 + 3 = 5")


def test_problems_that_differ_in_signs_alone_are_not_taken_for_each_other() -> None:
    known = JoinedProblems([Problem("a", "Find 1 + 1", "2"), Problem("b", "Find 1 - 1", "0")], "p")
    assert known.of(Problem("", "Find  1 - 1", "")).id == "b"
    with pytest.raises(ColumnError, match="names no problem"):
        known.of(Problem("", "find 1 * 1", ""))


def test_a_set_of_test_problems_needs_the_test_split() -> None:
    columns = Columns(answer=None)
    with pytest.raises(ConfigError, match=r"olympiadbench are test problems only.*--split test"):
        TrajectoryFile("x.jsonl", RowReading(columns=columns), problems="olympiadbench=x")
    assert TrajectoryFile("x.jsonl", RowReading(columns=columns), problems="gsm8k=x")
