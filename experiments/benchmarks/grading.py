"""Throughput and accuracy of the grader beside plain math-verify, in one run on the same cases.

Run: python experiments/benchmarks/grading.py CASES.jsonl [--workers 2] [--repeats 3]

CASES.jsonl has one labelled case a row: prediction_text, gold, expected, dataset_style, category,
label_basis. Hostile cases are left out of the throughput (plain math-verify needs seconds for each)
and reported for the grader alone. Every repeat starts with an empty cache; starting the workers is
reported apart. Plain math-verify gets the whole completion and the gold in a box, as its
documentation shows, in as many processes as the grader has workers.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from plan_tuning.config.grading import GradingConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Problem


def math_verify_one(case: dict[str, Any]) -> bool:
    """Grade one case with plain math-verify and its default limits."""
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    gold = math_verify.parse(f"\\boxed{{{case['gold']}}}")
    return bool(math_verify.verify(gold, math_verify.parse(case["prediction_text"])))


def accuracy(cases: list[dict[str, Any]], verdicts: list[bool]) -> str:
    """Count right verdicts on the cases with certain labels, and false positives on all."""
    pairs = [(c, v) for c, v in zip(cases, verdicts, strict=True) if c["label_basis"] == "certain"]
    right = sum(v == c["expected"] for c, v in pairs)
    false = sum(v and not c["expected"] for c, v in zip(cases, verdicts, strict=True))
    return (
        f"{right}/{len(pairs)} certain labels ({right / len(pairs):.1%}), {false} false positives"
    )


def run_grader(cases: list[dict[str, Any]], workers: int, repeats: int) -> list[bool]:
    """Time batches, single calls, and the start of the workers."""
    items = [
        (c["prediction_text"], Problem(c["id"], "", c["gold"], style=c["dataset_style"]))
        for c in cases
    ]
    rates, singles, verdicts = [], [], []
    for _ in range(repeats):
        with Grader(GradingConfig(num_workers=workers, cache_size=0)) as grader:
            start = time.perf_counter()
            root = Problem("root", "", r"2\sqrt{2}")
            grader.grade_many(
                [(rf"\boxed{{\sqrt{{{n}}}}}", root) for n in range(2, 2 + 4 * workers)]
            )
            started = time.perf_counter()
            grades = grader.grade_many(items)
            rates.append(len(items) / (time.perf_counter() - started))
            for text, problem in items:
                before = time.perf_counter()
                grader.grade(text, problem)
                singles.append(time.perf_counter() - before)
            verdicts = [grade.is_correct for grade in grades]
    singles.sort()
    print(f"grader, {workers} workers: {accuracy(cases, verdicts)}")
    print(f"  batches: {statistics.median(rates):.0f} checks/s (runs: {[round(r) for r in rates]})")
    print(f"  start of the workers: {started - start:.2f} s, once")
    print(
        f"  one check: median {1e3 * statistics.median(singles):.2f} ms, "
        f"p99 {1e3 * singles[int(0.99 * len(singles))]:.1f} ms, max {1e3 * singles[-1]:.1f} ms"
    )
    return verdicts


def run_math_verify(cases: list[dict[str, Any]], workers: int, repeats: int) -> None:
    """Time plain math-verify in as many processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        list(pool.map(math_verify_one, cases[: 4 * workers]))
        rates, verdicts = [], []
        for _ in range(repeats):
            start = time.perf_counter()
            verdicts = list(pool.map(math_verify_one, cases, chunksize=8))
            rates.append(len(cases) / (time.perf_counter() - start))
    print(f"plain math-verify, {workers} processes: {accuracy(cases, verdicts)}")
    print(f"  batches: {statistics.median(rates):.0f} checks/s (runs: {[round(r) for r in rates]})")


def run_hostile(cases: list[dict[str, Any]], workers: int) -> None:
    """Grade the hostile cases one by one."""
    with Grader(GradingConfig(num_workers=workers)) as grader:
        slowest, right = 0.0, 0
        for case in cases:
            problem = Problem(case["id"], "", case["gold"], style=case["dataset_style"])
            start = time.perf_counter()
            right += grader.grade(case["prediction_text"], problem).is_correct == case["expected"]
            slowest = max(slowest, time.perf_counter() - start)
        killed = grader.pool.num_killed
    print(f"hostile cases: {right}/{len(cases)} right, slowest {slowest:.3f} s, {killed} kills")


def main() -> None:
    """Read the cases and run both graders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.cases.read_text(encoding="utf-8").splitlines()]
    hostile = [row for row in rows if row["category"].startswith("hostile")]
    normal = [row for row in rows if not row["category"].startswith("hostile")]
    print(f"{len(normal)} cases, {len(hostile)} hostile ones")
    run_grader(normal, arguments.workers, arguments.repeats)
    run_math_verify(normal, arguments.workers, arguments.repeats)
    run_hostile(hostile, arguments.workers)


if __name__ == "__main__":
    main()
