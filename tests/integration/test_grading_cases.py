"""The labelled cases and the golds of real data sets."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.grading.grader import Grade, Grader
from plan_tuning.records import Problem
from plan_tuning.tasks.benchmarks import load
from plan_tuning.tasks.contamination import overlaps

pytestmark = pytest.mark.integration


def read_cases(shared: Path, name: str) -> list[dict[str, Any]]:
    file = shared / "grading" / name
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def grades_of(grader: Grader, cases: list[dict[str, Any]]) -> list[Grade]:
    return grader.grade_many(
        [
            (
                case["prediction_text"],
                Problem(case["id"], "", case["gold"], style=case["dataset_style"]),
            )
            for case in cases
        ]
    )


def test_labelled_cases(shared: Path, grader: Grader) -> None:
    cases = read_cases(shared, "cases.jsonl")
    grades = grades_of(grader, cases)
    false_positives, false_negatives, hostile = [], [], []
    for case, grade in zip(cases, grades, strict=True):
        if grade.is_correct == case["expected"]:
            continue
        if case["category"].startswith("hostile"):
            hostile.append(case["id"])
        elif grade.is_correct:
            false_positives.append(case["id"])
        elif case["label_basis"] == "certain":
            false_negatives.append(case["id"])
    assert false_positives == []
    assert hostile == []
    assert false_negatives == []
    assert grader.pool.num_killed == 0  # the guards keep hostile texts away from the workers


def test_outputs_of_real_models(shared: Path, grader: Grader) -> None:
    cases = read_cases(shared, "gsm8k_model_outputs.jsonl")
    grades = grades_of(grader, cases)
    wrong = [c["id"] for c, g in zip(cases, grades, strict=True) if g.is_correct != c["expected"]]
    assert (len(cases), wrong) == (5276, [])


def test_answers_as_models_write_them(shared: Path, grader: Grader) -> None:
    """The labels that are a matter of judgement are shared here too."""
    cases = read_cases(shared, "wild.jsonl")
    grades = grades_of(grader, cases)
    wrong = [c["id"] for c, g in zip(cases, grades, strict=True) if g.is_correct != c["expected"]]
    assert wrong == []


def with_one_digit_changed(answer: str, rng: random.Random) -> str | None:
    places = [match.start() for match in re.finditer(r"\d", answer)]
    if not places:
        return None
    place = rng.choice(places)
    digit = rng.choice([d for d in "0123456789" if d != answer[place]])
    return answer[:place] + digit + answer[place + 1 :]


@pytest.mark.parametrize(
    ("name", "split"), [("gsm8k", "train"), ("gsm8k", "test"), ("olympiadbench", "test")]
)
def test_golds_of_real_sets(shared: Path, grader: Grader, name: str, split: str) -> None:
    problems = load(name, split=split, path=str(shared / "data" / name))
    grades = grader.grade_many([(f"\\boxed{{{p.answer}}}", p) for p in problems])
    assert [p.id for p, g in zip(problems, grades, strict=True) if not g.is_correct] == []
    rng = random.Random(7)
    changed = [
        (f"\\boxed{{{other}}}", p)
        for p in problems
        if p.tolerance is None and (other := with_one_digit_changed(p.answer, rng)) is not None
    ]
    assert len(changed) > 0.9 * len(problems)
    accepted = [
        (p.id, text)
        for (text, p), grade in zip(changed, grader.grade_many(changed), strict=True)
        if grade.is_correct
    ]
    assert accepted == []


@pytest.mark.parametrize(
    ("name", "split", "rows"),
    [("gsm8k", "train", 7473), ("gsm8k", "test", 1319), ("olympiadbench", "test", 674),
     ("strategyqa", "train", 2060), ("strategyqa", "test", 229)],
)  # fmt: skip
def test_real_sets_are_read_whole(shared: Path, name: str, split: str, rows: int) -> None:
    problems = load(name, split=split, path=str(shared / "data" / name))
    assert len(problems) == rows
    assert all(p.problem.strip() and p.answer.strip() and p.source == name for p in problems)


def test_gsm8k_rationales_grade_as_right(shared: Path, grader: Grader) -> None:
    problems = load("gsm8k", split="test", path=str(shared / "data" / "gsm8k"))
    grades = grader.grade_many([(f"{p.solution}\n#### {p.answer}", p) for p in problems])
    assert [p.id for p, g in zip(problems, grades, strict=True) if not g.is_correct] == []
    assert {grade.rule for grade in grades} == {"hashes"}


def test_contamination_of_gsm8k(shared: Path) -> None:
    folder = str(shared / "data" / "gsm8k")
    train, test = (load("gsm8k", split=split, path=folder) for split in ("train", "test"))
    found = overlaps(train, test)
    assert (len(found), sum(match.is_exact for match in found)) == (1, 0)
    assert len(overlaps(test, test[:50])) == 50
