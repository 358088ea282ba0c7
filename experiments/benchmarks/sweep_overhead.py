"""Fifty jobs in one process: what a job costs beyond its work, and what leaks from job to job.

    python experiments/benchmarks/sweep_overhead.py --jobs 50

Launches one sweep of cheap jobs (a few training steps of the micro student, W&B offline) and
watches its process from outside: memory, open files, threads. Afterwards it counts W&B runs and log
lines and repeats the last job alone in a fresh process, where it must find the same numbers.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--logger", default="wandb_offline", choices=("wandb_offline", "csv"))
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
            "jobs": len(done),
            "logger": arguments.logger,
            "load_average": os.getloadavg()[0],
            "exit_code": process.returncode,
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


if __name__ == "__main__":
    main()
