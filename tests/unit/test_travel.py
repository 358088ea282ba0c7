"""Exports in the formats of other programs: their form, their rows, and that they never change."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from sweep_builder import make_job
from typer.testing import CliRunner

from plan_tuning.cli import app
from plan_tuning.comparison.every_eval_ever import every_eval_ever
from plan_tuning.comparison.inspect_log import inspect_log
from plan_tuning.comparison.runs import read_predictions, read_run

# The folder `schemas` of the package every-eval-ever 0.3, and a Python that has inspect_ai.
SCHEMAS = os.environ.get("EVERY_EVAL_EVER_SCHEMAS")
INSPECT = os.environ.get("INSPECT_PYTHON")
FILE_PATH = re.compile(
    r"^data/[^/]+/[^/]+/[^/]+/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-"
    r"[0-9a-f]{12}_samples\.jsonl$"
)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for seed in range(2):
        make_job(
            tmp_path / "mine",
            accuracies={"gsm8k": 0.6, "aime2024": 0.1},
            seed=seed,
            n=20,
            salt="c0ffee",
            settings={"model.path": "/home/me/models/small", "evaluation.max_new_tokens": 64},
        )
    return tmp_path / "mine"


def _export(sweep: Path, to: str, out: Path) -> dict[str, bytes]:
    words = ["export", str(sweep), "--to", to, "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "4 benchmarks of jobs, 80 answers" in result.output
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.json*")}


def test_records_and_rows_of_the_shared_schema(sweep: Path, tmp_path: Path) -> None:
    files = _export(sweep, "every_eval_ever", tmp_path / "out")
    assert len(files) == 8
    for name, content in files.items():
        if name.endswith("_samples.jsonl"):
            continue
        record = json.loads(content)
        detailed = record["detailed_evaluation_results"]
        assert FILE_PATH.match(detailed["file_path"])
        rows = [json.loads(line) for line in files[detailed["file_path"]].splitlines()]
        assert len(rows) == detailed["total_rows"] == 20
        (result,) = record["evaluation_results"]
        right = [row["evaluation"]["score"] for row in rows]
        assert sum(right) / len(right) == pytest.approx(result["score_details"]["score"])
        assert {row["evaluation_id"] for row in rows} == {record["evaluation_id"]}
        assert {row["evaluation_result_id"] for row in rows} == {result["evaluation_result_id"]}
        assert rows[0]["input"]["reference"] == ["3"]
        assert record["model_info"]["additional_details"]["base_model"] == "small"
    assert b"/home/me" not in b"".join(files.values())


def test_the_same_jobs_give_the_same_files(sweep: Path, tmp_path: Path) -> None:
    for to in ("every_eval_ever", "inspect"):
        first = _export(sweep, to, tmp_path / "first")
        assert first == _export(sweep, to, tmp_path / "again")


def test_two_texts_of_two_calls(sweep: Path) -> None:
    run = read_run(next(sweep.iterdir()))
    rows = [{**row, "plan": "1. Add."} for row in read_predictions(run, "gsm8k")[:1]]
    (row,) = every_eval_ever(run, "gsm8k", rows).rows
    assert row["output"]["raw"] == ["1. Add.", rows[0]["text"]]
    assert row["answer_attribution"][0]["source"] == "output.raw[1]"


def test_what_a_figure_rests_on_travels_with_it(tmp_path: Path) -> None:
    name = "jsonl_internal_split"
    settings = {"data.holdout": 20, "data.holdout_seed": 7}
    job = make_job(tmp_path / "mine", accuracies={name: 0.6, "gsm8k": 0.5}, settings=settings)
    path = job / "result.json"
    content = json.loads(path.read_text())
    content["trained_on_test_problems"] = {"gsm8k": 12}
    content["metrics"]["gsm8k"]["num_samples"] = 4
    path.write_text(json.dumps(content))
    run = read_run(job)
    for benchmark, is_internal in ((name, True), ("gsm8k", False)):
        rows = read_predictions(run, benchmark)
        ((result),) = every_eval_ever(run, benchmark, rows).aggregate["evaluation_results"]
        facts = result["score_details"]["details"]
        metadata = inspect_log(run, benchmark, rows).aggregate["eval"]["metadata"]
        assert facts.items() <= metadata.items()
        assert "12" in facts["trained_on_test_problems"]
        assert ("data.holdout=20" in facts.get("internal_split", "")) == is_internal
        interval = result["score_details"]["uncertainty"]["confidence_interval"]
        assert interval["method"].startswith("Wilson" if is_internal else "Student's t")


def test_missing_predictions_are_named(sweep: Path, tmp_path: Path) -> None:
    for path in sweep.rglob("predictions.jsonl"):
        path.unlink()
    result = CliRunner().invoke(app, ["export", str(sweep), "--to", "inspect"])
    assert result.exit_code == 2
    assert "predictions are missing or unreadable" in result.output
    assert "no finished job has predictions to export" in result.output


@pytest.mark.skipif(not SCHEMAS, reason="EVERY_EVAL_EVER_SCHEMAS names no folder of schemas")
def test_the_schemas_take_every_record(sweep: Path, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    folder = Path(str(SCHEMAS))
    whole, row = (
        jsonschema.Draft7Validator(json.loads((folder / f"{name}.schema.json").read_text()))
        for name in ("eval", "instance_level_eval")
    )
    for name, content in _export(sweep, "every_eval_ever", tmp_path / "out").items():
        if name.endswith(".jsonl"):
            for line in content.splitlines():
                row.validate(json.loads(line))
        else:
            whole.validate(json.loads(content))


@pytest.mark.skipif(not INSPECT, reason="INSPECT_PYTHON names no Python with inspect_ai")
def test_its_own_reader_takes_every_log(sweep: Path, tmp_path: Path) -> None:
    _export(sweep, "inspect", tmp_path / "out")
    read = (
        "import sys\nfrom inspect_ai.log import list_eval_logs, read_eval_log\n"
        "for info in list_eval_logs(sys.argv[1]):\n"
        "    log = read_eval_log(info)\n"
        "    right = sum(s.scores['plan_tuning/grader'].value == 'C' for s in log.samples)\n"
        "    print(log.status, len(log.samples), right / len(log.samples),\n"
        "          log.results.scores[0].metrics['accuracy'].value)\n"
    )
    command = [str(INSPECT), "-c", read, str(tmp_path / "out" / "inspect")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        status, count, counted, stored = line.split()
        assert (status, count) == ("success", "20")
        assert float(counted) == pytest.approx(float(stored))
