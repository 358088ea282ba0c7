"""What filters do to plans, in a comparison: pooled over corpora, in every file of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sweep_builder import make_corpus, make_job, trajectories
from typer.testing import CliRunner

from plan_tuning.cli import app

pytestmark = pytest.mark.integration


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for seed in (0, 1):
        corpus = tmp_path / "artifacts" / "corpora" / f"c{seed}"
        make_corpus(corpus, trajectories(30, seed=seed))
        make_job(tmp_path / "mine", accuracies={"gsm8k": 0.5}, seed=seed, n=10, corpus=corpus)
    return tmp_path / "mine"


def compared(sweep: Path, *words: str) -> tuple[str, dict[str, object], str]:
    result = CliRunner().invoke(app, ["compare", str(sweep), *words])
    assert result.exit_code == 0, result.output
    content = json.loads((sweep / "comparison.json").read_text("utf-8"))
    return result.output, content, (sweep / "comparison.md").read_text("utf-8")


def test_corpora_of_a_sweep_are_pooled_where_it_is_asked_for(sweep: Path) -> None:
    shown, content, text = compared(sweep, "--plans")
    (found,) = content["filter_effects"]  # type: ignore[misc]
    assert found["corpora"] == 2
    none, *others = found["filters"]
    assert none["name"] == "none"
    assert none["problems"] == 60  # thirty of each corpus: equal ids are other problems
    steps = others[0]["figures"]["steps"]
    assert steps["difference"]["n"] == others[0]["problems"]
    assert "## Plans before and after the filters" in text
    assert "self bleu" in shown
    assert "Plans before and after" in (sweep / "report.html").read_text("utf-8")


def test_nothing_is_counted_unless_it_is_asked_for(sweep: Path) -> None:
    shown, content, text = compared(sweep)
    assert "filter_effects" not in content
    assert "before and after the filters" not in text + shown


def test_a_copy_says_that_its_corpora_are_not_whole(sweep: Path, tmp_path: Path) -> None:
    compared(sweep)
    copied = tmp_path / "elsewhere" / "mine"
    shutil.copytree(sweep, copied)
    shown, content, _ = compared(copied, "--plans")
    assert "filter_effects" not in content
    assert "of this comparison are here in small" in " ".join(shown.split())
