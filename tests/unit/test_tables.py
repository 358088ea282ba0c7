"""The table: means, intervals, paired differences, baselines, the paper's claims."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from sweep_builder import make_job

from plan_tuning.comparison.claims import NOT_PUBLIC, findings, read_claims
from plan_tuning.comparison.differences import (
    Difference,
    OutcomeReader,
    corrected,
    difference,
    pair_seeds,
)
from plan_tuning.comparison.disagreements import disagreements
from plan_tuning.comparison.results import ComparisonError, load, read_predictions
from plan_tuning.comparison.tables import Row, Table, build_table
from plan_tuning.statistics import holm, mcnemar, mean_interval

ONE = {"microworld": 0.5}


def _row(table: Table, label: str) -> Row:
    return next(row for row in table.rows if table.label(row) == label)


def _accuracies(folder: Path, method: str) -> list[float]:
    runs = [run for run in load([folder]).runs if run.choices["method"] == method]
    return [run.metrics["microworld"]["accuracy"] for run in sorted(runs, key=lambda r: r.seed)]


def test_mean_and_interval_over_seeds_and_over_problems(tmp_path: Path) -> None:
    for seed in range(3):
        make_job(tmp_path, method="m1", seed=seed, accuracies={"microworld": 0.7})
    make_job(tmp_path, method="sft", seed=0, accuracies={"microworld": 0.3})
    table = build_table(load([tmp_path]))
    m1 = _row(table, "m1").cells["microworld"]
    expected = mean_interval(_accuracies(tmp_path, "m1"))
    assert (m1.accuracy, m1.low, m1.high) == (
        expected.value,
        max(expected.low, 0.0),
        min(expected.high, 1.0),
    )
    assert m1.num_seeds == 3
    assert not m1.is_single_seed
    sft = _row(table, "sft").cells["microworld"]
    (accuracy,) = _accuracies(tmp_path, "sft")
    assert sft.is_single_seed
    assert (sft.low, sft.high) == (accuracy - 0.1, accuracy + 0.1)  # as recorded


def test_differences_are_paired_by_problem_and_seed(tmp_path: Path) -> None:
    for seed in range(2):
        make_job(tmp_path, method="sft", seed=seed, accuracies={"microworld": 0.3})
        make_job(tmp_path, method="m1", seed=seed, accuracies={"microworld": 0.8})
        make_job(tmp_path, method="m2", seed=seed, accuracies={"microworld": 0.32})
    results = load([tmp_path])
    table = build_table(results)
    first: list[bool] = []
    second: list[bool] = []
    for method, outcomes in (("sft", first), ("m1", second)):
        for seed in range(2):
            (run,) = [r for r in results.runs if (r.choices["method"], r.seed) == (method, seed)]
            outcomes += [row["is_correct"] for row in read_predictions(run, "microworld")]
    test = mcnemar(first, second)
    item = _row(table, "m1").cells["microworld"].difference
    assert item is not None
    assert (item.gained, item.lost, item.p) == (test.only_second, test.only_first, test.p_mid)
    assert item.value == pytest.approx((sum(second) - sum(first)) / 120)
    assert item.low < item.value < item.high
    assert item.num_problems == 60
    assert item.direction == "higher"
    other = _row(table, "m2").cells["microworld"].difference
    assert other is not None
    assert [item.p_holm, other.p_holm] == holm([item.p, other.p])
    assert _row(table, "sft").cells["microworld"].difference is None


def test_equal_ids_with_other_gold_answers_are_not_paired(tmp_path: Path) -> None:
    make_job(tmp_path, method="sft", accuracies=ONE, n=10)
    folder = make_job(tmp_path, method="m1", accuracies=ONE, n=10)
    path = folder / "predictions" / "microworld" / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[:4]:
        row["gold"] = "another"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    item = _row(build_table(load([tmp_path])), "m1").cells["microworld"].difference
    assert item is not None
    assert item.num_problems == 6


def test_without_predictions_there_is_a_difference_but_no_test(tmp_path: Path) -> None:
    make_job(tmp_path, method="sft", accuracies={"microworld": 0.2})
    folder = make_job(tmp_path, method="m1", accuracies={"microworld": 0.9})
    (folder / "predictions" / "microworld" / "predictions.jsonl").unlink()
    item = _row(build_table(load([tmp_path])), "m1").cells["microworld"].difference
    assert item is not None
    assert item.value > 0.3
    assert math.isnan(item.p_holm)
    assert item.direction == "undecided"


def test_a_run_without_a_seed_of_its_own_is_paired_with_every_seed(tmp_path: Path) -> None:
    make_job(tmp_path, method="zero_shot", seed=7, accuracies={"microworld": 0.1})
    for seed in range(3):
        make_job(tmp_path, method="sft", seed=seed, accuracies={"microworld": 0.6})
    runs = load([tmp_path]).runs
    zero = [run for run in runs if run.choices["method"] == "zero_shot"]
    sft = [run for run in runs if run.choices["method"] == "sft"]
    assert len(pair_seeds(sft, zero)) == 3
    assert pair_seeds(sft[:1], sft[1:]) == []
    assert difference(sft[:1], sft[1:], "microworld", OutcomeReader()) is None


@pytest.mark.parametrize(
    ("p_holm", "low", "high", "by_seed", "direction"),
    [
        (0.01, 0.1, 0.3, (0.1, 0.2), "higher"),
        (0.01, -0.3, -0.1, (-0.1, -0.2), "lower"),
        (0.05, 0.1, 0.3, (0.1, 0.2), "undecided"),
        (0.01, 0.0, 0.3, (0.1, 0.2), "undecided"),
        (0.01, 0.1, 0.3, (0.4, -0.1), "undecided"),
        (math.nan, math.nan, math.nan, (0.4,), "undecided"),
    ],
)
def test_a_difference_is_decided_only_where_everything_agrees(
    p_holm: float, low: float, high: float, by_seed: tuple[float, ...], direction: str
) -> None:
    item = Difference(0.2, low, high, 50, 2, 9, 1, 0.001, p_holm, by_seed)
    assert item.direction == direction


def test_tests_that_could_not_be_made_do_not_count_in_the_correction() -> None:
    tested = Difference(0.1, 0, 0.2, 9, 1, 1, 0, 0.02, 0.02, (0.1,))
    untested = Difference(0.1, 0, 0.2, 0, 1, 0, 0, math.nan, math.nan, (0.1,))
    found = corrected({"a": tested, "b": untested, "c": tested})
    assert [found[key].p_holm for key in "ac"] == [0.04, 0.04]
    assert math.isnan(found["b"].p_holm)


def test_each_row_is_compared_with_the_baseline_that_agrees_in_other_choices(
    tmp_path: Path,
) -> None:
    for model in ("micro", "tiny_qwen3"):
        for method in ("sft", "m1"):
            make_job(tmp_path, model=model, method=method, accuracies=ONE)
    table = build_table(load([tmp_path]))
    for model in ("micro", "tiny_qwen3"):
        baseline = _row(table, f"model={model} m1").baseline
        assert baseline is not None
        assert table.label(table.rows[baseline]) == f"model={model} sft"


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        (None, "filter=none"),
        ("filter=two_stage", "filter=two_stage"),
        ("m1,filter=plan_only", "filter=plan_only"),
    ],
)
def test_the_baseline_can_be_chosen(tmp_path: Path, baseline: str | None, expected: str) -> None:
    for filters in ("two_stage", "plan_only", "none"):
        make_job(tmp_path, method="m1", filter=filters, accuracies=ONE)
    table = build_table(load([tmp_path]), baseline=baseline)
    assert [table.label(row) for row in table.rows if row.baseline is None] == [expected]


def test_a_baseline_that_matches_nothing_is_an_error_that_lists_the_rows(tmp_path: Path) -> None:
    make_job(tmp_path, method="m1", accuracies=ONE)
    make_job(tmp_path, method="sft", accuracies=ONE)
    with pytest.raises(ComparisonError, match="the rows are: sft; m1"):
        build_table(load([tmp_path]), baseline="grpo")


def test_failed_seeds_are_counted_in_their_row(tmp_path: Path) -> None:
    make_job(tmp_path, method="sft", seed=0, accuracies=ONE)
    make_job(tmp_path, method="m1", seed=0, accuracies=ONE)
    make_job(tmp_path, method="m1", seed=1, accuracies={}, status="failed")
    make_job(tmp_path, method="m2", seed=1, accuracies={}, status="failed")
    table = build_table(load([tmp_path]))
    assert _row(table, "m1").num_failed == 1
    assert _row(table, "m1").cells["microworld"].num_seeds == 1
    empty = next(row for row in table.rows if row.values == ("m2",))
    assert (empty.num_failed, empty.cells) == (1, {})


def test_an_unknown_price_makes_the_row_unknown(tmp_path: Path) -> None:
    make_job(tmp_path, method="m1", seed=0, accuracies=ONE, cost_usd=0.5)
    make_job(tmp_path, method="m1", seed=1, accuracies=ONE, cost_usd=None)
    make_job(tmp_path, method="m2", seed=0, accuracies=ONE, cost_usd=0.5)
    table = build_table(load([tmp_path]))
    assert _row(table, "m1").cost_usd is None
    assert _row(table, "m2").cost_usd == 0.5


def test_two_results_of_one_seed_are_not_averaged_but_noted(tmp_path: Path) -> None:
    make_job(tmp_path, method="m1", accuracies={"microworld": 0.2}, name="a", salt="a")
    make_job(tmp_path, method="m1", accuracies={"microworld": 0.9}, name="b", salt="b")
    table = build_table(load([tmp_path]))
    assert len(table.rows) == 1
    assert table.rows[0].cells["microworld"].num_seeds == 1
    assert "other predictions" in table.notes[0]


def test_disagreements_name_the_problems_that_only_one_row_solves(tmp_path: Path) -> None:
    for seed in range(3):
        make_job(tmp_path, method="sft", seed=seed, accuracies={"microworld": 0.3})
        make_job(tmp_path, method="m1", seed=seed, accuracies={"microworld": 0.8})
    reader = OutcomeReader()
    results = load([tmp_path])
    (found,) = disagreements(build_table(results, reader=reader), reader)
    right: dict[str, dict[str, int]] = {"sft": {}, "m1": {}}
    for run in results.runs:
        for row in read_predictions(run, "microworld"):
            counts = right[run.choices["method"]]
            counts[row["problem_id"]] = counts.get(row["problem_id"], 0) + row["is_correct"]
    margins = {key: right["m1"][key] - right["sft"][key] for key in right["m1"]}
    assert set(found.only_row) == {key for key, margin in margins.items() if margin >= 2}
    assert set(found.only_baseline) == {key for key, margin in margins.items() if margin <= -2}
    assert len(found.only_row) > 5


def _findings(folder: Path) -> list[tuple[str, str, str]]:
    reader = OutcomeReader()
    found = findings(build_table(load([folder]), reader=reader), reader)
    return [(item.benchmark, item.verdict, item.published) for item in found]


def test_the_direction_of_a_claim_is_compared_without_a_number_on_the_microworld(
    tmp_path: Path,
) -> None:
    make_job(tmp_path, method="sft", accuracies={"microworld": 0.2})
    make_job(tmp_path, method="m1", accuracies={"microworld": 0.9})
    assert _findings(tmp_path) == [("microworld", "agrees", NOT_PUBLIC)]


@pytest.mark.parametrize(
    ("model", "benchmark", "number"),
    [
        ("qwen3_8b", "math500", "53.2 -> 79.4"),
        ("qwen3_8b", "aime_1983_2024", "5.57 -> 31.51"),
        ("qwen3_4b", "aime_1983_2024", "about +12 %"),
        ("qwen3_8b", "aime2024", NOT_PUBLIC),
        ("qwen3_4b", "olympiadbench", "about +10 %"),
    ],
)
def test_a_number_stands_only_beside_the_benchmark_and_model_it_belongs_to(
    tmp_path: Path, model: str, benchmark: str, number: str
) -> None:
    make_job(tmp_path, method="sft", model=model, accuracies={benchmark: 0.8})
    make_job(tmp_path, method="m2", model=model, accuracies={benchmark: 0.2})
    ((name, verdict, published),) = _findings(tmp_path)
    assert (name, verdict) == (benchmark, "disagrees")
    assert published.startswith(number)


def test_claims_compare_rows_that_agree_in_everything_else(tmp_path: Path) -> None:
    for seed in range(2):
        for filters, accuracy in (("none", 0.3), ("plan_only", 0.5), ("two_stage", 0.5)):
            make_job(
                tmp_path,
                method="m1",
                filter=filters,
                seed=seed,
                accuracies={"microworld": accuracy},
            )
    reader = OutcomeReader()
    table = build_table(load([tmp_path]), reader=reader)
    found = {(item.row, item.against): item.verdict for item in findings(table, reader)}
    assert found == {
        ("filter=two_stage", "filter=plan_only"): "undecided",
        ("filter=two_stage", "filter=none"): "agrees",
    }


def test_published_numbers_are_those_of_the_paper_and_no_others() -> None:
    claims = read_claims()
    for claim in claims:
        assert {"id", "claim", "row", "against", "direction", "certainty"} <= set(claim)
        assert claim["direction"] in ("higher", "lower")
        assert claim["certainty"] in ("abstract", "summary")
    numbers = [number for claim in claims for number in claim.get("numbers", ())]
    values = sorted(
        value for number in numbers for key in ("gain", "row", "against")
        if (value := number.get(key)) is not None
    )  # fmt: skip
    assert values == [-2, 5.57, 7, 7, 10, 12, 20, 22.72, 31.51, 32.05, 53.2, 79.4, 83.32, 87.11]
