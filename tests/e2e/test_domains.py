"""Other kinds of problems through the whole flow: programs that are run, and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run, results

pytestmark = pytest.mark.e2e

FAST = ("debug=fast", "logger=csv", "seed=0")
PROGRAMS = ("data=microworld_program", "model=micro_domains", "evaluation.grading.run_code=true",
            "evaluation.benchmarks=[microworld_program]")  # fmt: skip
ADD = {
    "task_id": "H/0", "prompt": 'def add(a, b):\n    """Add."""\n', "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}  # fmt: skip


def manifests(outputs: Path, kind: str) -> list[dict[str, Any]]:
    paths = (outputs / "artifacts" / kind).glob("*/manifest.json")
    return [json.loads(path.read_text()) for path in paths]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_programs_go_the_way_of_numbers(plan_tuning: Run, tmp_path: Path) -> None:
    """Distilled, filtered, learned, valued, rewarded and imported, with the tests as verifier."""
    refused = plan_tuning(*PROGRAMS[:2], "method=m1", *FAST)
    assert refused.returncode == 2
    assert "evaluation.grading.run_code=true" in refused.stderr

    ran = plan_tuning(
        *PROGRAMS, "method=m1", "filter=two_stage", "evaluation.plan_value=true", *FAST
    )
    assert ran.returncode == 0, ran.stderr
    assert "sandbox: programs run under" in ran.stderr + ran.stdout
    outputs = tmp_path / "multirun_outputs"
    (corpus,) = manifests(outputs, "corpora")
    assert corpus["facts"]["sandbox"]["network"] == "none"
    (result,) = results(outputs / "single")
    reasons = result["corpus"]["reasons"]
    assert result["corpus"]["rows"] > 0
    assert reasons.get("answer_wrong", 0) + reasons.get("wrong_answer", 0) > 0, reasons
    value = result["plan_value"]["microworld_program"]["conditions"]
    assert {"none", "true"} <= set(value)

    words = ("start=base", "filter=none", "reward=answer", "stages=[distill,train]")
    ran = plan_tuning(*PROGRAMS, "method=grpo", *words, *FAST)
    assert ran.returncode == 0, ran.stderr
    assert any("sandbox" in one["facts"] for one in manifests(outputs, "students"))

    problems, given = tmp_path / "humaneval.jsonl", tmp_path / "given.jsonl"
    problems.write_text(json.dumps(ADD) + "\n")
    code = "```python\ndef add(a, b):\n    return a {} b\n```"
    rows = [{"task": "H/0", "plan": "1. Add.", "work": code.format(sign)} for sign in "+-"]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--id-key", "task", "--execution-key", "work", "--style", "code", "--split", "test",
             "--problems", f"humaneval={problems}")  # fmt: skip
    ran = plan_tuning("corpus", "import", str(given), *words)
    assert ran.returncode != 0
    assert "run_code=true" in ran.stderr
    ran = plan_tuning("corpus", "import", str(given), *words, "--run-code")
    assert ran.returncode == 0, ran.stderr
    imported = [m for m in manifests(outputs, "corpora") if "imported" in m["facts"]]
    assert imported[0]["facts"]["funnel"]["correct"] == 1

    graded = tmp_path / "graded.jsonl"
    told = {"prediction": code.format("-"), "gold": ADD["canonical_solution"], **ADD}
    told |= {"setup": ADD["prompt"], "test": ADD["test"] + "\ncheck(add)"}
    given.write_text(json.dumps(told) + "\n")
    ran = plan_tuning("grade", str(given), "--out", str(graded), "--style", "code", "--run-code")
    assert ran.returncode == 0, ran.stderr
    assert [row["verdict"] for row in lines(graded)] == ["wrong"]
