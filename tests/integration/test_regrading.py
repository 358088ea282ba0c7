"""Verdicts of an earlier grader: read again from the stored texts, once, and nobody is asked.

The outputs folder of an earlier commit (tests/data) holds no versions; verdicts in it that a
later grader would not give are made by hand.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.comparison.comparison_files import compare
from plan_tuning.comparison.runs import load, read_predictions
from plan_tuning.distillation import corpus as corpora
from plan_tuning.distillation.corpus import TRAJECTORIES, read_trajectories
from plan_tuning.distillation.filters import STANDARD_FILTERS, filter_trajectories
from plan_tuning.distillation.parquet import write_records
from plan_tuning.grading.grader import Grader
from plan_tuning.job import result as results
from plan_tuning.records import Problem, Trajectory, Verdict
from plan_tuning.tasks.json_rows import DataError
from plan_tuning.tasks.regrading import REGRADED_FILE, VERSIONS, plain_problem

pytestmark = pytest.mark.integration

ARCHIVE = Path(__file__).resolve().parent.parent / "data" / "outputs.tar.xz"
# Python 3.11 knows it from 3.11.4 on.
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as packed:
        packed.extractall(tmp_path, **SAFELY)
    return tmp_path / "outputs"


@pytest.fixture
def predictions(outputs: Path) -> Path:
    """The artifact, in which a right answer was taken for a wrong one."""
    (file,) = (outputs / "artifacts" / "predictions").glob("*/predictions.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0] |= {"text": f"\\boxed{{{rows[0]['gold']}}}", "verdict": "wrong", "is_correct": False}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file.parent


@pytest.fixture
def corpus(outputs: Path) -> Path:
    """The corpus, in which a right execution was taken for a wrong one."""
    (folder,) = (outputs / "artifacts" / "corpora").glob("[!.]*")
    rows = [corpora._restore(Trajectory, row) for row in corpora._read(folder, TRAJECTORIES)]
    (two_stage,) = (config for config in STANDARD_FILTERS if config.name == "two_stage")
    place = rows.index(filter_trajectories(rows, two_stage).kept[0])
    rows[place] = replace(rows[place], verdict=Verdict.WRONG)
    write_records(folder / TRAJECTORIES, Trajectory, rows)
    return folder


@pytest.fixture
def graded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of the grader was given."""
    counts: list[int] = []
    grade_many = Grader.grade_many

    def counted(self, items, **options):  # type: ignore[no-untyped-def]
        counts.append(len(items))
        return grade_many(self, items, **options)

    monkeypatch.setattr(Grader, "grade_many", counted)
    return counts


def sweep_of(outputs: Path) -> Path:
    (found,) = {path.parent.parent for path in outputs.glob("*/*/result.json")}
    return found


def test_a_comparison_grades_old_verdicts_once_and_says_what_changed(
    outputs: Path, predictions: Path, corpus: Path, graded: list[int]
) -> None:
    before = {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}
    found = compare([sweep_of(outputs)], console=False)
    assert any("1 of 8 stored verdicts" in line for line in found.warnings), found.warnings
    assert any("1 students were trained on rows" in line for line in found.warnings)
    (cell,) = {row.cells["microworld"].accuracy for row in found.table.rows}
    assert cell == pytest.approx(1 / 8)
    assert len(graded) == 2  # the predictions and the corpus
    again = compare([sweep_of(outputs)], console=False)
    assert again.warnings == found.warnings
    assert len(graded) == 2, "what was found is remembered"
    changed = [path for path, old in before.items() if path.read_bytes() != old]
    assert {path.parent for path in changed} <= {sweep_of(outputs)}, "only the comparison is new"
    assert (predictions / REGRADED_FILE).is_file()
    assert (corpus / REGRADED_FILE).is_file()
    (sweep_of(outputs).rename(outputs.parent / "alone"))  # without the artifacts
    (outputs / "artifacts").rename(outputs.parent / "elsewhere")
    travelled = compare([outputs.parent / "alone"], console=False)
    assert [line for line in travelled.warnings if "verdict" in line] == [
        line for line in found.warnings if "verdict" in line
    ]
    (cell,) = {row.cells["microworld"].accuracy for row in travelled.table.rows}
    assert cell == pytest.approx(1 / 8)


def test_verdicts_of_this_version_are_taken_as_they_are(
    outputs: Path, predictions: Path, graded: list[int]
) -> None:
    path = predictions / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["facts"] |= VERSIONS
    path.write_text(json.dumps(manifest))
    (run,) = load([sweep_of(outputs)]).runs
    assert not any(row["is_correct"] for row in read_predictions(run, "microworld"))
    assert not results.judge_again(predictions, lambda: pytest.fail("nothing is loaded"))
    assert graded == []


def test_a_corpus_is_read_with_the_verdicts_of_today(corpus: Path, graded: list[int]) -> None:
    before = [corpora._restore(Trajectory, row) for row in corpora._read(corpus, TRAJECTORIES)]
    after = read_trajectories(corpus)
    differing = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert [(a.verdict, b.verdict) for a, b in differing] == [("wrong", "correct")]
    assert list(corpora.verdicts_of_today(corpus).changed) == [
        f"{differing[0][0].problem_id}/{differing[0][0].candidate}"
    ]
    assert len(graded) == 1


def test_a_job_reads_old_predictions_with_the_problems_of_its_data(predictions: Path) -> None:
    rows = results.read_predictions(predictions / "predictions.jsonl")
    assert not rows[0].is_correct
    problems = [Problem(r.problem_id, "", r.gold, style="microworld") for r in rows]
    assert results.judge_again(predictions, lambda: problems)
    again = results.read_predictions(predictions / "predictions.jsonl")
    assert [row.is_correct for row in again] == [True] + [False] * 7
    assert replace(again[0], **{k: getattr(rows[0], k) for k in (
        "verdict", "answer", "rule", "is_correct", "is_correct_strict")}) == rows[0]  # fmt: skip


def test_predictions_keep_their_verdicts_where_the_problems_are_gone(predictions: Path) -> None:
    def absent() -> list[Problem]:
        raise DataError("the data are gone")

    assert not results.judge_again(predictions, absent)
    assert not (predictions / REGRADED_FILE).exists()


@pytest.mark.parametrize(
    ("source", "style"),
    [("gsm8k", "gsm8k"), ("math500", "math"), ("microworld_depth", "microworld"),
     ("strategyqa", "strategyqa"), ("olympiadbench", None), ("aime2024", None)],
)  # fmt: skip
def test_which_sets_a_gold_answer_says_everything_of(source: str, style: str | None) -> None:
    problem = plain_problem("1", "5", source)
    assert (problem and problem.style) == style
