"""Overlap between training and test problems, and the report that evaluation reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from plan_tuning.artifacts import write_atomic
from plan_tuning.records import Problem
from plan_tuning.tasks.contamination import (
    ContaminationError,
    contaminated_ids,
    covers,
    overlaps,
    report,
    seen_ids,
    texts_of,
)

LONG = "a farmer has forty two cows and sells half of them to his neighbour on a sunny day in may"


def problem(name: str, text: str, answer: str = "1") -> Problem:
    return Problem(name, text, answer)


def test_exact_ignores_case_punctuation_and_spacing() -> None:
    train = [problem("t0", "Something else."), problem("t1", "What is $2+2$?", "4")]
    found = overlaps(train, [problem("e", "what is  2 + 2", "4.0")])
    assert [(m.id, m.train_id, m.overlap, m.is_exact, m.is_same_answer) for m in found] == [
        ("e", "t1", 1.0, True, True)
    ]


@pytest.mark.parametrize(
    ("kept_words", "is_found"),
    # 20 words have 8 13-grams; half of them, 4, stand in the first 16 words
    [(20, True), (16, True), (15, False), (13, False)],
)
def test_half_of_the_sequences_in_one_problem(kept_words: int, is_found: bool) -> None:
    words = LONG.split()[:20]
    assert len(words) == 20
    train = [problem("t", " ".join([*words[:kept_words], "then", "something", "else"]), "7")]
    found = overlaps(train, [problem("e", " ".join(words))])
    assert bool(found) == is_found
    if found:
        assert found[0].overlap == pytest.approx((kept_words - 12) / 8)
        assert not found[0].is_exact
        assert not found[0].is_same_answer


def test_overlaps_of_two_problems_do_not_add_up() -> None:
    words = LONG.split()
    train = [problem("a", " ".join(words[:14])), problem("b", " ".join(words[-14:]))]
    assert overlaps(train, [problem("e", LONG)]) == []


def test_short_problems_can_only_be_exact() -> None:
    train = [problem("t", "compute the sum of two numbers and more")]
    assert overlaps(train, [problem("e", "compute the sum of two numbers")]) == []


def test_options_are_checked() -> None:
    for options in ({"ngram": 0}, {"threshold": 0.0}, {"threshold": 1.5}):
        with pytest.raises(ValueError, match="--ngram 13 --threshold"):
            overlaps([], [], **options)  # type: ignore[arg-type]


def test_report_is_read_back(tmp_path: Path) -> None:
    import json

    found = report(
        {"a": [problem("t1", LONG)], "b": [problem("t2", "other text")]},
        {"x": [problem("e1", LONG), problem("e2", "new")], "y": [problem("e3", "newer")]},
        {"train/a": {"digest": "0"}},
    )
    assert found["test"]["x"]["num_contaminated"] == found["test"]["x"]["num_exact"] == 1
    file = tmp_path / "report.json"
    write_atomic(file, json.dumps(found))
    assert contaminated_ids(file, "x") == {"e1"}
    assert contaminated_ids(file, "y") == frozenset()
    assert covers(file) == {"x", "y"}
    with pytest.raises(ContaminationError, match="covers x, y, not z"):
        contaminated_ids(file, "z")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"test": {"x": {}}}', '{"test": 3}'])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(content)
    with pytest.raises(ContaminationError, match="is no contamination report"):
        contaminated_ids(file, "x")
    with pytest.raises(ContaminationError, match="is no contamination report"):
        covers(file)
    with pytest.raises(ContaminationError, match="cannot be read"):
        contaminated_ids(tmp_path / "absent.json", "x")
    with pytest.raises(ContaminationError, match="cannot be read"):
        covers(tmp_path / "absent.json")


def test_seen_ids_are_those_that_read_the_same() -> None:
    train = [problem("a", "How many  apples, Ann?"), problem("b", "What is 2 + 2?")]
    test = [problem("1", "how many apples Ann"), problem("2", "What is 2 + 3?")]
    assert seen_ids(texts_of(train), test) == ["1"]
    assert seen_ids(texts_of([]), test) == []
