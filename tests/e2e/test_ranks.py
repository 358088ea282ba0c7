"""Several devices a job, as a user types it: two gloo processes on the CPU."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from .conftest import Run, command, results

pytestmark = pytest.mark.e2e

FAST = ("debug=fast", "logger=csv", "seed=0", "trainer.log_every_n_steps=1")
TWO = "trainer.devices=2"


def losses(outputs: Path) -> list[list[float]]:
    """Training losses of each student, the student with most steps last."""
    found = []
    for path in (outputs / "artifacts" / "students").glob("*/metrics.csv"):
        with path.open(newline="") as file:
            found.append(
                [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
            )
    return sorted(found)


def test_two_devices_learn_what_one_learns(plan_tuning: Run, tmp_path: Path) -> None:
    validated = ("trainer.val_fraction=0.2", "trainer.val_problems=2", "trainer.select_best=true",
                 "trainer.select_by=accuracy")  # fmt: skip
    for devices in (1, 2):
        ran = plan_tuning("method=m2", *FAST, *validated, f"trainer.devices={devices}",
                          f"paths.outputs={devices}")  # fmt: skip
        assert ran.returncode == 0, ran.stderr
    (one,), (two,) = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert two == pytest.approx(one, rel=1e-4)
    assert len(one) == 6
    solved = []
    for devices in ("1", "2"):
        (file,) = (tmp_path / devices / "artifacts" / "students").glob("*/val_samples.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        solved.append(sorted((row["step"], row["problem_id"]) for row in rows))
        manifest = json.loads((file.parent / "manifest.json").read_text())
        assert "val_accuracy" in manifest["facts"]
    assert solved[0] == solved[1], "ranks solve the very problems that one process solves"
    assert len({problem for _, problem in solved[0]}) == 2, "one for each rank"
    (log,) = (tmp_path / "2" / "single").glob("*/run.log")
    assert "training in 2 processes" in log.read_text()


def test_a_sweep_of_several_devices_a_job(plan_tuning: Run, tmp_path: Path) -> None:
    """Two jobs: GRPO after its supervised start, and one whose ranks fail."""
    ran = plan_tuning("-m", "method=grpo", "start=sft", "trainer.max_length=256,4", TWO,
                      *FAST, "sweep_name=ranks")  # fmt: skip
    assert ran.returncode == 1
    sweep = tmp_path / "multirun_outputs" / "ranks"
    states = {row["job"]: row["status"] for row in results(sweep)}
    assert sorted(states.values()) == ["completed", "failed"], ran.stderr
    failed = [row["error"] for row in results(sweep) if row["status"] == "failed"]
    assert {error["type"] for error in failed} == {"TrainingError"}
    assert all("no row is left to train on" in error["message"] for error in failed)
    assert "Traceback" not in ran.stderr
    logs = "".join(path.read_text() for path in sweep.glob("*/run.log"))
    assert "GRPO: " in logs, "the first rank's lines are in the job's log"
    students = (tmp_path / "multirun_outputs" / "artifacts" / "students").glob("*/")
    assert any((folder / "completions.jsonl").is_file() for folder in students)


def test_kill_9_takes_the_ranks_along_and_the_command_goes_on(
    plan_tuning: Run, tmp_path: Path, environment: dict[str, str]
) -> None:
    words = ("method=m2", *FAST, TWO, "debug.max_steps=60", "trainer.checkpoint_every_n_steps=4",
             "stages=[distill,train]")  # fmt: skip
    job = subprocess.Popen(
        command(*words), cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
    )
    partial = tmp_path / "multirun_outputs" / "artifacts" / "students" / ".partial"
    until = time.monotonic() + 120
    while not list(partial.glob("*/checkpoints/step-*.ckpt")):
        assert job.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.02)
    family = psutil.Process(job.pid).children(recursive=True)
    assert len(family) >= 2
    job.kill()
    job.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    for outputs in ("multirun_outputs", "whole"):
        ran = plan_tuning(*words, f"paths.outputs={outputs}")
        assert ran.returncode == 0, ran.stderr
    (resumed,) = (tmp_path / "multirun_outputs" / "artifacts" / "students").glob("*/manifest.json")
    assert json.loads(resumed.read_text())["facts"]["resumed_from_step"] > 0
    digests = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tmp_path.glob("*/artifacts/students/*/model.safetensors")
    }
    assert len(digests) == 1


def test_a_command_that_is_started_several_times_is_refused(
    plan_tuning: Run, tmp_path: Path
) -> None:
    ran = plan_tuning("-m", "method=sft,m2", TWO, *FAST, "hydra/launcher=submitit_slurm",
                      "hydra.launcher.tasks_per_node=2", "sweep_name=tasks")  # fmt: skip
    assert ran.returncode == 2
    assert "trainer.devices=2 is not allowed" in ran.stderr
    assert "starts this whole command 2 times" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "multirun_outputs" / "tasks").exists()
