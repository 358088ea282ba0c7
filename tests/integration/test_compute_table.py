"""Rows by equal compute, and differences beside what rounding changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sweep_builder import make_job
from typer.testing import CliRunner

from plan_tuning.cli import app

pytestmark = pytest.mark.integration

COMPUTE = "compute"


def job(folder: Path, method: str, accuracy: float, flops: float | None, **knobs: Any) -> None:
    """A job whose training cost ``flops``; None: it does not say."""
    for seed in (0, 1):
        made = make_job(folder, method=method, seed=seed, accuracies={"b": accuracy}, **knobs)
        path = made / "result.json"
        result = json.loads(path.read_text(encoding="utf-8"))
        if flops is not None:
            part = {"trained_tokens": 1000 + seed, "generated_tokens": 7, "flops": flops}
            result[COMPUTE] = {"training": part | {"seconds": 30.0}, "start": {"flops": 0.0}}
        path.write_text(json.dumps(result), encoding="utf-8")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    job(tmp_path, "sft", 0.3, 1e9)
    job(tmp_path, "m1", 0.8, 1.05e9)
    job(tmp_path, "m2", 0.7, 2e9)
    job(tmp_path, "sft_teacher_cot", 0.4, None)
    job(tmp_path, "zero_shot", 0.1, 0.0)
    return tmp_path


def compare(folder: Path, *words: str) -> str:
    found = CliRunner().invoke(app, ["compare", str(folder), *words])
    assert found.exit_code == 0, found.output
    return found.output


def test_differences_between_rows_of_other_compute_are_marked(sweep: Path) -> None:
    assert "By equal compute" not in compare(sweep)
    assert "By equal compute" in compare(sweep, "--compute")
    text = (sweep / "comparison.md").read_text(encoding="utf-8")
    section = text.split("## By equal compute")[1].split("##")[0]
    rows = {line.split("|")[1].strip(): line for line in section.splitlines() if "|" in line}
    assert "| 1,000 | 7 | 1e+09 |" in rows["sft"].replace("1,000.5", "1,000")
    assert "| baseline |" in rows["sft"]
    assert "| 1.05 |" in rows["m1"]
    assert "≠" not in rows["m1"]
    assert "| 2.00 |" in rows["m2"]
    assert rows["m2"].rstrip(" |").endswith("≠")
    assert "(compute unknown)" in rows["sft_teacher_cot"]
    assert "| 0.00 |" in rows["zero_shot"]
    assert rows["zero_shot"].rstrip(" |").endswith("≠")


def test_csv_and_json_hold_the_figures_whatever_is_shown(sweep: Path) -> None:
    compare(sweep)
    content = json.loads((sweep / "comparison.json").read_text(encoding="utf-8"))
    rows = {row["label"]: row["compute"] for row in content["rows"]}
    assert rows["m2"]["training"]["flops"] == 2e9
    assert rows["m2"]["training_flops_ratio"] == 2.0
    assert rows["m2"]["is_equal"] is False
    assert rows["m1"]["is_equal"] is True
    assert rows["sft_teacher_cot"]["training"]["flops"] is None
    assert rows["sft_teacher_cot"]["is_equal"] is None
    head, *lines = (sweep / "comparison.csv").read_text(encoding="utf-8").splitlines()
    place = head.split(",").index("train_flops")
    found = {line.split(",")[place] for line in lines}
    assert found == {"", "0.0", "1000000000.0", "1050000000.0", "2000000000.0"}


def test_differences_below_the_noise_are_named(sweep: Path, tmp_path: Path) -> None:
    path = tmp_path / "noise.json"
    parts = {"float32": {"answers": 0}, "bfloat16": {"answers": 17}}
    path.write_text(json.dumps({"problems": 100, "precisions": parts}), encoding="utf-8")
    compare(sweep, "--noise", str(path))
    said = json.loads((sweep / "comparison.json").read_text(encoding="utf-8"))["inference_noise"]
    exact, coarse = said
    assert "0 of 100 greedy answers (0.0 %)" in exact
    assert "at least as large" in exact
    assert "17 of 100 greedy answers (17.0 %)" in coarse
    assert "sft_teacher_cot on b" in coarse
    assert "m1 on b" not in coarse
    assert said[0] in (sweep / "comparison.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["", "{}", '{"problems": 2, "precisions": {"a": {"answers": 3}}}'])
def test_a_file_without_counts_is_refused(sweep: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    found = CliRunner().invoke(app, ["compare", str(sweep), "--noise", str(path)])
    assert found.exit_code == 2
    assert "generation.py" in found.output
