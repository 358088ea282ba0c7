"""What a job is called without its seed: in W&B, in result.json and in comparison.csv."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from sweep_builder import make_job

from plan_tuning.comparison.choices import row_label
from plan_tuning.comparison.comparison_files import compare
from plan_tuning.comparison.runs import read_run


@pytest.mark.parametrize(
    ("choices", "overrides", "expected"),
    [
        ({"method": "m1"}, ["seed=3"], "method=m1"),
        ({"method": "m1", "filter": "none"}, ["method=m1", "filter=none"],
         "method=m1 filter=none"),
        ({"method": "sft", "filter": "none"}, ["filter=none", "method=sft"],
         "method=sft filter=-"),
        ({"method": "m2"}, ["executor=base", "seed=0"], "method=m2 executor=base"),
        ({"method": "m1"}, ["executor=base", "seed=0"], "method=m1 executor=-"),
        ({"method": "m1"}, ["sweep_name=x", "logger=csv", "paths.outputs=/tmp/x", "debug=fast"],
         "method=m1"),
        ({"method": "m1"}, ["teacher.concurrency=4", "trainer.progress=false"], "method=m1"),
        ({"method": "m1"}, ["data.seed=3", "evaluation.benchmarks=[a]"], "method=m1"),
        ({"method": "m1"}, ["+trainer.learning_rate=1e-3"],
         "method=m1 trainer.learning_rate=0.001"),
    ],
)  # fmt: skip
def test_a_label_holds_the_choices_that_were_made(
    tmp_path: Path, choices: dict[str, str], overrides: list[str], expected: str
) -> None:
    job = make_job(tmp_path, accuracies={"a": 0.5}, overrides=overrides, seed=3, **choices)
    assert row_label(read_run(job)) == expected


def test_the_csv_bears_the_label_of_the_jobs(tmp_path: Path) -> None:
    for method in ("sft", "m1"):
        for chosen in ("none", "two_stage"):
            make_job(
                tmp_path, method=method, filter=chosen, accuracies={"a": 0.5}, salt=method, n=20
            )
    compare([tmp_path], console=False)
    lines = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    assert [line["row"] for line in lines] == [
        "method=sft filter=-", "method=m1 filter=none", "method=m1 filter=two_stage",
    ]  # fmt: skip
