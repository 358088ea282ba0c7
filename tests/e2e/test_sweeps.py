"""Sweeps as a user launches them: the quickstart in its cheap form, failures, kill -9, resume."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
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

    moved = tmp_path / "elsewhere" / "quickstart"  # without the artifacts beside it
    shutil.copytree(sweep, moved)
    there = plan_tuning("compare", str(moved.relative_to(tmp_path)))
    assert there.returncode == 0, there.stderr
    assert "not tested" not in there.stdout
    for name in ("comparison.md", "comparison.json", "report.html"):
        assert (moved / name).read_bytes() == (sweep / name).read_bytes(), name


def test_a_plain_multirun_and_the_list_before_it(plan_tuning: Run, tmp_path: Path) -> None:
    words = ("-m", "method=sft", "filter=none,two_stage", "seed=0,1", "sweep_name=mine")
    listed = plan_tuning(*words, "debug=fast", "dry_run=true")
    assert listed.returncode == 0, listed.stderr
    assert "2 jobs" in listed.stdout, "the filter changes nothing for sft"
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing behind"

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
    "-m", "method=m1", "filter=none,plan_only,answer_only,two_stage", "seed=0,1,2", "debug=fast",
    "logger=csv", "evaluation.benchmarks=[microworld]", "sweep_name=twelve",
    "hydra/launcher=parallel",
)  # fmt: skip


def completed(sweep: Path) -> dict[str, float]:
    """Jobs with a finished result, and when it was written."""
    return {
        path.parent.name: path.stat().st_mtime
        for path in sweep.glob("*/result.json")
        if json.loads(path.read_text())["status"] == "completed"
    }


@needs_joblib
def test_kill_9_and_the_same_command_finishes_it(
    plan_tuning: Run, tmp_path: Path, environment: dict[str, str]
) -> None:
    outputs = tmp_path / "multirun_outputs"
    moments = random.Random(5)
    before: dict[str, float] = {}
    results_before: dict[str, float] = {}
    for target in (2, 9, 19):  # finished artifacts, of 28, after which the sweep is killed
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
        now, results_now = built(outputs), completed(outputs / "twelve")
        assert before.items() <= now.items(), "something finished was made again"
        assert results_before.items() <= results_now.items(), "a finished job ran again"
        before, results_before = now, results_now
    assert results_before, "no job was finished when the sweep was killed"
    finished = plan_tuning(*TWELVE)
    assert finished.returncode == 0, finished.stderr
    assert before.items() <= built(outputs).items(), "something finished was made again"
    results_after = completed(outputs / "twelve")
    assert results_before.items() <= results_after.items(), "a finished job ran again"
    assert len(results_after) == len(results(outputs / "twelve")) == 12
    answers = {row["seed"]: row["corpus"]["teacher_answers"] for row in results(outputs / "twelve")}
    assert set(answers.values()) == {240}, (
        "24 problems, whoever bought them and however often killed"
    )


DEADLY = """
import importlib.abc, importlib.machinery, os, signal, sys

class Killer(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "plan_tuning.experiment":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            run = module.run_job
            def run_job(config, context):
                if config.seed == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                return run(config, context)
            module.run_job = run_job
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Killer())
"""


@pytest.mark.parametrize(
    ("seeds", "launcher"),
    [
        ("0,1,2", ("hydra/launcher=parallel", "hydra.launcher.n_jobs=2")),
        ("1,2", ("hydra/launcher=submitit_local",)),
    ],
)
@needs_joblib
def test_a_job_whose_process_is_killed_is_a_hole_like_any_other(
    plan_tuning: Run,
    tmp_path: Path,
    environment: dict[str, str],
    seeds: str,
    launcher: tuple[str, ...],
) -> None:
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sitecustomize.py").write_text(DEADLY)
    known = os.environ.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(tmp_path / "faults"), known)))
    ran = plan_tuning(
        "-m", f"seed={seeds}", "debug=fast", "logger=csv",
        "evaluation.benchmarks=[microworld]", "sweep_name=deadly", "method=sft", *launcher,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    rows = {row["seed"]: row for row in results(tmp_path / "multirun_outputs" / "deadly")}
    assert {seed: row["status"] for seed, row in rows.items()} == {
        seed: "failed" if seed == 1 else "completed" for seed in map(int, seeds.split(","))
    }
    assert rows[1]["error"]["type"] == "WorkerDiedError"
    assert f"1 of {len(rows)} jobs failed" in ran.stdout + ran.stderr
    assert "failed" in (tmp_path / "multirun_outputs" / "deadly" / "comparison.md").read_text()


def test_a_failing_comparison_hides_nothing_of_the_sweep(plan_tuning: Run, tmp_path: Path) -> None:
    blocker = tmp_path / "multirun_outputs" / "blocked" / "comparison.md"
    blocker.mkdir(parents=True)  # nothing can be written there
    ran = plan_tuning(
        "-m", "method=sft", "seed=0", "debug=fast", "logger=csv", "sweep_name=blocked",
        "evaluation.benchmarks=[microworld]",
    )  # fmt: skip
    assert ran.returncode == 1
    assert "the comparison failed (" in ran.stdout + ran.stderr
    assert "the jobs' results are kept; again: plan-tuning compare" in ran.stdout + ran.stderr
    assert [row["status"] for row in results(blocker.parent)] == ["completed"]


def test_a_logger_that_fails_is_in_the_result(plan_tuning: Run, tmp_path: Path) -> None:
    ran = plan_tuning("-m", "method=sft", "seed=0", "debug=fast", "logger=wandb", "sweep_name=log")
    assert ran.returncode == 1
    (row,) = results(tmp_path / "multirun_outputs" / "log")
    assert row["status"] == "failed"
    assert "logger=wandb_offline" in row["error"]["message"]
