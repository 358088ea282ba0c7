"""Runs in trackio as trackio reads them back; the package is an extra, elsewhere they skip."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from composition import config_of

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import LoggerConfig
from plan_tuning.config.typed import check_outputs
from plan_tuning.tracking.tracked_job import track

pytestmark = pytest.mark.integration
with_trackio = pytest.mark.skipif(
    importlib.util.find_spec("trackio") is None, reason="needs the extra trackio"
)
READ = """
import json, sys
from trackio import Api
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps([
    {"name": run.name, "config": run.config,
     "rows": SQLiteStorage.get_logs(sys.argv[1], run.name, run_id=run.id)}
    for run in Api().runs(sys.argv[1])
]))
"""


def read(folder: Path) -> list[dict[str, Any]]:
    """All runs of a job's folder, read by trackio in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", READ, "plan-tuning"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TRACKIO_DIR": str(folder / "trackio")},
    )
    runs: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return runs


def job(folder: Path, *, curves: int, is_failing: bool = False, **values: Any) -> None:
    path = folder / "metrics.csv"
    folder.mkdir(exist_ok=True)
    lines = [f"{step},{3.0 - step},{'' if step else 2.5}" for step in range(0, 10 * curves, 10)]
    path.write_text("\n".join(["step,train/loss,val/loss", *lines]) + "\n")
    with track(
        LoggerConfig(name="trackio", max_table_rows=2),
        folder=folder,
        run_id=f"0123456789-{folder.name}",
        name="method=m1 seed=3",
        group="mine: method=m1",
        job_type="m1",
        tags=["micro"],
        values={"seed": 3, "choices": {"method": "m1"}, **values},
    ) as tracker:
        assert tracker.run is not None
        tracker.log_curves(path)
        (lightning,) = tracker.under("start").lightning_loggers()
        lightning.log_metrics({"train/loss": 1.5}, step=7)
        tracker.log_artifact(folder, kind="students", key="a", upstream={}, is_input=False)
        if is_failing:
            raise RuntimeError("boom")
        tracker.log_table(
            "predictions/a", [{"id": i, "text": "t", "score": None} for i in (1, 2, 3)]
        )
        tracker.log_results({"test/a/accuracy": 0.75, "test/a/low": None, "objective": 0.75})
        assert tracker.sync_command is None


@with_trackio
def test_a_run_is_what_the_job_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRACKIO_SPACE_ID", "some/space")  # the user's own, for other work
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folders = [tmp_path / name for name in ("it's one (1)", "two")]
    with caplog.at_level("INFO"):
        for folder in folders:
            job(folder, curves=3)
    assert not (tmp_path / "home").exists(), "all of it is in the job's folder"
    assert f"TRACKIO_DIR={shlex.quote(str(folders[0] / 'trackio'))} trackio show" in caplog.text
    for folder in folders:
        (run,) = read(folder)
        assert run["name"].startswith("method=m1 seed=3 ")
        config = run["config"]
        assert (config["seed"], config["choices"]) == (3, {"method": "m1"})
        assert (config["job_type"], config["tags"]) == ("m1", ["micro"])
        assert config["_Group"] == "mine: method=m1"
        rows = run["rows"]
        losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
        assert losses == {0: 3.0, 10: -7.0, 20: -17.0}
        assert {row["step"]: row["val/loss"] for row in rows if "val/loss" in row} == {0: 2.5}
        assert [row["step"] for row in rows if row.get("start/train/loss") == 1.5] == [7]
        (final,) = [row for row in rows if "objective" in row]
        assert final["test/a/accuracy"] == 0.75
        assert "test/a/low" not in final, "what is unknown is no number"
        assert final["step"] > 20
        (table,) = [row["predictions/a"] for row in rows if "predictions/a" in row]
        assert [line["id"] for line in table["_value"]] == [1, 2], "no more than max_table_rows"


@with_trackio
def test_a_resumed_job_continues_its_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="boom"):
        job(tmp_path / "one", curves=2, is_failing=True)
    (run,) = read(tmp_path / "one")
    assert [row["step"] for row in run["rows"] if "train/loss" in row] == [0, 10]
    job(tmp_path / "one", curves=3)
    (run,) = read(tmp_path / "one")
    assert [row["step"] for row in run["rows"] if "train/loss" in row] == [0, 10, 20]
    assert sum("objective" in row for row in run["rows"]) == 1


@with_trackio
def test_a_project_that_trackio_refuses_ends_the_job_before_its_work(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="trackio does not start"),
        track(
            LoggerConfig(name="trackio", project="registry-x"), folder=tmp_path, run_id="x",
            name="x", group=None, job_type="m1", tags=[], values={},
        ),
    ):  # fmt: skip
        pytest.fail("the job runs")


@with_trackio
def test_what_a_killed_job_reported_is_kept(tmp_path: Path) -> None:
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from plan_tuning.config.run import LoggerConfig
        from plan_tuning.tracking.tracked_job import track
        with track(LoggerConfig(name="trackio"), folder=Path(sys.argv[1]), run_id="x", name="x",
                   group=None, job_type="m1", tags=[], values={"seed": 1}) as tracker:
            tracker.run.log({"train/loss": 1.0, "trainer/global_step": 5})
            print(tracker.run._process.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout is not None
        killed.stdout.read()  # ends when the writer, which holds no copy of it, or the job ends
    (run,) = read(tmp_path)
    assert [(row["step"], row["train/loss"]) for row in run["rows"]] == [(5, 1.0)]


@pytest.mark.skipif(
    importlib.util.find_spec("trackio") is not None, reason="the package is installed"
)
def test_without_the_package_nothing_is_begun(tmp_path: Path) -> None:
    config = config_of("logger=trackio", f"paths.outputs={tmp_path / 'outputs'}")
    with pytest.raises(ConfigError, match=r"pip install 'plan-tuning\[trackio\]'"):
        check_outputs(config)
    assert not (tmp_path / "outputs").exists()
