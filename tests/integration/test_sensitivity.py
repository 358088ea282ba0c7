"""The line on power before a job or a sweep: its counts, its figures and its source."""

from __future__ import annotations

from pathlib import Path

import pytest
from composition import config_of, jobs_of
from sweep_builder import make_job

from plan_tuning.job.sensitivity import power_line
from plan_tuning.statistics.power import assumed, smallest_difference
from plan_tuning.sweep.jobs import rows_of

pytestmark = pytest.mark.integration


def test_a_sweep_counts_rows_seeds_and_benchmarks(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "method=zero_shot,sft,m1", "seed=0,1,2")
    rows = rows_of(jobs)
    assert sorted(len(configs) for configs in rows.values()) == [1, 3, 3]
    line = power_line(rows, tmp_path / "nowhere")
    sizes = len(jobs[0].config.benchmarks)
    points = 100 * smallest_difference(assumed(0.10), problems=300, seeds=3, comparisons=2 * sizes)
    assert line.startswith(f"Power: 3 seeds an arm show a difference of {points:.1f} points on ")
    assert f"({2 * sizes} comparisons, assuming 10 % of problems differ and no spread" in line


def test_finished_runs_replace_the_assumption(tmp_path: Path) -> None:
    for seed in range(3):
        for method, accuracy in (("sft", 0.4), ("m1", 0.7)):
            make_job(
                tmp_path / "mine", accuracies={"microworld": accuracy}, seed=seed, method=method
            )
    jobs = jobs_of(tmp_path, "method=sft,m1", "seed=0,1,2", "evaluation.benchmarks=[microworld]")
    line = power_line(rows_of(jobs), tmp_path / "mine")
    assert "(1 comparison, from 6 finished runs)" in line
    assert line.endswith(f"more: plan-tuning power {tmp_path / 'mine'}")


def test_every_benchmark_has_its_own_source(tmp_path: Path) -> None:
    for method, accuracy in (("sft", 0.4), ("m1", 0.7)):
        make_job(tmp_path / "mine", accuracies={"microworld": accuracy}, method=method)
    words = ("method=sft,m1", "evaluation.benchmarks=[microworld,microworld_depth]")
    line = power_line(rows_of(jobs_of(tmp_path, *words)), tmp_path / "mine")
    assert "microworld: from 2 finished runs, one seed: no spread between seeds; " in line
    assert "microworld_depth: assuming 10 % of problems differ" in line


def test_one_job_alone() -> None:
    line = power_line({"": [config_of("method=m1", "evaluation.limit=100")]})
    assert line.startswith("Power: 1 seed an arm shows a difference of ")
    assert power_line({"": [config_of("method=m1", "stages=[distill]")]}) == ""
