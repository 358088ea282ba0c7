"""Records come back from disk as they went there."""

from __future__ import annotations

import json

import pytest

from plan_tuning.records import (
    Completion,
    Prediction,
    Problem,
    Trajectory,
    Verdict,
    from_json,
    to_json,
)

RECORDS = [
    Problem("p1", "1+1?", "2", accepted_answers=("2.0",), tolerance=0.1, metadata={"k": [1, "ü"]}),
    Trajectory("p1", 0, "1+1?", "2", "", "Add.", plan_score=-40, verdict=Verdict.WRONG),
    Trajectory("p1", 1, "1+1?", "2", "", "Add.", duplicate_of=0, call_keys=("a", "b")),
    Completion("text", (1, 2, 3), "stop", 7, (-0.5, -0.25, 0.0)),
    Prediction("p1", "gsm8k", 0, "2", "2", "boxed", Verdict.CORRECT, True, True, "2"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_round_trip(record: object) -> None:
    text = json.dumps(to_json(record), ensure_ascii=False)
    assert from_json(type(record), json.loads(text)) == record


def test_older_files_take_defaults() -> None:
    problem = from_json(Problem, {"id": "a", "problem": "b", "answer": "c"})
    assert problem.style == "math"


def test_unknown_and_missing_fields_are_named() -> None:
    with pytest.raises(ValueError, match="no field colour"):
        from_json(Problem, {"id": "a", "problem": "b", "answer": "c", "colour": 1})
    with pytest.raises(ValueError, match="lacks problem, answer"):
        from_json(Problem, {"id": "a"})


def test_is_correct_follows_the_verdict() -> None:
    assert not RECORDS[1].is_correct
    assert Trajectory("p", 0, "", "", "", "", verdict=Verdict.CORRECT).is_correct
