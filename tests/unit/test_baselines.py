"""Which row each other one is compared with: the nearest that shares seeds and problems."""

from __future__ import annotations

import json
from pathlib import Path

from sweep_builder import make_job
from typer.testing import CliRunner

from plan_tuning.cli import app
from plan_tuning.comparison.runs import load
from plan_tuning.comparison.tables import Table, build_table


def baselines(table: Table) -> dict[str, str]:
    """Row → the row it is compared with."""
    return {
        table.label(row): table.label(table.rows[row.baseline])
        for row in table.rows
        if row.baseline is not None
    }


def rate(sweep: Path, method: str, value: float, seeds: range) -> None:
    for seed in seeds:
        make_job(sweep, method=method, seed=seed, n=30, accuracies={"a": 0.5},
                 settings={"trainer.learning_rate": value})  # fmt: skip


def test_of_two_near_baselines_the_one_that_shares_more_seeds(tmp_path: Path) -> None:
    rate(tmp_path / "one", "sft", 0.001, range(1))
    rate(tmp_path / "two", "sft", 0.002, range(3))
    rate(tmp_path / "two", "m1", 0.005, range(3))
    table = build_table(load([tmp_path / "one", tmp_path / "two"]))
    label = "sft learning_rate=0.002"
    assert baselines(table)["m1 learning_rate=0.005"] == label
    assert f"{label} (shares 3 seeds and 30 problems with 1 row)" in table.basis
    assert table.basis.endswith("Another one: --baseline 'method=sft,trainer.learning_rate=0.001'")


def test_of_two_near_baselines_the_one_that_shares_more_problems(tmp_path: Path) -> None:
    rate(tmp_path / "one", "sft", 0.001, range(2))
    for path in (tmp_path / "one").rglob("predictions.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [row | {"gold": "other"} for row in rows[:20]] + rows[20:]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rate(tmp_path / "two", "sft", 0.002, range(2))
    rate(tmp_path / "two", "m1", 0.005, range(2))
    table = build_table(load([tmp_path / "one", tmp_path / "two"]))
    assert baselines(table)["m1 learning_rate=0.005"] == "sft learning_rate=0.002"


def test_a_nearer_baseline_without_a_common_seed_is_passed_over_and_said_so(
    tmp_path: Path,
) -> None:
    rate(tmp_path, "sft", 0.001, range(5, 7))
    rate(tmp_path, "sft", 0.002, range(2))
    rate(tmp_path, "m1", 0.001, range(2))
    table = build_table(load([tmp_path]))
    assert baselines(table)["m1 learning_rate=0.001"] == "sft learning_rate=0.002"
    assert (
        "m1 learning_rate=0.001 is compared with sft learning_rate=0.002, for "
        "sft learning_rate=0.001 shares no seed with it" in table.basis
    )


def test_where_no_sft_shares_anything_another_row_is_the_baseline(tmp_path: Path) -> None:
    make_job(tmp_path, method="zero_shot", accuracies={"a": 0.1}, n=30)
    make_job(tmp_path, method="sft", seed=7, accuracies={"b": 0.2}, n=30)
    for seed in range(3):
        for chosen in ("none", "two_stage"):
            make_job(tmp_path, method="m1", seed=seed, accuracies={"a": 0.5}, n=30, filter=chosen)
    table = build_table(load([tmp_path]))
    assert baselines(table)["m1 filter=none"] == "zero_shot"
    assert table.basis.startswith("Baseline: zero_shot (shares ")


def test_without_sft_the_row_that_shares_most_and_not_the_first(tmp_path: Path) -> None:
    rate(tmp_path, "m1", 0.001, range(1))
    rate(tmp_path, "m1", 0.002, range(3))
    rate(tmp_path, "m1", 0.003, range(3))
    table = build_table(load([tmp_path]))
    assert baselines(table)["learning_rate=0.003"] == "learning_rate=0.002"


def test_the_only_baseline_of_one_sweep_needs_no_words(tmp_path: Path) -> None:
    for method in ("sft", "m1"):
        make_job(tmp_path, method=method, accuracies={"a": 0.5}, n=30)
    assert build_table(load([tmp_path])).basis == ""


def test_the_example_is_one_that_works(tmp_path: Path) -> None:
    for name, seeds in (("one", range(1)), ("two", range(3))):
        for method in ("sft", "m1"):
            rate(tmp_path / name, method, 0.001 if name == "one" else 0.002, seeds)
    folders = [str(tmp_path / name) for name in ("one", "two")]
    reply = CliRunner().invoke(app, ["compare", *folders, "--out", str(tmp_path / "x")])
    assert reply.exit_code == 0
    example = reply.stdout.replace("\n", " ").partition("--baseline '")[2].partition("'")[0]
    again = ["compare", *folders, "--out", str(tmp_path / "x"), "--baseline", example]
    assert CliRunner().invoke(app, again).exit_code == 0
    content = json.loads((tmp_path / "x" / "comparison.json").read_text())
    assert content["basis"] == ""
    assert {row["baseline"] for row in content["rows"]} == {None, "m1 learning_rate=0.001"}
