"""W&B as a user of a sweep sees it: offline runs, read back by W&B's own command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from wandb_files import records, summary

from .conftest import Run

pytestmark = pytest.mark.e2e


def test_two_jobs_of_a_sweep_are_two_runs_and_a_comparison_is_a_third(
    plan_tuning: Run, tmp_path: Path
) -> None:
    ran = plan_tuning("-m", "method=sft,m1", "seed=0", "debug=fast", "sweep_name=mine")
    assert ran.returncode == 0, ran.stderr
    sweep = tmp_path / "multirun_outputs" / "mine"
    assert f"wandb sync {sweep.relative_to(tmp_path)}/*/wandb/offline-run-*" in ran.stdout
    runs = sorted(sweep.glob("*/wandb/offline-run-*"))
    assert len(runs) == 2
    identities = set()
    for folder in runs:
        result = json.loads((folder.parents[1] / "result.json").read_text())
        method = result["choices"]["method"]
        found = summary(folder)
        assert found["state"] == "finished"
        assert found["config"]["choices"]["method"] == method
        assert found["config"]["settings"]["method"]["name"] == method
        prints = result["fingerprints"]
        assert prints == prints | found["config"]["fingerprints"]
        rows = records(folder)
        (run,) = rows["run"]
        row = f"method={method}"
        assert result["row"] == found["config"]["row"] == row
        assert (run["run_group"], run["job_type"]) == (f"mine: {row}", method)
        final = [row["item"] for row in rows["history"] if "objective" in row["item"]]
        assert len(final) == 1
        for name, figures in result["metrics"].items():
            for key in ("accuracy", "low", "high", "n"):
                assert final[0][f"test/{name}/{key}"] == figures[key]
                assert found["summary"][f"test/{name}/{key}"] == figures[key]
        assert found["summary"]["objective"] == final[0]["objective"] == result["objective"]
        assert f"method={method}" in run["display_name"]
        identities.add(run["run_id"])
        steps = [row["item"].get("trainer/global_step") for row in rows["history"]]
        assert [step for step in steps if step is not None] == list(range(6))
        assert all("train/loss" in row["item"] for row in rows["history"][1:4])
        names = {item["name"] for item in rows["artifact"]}
        assert f"student-{prints['student']}" in names
        assert (f"corpus-{prints['corpus']}" in names) == (method == "m1")
        tables = {path.name for path in (folder / "files" / "media" / "table").rglob("*.json")}
        assert any(name.startswith("trajectories") for name in tables) == (method == "m1")
        assert len(list((folder / "files" / "media" / "table" / "predictions").iterdir())) == 4
        student = next(item for item in rows["artifact"] if item["type"] == "model")
        lineage = json.loads(student["metadata"])["upstream"]
        assert lineage.get("corpus") == prints["corpus"]
    assert len(identities) == 2

    compared = plan_tuning("compare", "multirun_outputs/mine", "--wandb")
    assert compared.returncode == 0, compared.stderr
    (folder,) = (sweep / "wandb").glob("offline-run-*")
    assert f"wandb sync {folder.relative_to(tmp_path)}" in compared.stdout.replace("\n", "")
    rows = records(folder)
    assert rows["run"][0]["job_type"] == "compare"
    (files,) = [item for item in rows["artifact"] if item["type"] == "comparison"]
    kept = {entry["path"] for entry in files["manifest"]["contents"]}
    assert {"comparison.csv", "comparison.json", "comparison.md", "report.html"} <= kept
    media = [path.name for path in (folder / "files" / "media").rglob("*") if path.is_file()]
    assert any(name.endswith(".html") for name in media)
    (path,) = (folder / "files" / "media" / "table").glob("comparison_*.json")
    table = json.loads(path.read_text())
    lines = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    assert len(lines) == 8  # two rows on four benchmarks
    for line in lines:
        assert all(isinstance(line[key], int | float) for key in ("mean", "low", "high", "n"))
        assert isinstance(line["p"], float) == (line["row"] == "m1")
    (path,) = (folder / "files" / "media" / "table").glob("runs_*.json")
    linked = json.loads(path.read_text())
    places = {line[linked["columns"].index("folder")] for line in linked["data"]}
    assert places == {str(run.relative_to(sweep)) for run in runs}
    named = {line[linked["columns"].index("run")] for line in linked["data"]}
    assert named == identities


def test_the_curve_of_grpo_does_not_begin_with_its_start(plan_tuning: Run, tmp_path: Path) -> None:
    ran = plan_tuning("method=grpo", "start=sft", "debug=fast", "logger.group=sweep")
    assert ran.returncode == 0, ran.stderr
    (folder,) = (tmp_path / "multirun_outputs" / "single").glob("*/wandb/offline-run-*")
    items = [row["item"] for row in records(folder)["history"]]
    trained = [item for item in items if any(key.startswith("train/") for key in item)]
    started = [item for item in items if any(key.startswith("start/train/") for key in item)]
    assert started
    assert trained
    assert not any("train/loss/solution" in item for item in trained)
    assert any("start/train/loss/solution" in item for item in started)
    assert items.index(started[-1]) < items.index(trained[0])
    assert "run_group" not in records(folder)["run"][0]
