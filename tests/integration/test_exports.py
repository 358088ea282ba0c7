"""comparison.csv, .tex and .json, the figures' choices, and the command that writes them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from sweep_builder import make_job
from typer.testing import CliRunner

from plan_tuning.cli import app
from plan_tuning.comparison.claims import findings
from plan_tuning.comparison.diagnostics import curve_names, curves_figure
from plan_tuning.comparison.differences import OutcomeReader
from plan_tuning.comparison.exports import to_csv, to_json
from plan_tuning.comparison.latex import to_latex
from plan_tuning.comparison.runs import load
from plan_tuning.comparison.table_text import reward_table
from plan_tuning.comparison.tables import Table, build_table

pytestmark = pytest.mark.integration

REWARDS = (
    "train/reward/total", "train/reward/total/std", "train/reward/correct",
    "train/reward/correct/coverage", "train/reward/correct/std", "train/reward/plan",
    "train/reward/plan/correlation", "train/reward/plan/std",
)  # fmt: skip


def _main_result(folder: Path, seeds: int = 3) -> Path:
    for seed in range(seeds):
        for method, accuracy in (("sft", 0.3), ("m1", 0.8)):
            make_job(folder, method=method, data="gsm8k", seed=seed, n=100,
                     accuracies={"gsm8k": accuracy, "aime2024": accuracy})  # fmt: skip
    return folder


def _csv(folder: Path) -> list[dict[str, str]]:
    reader = OutcomeReader()
    table = build_table(load([folder]), reader=reader)
    return list(csv.DictReader(io.StringIO(to_csv(table, findings(table, reader)))))


def _latex(folder: Path) -> tuple[Table, str]:
    reader = OutcomeReader()
    table = build_table(load([folder]), reader=reader)
    return table, to_latex(table, findings(table, reader))


def test_a_line_of_the_csv_holds_figures_verdict_and_the_papers_number(tmp_path: Path) -> None:
    lines = {(line["method"], line["benchmark"]): line for line in _csv(_main_result(tmp_path))}
    line = lines["m1", "gsm8k"]
    assert (line["seeds"], line["interval"], line["problems"]) == ("3", "seeds", "100")
    assert (line["baseline"], line["difference_seeds"], line["direction"]) == (
        "sft", "0 1 2", "higher",
    )  # fmt: skip
    assert float(line["difference_low"]) > 0
    assert line["claims"] == "planning_beats_sft (against sft): agrees"
    assert line["published"].startswith("about +7 % (average gain")
    assert lines["m1", "aime2024"]["published"] == ""
    assert lines["sft", "gsm8k"]["claims"] == lines["sft", "gsm8k"]["difference_value"] == ""


def test_the_csv_says_what_its_interval_is_over(tmp_path: Path) -> None:
    _main_result(tmp_path, seeds=1)
    assert {line["interval"] for line in _csv(tmp_path)} == {"problems"}
    assert {line["difference_seeds"] for line in _csv(tmp_path)} == {"", "0"}


def test_the_latex_holds_n_p_cost_time_numbers_and_legends(tmp_path: Path) -> None:
    _, text = _latex(_main_result(tmp_path))
    main, claims = text.split("\\bigskip")
    assert "gsm8k (n=100)" in main
    assert "$p<0.001$" in main or "p$<$0.001" in main
    assert "\\uparrow" in main
    for word in ("time/job", "answers", "USD", "Student's t", "Holm-corrected"):
        assert word in main
    assert "agrees" in claims
    assert "about +7 \\%" in claims


def test_the_latex_is_sound_whatever_the_choices_hold(tmp_path: Path) -> None:
    for value in ("[q,v]", "a_b & 50% #1 {x} $y$ ~^\\"):
        make_job(tmp_path, settings={"adapter.targets": value}, adapter="lora", method="m1",
                 accuracies={"micro_world": 0.5}, name=str(len(value)))  # fmt: skip
    _, text = _latex(tmp_path)
    inside = False
    for line in text.splitlines():
        if line.startswith("\\begin{tabular}"):
            inside = True
            columns = len(re.sub(r"p\{.*?\}", "p", line.removeprefix("\\begin{tabular}")[1:-1]))
        elif line.startswith("\\end{tabular}"):
            inside = False
        elif inside and not line.startswith(("\\toprule", "\\midrule", "\\bottomrule")):
            assert line.startswith("{}")  # or a bracket would be the option of what stands before
            assert line.endswith(" \\\\")
            assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
    assert "{}[q,v] & " in text
    assert "a\\_b \\& 50\\% \\#1 \\{x\\} \\$y\\$ \\textasciitilde{}\\textasciicircum{}" in text
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
    assert text.isascii()


def test_the_json_names_the_seeds_of_a_difference(tmp_path: Path) -> None:
    reader = OutcomeReader()
    table = build_table(load([_main_result(tmp_path)]), reader=reader)
    content = json.loads(json.dumps(to_json(table, findings(table, reader)), allow_nan=False))
    row = next(row for row in content["rows"] if row["label"] == "m1")
    assert row["benchmarks"]["gsm8k"]["difference"]["seeds"] == [0, 1, 2]
    assert {claim["id"] for claim in content["claims"]} == {"planning_beats_sft"}


def test_the_rewards_of_grpo_are_shown_from_first_to_final(tmp_path: Path) -> None:
    make_job(tmp_path, method="m1", accuracies={"microworld": 0.5})
    for seed, final in enumerate((2.0, 2.2, 2.4)):
        facts = {"first_reward": 1.0 + seed / 10, "final_reward": final}
        make_job(tmp_path, method="grpo", seed=seed, training=facts,
                 accuracies={"microworld": 0.5})  # fmt: skip
    _, rows = reward_table(build_table(load([tmp_path])))
    assert rows == [["grpo", "3", "1.10 [0.85, 1.35]", "2.20 [1.70, 2.70]", "1.10 [0.85, 1.35]"]]


def test_of_rewards_the_means_are_drawn_and_neither_spreads_nor_rates() -> None:
    names = curve_names({*REWARDS, "train/loss", "train/kl", "lr-AdamW"})
    assert names == [
        "train/loss", "train/reward/total", "train/reward/correct", "train/reward/plan", "train/kl",
    ]  # fmt: skip


def test_the_lines_of_many_rows_can_be_told_apart_without_colours(tmp_path: Path) -> None:
    curves = {name: [i / 10 for i in range(40)] for name in REWARDS}
    for number in range(8):
        make_job(tmp_path, method="grpo", curves=curves, accuracies={"microworld": 0.5},
                 settings={"method.beta": number})  # fmt: skip
    table = build_table(load([tmp_path]))
    figure = curves_figure(table, table.rows)
    assert figure is not None
    symbols = re.findall(r'<path id="m[0-9a-f]+" d="([^"]+)"', figure.svg)
    assert len(set(symbols)) >= 8  # a marker for each row, and the ticks


@pytest.mark.parametrize(
    ("baseline", "expected"), [("sft", "m1"), ("method=m1", "sft"), ("m1,filter=two_stage", "sft")]
)
def test_compare_takes_the_baseline_from_the_command_line(
    tmp_path: Path, baseline: str, expected: str
) -> None:
    _main_result(tmp_path, seeds=1)
    reply = CliRunner().invoke(app, ["compare", str(tmp_path), "--baseline", baseline])
    assert reply.exit_code == 0
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["label"] for row in content["rows"] if row["baseline"]] == [expected]


@pytest.mark.parametrize("arguments", [["--baseline", "grpo"], []])
def test_what_cannot_be_compared_ends_with_two_and_writes_nothing(
    tmp_path: Path, arguments: list[str]
) -> None:
    folder = _main_result(tmp_path / "outputs" / "mine", seeds=1)
    folder = folder if arguments else folder.parent
    reply = CliRunner().invoke(app, ["compare", str(folder), *arguments])
    assert reply.exit_code == 2
    assert ("the rows are: sft; m1" if arguments else "outputs/mine") in reply.stderr
    assert not (folder / "comparison.md").exists()


def test_compare_writes_the_figure_of_accuracies(tmp_path: Path) -> None:
    folder = _main_result(tmp_path)
    figure = tmp_path / "shown" / "main.svg"
    ran = CliRunner().invoke(app, ["compare", str(folder), "--figure", str(figure)])
    assert ran.exit_code == 0, ran.output
    text = figure.read_text(encoding="utf-8")
    assert text.startswith("<?xml")
    assert "accuracy (%)</text>" in text
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert len(text) < len(report)


def test_a_figure_of_another_kind_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = _main_result(tmp_path)
    ran = CliRunner().invoke(app, ["compare", str(folder), "--figure", "main.jpg"])
    assert ran.exit_code == 2
    assert "--figure main.svg" in ran.output
    assert not list(folder.glob("comparison.*"))
