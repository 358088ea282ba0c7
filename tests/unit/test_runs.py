"""Reading finished jobs: what counts as a run, what as a hole, and which choices were swept."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from sweep_builder import make_corpus, make_job, trajectories

from plan_tuning.comparison.choices import conflicts, group_runs, row_values, swept_choices
from plan_tuning.comparison.comparison import holes
from plan_tuning.comparison.comparison_files import compare
from plan_tuning.comparison.runs import (
    ComparisonError,
    corpus_file,
    flatten,
    load,
    read_curves,
    read_predictions,
    read_trajectories,
)

ONE = {"microworld": 0.5}


def test_a_sweep_and_a_single_job_are_both_read_and_a_job_counts_once(tmp_path: Path) -> None:
    sweep = tmp_path / "mine"
    job = make_job(sweep, method="sft", accuracies=ONE)
    make_job(sweep, method="m1", accuracies=ONE)
    results = load([sweep, job])
    assert sorted(run.choices["method"] for run in results.runs) == ["m1", "sft"]
    assert results.holes == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "no object"),
        ('{"schema": 2}', "schema 2"),
        ('{"schema": 1, "metrics": {"microworld": 3}}', "expected fields"),
        ('{"schema": 1, "seed": "x"}', "expected fields"),
        ('{"schema": 1, "metrics": {"a": {"accuracy": "high"}}}', "expected fields"),
        ('{"schema": 1, "corpus": {"funnel": 3}}', "expected fields"),
        ('{"schema": 1, "metrics": {"a": {"accuracy": 0.5, "n": Infinity}}}', "expected fields"),
        ("\xff", "cannot be read"),
    ],
)
def test_a_broken_result_is_a_hole_and_not_an_error(
    tmp_path: Path, content: str, reason: str
) -> None:
    make_job(tmp_path, method="sft", accuracies=ONE)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_bytes(content.encode("latin-1"))
    results = load([tmp_path])
    assert len(results.completed) == 1
    assert [hole.folder.name for hole in results.holes] == ["broken"]
    assert reason in results.holes[0].reason


@pytest.mark.parametrize("accuracy", [math.nan, math.inf, 1.5])
def test_an_accuracy_that_is_no_share_is_left_out_and_said_so(
    tmp_path: Path, accuracy: float
) -> None:
    folder = make_job(tmp_path, method="m1", accuracies={"microworld": 0.5, "gsm8k": 0.5})
    result = json.loads((folder / "result.json").read_text())
    result["metrics"]["microworld"]["accuracy"] = accuracy
    (folder / "result.json").write_text(json.dumps(result | {"wall_s": math.nan}))
    results = load([tmp_path])
    (run,) = results.runs
    assert (set(run.result.metrics), run.result.wall_s) == ({"gsm8k"}, 0.0)
    (hole,) = holes(results, None)
    assert f"microworld: an accuracy of {accuracy} is no share" in hole


def test_a_folder_of_sweeps_is_refused_and_the_sweeps_are_listed(tmp_path: Path) -> None:
    make_job(tmp_path / "outputs" / "mine", accuracies=ONE)
    make_job(tmp_path / "outputs" / "artifacts", accuracies=ONE)
    with pytest.raises(ComparisonError, match=r"holds sweeps and no jobs.*outputs/mine") as error:
        load([tmp_path / "outputs"])
    assert "artifacts" not in str(error.value)


def test_a_folder_without_any_job_is_refused_unless_a_sweep_ends_there(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="no job is in or directly below"):
        compare([tmp_path], console=False)
    assert list(tmp_path.iterdir()) == []
    compare([tmp_path], expected_jobs=2, console=False)
    assert "2 of 2 jobs left nothing behind" in (tmp_path / "comparison.md").read_text()


def test_a_killed_job_is_a_hole_and_other_folders_are_not(tmp_path: Path) -> None:
    (tmp_path / "killed" / ".hydra").mkdir(parents=True)
    (tmp_path / "figures").mkdir()
    (tmp_path / "artifacts" / "corpora" / ".hydra").mkdir(parents=True)
    assert [hole.folder.name for hole in load([tmp_path]).holes] == ["killed"]


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="absent is not a folder"):
        load([tmp_path / "absent"])
    with pytest.raises(ComparisonError, match="no folder to compare"):
        load([])


def test_debug_runs_count_only_where_there_are_no_others(tmp_path: Path) -> None:
    make_job(tmp_path, method="sft", accuracies=ONE, debug=True)
    assert len(load([tmp_path]).completed) == 1
    make_job(tmp_path, method="m1", accuracies=ONE)
    results = load([tmp_path])
    assert [run.choices["method"] for run in results.completed] == ["m1"]
    assert results.num_debug_left_out == 1


def test_a_moved_sweep_still_opens(tmp_path: Path) -> None:
    corpus = tmp_path / "old" / "artifacts" / "corpora" / "c0"
    make_corpus(corpus, trajectories(4))
    make_job(tmp_path / "old" / "mine", method="m1", accuracies=ONE, corpus=corpus, n=8)
    shutil.move(tmp_path / "old", tmp_path / "new")
    (run,) = load([tmp_path / "new" / "mine"]).runs
    assert len(read_predictions(run, "microworld")) == 8
    path = corpus_file(run)
    assert path is not None
    assert len(read_trajectories(path)) == 12
    assert read_curves(run)["train/loss"][0] == (0.0, 3.0)


@pytest.mark.parametrize("text", ["{", "3\n", '{"problem_id": "a"}\n', "\xff\xfe"])
def test_unreadable_predictions_are_none(tmp_path: Path, text: str) -> None:
    folder = make_job(tmp_path, method="m1", accuracies=ONE)
    (run,) = load([tmp_path]).runs
    (folder / "predictions" / "microworld" / "predictions.jsonl").write_bytes(
        text.encode("latin-1")
    )
    assert read_predictions(run, "microworld") == []
    assert read_predictions(run, "absent") == []


def test_a_broken_corpus_or_curve_file_is_empty(tmp_path: Path) -> None:
    corpus = tmp_path / "c"
    make_corpus(corpus, trajectories(2))
    folder = make_job(tmp_path / "s", method="m1", accuracies=ONE, corpus=corpus)
    (corpus / "trajectories.parquet").write_text("no parquet")
    (folder / "metrics.csv").write_text("step,train/loss\n0,nan\nx,1\n1,\n2,0.5\n3,1,9\n")
    (run,) = load([tmp_path / "s"]).runs
    path = corpus_file(run)
    assert path is not None
    assert read_trajectories(path) == []
    assert read_curves(run) == {"train/loss": [(2.0, 0.5), (3.0, 1.0)]}


def test_flatten_keeps_lists_and_nulls() -> None:
    assert flatten({"a": {"b": [1], "c": {"d": None}}, "e": 1}) == {
        "a.b": [1],
        "a.c.d": None,
        "e": 1,
    }


def _rows(folder: Path) -> tuple[list[str], set[tuple[str, ...]]]:
    runs = load([folder]).runs
    swept = swept_choices(runs)
    return swept, {row_values(run, swept) for run in runs}


def test_a_choice_that_cannot_matter_is_a_dash(tmp_path: Path) -> None:
    for filters in ("none", "two_stage"):
        for method in ("zero_shot", "sft", "sft_teacher_cot", "m1"):
            salt = method if method in ("zero_shot", "sft") else None
            make_job(tmp_path, method=method, filter=filters, accuracies=ONE, salt=salt)
    swept, rows = _rows(tmp_path)
    assert swept == ["method", "filter"]
    assert rows == {
        ("zero_shot", "-"),
        ("sft", "-"),
        ("sft_teacher_cot", "none"),
        ("sft_teacher_cot", "two_stage"),
        ("m1", "none"),
        ("m1", "two_stage"),
    }


@pytest.mark.parametrize(
    ("key", "values", "swept"),
    [
        ("filter.plan_score_threshold", [50, 80, 90], ["filter.plan_score_threshold"]),
        ("trainer.learning_rate", [0.1, 0.2], ["trainer.learning_rate"]),
        ("data.fraction", [0.1, 1.0], ["data.fraction"]),
        ("teacher.concurrency", [1, 8], []),  # runtime: changes no result
        ("teacher.api_base", ["http://a:1", "http://a:2"], []),
        ("teacher.label", ["x", "y"], ["teacher.label"]),
        ("paths.outputs", ["a", "b"], []),
        ("evaluation.benchmarks", [["a"], ["b"]], []),  # columns, not rows
    ],
)
def test_settings_that_vary_are_swept_unless_they_change_no_result(
    tmp_path: Path, key: str, values: list[object], swept: list[str]
) -> None:
    for value in values:
        make_job(tmp_path, accuracies=ONE, settings={key: value}, method="m1")
    assert _rows(tmp_path)[0] == swept


def test_what_another_choice_determines_is_not_listed_unless_it_was_overridden(
    tmp_path: Path,
) -> None:
    for filters, selection in (("none", "first"), ("two_stage", "best")):
        make_job(
            tmp_path,
            filter=filters,
            accuracies=ONE,
            settings={"filter.selection": selection},
            overrides=[f"filter={filters}"],
        )
    assert _rows(tmp_path)[0] == ["filter"]
    for filters, selection in (("none", "first"), ("two_stage", "best")):
        make_job(
            tmp_path,
            filter=filters,
            accuracies=ONE,
            settings={"filter.selection": selection},
            overrides=[f"filter={filters}", f"++filter.selection={selection}"],
        )
    assert _rows(tmp_path)[0] == ["filter", "filter.selection"]


def test_a_dash_that_hides_a_difference_is_given_up(tmp_path: Path) -> None:
    for filters in ("none", "two_stage"):
        make_job(tmp_path, method="sft", filter=filters, accuracies=ONE, salt=filters)
        make_job(tmp_path, method="m1", filter=filters, accuracies=ONE)
    runs = load([tmp_path]).runs
    groups = group_runs(runs, swept_choices(runs))
    assert ("sft", "none") in groups
    assert ("sft", "two_stage") in groups
    assert not any(conflicts(members) for members in groups.values())


def test_the_newest_of_two_results_of_one_seed_comes_first(tmp_path: Path) -> None:
    for name, created in (("old", "2025-01-01"), ("new", "2025-02-01")):
        folder = make_job(tmp_path, method="m1", accuracies=ONE, salt=name, name=name)
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(result | {"created": created}))
    (members,) = group_runs(load([tmp_path]).runs, []).values()
    assert [run.name for run in members] == ["new", "old"]
    assert conflicts(members) == 1
