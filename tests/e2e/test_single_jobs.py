"""Single jobs as a user types them: stage by stage, sampled, decontaminated, dry."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run, built, results

pytestmark = pytest.mark.e2e

FAST = ("method=m2", "debug=fast", "logger=csv")


def test_stage_by_stage(plan_tuning: Run, tmp_path: Path) -> None:
    outputs = tmp_path / "multirun_outputs"
    listed = plan_tuning(*FAST, "dry_run=true", "adapter.rank=4")
    assert listed.returncode == 0, listed.stderr
    assert "adapter.rank=4" in listed.stdout, "a word that nothing reads is named"
    assert "to build" in listed.stdout
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing behind"
    expected = [{"corpora"}, {"corpora", "bases", "students"},
                {"corpora", "bases", "students", "predictions"}]  # fmt: skip
    for stage, kinds in zip(("distill", "train", "evaluate"), expected, strict=True):
        ran = plan_tuning(*FAST, f"stages=[{stage}]")
        assert ran.returncode == 0, ran.stderr
        assert {key.split("/")[1] for key in built(outputs)} == kinds
        last = ran.stdout.splitlines()[-1]
        assert "result: multirun_outputs/single/" in last
        assert f"{ {'distill': 'corpus'}.get(stage, 'student') }: multirun_outputs/art" in last
    done = results(outputs / "single")
    assert [row["objective"] is None for row in done].count(False) == 1
    (kept,) = (outputs / "single").glob("*/evidence/predictions")
    moved = shutil.copytree(kept.parents[1], tmp_path / "elsewhere" / "job")
    compared = plan_tuning("compare", str(moved.relative_to(tmp_path)))
    assert compared.returncode == 0, compared.stderr
    content = json.loads((moved / "comparison.json").read_text())
    assert content["read"] == {"predictions": 4, "corpora": 1}
    shown = plan_tuning("corpus", "status")
    assert shown.returncode == 0, shown.stderr
    assert "24" in shown.stdout


def test_samples_and_decontamination(plan_tuning: Run, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(4)]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    made = plan_tuning("contamination", "--train", "gsm8k=data", "--test", "gsm8k=data",
                       "--out", "overlap.json")  # fmt: skip
    assert made.returncode == 0, made.stderr
    report = json.loads((tmp_path / "overlap.json").read_text())
    assert len(report["test"]["gsm8k"]["ids"]) == 4, "equal problems overlap exactly"
    report["test"]["gsm8k"]["ids"] = report["test"]["gsm8k"]["ids"][:1]
    (tmp_path / "overlap.json").write_text(json.dumps(report))

    words = ["data=gsm8k", "data.path=data", "model=tiny_qwen3", "method=zero_shot_cot",
             "evaluation.num_samples=3", "evaluation.temperature=0.8",
             "evaluation.max_new_tokens=8", "logger=csv"]  # fmt: skip
    ran = plan_tuning(*words, "evaluation.decontaminate=overlap.json")
    assert ran.returncode == 0, ran.stderr
    (row,) = results(tmp_path / "multirun_outputs" / "single")
    assert row["metrics"]["gsm8k"]["n"] == 4
    assert row["metrics"]["gsm8k_decontaminated"]["n"] == 3
    assert {"pass@1", "pass@2", "maj@3", "avg@3"} <= set(row["metrics"]["gsm8k"])
    for name in row["predictions"].values():
        job = next((tmp_path / "multirun_outputs" / "single").glob("*/result.json")).parent
        assert (job / name).is_file()


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--cfg", "job"], ["trainer.learning_rate=-1"], ["compare", "nowhere"]],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded_before_a_job_starts(
    words: list[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "plan_tuning.main", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    loaded = {line.rsplit("|", 1)[-1].strip() for line in ran.stderr.splitlines() if "|" in line}
    assert "plan_tuning.config.run" in loaded
    heavy = {"torch", "transformers", "litellm", "wandb", "pytorch_lightning", "datasets"}
    assert not heavy & loaded
