"""Plans of a real file, from the command to the table: trained, disclosed, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Run, results

pytestmark = pytest.mark.e2e

INTERNAL = "gsm8k_socratic_internal_split"


def test_a_sweep_on_the_plans_of_a_file_ends_in_a_table(
    plan_tuning: Run, tmp_path: Path, shared: Path
) -> None:
    file = shared / "data" / "gsm8k_socratic" / "test.jsonl"
    words = (
        "data=gsm8k_socratic", f"data.path={file}", "teacher=dataset", "filter=recompute",
        "model=tiny_qwen3", "data.holdout=8", "data.limit=24", "trainer.max_steps=2",
        "trainer.val_fraction=0", "evaluation.max_new_tokens=8", "evaluation.max_plan_tokens=8",
        "logger=csv",
    )  # fmt: skip
    ran = plan_tuning("-m", "method=zero_shot,sft,m1,m2", *words, "sweep_name=given")
    assert ran.returncode == 0, ran.stderr
    assert "Teacher calls: none." in ran.stdout
    assert f"{INTERNAL}: an internal split" in ran.stdout
    assert "Trained on 24 GSM8K test problems: sft" in ran.stdout
    outputs = tmp_path / "multirun_outputs"
    assert not (outputs / "calls").exists()
    done = {row["settings"]["method"]["name"]: row for row in results(outputs / "given")}
    assert set(done) == {"zero_shot", "sft", "m1", "m2"}
    assert all(set(row["metrics"]) == {INTERNAL} for row in done.values())
    assert all(row["metrics"][INTERNAL]["n"] == 8 for row in done.values())
    assert "trained_on_test_problems" not in done["zero_shot"]
    for method in ("sft", "m1", "m2"):
        assert done[method]["trained_on_test_problems"] == {"gsm8k": 24}
        assert done[method]["seen_in_training"] == {INTERNAL: 0}
    for name in ("comparison.md", "report.html"):
        text = (outputs / "given" / name).read_text(encoding="utf-8")
        assert "an internal split, held out of the file" in text
        assert "Trained on 24 GSM8K test problems" in text
    student = done["m1"]["fingerprints"]["student"]
    folder = outputs / "artifacts" / "students" / student
    assert json.loads((folder / "manifest.json").read_text())["facts"]["test_problems"] == {
        "gsm8k": 24
    }
    assert "24 GSM8K test problems" in (folder / "README.md").read_text(encoding="utf-8")

    benchmark = f'evaluation.benchmarks=["gsm8k={shared / "data" / "gsm8k"}"]'
    for refused in (
        plan_tuning("method=m1", *words, benchmark),
        plan_tuning(
            "method=m1", f"student.path={folder}", "stages=[evaluate]", "model=tiny_qwen3",
            "data=gsm8k", benchmark,
        ),
    ):  # fmt: skip
        assert refused.returncode != 0
        assert "evaluation.benchmarks=gsm8k is not allowed" in refused.stderr + refused.stdout
    for method in ("sft", "m1"):
        own = outputs / "artifacts" / "students" / done[method]["fingerprints"]["student"]
        given = (f"method={method}", f"student.path={own}", "stages=[evaluate]", *words)
        again = plan_tuning(*given)
        assert again.returncode == 0, again.stderr
        other = plan_tuning(*given, "data.holdout=1300")  # a trained question is among them
        assert other.returncode != 0
        assert f"student.path={own} is not allowed" in other.stderr + other.stdout
    corpus = outputs / "artifacts" / "corpora" / done["m1"]["fingerprints"]["corpus"]
    further = [word for word in words if not word.startswith(("data.holdout", "data.limit"))]
    mixed = plan_tuning("method=m1", *further, "data.holdout=200", f"corpus.path={corpus}")
    assert mixed.returncode != 0
    assert f"corpus.path={corpus} is not allowed" in mixed.stderr + mixed.stdout
