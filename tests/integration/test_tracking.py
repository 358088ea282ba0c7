"""W&B runs read back as W&B wrote them: one run a job, its own config, history and artifacts."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from wandb_files import records, summary

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import LoggerConfig
from plan_tuning.tracking.tracked_job import track
from plan_tuning.tracking.tracker import Tracker, group_of

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_DATA_DIR", "of the user")
    monkeypatch.setenv("WANDB_SILENT", "true")


def artifact(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"fingerprint": "abc"}')
    (folder / "weights.bin").write_bytes(b"\0" * 4096)
    return folder


def job(tmp_path: Path, name: str, seed: int, config: LoggerConfig) -> Path:
    folder = tmp_path / name
    with track(
        config,
        folder=folder,
        run_id=f"id-{name}",
        name=f"seed={seed}",
        group="mine",
        job_type="m1",
        tags=["micro", "x" * 100],
        values={"choices": {"method": "m1"}, "seed": seed},
    ) as tracker:
        assert tracker.run is not None
        for step in range(3):
            tracker.run.log({"train/loss": seed + step})
        tracker.log_table(
            "predictions/a", [{"id": i, "text": "t", "score": None} for i in range(9)]
        )
        tracker.log_artifact(
            artifact(tmp_path / f"student-{name}"),
            kind="students",
            key="abc",
            upstream={"corpus": "def"},
            is_input=False,
        )
        tracker.log_artifact(tmp_path, kind="corpora", key="def", upstream={}, is_input=True)
        tracker.log_results({"test/a/accuracy": seed / 10, "test/a/low": None, "objective": 0.5})
    assert os.environ["WANDB_DATA_DIR"] == "of the user"
    return folder


def test_two_jobs_of_one_process_are_two_runs(tmp_path: Path) -> None:
    config = LoggerConfig(max_table_rows=4)
    folders = [job(tmp_path, name, seed, config) for name, seed in (("one", 1), ("two", 2))]
    for folder, seed in zip(folders, (1, 2), strict=True):
        (run_folder,) = (folder / "wandb").glob("offline-run-*")
        found = summary(run_folder)
        assert found["config"] == {"choices": {"method": "m1"}, "seed": seed}
        assert found["state"] == "finished"
        rows = records(run_folder)
        (run,) = rows["run"]
        assert run["run_group"] == "mine"
        assert run["job_type"] == "m1"
        assert run["display_name"] == f"seed={seed}"
        assert run["tags"] == ["micro", "x" * 64]
        losses = [item["item"].get("train/loss") for item in rows["history"]]
        assert [loss for loss in losses if loss is not None] == [seed, seed + 1, seed + 2]
        final = [row["item"] for row in rows["history"] if "objective" in row["item"]]
        assert [item["test/a/accuracy"] for item in final] == [seed / 10], "once"
        assert found["summary"]["test/a/accuracy"] == seed / 10
        assert found["summary"]["objective"] == 0.5
        assert "test/a/low" not in found["summary"], "what is unknown is no number"
        axes = {item["glob_name"]: item["step_metric"] for item in rows["metric"]}
        assert axes["train/*"] == axes["start/*"] == "trainer/global_step"
        (table,) = (run_folder / "files" / "media" / "table").rglob("*.table.json")
        content = json.loads(table.read_text())
        assert content["columns"] == ["id", "text", "score"]
        assert len(content["data"]) == 4, "no more than max_table_rows"
        (student,) = [item for item in rows["artifact"] if item["type"] == "model"]
        assert student["name"] == "student-abc"
        assert json.loads(student["metadata"])["upstream"] == {"corpus": "def"}
        staged = [entry.get("local_path") for entry in student["manifest"]["contents"]]
        assert [Path(path).is_relative_to(folder) for path in staged if path] == [True]
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 200_000


def test_artifacts_are_copied_only_on_request(tmp_path: Path) -> None:
    folder = job(tmp_path, "one", 1, LoggerConfig(upload_artifacts=True))
    (run_folder,) = (folder / "wandb").glob("offline-run-*")
    (student,) = [item for item in records(run_folder)["artifact"] if item["type"] == "model"]
    contents = student["manifest"]["contents"]
    assert sorted(entry["path"] for entry in contents) == ["manifest.json", "weights.bin"]
    assert all(Path(entry["local_path"]).is_file() for entry in contents)


def test_a_failed_job_ends_its_run_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="boom"):  # noqa: SIM117, PT012
        with track(
            LoggerConfig(), folder=tmp_path, run_id="x", name="x", group=None, job_type="m1",
            tags=[], values={},
        ) as tracker:  # fmt: skip
            assert tracker.sync_command is not None
            raise RuntimeError("boom")
    (run_folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert summary(run_folder)["exit_code"] == 1
    import wandb

    assert wandb.run is None


def test_the_sync_command_names_the_run(tmp_path: Path) -> None:
    with track(
        LoggerConfig(), folder=tmp_path, run_id="x", name="x", group=None, job_type="m1", tags=[],
        values={},
    ) as tracker:  # fmt: skip
        command = tracker.sync_command
    (run_folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert command == f"wandb sync {run_folder}"


def test_the_sync_command_pastes(tmp_path: Path) -> None:
    folder = tmp_path / "it's my run (1)"
    with track(
        LoggerConfig(), folder=folder, run_id="x", name="x", group=None, job_type="m1", tags=[],
        values={},
    ) as tracker:  # fmt: skip
        words = shlex.split(tracker.sync_command or "")
    assert words[:2] == ["wandb", "sync"]
    assert len(words) == 3
    assert Path(words[2]).is_dir()


def test_curves_of_a_finished_student_are_repeated(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss,val/loss\n0,2.5,\n10,1.5,1.75\n")
    with track(
        LoggerConfig(), folder=tmp_path, run_id="x", name="x", group=None, job_type="m1", tags=[],
        values={},
    ) as tracker:  # fmt: skip
        tracker.log_curves(path)
    (run_folder,) = (tmp_path / "wandb").glob("offline-run-*")
    items = [row["item"] for row in records(run_folder)["history"]]
    assert [item["trainer/global_step"] for item in items] == [0, 10]
    assert [item.get("val/loss") for item in items] == [None, 1.75]


def test_what_a_start_learns_is_not_what_its_job_learns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss\n0,2.5\n")
    with track(
        LoggerConfig(), folder=tmp_path, run_id="x", name="x", group=None, job_type="grpo", tags=[],
        values={},
    ) as tracker:  # fmt: skip
        start = tracker.under("start")
        start.log_curves(path)
        for reporter in (start, tracker):
            (lightning,) = reporter.lightning_loggers()
            lightning.log_metrics({"train/loss": 1.5}, step=1)
            reporter.log_table("validation", [{"answer": "a"}])
    (run_folder,) = (tmp_path / "wandb").glob("offline-run-*")
    items = [row["item"] for row in records(run_folder)["history"]]
    assert [item.get("start/train/loss") for item in items] == [2.5, 1.5, None, None, None]
    assert [item.get("train/loss") for item in items] == [None, None, None, 1.5, None]
    tables = run_folder / "files" / "media" / "table"
    found = {str(p.parent.relative_to(tables) / p.name.partition("_")[0])
             for p in tables.rglob("*.json")}  # fmt: skip
    assert found == {"validation", "start/validation"}


def test_a_group_is_an_arm_or_a_sweep() -> None:
    arms = LoggerConfig()
    assert group_of(arms, "mine", "method=m1") == "mine: method=m1"
    assert group_of(arms, None, "method=m1") == "method=m1"
    assert group_of(LoggerConfig(group="sweep"), "mine", "method=m1") == "mine"
    assert group_of(LoggerConfig(group="sweep"), None, "method=m1") is None
    long = [str(group_of(arms, "mine", "x" * 200 + end)) for end in "ab"]
    assert long[0] != long[1]
    assert max(map(len, long)) <= 128
    with pytest.raises(ConfigError, match="arm, sweep"):
        LoggerConfig(group="method")


def test_files_only_imports_no_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    with track(
        LoggerConfig(name="csv"), folder=tmp_path, run_id="x", name="x", group=None, job_type="m1",
        tags=[], values={},
    ) as tracker:  # fmt: skip
        tracker.log_table("a", [{"x": 1}])
        tracker.log_results({"a": 1})
        tracker.log_curves(tmp_path / "absent.csv")
        tracker.log_artifact(tmp_path, kind="students", key="a", upstream={}, is_input=False)
        assert tracker.lightning_loggers() == []
        assert tracker.sync_command is None
    assert list(tmp_path.iterdir()) == []
    assert Tracker(None, LoggerConfig()).run is None


def test_online_without_an_account_says_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="logger=wandb_offline"),
        track(
            LoggerConfig(name="wandb"), folder=tmp_path, run_id="x", name="x", group=None,
            job_type="m1", tags=[], values={},
        ),
    ):  # fmt: skip
        pass
