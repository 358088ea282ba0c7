"""The command with a pretrained student from a GGUF file: one short path, as CI runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Run, built, results

pytestmark = [pytest.mark.real, pytest.mark.e2e]

PEOPLE = ("Ada", "Ben", "Chloe", "Dev", "Ella", "Farid")


def write_sums(folder: Path) -> None:
    folder.mkdir()
    for split, first in (("train", 3), ("test", 40)):
        rows = [
            {
                "problem": f"{name} has {first + k} cups and finds {k + 2} more. How many now?",
                "answer": str(first + 2 * k + 2),
                "solution": f"{first + k} + {k + 2} = {first + 2 * k + 2}.",
            }
            for k, name in enumerate(PEOPLE)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines)


def test_a_gguf_file_is_trained_and_asked(
    real_gguf: Path, plan_tuning: Run, tmp_path: Path
) -> None:
    write_sums(tmp_path / "sums")
    common = [
        "model=smollm2_135m_q4", f"model.path={real_gguf}", "data=jsonl", "data.name=sums",
        "data.path=sums", "logger=csv", "evaluation.limit=2", "evaluation.max_new_tokens=24",
    ]  # fmt: skip
    asked = plan_tuning(*common, "method=zero_shot")
    assert asked.returncode == 0, asked.stderr
    assert "dequantising SmolLM2-135M-Instruct.Q4_1.gguf" in asked.stdout
    outputs = tmp_path / "multirun_outputs"
    before = built(outputs)
    trained = plan_tuning(*common, "method=sft", "trainer.max_steps=3", "adapter=lora")
    assert trained.returncode == 0, trained.stderr
    assert "dequantising" not in trained.stdout
    assert before.items() <= built(outputs).items()
    first, second = results(outputs / "single")
    assert first["fingerprints"]["base"] == second["fingerprints"]["base"]
    for row in (first, second):
        assert row["metrics"]["sums"]["n"] == 2
    student = outputs / "artifacts" / "students" / second["fingerprints"]["student"]
    card = (student / "README.md").read_text()
    assert "78.9 % of the weights as Q4_1" in card
    assert str(tmp_path) not in card
    facts = json.loads((student / "manifest.json").read_text())["facts"]
    assert facts["steps"] == 3
    base = outputs / "artifacts" / "bases" / first["fingerprints"]["base"]
    assert (
        "78.9 % of the weights as Q4_1"
        in json.loads((base / "manifest.json").read_text())["facts"]["rounding"]
    )
