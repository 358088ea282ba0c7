"""The table: means, intervals, paired differences, baselines, the paper's claims."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from sweep_builder import make_job

from plan_tuning.comparison.differences import (
    Difference,
    OutcomeReader,
    corrected,
    difference,
    pair_seeds,
)
from plan_tuning.comparison.disagreements import disagreements
from plan_tuning.comparison.runs import ComparisonError, load, read_predictions
from plan_tuning.comparison.table_text import difference_text, seeds_text
from plan_tuning.comparison.tables import Row, Table, build_table
from plan_tuning.statistics.intervals import crossed, mean_interval
from plan_tuning.statistics.tests import holm, mcnemar, permutation_test

ONE = {"microworld": 0.5}


def _row(table: Table, label: str) -> Row:
    return next(row for row in table.rows if table.label(row) == label)


def _accuracies(folder: Path, method: str) -> list[float]:
    runs = [run for run in load([folder]).runs if run.choices["method"] == method]
    return [run.accuracy("microworld") for run in sorted(runs, key=lambda r: r.seed)]


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


def _outcomes(folder: Path, method: str, seed: int) -> list[bool]:
    (run,) = [r for r in load([folder]).runs if (r.choices["method"], r.seed) == (method, seed)]
    return [row["is_correct"] for row in read_predictions(run, "microworld")]


def test_differences_are_paired_by_problem_and_seed(tmp_path: Path) -> None:
    for seed in range(2):
        make_job(tmp_path, method="sft", seed=seed, accuracies={"microworld": 0.3})
        make_job(tmp_path, method="m1", seed=seed, accuracies={"microworld": 0.8})
        make_job(tmp_path, method="m2", seed=seed, accuracies={"microworld": 0.32})
    table = build_table(load([tmp_path]))
    differences = [
        [float(b) - float(a) for a, b in zip(_outcomes(tmp_path, "sft", seed),
                                             _outcomes(tmp_path, "m1", seed), strict=True)]
        for seed in range(2)
    ]  # fmt: skip
    expected = crossed(differences)
    item = _row(table, "m1").cells["microworld"].difference
    assert item is not None
    assert (item.value, item.low, item.high) == pytest.approx(
        (expected.interval.value, expected.interval.low, expected.interval.high)
    )
    means = [sum(column) / 2 for column in zip(*differences, strict=True)]
    assert item.p == max(expected.p, permutation_test([0.0] * 60, means))
    assert item.seeds == (0, 1)
    assert item.num_problems == 60
    other = _row(table, "m2").cells["microworld"].difference
    assert other is not None
    assert [item.p_holm, other.p_holm] == holm([item.p, other.p])
    assert _row(table, "sft").cells["microworld"].difference is None


def test_a_difference_of_one_seed_is_tested_over_problems_and_marked(tmp_path: Path) -> None:
    make_job(tmp_path, method="sft", accuracies={"microworld": 0.3})
    make_job(tmp_path, method="m1", accuracies={"microworld": 0.8})
    item = _row(build_table(load([tmp_path])), "m1").cells["microworld"].difference
    assert item is not None
    test = mcnemar(_outcomes(tmp_path, "sft", 0), _outcomes(tmp_path, "m1", 0))
    assert (item.gained, item.lost, item.p) == (test.only_second, test.only_first, test.p_mid)
    assert item.direction == "higher"
    assert item.is_single_seed
    assert difference_text(item).endswith("▲†")


def test_seeds_that_disagree_leave_a_difference_undecided(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.75, 0.45, 0.7)):
        make_job(tmp_path, method="sft", seed=seed, n=300, accuracies={"microworld": 0.5})
        make_job(tmp_path, method="m1", seed=seed, n=300, accuracies={"microworld": accuracy})
    item = _row(build_table(load([tmp_path])), "m1").cells["microworld"].difference
    assert item is not None
    assert item.value > 0.1
    assert mcnemar(
        [right for seed in range(3) for right in _outcomes(tmp_path, "sft", seed)],
        [right for seed in range(3) for right in _outcomes(tmp_path, "m1", seed)],
    ).p_mid < 1e-6  # what problems alone would say  # fmt: skip
    assert item.low < 0 < item.high
    assert item.direction == "undecided"


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


@pytest.mark.parametrize(
    ("choices", "settings", "has_student"),
    [
        ({"method": "zero_shot"}, {}, False),
        ({"method": "m2", "executor": "teacher"}, {"evaluation.plan": "teacher"}, False),
        ({"method": "m2"}, {"evaluation.plan": "none"}, False),
        ({"method": "m1"}, {"student.path": "/students/one"}, True),
    ],
)
def test_a_row_that_no_seed_can_change_is_paired_with_every_seed(
    tmp_path: Path, choices: dict[str, str], settings: dict[str, str], has_student: bool
) -> None:
    make_job(
        tmp_path,
        seed=7,
        accuracies={"microworld": 0.1},
        settings=settings,
        has_student=has_student,
        **choices,
    )
    for seed in range(3):
        make_job(tmp_path, method="sft", seed=seed, accuracies={"microworld": 0.6})
    table = build_table(load([tmp_path]), baseline="sft")
    row = next(row for row in table.rows if row.runs[0].seed == 7)
    item = row.cells["microworld"].difference
    assert item is not None
    assert item.seeds == (0, 1, 2)
    assert not item.is_partial
    assert seeds_text(row) == "any"
    assert not row.cells["microworld"].is_single_seed


def test_sampling_makes_the_seed_of_an_untrained_student_count(tmp_path: Path) -> None:
    for method in ("zero_shot", "sft"):
        make_job(tmp_path, method=method, seed=7 if method == "zero_shot" else 0,
                 accuracies=ONE, settings={"evaluation.temperature": 0.7})  # fmt: skip
    table = build_table(load([tmp_path]), baseline="sft")
    assert _row(table, "zero_shot").cells["microworld"].difference is None


def test_two_rows_that_no_seed_can_change_are_compared_without_a_mark(tmp_path: Path) -> None:
    make_job(tmp_path, method="zero_shot", seed=0, accuracies={"microworld": 0.2})
    make_job(tmp_path, method="zero_shot_cot", seed=1, accuracies={"microworld": 0.8})
    item = _row(build_table(load([tmp_path])), "zero_shot_cot").cells["microworld"].difference
    assert item is not None
    assert item.seeds == ()
    assert difference_text(item).endswith("▲")


def test_rows_without_a_shared_seed_have_no_difference_and_a_note(tmp_path: Path) -> None:
    make_job(tmp_path, method="sft", seed=0, accuracies=ONE)
    make_job(tmp_path, method="m1", seed=1, accuracies=ONE)
    runs = load([tmp_path]).runs
    assert pair_seeds(runs[:1], runs[1:]) == []
    assert difference(runs[:1], runs[1:], "microworld", OutcomeReader()) is None
    table = build_table(load([tmp_path]))
    assert table.notes == ("Without a difference, for no seed is shared with the baseline: m1.",)


def test_seeds_that_overlap_in_part_are_named_beside_the_difference(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        make_job(tmp_path, method="sft", seed=seed, accuracies={"microworld": 0.3})
    for seed in (1, 2, 3):
        make_job(tmp_path, method="m1", seed=seed, accuracies={"microworld": 0.8})
    table = build_table(load([tmp_path]))
    item = _row(table, "m1").cells["microworld"].difference
    assert item is not None
    assert (item.seeds, item.is_partial) == ((1, 2), True)
    assert difference_text(item).endswith("(seeds 1, 2)")
    assert any("over fewer seeds than the means" in note for note in table.notes)


def test_lost_predictions_are_counted_and_their_seeds_left_out_of_the_difference(
    tmp_path: Path,
) -> None:
    for seed in range(3):
        make_job(tmp_path, method="sft", seed=seed, accuracies={"microworld": 0.3})
        folder = make_job(tmp_path, method="m1", seed=seed, accuracies={"microworld": 0.8})
    (folder / "predictions" / "microworld" / "predictions.jsonl").unlink()
    table = build_table(load([tmp_path]))
    item = _row(table, "m1").cells["microworld"].difference
    assert item is not None
    assert (item.seeds, item.is_partial) == ((0, 1), True)
    assert table.notes[0].startswith("Predictions files that are missing or unreadable: 1.")


def _difference(p: float, p_holm: float, low: float, high: float) -> Difference:
    return Difference(0.2, low, high, 50, 9, 1, p, p_holm, (0.1, 0.3), (0, 1))


@pytest.mark.parametrize(
    ("p_holm", "low", "high", "direction"),
    [
        (0.01, 0.1, 0.3, "higher"),
        (0.01, -0.3, -0.1, "lower"),
        (0.05, 0.1, 0.3, "undecided"),
        (0.01, 0.0, 0.3, "undecided"),
        (0.01, math.nan, math.nan, "undecided"),
        (math.nan, math.nan, math.nan, "undecided"),
    ],
)
def test_a_difference_is_decided_only_where_test_and_interval_agree(
    p_holm: float, low: float, high: float, direction: str
) -> None:
    assert _difference(0.001, p_holm, low, high).direction == direction


def test_tests_that_could_not_be_made_do_not_count_in_the_correction() -> None:
    tested = _difference(0.02, 0.02, 0, 0.2)
    untested = _difference(math.nan, math.nan, math.nan, math.nan)
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


def test_grpo_is_compared_with_the_method_that_it_began_from(tmp_path: Path) -> None:
    make_job(tmp_path, method="m1", accuracies=ONE)
    for reward in ("plan", "answer"):
        make_job(tmp_path, method="grpo", reward=reward, accuracies=ONE)
    table = build_table(load([tmp_path]))
    labels = {table.label(row): row.baseline for row in table.rows}
    (start,) = [index for index, row in enumerate(table.rows) if "m1" in table.label(row)]
    assert [base for label, base in labels.items() if "grpo" in label] == [start, start]


def test_where_rewards_are_swept_each_start_has_its_own_baseline(tmp_path: Path) -> None:
    for start in ("base", "m1"):
        for reward in ("plan", "answer"):
            make_job(tmp_path, method="grpo", start=start, reward=reward, accuracies=ONE)
    table = build_table(load([tmp_path]))
    assert {
        table.label(row): table.label(table.rows[row.baseline])
        for row in table.rows
        if row.baseline is not None
    } == {f"start={start} reward=plan": f"start={start} reward=answer" for start in ("base", "m1")}


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


def test_a_failed_run_that_no_seed_can_change_is_made_up_for_by_any_seed(tmp_path: Path) -> None:
    make_job(tmp_path, method="zero_shot", seed=0, accuracies=ONE)
    make_job(tmp_path, method="zero_shot", seed=1, accuracies={}, status="failed")
    (row,) = build_table(load([tmp_path])).rows
    assert row.num_failed == 0


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


def _resolved(folder: Path, n: int, differ: int) -> Difference:
    """Two all-wrong arms, of which the second solves the first ``differ`` problems."""
    for method, right in (("sft", 0), ("m1", differ)):
        job = make_job(folder, accuracies={"microworld": 0.0}, n=n, method=method)
        path = job / "predictions" / "microworld" / "predictions.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for i, row in enumerate(rows):
            row["is_correct"] = i < right
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sft, m1 = ([r for r in load([folder]).runs if r.choices["method"] == m] for m in ("sft", "m1"))
    found = difference(sft, m1, "microworld", OutcomeReader())
    assert found is not None
    return corrected({0: found}, smallest_effect=0.02)[0]


@pytest.mark.parametrize(
    ("n", "differ", "says"), [(48, 0, "no"), (48, 2, "no"), (600, 0, "equivalent"), (48, 20, "yes")]
)
def test_equal_answers_are_equivalent_where_there_are_enough(
    tmp_path: Path, n: int, differ: int, says: str
) -> None:
    found = _resolved(tmp_path, n, differ)
    assert (found.gained + found.lost, found.resolved) == (differ, says)
    assert found.corrected_interval[1] > 0
