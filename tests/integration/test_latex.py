"""The LaTeX of a comparison: it compiles, and the compact table holds what was chosen."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from sweep_builder import make_job
from typer.testing import CliRunner

from plan_tuning.cli import app

pytestmark = pytest.mark.integration

PAGE = (
    "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    "\\input{%s}\n\\end{document}\n"
)
FIGURES = r"\d+\.\d \$\\pm\$ \d+\.\d(\$\^\{\\(up|down)arrow\}\$)?"


def make_sweep(folder: Path, *, seeds: int = 3) -> Path:
    make_job(folder, method="zero_shot", accuracies={"gsm8k": 0.1, "math_500": 0.05})
    for seed in range(seeds):
        for method, accuracy in (("sft", 0.3), ("m1", 0.97), ("sft_teacher_cot", 0.32)):
            make_job(folder, method=method, seed=seed, accuracies={"gsm8k": accuracy,
                     "math_500": accuracy / 2})  # fmt: skip
    return folder


def compiled(folder: Path, name: str) -> str:
    """Compile a file as part of a page, where LaTeX is installed; return the log's complaints."""
    page = folder / "page.tex"
    page.write_text(PAGE % name)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", page.name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "page.pdf").stat().st_size > 5000
    return done.stdout


def compact(folder: Path, *options: str) -> str:
    reply = CliRunner().invoke(app, ["compare", str(folder), "--latex", "compact", *options])
    assert reply.exit_code == 0, reply.stderr
    return (folder / "comparison_compact.tex").read_text()


def body(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("{}")]
    return [re.split(r"(?<!\\)&", line[2:].removesuffix("\\\\")) for line in lines]


def test_the_compact_table_is_accuracy_and_half_an_interval(tmp_path: Path) -> None:
    text = compact(make_sweep(tmp_path))
    head, *rows = [[cell.strip() for cell in line] for line in body(text)]
    assert head == ["method", "gsm8k", "\\shortstack{math\\\\500}"]
    assert [row[0] for row in rows] == ["zero\\_shot", "sft", "sft\\_teacher\\_cot", "m1"]
    for row in rows:
        for cell in row[1:]:
            assert re.fullmatch(FIGURES, cell), cell
    assert "\\uparrow" in rows[3][1]
    assert "\\uparrow" not in rows[1][1]
    for word in ("\\toprule", "\\midrule", "\\bottomrule", "\\begin{tabular}{lcc}", "3 seeds"):
        assert word in text
    assert "below sft" in text
    assert text.isascii()
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
    assert (tmp_path / "comparison.tex").is_file()  # the appendix stays


def test_benchmarks_and_columns_are_chosen_in_order(tmp_path: Path) -> None:
    text = compact(make_sweep(tmp_path), "--benchmarks", "math_500", "--columns", "seeds,method")
    head, *rows = [[cell.strip() for cell in line] for line in body(text)]
    assert head == ["seeds", "method", "\\shortstack{math\\\\500}"]
    assert rows[0][:2] == ["any", "zero\\_shot"]
    assert "\\begin{tabular}{llc}" in text


def test_one_seed_is_marked_and_a_cut_interval_keeps_its_width(tmp_path: Path) -> None:
    for method, accuracy in (("sft", 0.3), ("m1", 2.0)):  # above 1: all right
        make_job(tmp_path, method=method, accuracies={"a": accuracy})
    text = compact(tmp_path)
    assert "\\dagger" in text
    assert "one seed, interval over problems" in text
    assert "100.0 $\\pm$ 10.0" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--latex", "compact", "--benchmarks", "aime"], "no aime; it has gsm8k, math_500"),
        (["--latex", "compact", "--columns", "model"], "no model; it has method, seeds"),
        (["--columns", "method"], "--latex compact"),
    ],
)
def test_what_the_table_has_not_is_an_error_that_lists_what_it_has(
    tmp_path: Path, options: list[str], said: str
) -> None:
    make_sweep(tmp_path, seeds=1)
    reply = CliRunner().invoke(app, ["compare", str(tmp_path), *options])
    assert reply.exit_code == 2
    assert said in reply.stderr
    assert not (tmp_path / "comparison.tex").exists()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_both_compile(tmp_path: Path) -> None:
    for value in ("[q,v]", "a_b & 50% #1 {x} $y$ ~^\\"):
        make_job(tmp_path, settings={"adapter.targets": value}, adapter="lora", method="m1",
                 accuracies={"micro_world": 0.5}, name=str(len(value)))  # fmt: skip
    make_sweep(tmp_path)
    compact(tmp_path)
    for name in ("comparison", "comparison_compact"):
        assert "LaTeX Warning" not in compiled(tmp_path, name)
