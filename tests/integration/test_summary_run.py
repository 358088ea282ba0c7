"""What `plan-tuning compare --wandb` logs of a sweep, read back as W&B wrote it."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweep_builder import make_job
from wandb_files import records, summary

from plan_tuning.comparison.compare_command import log_to_wandb
from plan_tuning.comparison.comparison_files import compare
from plan_tuning.config.run import LoggerConfig
from plan_tuning.tracking.tracked_job import track
from plan_tuning.tracking.tracker import Tracker, last_run

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")


def follow(folder: Path, run_id: str) -> None:
    """Leave a W&B run in a job's folder."""
    with track(
        LoggerConfig(), folder=folder, run_id=run_id, name=folder.name, group="mine",
        job_type="m1", tags=[], values={},
    ):  # fmt: skip
        pass


def table_of(run_folder: Path, name: str) -> list[dict[str, Any]]:
    (path,) = (run_folder / "files" / "media" / "table").glob(f"{name}_*.json")
    content = json.loads(path.read_text())
    return [dict(zip(content["columns"], line, strict=True)) for line in content["data"]]


def test_a_sweep_is_one_run_with_its_numbers_figures_and_jobs(tmp_path: Path) -> None:
    sweep = tmp_path / "mine"
    for method, accuracy in (("sft", 0.4), ("m1", 0.7)):
        for seed in (0, 1):
            job = make_job(sweep, accuracies={"a": accuracy, "b": 0.5}, seed=seed, method=method)
            if method == "m1":
                follow(job, f"id-{seed}")
    comparison = compare([sweep], console=False)
    command = log_to_wandb(comparison, sweep, "plan-tuning")
    (folder,) = (sweep / "wandb").glob("offline-run-*")
    assert command == f"wandb sync {folder}"

    lines = table_of(folder, "comparison")
    assert {(line["row"], line["benchmark"]) for line in lines} == {
        (row, benchmark) for row in ("sft", "m1") for benchmark in ("a", "b")
    }
    found = summary(folder)["summary"]
    for row in comparison.table.rows:
        label = comparison.table.label(row)
        for name in row.cells:
            shares = [run.accuracy(name) for run in row.runs]
            expected = {"mean": statistics.mean(shares), "sd": statistics.stdev(shares)}
            expected |= {"seeds": 2, "n": 60}
            for key, value in expected.items():
                assert found[f"test/{name}/{label}/{key}"] == pytest.approx(value)
            (line,) = [item for item in lines if (item["row"], item["benchmark"]) == (label, name)]
            assert line["sd"] == pytest.approx(expected["sd"])
            assert expected["sd"] > 0 or name == "b"
    rows = records(folder)
    final = [row["item"] for row in rows["history"] if "test/a/m1/mean" in row["item"]]
    assert len(final) == 1, "W&B's bar charts read the history"

    pages = {path.parent.relative_to(folder / "files" / "media" / "html") / path.name
             for path in (folder / "files" / "media" / "html").rglob("*.html")}  # fmt: skip
    names = {str(path).partition("_")[0] for path in pages}
    assert {"report", "figures/accuracy", "figures/transfer"} <= names
    for path in (folder / "files" / "media" / "html" / "figures").rglob("accuracy_*.html"):
        assert "data:image/svg+xml;base64," in path.read_text()

    jobs = table_of(folder, "runs")
    assert len(jobs) == 4
    for line in jobs:
        assert line["link"] is None, "an offline run knows no address"
        if line["row"] == "sft":
            assert (line["run"], line["folder"]) == (None, None)
        else:
            assert line["run"] == f"id-{line['seed']}"
            assert (sweep / line["folder"]).is_dir()
            assert line["folder"].startswith(f"{line['job']}/wandb/offline-run-")


def test_the_last_run_of_a_job_is_found(tmp_path: Path) -> None:
    assert last_run(tmp_path) is None
    for name in ("offline-run-20260102_000000-later", "run-20260101_000000-on-line", "run-notes"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    newest = tmp_path / "wandb" / "offline-run-20260102_000000-later"
    (tmp_path / "wandb" / "latest-run").symlink_to(newest)
    assert last_run(tmp_path) == ("later", newest)
    newest.rmdir()
    assert last_run(tmp_path) == ("on-line", tmp_path / "wandb" / "run-20260101_000000-on-line")


def test_an_online_run_links_the_jobs() -> None:
    """W&B's addresses as its documentation gives them; no account is needed to form one."""
    run = SimpleNamespace(
        settings=SimpleNamespace(mode="online"),
        entity="team",
        url="https://wandb.ai/team/plan-tuning/runs/compare-1",
    )
    tracker = Tracker(run, LoggerConfig(name="wandb"))
    link = tracker.link("id 1", project="other", entity=None)
    assert link == "https://wandb.ai/team/other/runs/id%201"
    link = tracker.link("x", project="other", entity="friends")
    assert link == "https://wandb.ai/friends/other/runs/x"
