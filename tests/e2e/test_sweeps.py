"""Sweeps as a user launches them: the quickstart in its cheap form, failures, kill -9, resume."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import Run, built, command, results

pytestmark = pytest.mark.e2e

needs_joblib = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None,
    reason="the extra `sweep` is not installed",
)
QUICKSTART = ("experiment=quickstart", "debug=fast", "seed=0", "logger=csv")


@needs_joblib
def test_quickstart_end_to_end_and_again(plan_tuning: Run, tmp_path: Path) -> None:
    first = plan_tuning(*QUICKSTART)
    assert first.returncode == 0, first.stderr
    outputs = tmp_path / "multirun_outputs"
    sweep = outputs / "quickstart"
    done = results(sweep)
    # 5 methods and 4 filters of m1, of which m1 two_stage is in both grids
    assert len(done) == 8
    assert {row["status"] for row in done} == {"completed"}
    assert {row["choices"]["method"] for row in done} == {
        "zero_shot", "sft", "sft_teacher_cot", "m1", "m2"
    }  # fmt: skip
    assert all(row["debug"] for row in done)
    for name in ("comparison.md", "comparison.csv", "comparison.json", "report.html"):
        assert (sweep / name).is_file(), name
    before = built(outputs)
    kinds = [key.split("/")[1] for key in before]
    assert kinds.count("bases") == 1
    assert kinds.count("corpora") == 1
    assert kinds.count("students") == 7
    (manifest,) = (outputs / "artifacts" / "corpora").glob("*/manifest.json")
    bought = json.loads(manifest.read_text())["facts"]["calls"]["bought"]
    assert sum(row["teacher_calls"] for row in done) == bought, "side by side, counted once"
    builders = [
        row for row in done if not row["stages"].get("base", {"is_cached": True})["is_cached"]
    ]
    assert len(builders) == 1

    again = plan_tuning(*QUICKSTART)
    assert again.returncode == 0, again.stderr
    assert built(outputs) == before


def test_a_plain_multirun_and_the_plan_before_it(plan_tuning: Run, tmp_path: Path) -> None:
    words = ("-m", "method=sft", "filter=none,two_stage", "seed=0,1", "sweep_name=mine")
    planned = plan_tuning(*words, "debug=fast", "dry_run=true")
    assert planned.returncode == 0, planned.stderr
    assert "2 jobs" in planned.stdout, "the filter changes nothing for sft"
    assert not (tmp_path / "multirun_outputs" / "mine").exists()

    ran = plan_tuning(*words, "debug=fast")
    assert ran.returncode == 0, ran.stderr
    done = results(tmp_path / "multirun_outputs" / "mine")
    assert [row["seed"] for row in done] == [0, 1]
    runs = sorted((tmp_path / "multirun_outputs" / "mine").glob("*/wandb/offline-run-*"))
    assert len(runs) == 2, "one W&B run a job"


def test_a_failed_job_leaves_a_hole_and_the_others_go_on(plan_tuning: Run, tmp_path: Path) -> None:
    ran = plan_tuning(
        "-m", "method=m1", "trainer.max_length=4,256", "seed=0", "debug=fast", "logger=csv",
        "sweep_name=holes",
    )  # fmt: skip
    assert ran.returncode == 1
    assert "1 of 2 jobs failed" in ran.stderr + ran.stdout
    sweep = tmp_path / "multirun_outputs" / "holes"
    by_status = {row["status"]: row for row in results(sweep)}
    assert set(by_status) == {"completed", "failed"}
    assert "max_length" in by_status["failed"]["error"]["message"]
    assert "failed" in (sweep / "comparison.md").read_text()


def test_a_bad_job_stops_the_sweep_before_it_starts(plan_tuning: Run, tmp_path: Path) -> None:
    ran = plan_tuning("-m", "method=m1", "trainer.learning_rate=1e-3,-1", "sweep_name=bad")
    assert ran.returncode != 0
    assert "trainer.learning_rate=-1" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "multirun_outputs" / "bad").exists()


TWELVE = (
    "-m", "method=sft,sft_teacher_cot,m1,m2", "seed=0,1,2", "debug=fast", "logger=csv",
    "hydra/launcher=parallel", "sweep_name=twelve",
)  # fmt: skip


def completed(sweep: Path) -> dict[str, float]:
    """Completed jobs, and when their results were written."""
    return {
        path.parent.name: path.stat().st_mtime
        for path in sweep.glob("*/result.json")
        if json.loads(path.read_text())["status"] == "completed"
    }


@needs_joblib
def test_kill_9_of_a_sweep_of_twelve_jobs_and_the_same_command_finishes_it(
    plan_tuning: Run, tmp_path: Path, environment: dict[str, str]
) -> None:
    outputs = tmp_path / "multirun_outputs"
    sweep = outputs / "twelve"
    moments = random.Random(5)
    artifacts: dict[str, float] = {}
    jobs: dict[str, float] = {}
    for target in (3, 9, 20):  # finished artifacts after which the sweep is killed
        process = subprocess.Popen(
            command(*TWELVE),
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while len(built(outputs)) < target:
            assert process.poll() is None, "the sweep ended before it could be killed"
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert artifacts.items() <= built(outputs).items(), "something finished was made again"
        assert jobs.items() <= completed(sweep).items(), "a finished job was run again"
        artifacts, jobs = built(outputs), completed(sweep)
    assert 0 < len(jobs) < 12
    finished = plan_tuning(*TWELVE)
    assert finished.returncode == 0, finished.stderr
    assert artifacts.items() <= built(outputs).items(), "something finished was made again"
    assert jobs.items() <= completed(sweep).items(), "a finished job was run again"
    assert len(completed(sweep)) == 12


@needs_joblib
def test_a_worker_that_is_killed_costs_no_job(tmp_path: Path, environment: dict[str, str]) -> None:
    """As the kernel kills a worker that takes too much memory."""
    import psutil

    words = ("-m", "method=sft,m1", "seed=0,1", *TWELVE[3:6], "sweep_name=lost")
    sweep = tmp_path / "multirun_outputs" / "lost"
    process = subprocess.Popen(
        command(*words),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not completed(sweep):
        assert process.poll() is None, "the sweep ended before a worker could be killed"
        time.sleep(0.05)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if any("LokyProcess" in word for word in child.cmdline())
    ]
    workers[0].kill()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "a worker process was lost" in output
    assert len(completed(sweep)) == 4
