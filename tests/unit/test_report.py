"""The files of a comparison, and that nothing a sweep leaves behind stops it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sweep_builder import make_job, make_quickstart
from typer.testing import CliRunner

from plan_tuning.comparison.diagnostics import leak_rates, threshold_curve
from plan_tuning.comparison.figures import draw_figures, numeric_choices
from plan_tuning.comparison.formats import finding_summary, markdown_table, to_latex
from plan_tuning.comparison.report import Comparison, compare
from plan_tuning.comparison.results import load
from plan_tuning.comparison.tables import build_table

FILES = ["comparison.md", "comparison.csv", "comparison.tex", "comparison.json", "report.html"]
ONE = {"microworld": 0.5}


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    sweep = make_quickstart(tmp_path_factory.mktemp("outputs") / "quickstart", n=40)
    make_job(sweep, method="m2", filter="none", accuracies={}, status="failed")
    (sweep / "killed" / ".hydra").mkdir(parents=True)
    return sweep, compare([sweep], expected_jobs=26, console=False)


def test_every_file_is_written_into_the_first_folder(quickstart: tuple[Path, Comparison]) -> None:
    sweep, comparison = quickstart
    assert [path.name for path in comparison.files] == FILES
    assert all(path.parent == sweep and path.stat().st_size > 200 for path in comparison.files)
    assert not list(sweep.glob(".*.tmp"))


def test_holes_are_shown_and_counted(quickstart: tuple[Path, Comparison]) -> None:
    sweep, _ = quickstart
    text = (sweep / "comparison.md").read_text()
    assert "22 of 24 jobs compared, 1 failed, 1 without a readable result." in text
    assert "ValueError: the loss is not finite" in text
    assert "killed: no result.json" in text
    assert "2 of 26 jobs left nothing behind" in text
    assert "| m2 | none | 0 (1 failed) | – | – |" in text


def test_csv_and_json_hold_the_figures_of_the_table(quickstart: tuple[Path, Comparison]) -> None:
    sweep, comparison = quickstart
    rows = list(csv.DictReader((sweep / "comparison.csv").read_text().splitlines()))
    assert len(rows) == len(comparison.table.rows) * 2
    content = json.loads((sweep / "comparison.json").read_text())
    assert content["swept"] == ["method", "filter"]
    for row, shown in zip(comparison.table.rows, content["rows"], strict=True):
        cell = row.cells.get("microworld")
        if cell is None:
            assert shown["benchmarks"] == {}
            continue
        line = next(
            r for r in rows if (r["method"], r["filter"]) == row.values
            and r["benchmark"] == "microworld"
        )  # fmt: skip
        assert shown["benchmarks"]["microworld"]["accuracy"] == cell.accuracy
        assert float(line["accuracy"]) == pytest.approx(cell.accuracy, abs=1e-6)
        if cell.difference:
            assert float(line["difference_p_holm"]) == pytest.approx(
                cell.difference.p_holm, abs=1e-6
            )
    assert {claim["verdict"] for claim in content["claims"]} <= {
        "agrees",
        "disagrees",
        "undecided",
    }
    assert content["disagreements"][0]["baseline"] == "sft"


def test_equal_inputs_give_equal_files(quickstart: tuple[Path, Comparison], tmp_path: Path) -> None:
    sweep, _ = quickstart
    again = compare([sweep], expected_jobs=26, console=False, out=tmp_path / sweep.name)
    for path in again.files:
        assert path.read_bytes() == (sweep / path.name).read_bytes()


def test_latex_is_escaped_and_regular(tmp_path: Path) -> None:
    for name in ("a_b & 50%", "c#d"):
        make_job(tmp_path, method="m1", settings={"data.path": name}, accuracies=ONE)
    text = to_latex(build_table(load([tmp_path])))
    assert "a\\_b \\& 50\\%" in text
    assert "c\\#d" in text
    lines = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {line.replace("\\&", "").count("&") for line in lines} == {2}


def test_markdown_cells_cannot_break_the_table() -> None:
    text = markdown_table(["a|b"], [["x\ny"]])
    assert text.splitlines() == ["| a\\|b |", "| --- |", "| x y |"]


def _nothing(folder: Path) -> None:
    folder.mkdir()


def _only_failed(folder: Path) -> None:
    make_job(folder, method="m1", accuracies={}, status="failed")


def _only_broken(folder: Path) -> None:
    (folder / "job").mkdir(parents=True)
    (folder / "job" / "result.json").write_text("{")


def _no_metrics(folder: Path) -> None:
    make_job(folder, method="m1", accuracies={})


def _null_accuracy(folder: Path) -> None:
    job = make_job(folder, method="m1", accuracies=ONE)
    result = json.loads((job / "result.json").read_text())
    result["metrics"]["microworld"] = {"accuracy": None, "n": 0}
    (job / "result.json").write_text(json.dumps(result))


def _only_debug(folder: Path) -> None:
    make_job(folder, method="m1", accuracies=ONE, debug=True)


def _minimal(folder: Path) -> None:
    (folder / "job").mkdir(parents=True)
    (folder / "job" / "result.json").write_text('{"schema": 1, "status": "completed"}')


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_nothing, "nothing to compare yet"),
        (_only_failed, "nothing to compare yet"),
        (_only_broken, "nothing to compare yet"),
        (_no_metrics, "1 of 1 jobs compared"),
        (_null_accuracy, "1 of 1 jobs compared"),
        (_only_debug, "These are debug runs"),
        (_minimal, "1 of 1 jobs compared"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_whatever_a_sweep_left_behind_there_is_a_comparison(
    tmp_path: Path, make: object, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(make)
    make(tmp_path / "mine")
    comparison = compare([tmp_path / "mine"], expected_jobs=3)
    assert [path.name for path in comparison.files] == FILES
    assert expected in (tmp_path / "mine" / "comparison.md").read_text()
    assert "report.html" in capsys.readouterr().out


def test_the_terminal_shows_table_claims_and_files(
    quickstart: tuple[Path, Comparison], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    compare([quickstart[0]], out=tmp_path)
    text = capsys.readouterr().out
    assert "baseline" in text
    assert "agrees" in text
    assert "missing:" in text
    assert "report.html" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--baseline", "m2"], 0, "Written:"),
        (["--baseline", "method=grpo"], 2, "matches no row"),
    ],
)
def test_the_command(
    quickstart: tuple[Path, Comparison],
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    import typer

    from plan_tuning.comparison.commands import compare as command

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(quickstart[0]), "--out", str(tmp_path), *arguments])
    assert result.exit_code == code, result.output
    assert message in result.output
    absent = CliRunner().invoke(app, [str(tmp_path / "absent")])
    assert absent.exit_code == 2
    assert "is not a folder" in absent.output


def test_comparing_imports_nothing_heavy() -> None:
    code = (
        "import sys, plan_tuning.comparison.report, plan_tuning.comparison.commands\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'pandas', 'wandb', 'litellm', 'pyarrow'}\n"
        "sys.exit(','.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_threshold_curve_counts_problems_and_right_answers() -> None:
    rows = [
        {"problem_id": "a", "plan_score": 90, "verdict": "correct"},
        {"problem_id": "a", "plan_score": 40, "verdict": "wrong"},
        {"problem_id": "b", "plan_score": 70, "verdict": "wrong"},
        {"problem_id": "c", "plan_score": None, "verdict": "correct"},
    ]
    curve = {point.threshold: point for point in threshold_curve(rows)}
    assert (curve[-100].kept_rate, curve[-100].correct_rate) == (2 / 3, 1 / 3)
    assert (curve[70].kept_rate, curve[70].correct_rate) == (2 / 3, 1 / 2)
    assert (curve[75].kept_rate, curve[75].correct_rate) == (1 / 3, 1.0)
    assert curve[95].kept_rate == 0.0
    assert curve[95].correct_rate != curve[95].correct_rate  # nan: nothing is kept


def test_leak_rates_count_written_plans_only() -> None:
    rows = [
        {"plan": "1. So the final answer is 35.", "gold": "35", "prompt": "What is 30 + 5?"},
        {"plan": "1. Add the numbers.", "gold": "35", "prompt": "What is 30 + 5?"},
        {"plan": "", "gold": "35", "prompt": "What is 30 + 5?"},
    ]
    assert leak_rates(rows) == {"plan_leak_rate": 0.5, "plan_box_rate": 0.0}
    assert leak_rates(rows[2:]) == {}


def test_a_numeric_choice_is_drawn_as_a_curve(tmp_path: Path) -> None:
    for threshold in (0, 50, 80):
        for method in ("m1", "m2"):
            make_job(
                tmp_path,
                method=method,
                accuracies=ONE,
                settings={"filter.plan_score_threshold": threshold},
            )
    make_job(tmp_path, method="sft", accuracies=ONE)
    table = build_table(load([tmp_path]))
    assert numeric_choices(table) == ["filter.plan_score_threshold"]
    figures = {figure.name: figure for figure in draw_figures(table, corpora={}, rates={})}
    assert list(figures) == ["accuracy", "by_filter_plan_score_threshold", "length", "curves"]
    for figure in figures.values():
        ElementTree.fromstring(figure.svg)
    again = draw_figures(table, corpora={}, rates={})
    assert [figure.svg for figure in again] == [figure.svg for figure in figures.values()]


def test_the_terminal_counts_verdicts_over_many_rows(
    quickstart: tuple[Path, Comparison],
) -> None:
    head, rows = finding_summary(quickstart[1].findings)
    assert head == ["claim of the paper", "microworld", "microworld_depth", "published"]
    assert len(rows) == 4
    counted = [int(word) for word in rows[0][1].replace(",", "").split()[1::2]]
    assert sum(counted) == 5  # four filters of m1, and m2
    assert rows[1][1].startswith(("agrees:", "disagrees:", "undecided:"))
