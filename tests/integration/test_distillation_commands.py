"""``plan-tuning corpus …`` on a corpus of the micro-world, which needs no server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from plan_tuning.artifacts import build
from plan_tuning.config.grading import GradingConfig
from plan_tuning.config.microworld import MicroworldConfig
from plan_tuning.config.teacher import DistillationConfig, TeacherConfig
from plan_tuning.distillation.corpus import make_corpus, read_trajectories
from plan_tuning.distillation.corpus_command import app
from plan_tuning.tasks.microworld_problems import load_microworld

pytestmark = pytest.mark.integration

KEY = "0123456789abcdef"
Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outputs")
    problems = load_microworld(MicroworldConfig(), "train", limit=20, seed=1)

    def make(folder: Path) -> dict[str, object]:
        return make_corpus(
            folder,
            problems,
            TeacherConfig(),
            DistillationConfig(num_candidates=3),
            GradingConfig(),
            root / "calls",
            progress=False,
        )

    build(root / "artifacts", "corpora", KEY, make, spec={})
    return root


@pytest.fixture
def corpus(outputs: Path) -> Invoke:
    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(
            app, [*arguments, "--outputs", str(outputs)], env={"COLUMNS": "200"}
        )

    return invoke


def test_status_shows_funnel_filters_and_store(corpus: Invoke, outputs: Path) -> None:
    result = corpus("status")
    assert result.exit_code == 0, result.output
    for word in (KEY, "two_stage", "candidates", "calls.sqlite", "AUC"):
        assert word in result.output
    folder = outputs / "artifacts" / "corpora" / KEY
    for words in ([KEY[:5]], [str(folder)], [str(outputs)], ["--corpus", KEY[:5]]):
        assert corpus("status", *words).output == result.output


def test_show_explains_a_problem(corpus: Invoke, outputs: Path) -> None:
    rows = read_trajectories(outputs / "artifacts" / "corpora" / KEY)
    plain = corpus("show", rows[0].problem_id)
    assert plain.exit_code == 0, plain.output
    assert plain.output.count("candidate ") >= 3
    assert "gold answer" in plain.output
    assert "<problem>" not in plain.output
    assert "<problem>" in corpus("show", rows[0].problem_id, "--prompts").output
    absent = corpus("show", "nobody")
    assert "no problem 'nobody'" in str(absent.exception)


def test_refilter_counts_reasons(corpus: Invoke) -> None:
    kept = {}
    for name in ("none", "plan_only", "answer_only", "two_stage"):
        result = corpus("refilter", "--filter", name)
        assert result.exit_code == 0, result.output
        kept[name] = int(result.output.split(f"filter {name}: ")[1].split(" of 20")[0])
    assert kept["none"] == 20
    assert kept["two_stage"] <= min(kept["plan_only"], kept["answer_only"])
    strict = corpus("refilter", "--plan-score-threshold", "100", "--selection", "all")
    assert "0 of 20 problems" in strict.output
    mistake = corpus("refilter", "--filter", "threestage")
    assert "choose one of none, plan_only" in str(mistake.exception)


def test_export_writes_what_was_asked_for(corpus: Invoke, tmp_path: Path) -> None:
    everything, kept = tmp_path / "all.parquet", tmp_path / "kept.jsonl"
    assert corpus("export", str(everything)).exit_code == 0
    assert len(read_trajectories(everything)) == 60
    assert corpus("export", str(kept), "--filter", "none", "--max-rows", "7").exit_code == 0
    assert len([json.loads(line) for line in kept.read_text().splitlines()]) == 7
    assert "ends in .jsonl or .parquet" in str(corpus("export", "x.csv").exception)


def test_card_is_printed(corpus: Invoke) -> None:
    card = corpus("card").output
    assert card.startswith("---\npretty_name:")
    assert "| selected |" in card
    assert "microworld: made by plan-tuning" in card


def test_a_folder_of_results_names_its_corpus(
    corpus: Invoke, outputs: Path, tmp_path: Path
) -> None:
    place = outputs / "artifacts" / "corpora" / KEY
    for job, facts in (("m1", {"path": str(place)}), ("sft", None)):
        (tmp_path / "mine" / job).mkdir(parents=True)
        text = json.dumps({"corpus": facts})
        (tmp_path / "mine" / job / "result.json").write_text(text, encoding="utf-8")
    whole = corpus("card").output
    assert corpus("card", str(tmp_path / "mine")).output == whole
    assert corpus("card", str(tmp_path / "mine" / "m1")).output == whole
    bare = corpus("card", str(tmp_path / "mine" / "sft"))
    assert "neither a corpus nor a folder of results" in str(bare.exception)
    twice = corpus("card", str(place), "--corpus", KEY)
    assert "is named already" in str(twice.exception)


def test_an_absent_corpus_is_one_clear_line(corpus: Invoke, tmp_path: Path) -> None:
    result = corpus("status", "ffff")
    assert "there is no finished corpus 'ffff'" in str(result.exception)
    assert "plan-tuning 'stages=[distill]'" in str(result.exception)
