"""Fifty jobs in one process: what a job costs beyond its work, and what leaks from job to job.

    python experiments/benchmarks/sweep_overhead.py --jobs 50

Launches one sweep of cheap jobs (a few training steps of the micro student, W&B offline) and
watches its process from outside: processor time, memory, open files, threads. Afterwards it counts
W&B runs and log lines (a handler that stays behind writes a job's lines twice) and repeats the last
job alone in a fresh process, where it must find the same numbers: no seed leaks. Ends with exit
code 1 where something leaks; the overhead is checked as well with ``--max-overhead-s``.

On a busy machine compare processor time, not wall time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

COMMAND = (
    "method=sft", "debug=fast", "evaluation.benchmarks=[microworld]", "hydra/launcher=basic",
)  # fmt: skip
POLL_S = 0.02
MAX_GROWTH = {"rss_mb": 3.0, "files": 0.5, "threads": 0.5, "children": 0.2}  # a job
ENOUGH_JOBS = 30  # for those; with fewer the fluctuation of each counts for more


def launch(outputs: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "plan_tuning.main", *words, *COMMAND, f"paths.outputs={outputs}"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def watch(process: subprocess.Popen[bytes], sweep: Path) -> list[dict[str, float]]:
    """Note time, memory, files and threads whenever another job has written its result."""
    watched = psutil.Process(process.pid)
    seen: list[dict[str, float]] = []
    while process.poll() is None:
        time.sleep(POLL_S)
        if len(list(sweep.glob("*/result.json"))) > len(seen):
            try:
                seen.append(
                    {
                        "at": time.time(),
                        "cpu_s": sum(watched.cpu_times()[:2]),
                        "rss_mb": watched.memory_info().rss / 2**20,
                        "files": watched.num_fds(),
                        "threads": watched.num_threads(),
                        "children": len(watched.children()),
                    }
                )
            except psutil.NoSuchProcess:
                break
    return seen


def results(sweep: Path) -> list[dict[str, Any]]:
    """Results of all jobs in the order in which they ended."""
    paths = sorted(sweep.glob("*/result.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text()) | {"folder": path.parent} for path in paths]


def digest(result: dict[str, Any]) -> str:
    """What a job found: its predictions and its training losses."""
    folder = result["folder"]
    texts = [(folder / where).read_text() for where in result["predictions"].values()]
    curves = (folder / result["curves"]).read_text().splitlines()
    head = curves[0].split(",")
    losses = [line.split(",")[head.index("train/loss")] for line in curves[1:]]
    return hashlib.sha256("".join([*texts, *losses]).encode()).hexdigest()[:12]


def slope(values: list[float]) -> float:
    """Growth per job, over the second half."""
    half = values[len(values) // 2 :]
    return statistics.linear_regression(range(len(half)), half).slope


def leaks(report: dict[str, Any]) -> list[str]:
    """Say what a job leaves behind for the next one; nothing is right."""
    jobs = report["jobs_asked_for"]
    found = []
    if report["exit_code"] != 0 or report["jobs"] != jobs:
        found.append(f"{report['jobs']} of {jobs} jobs, exit code {report['exit_code']}")
    for key, most in MAX_GROWTH.items():
        if key != "children":  # a process too many is one too many
            most *= max(1.0, ENOUGH_JOBS / jobs)
        if report[f"{key}_growth_per_job"] > most:
            found.append(f"{key} grow by {report[f'{key}_growth_per_job']:.2f} a job")
    if report["logger"] == "wandb_offline" and report["wandb_runs"] != jobs:
        found.append(f"{report['wandb_runs']} W&B runs of {jobs} jobs")
    second, last = report["log_lines_of_job_2_and_last"]
    if second != last:
        found.append(f"the second job logs {second} lines, the last one {last}")
    if not report["last_job_alone_finds_the_same"]:
        found.append("the last job finds other numbers than alone in a fresh process")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--logger", default="wandb_offline", choices=("wandb_offline", "csv"))
    parser.add_argument("--max-overhead-s", type=float, help="wall seconds a job beyond its work")
    arguments = parser.parse_args()
    jobs, logger = arguments.jobs, f"logger={arguments.logger}"
    with tempfile.TemporaryDirectory() as name:
        outputs = Path(name)
        seeds = ",".join(map(str, range(jobs)))
        process = launch(outputs, "-m", f"seed={seeds}", "sweep_name=fifty", logger)
        seen = watch(process, outputs / "fifty")
        done = results(outputs / "fifty")
        work = [sum(stage["wall_s"] for stage in row["stages"].values()) for row in done]
        ends = [row["folder"].joinpath("result.json").stat().st_mtime for row in done]
        # from one job's end to the next one's end, less the next one's work
        beyond = [b - a - w for a, b, w in zip(ends, ends[1:], work[1:], strict=False)]
        runs = list((outputs / "fifty").glob("*/wandb/offline-run-*"))
        lines = [len((row["folder"] / "run.log").read_text().splitlines()) for row in done]
        last = f"seed={done[-1]['seed']}"
        alone = launch(outputs / "alone", "-m", last, "sweep_name=one", logger)
        alone.wait()
        (again,) = results(outputs / "alone" / "one")
        report = {
            "jobs_asked_for": jobs,
            "jobs": len(done),
            "logger": arguments.logger,
            "load_average": os.getloadavg()[0],
            "exit_code": process.returncode,
            "cpu_s_per_job": (seen[-1]["cpu_s"] - seen[1]["cpu_s"]) / max(1, len(seen) - 2),
            "work_s_median": statistics.median(work[1:]),
            "beyond_s_median": statistics.median(beyond),
            "beyond_s_max": max(beyond),
            "beyond_s_first_half": statistics.mean(beyond[: len(beyond) // 2]),
            "beyond_s_second_half": statistics.mean(beyond[len(beyond) // 2 :]),
            "rss_mb_after_job_2": seen[1]["rss_mb"],
            "rss_mb_at_the_end": seen[-1]["rss_mb"],
            **{
                f"{key}_growth_per_job": slope([row[key] for row in seen])
                for key in ("rss_mb", "files", "threads", "children")
            },
            "wandb_runs": len(runs),
            "log_lines_of_job_2_and_last": [lines[1], lines[-1]],
            "last_job_alone_finds_the_same": digest(again) == digest(done[-1]),
        }
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in report.items()},
                     indent=1))  # fmt: skip
    found = leaks(report)
    if (
        arguments.max_overhead_s is not None
        and report["beyond_s_median"] > arguments.max_overhead_s
    ):
        found.append(f"{report['beyond_s_median']:.2f} s a job beyond its work")
    for text in found:
        print(f"LEAK: {text}", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
