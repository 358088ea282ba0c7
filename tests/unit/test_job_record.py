"""result.json: what one version wrote, another one reads; and its keys stay as they are."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.job_record import BenchmarkMetrics, JobResult, ResultError, parse_result
from plan_tuning.records import to_json

ARCHIVE = Path(__file__).resolve().parent.parent / "data" / "outputs.tar.xz"


def earlier_results() -> list[str]:
    with tarfile.open(ARCHIVE) as packed:
        members = [m for m in packed.getmembers() if m.name.endswith("/result.json")]
        return [file.read().decode() for m in members if (file := packed.extractfile(m))]


def test_an_earlier_result_read_and_written_again_is_the_same_text() -> None:
    texts = earlier_results()
    assert len(texts) == 3
    for text in texts:
        again = to_json(parse_result(json.loads(text)))
        assert json.dumps(again, indent=1, ensure_ascii=False) == text


def test_figures_of_several_samples_and_counts_of_a_mixture_keep_their_place() -> None:
    content = json.loads(earlier_results()[0])
    metrics = content["metrics"]["microworld"]
    levels = metrics.pop("by_difficulty")
    metrics |= {"pass@2": 0.5, "maj@2": 0.25, "by_difficulty": levels}
    content["corpus"]["by_source"] = {"gsm8k": {"rows": 3, "tokens": 70}}
    result = parse_result(content)
    assert result.metrics["microworld"].further == {"pass@2": 0.5, "maj@2": 0.25}
    assert json.dumps(to_json(result)) == json.dumps(content)


def test_a_corpus_that_nothing_was_trained_on_has_no_rows() -> None:
    content = json.loads(earlier_results()[0])
    del content["corpus"]["rows"], content["corpus"]["reasons"]
    assert json.dumps(to_json(parse_result(content))) == json.dumps(content)


def test_keys_of_a_newer_version_are_passed_over_and_absent_ones_are_the_defaults() -> None:
    newer = {"schema": 1, "carbon_g": 3, "stages": {"train": {"wall_s": 2, "joules": 9}}}
    newer["fingerprints"] = {"judge": "j"}
    result = parse_result(newer)
    assert (result.stages["train"].wall_s, result.fingerprints.student) == (2.0, "")
    assert parse_result({"schema": 1}) == JobResult()


def test_empty_values_are_the_defaults() -> None:
    content: dict[str, Any] = {"schema": 1, "status": None, "seed": None, "corpus": {}, "error": {}}
    content |= {
        "metrics": {"a": None, "b": {}, "c": {"accuracy": None}},
        "choices": {"debug": None},
    }
    result = parse_result(content)
    assert (result.status, result.seed, result.corpus, result.error) == ("failed", 0, None, None)
    assert result.metrics == {"c": BenchmarkMetrics()}
    assert result.choices == {"debug": None}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "holds no object"),
        ({}, "schema None, this version reads 1"),
        ({"schema": 2}, "schema 2, this version reads 1"),
        ({"schema": 1, "stages": {"train": 3}}, "expected fields: 3 is no object"),
        ({"schema": 1, "seed": "x"}, "expected fields"),
        ({"schema": 1, "metrics": {"a": {"n": float("inf")}}}, "expected fields"),
    ],
)
def test_what_is_no_result_is_refused(content: Any, reason: str) -> None:
    with pytest.raises(ResultError, match=reason):
        parse_result(content)
