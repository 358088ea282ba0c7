"""A sweep's folder on another machine: what travels with it, and what its absence costs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from sweep_builder import make_corpus, make_job, trajectories
from typer.testing import CliRunner

from plan_tuning.cli import app
from plan_tuning.comparison.comparison_files import compare
from plan_tuning.comparison.runs import ComparisonError, load, read_predictions

pytestmark = pytest.mark.integration

FILES = ("comparison.md", "comparison.csv", "comparison.tex", "comparison.json", "report.html")


def make_sweep(outputs: Path, name: str, methods: tuple[str, ...] = ("sft", "m1")) -> Path:
    """A sweep whose predictions and corpus are artifacts beside it, as a real one's are."""
    corpus = outputs / "artifacts" / "corpora" / "c"
    make_corpus(corpus, trajectories(30))
    for method in methods:
        for seed in (0, 1, 2):
            job = make_job(
                outputs / name,
                method=method,
                seed=seed,
                n=80,
                corpus=corpus if method == "m1" else None,
                accuracies={"microworld": 0.9 if method == "m1" else 0.3},
            )
            _to_artifact(outputs, job)
    return outputs / name


def _to_artifact(outputs: Path, job: Path) -> None:
    result = json.loads((job / "result.json").read_text())
    for name, where in result["predictions"].items():
        key = f"{job.parent.name}-{result['choices']['method']}-{result['seed']}-{name}"
        target = outputs / "artifacts" / "predictions" / key / "predictions.jsonl"
        target.parent.mkdir(parents=True)
        (job / where).rename(target)
        result["predictions"][name] = os.path.relpath(target, job)
        result["fingerprints"]["predictions"][name] = key
    shutil.rmtree(job / "predictions")
    (job / "result.json").write_text(json.dumps(result))


def test_a_copied_sweep_is_compared_as_it_was(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "here", "mine")
    compare([sweep], console=False)
    moved = tmp_path / "there" / "mine"
    shutil.copytree(sweep, moved)
    comparison = compare([moved], console=False)
    assert comparison.warnings == []
    for name in FILES:
        assert (moved / name).read_bytes() == (sweep / name).read_bytes(), name
    assert "figure-threshold" in (moved / "report.html").read_text()
    (run, *_) = load([moved]).runs
    assert read_predictions(run, "microworld")[0]["text"]


def test_two_copied_sweeps_are_compared_together(tmp_path: Path) -> None:
    sweeps = [make_sweep(tmp_path / "here", "one", ("sft", "m1")),
              make_sweep(tmp_path / "here", "two", ("m2",))]  # fmt: skip
    for sweep in sweeps:
        compare([sweep], console=False)
    moved = [tmp_path / f"there-{sweep.name}" / sweep.name for sweep in sweeps]
    for source, target in zip(sweeps, moved, strict=True):
        shutil.copytree(source, target)
    compare(sweeps, out=tmp_path / "x" / "both", console=False)
    comparison = compare(moved, out=tmp_path / "y" / "both", console=False)
    assert not comparison.reading.missing
    for name in FILES:
        expected = (tmp_path / "x" / "both" / name).read_bytes()
        assert (tmp_path / "y" / "both" / name).read_bytes() == expected, name


def test_evidence_is_small_and_written_once(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, "mine")
    compare([sweep], console=False)
    files = [path for path in (sweep / "evidence").rglob("*") if path.is_file()]
    assert len(files) == 7  # six predictions and a corpus
    artifacts = tmp_path / "artifacts" / "predictions"
    raw = sum(path.stat().st_size for path in artifacts.rglob("*.jsonl"))
    packed = sum(path.stat().st_size for path in files if path.suffix == ".gz")
    assert packed < raw / 5
    before = {path: path.stat().st_mtime_ns for path in files}
    compare([sweep], console=False)
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_evidence_follows_an_artifact_that_was_built_anew(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, "mine")
    compare([sweep], console=False)
    (path, *_) = sorted((tmp_path / "artifacts" / "predictions").rglob("*.jsonl"))
    path.write_text(path.read_text().replace("apples", "pears"))
    os.utime(path, (2e9, 2e9))
    compare([sweep], console=False)
    shutil.rmtree(tmp_path / "artifacts")
    texts = [
        row["text"] for run in load([sweep]).runs for row in read_predictions(run, "microworld")
    ]
    assert sum("pears" in text for text in texts) == 80


def test_a_poorer_comparison_replaces_no_fuller_one(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "here", "mine")
    compare([sweep], console=False)
    moved = tmp_path / "there" / "mine"
    shutil.copytree(sweep, moved)
    shutil.rmtree(moved / "evidence")
    before = {name: (moved / name).read_bytes() for name in FILES}
    first = moved.parent / "artifacts" / "predictions" / "mine-m1-0-microworld"
    reply = CliRunner().invoke(app, ["compare", str(moved)])
    assert reply.exit_code == 2
    assert f"the first one {first}" in reply.stderr
    assert "run plan-tuning compare on their sweep and copy its folder again" in reply.stderr
    assert f"copy the artifacts to {moved.parent / 'artifacts'}." in reply.stderr
    assert "--out" in reply.stderr
    assert "--force" in reply.stderr
    assert "not tested" in reply.stdout  # the table is shown all the same
    assert {name: (moved / name).read_bytes() for name in FILES} == before
    out = ["compare", str(moved), "--out", str(tmp_path / "else")]
    assert CliRunner().invoke(app, out).exit_code == 0
    assert str(first) in (tmp_path / "else" / "comparison.md").read_text()
    assert CliRunner().invoke(app, ["compare", str(moved), "--force"]).exit_code == 0
    assert (moved / "comparison.md").read_bytes() != before["comparison.md"]
    # from here on nothing fuller is lost
    assert CliRunner().invoke(app, ["compare", str(moved)]).exit_code == 0


def test_a_lost_corpus_alone_is_poorer_too(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "here", "mine")
    compare([sweep], console=False)
    moved = tmp_path / "there" / "mine"
    shutil.copytree(sweep, moved)
    shutil.rmtree(moved / "evidence" / "corpora")
    with pytest.raises(ComparisonError, match=r"corpora.c.trajectories\.parquet"):
        compare([moved], console=False)


def test_a_job_that_was_removed_makes_nothing_poorer(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, "mine")
    compare([sweep], console=False)
    for job in sweep.glob("method=m1*"):
        shutil.rmtree(job)
    assert len(compare([sweep], console=False).table.rows) == 1


def test_what_was_never_compared_says_what_is_missing(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, "mine")
    shutil.rmtree(tmp_path / "artifacts")
    comparison = compare([sweep], console=False)
    assert len(comparison.reading.missing) == 7
    assert any("the first one" in line for line in comparison.warnings)
    assert not (sweep / "evidence").exists()


def test_a_damaged_piece_of_evidence_is_missing_and_no_crash(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, "mine")
    compare([sweep], console=False)
    shutil.rmtree(tmp_path / "artifacts")
    for path in (sweep / "evidence" / "predictions").rglob("*.gz"):
        path.write_bytes(path.read_bytes()[:-20])
    comparison = compare([sweep], out=tmp_path / "out", console=False)
    assert any("missing or unreadable: 6" in line for line in comparison.warnings)


def test_a_foreign_result_names_no_file_outside(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "a" / "b", "mine", ("m1",))
    for path in sweep.glob("*/result.json"):
        result = json.loads(path.read_text())
        result["fingerprints"]["corpus"] = "../../../../stolen"
        path.write_text(json.dumps(result))
    compare([sweep], console=False)
    assert not list(tmp_path.rglob("stolen*"))
