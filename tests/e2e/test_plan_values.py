"""What a plan is worth, of students that were really trained, from the command to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run, built, results

pytestmark = pytest.mark.e2e

# A base of a third of the usual steps: it knows which plan leads where, and computes badly.
TRAINED = ("debug.enabled=true", "debug.max_steps=450", "debug.max_test_problems=120", "seed=0")
WORDS = (
    *TRAINED,
    "data=microworld",
    "model=micro",
    "teacher=scripted",
    "filter=none",
    "evaluation.benchmarks=[microworld]",
    "logger=csv",
    "hydra/launcher=basic",
    "sweep_name=mine",
)
VALUED = ("evaluation.plan_value=true", "evaluation.plan_value_corpus=distil")


def figures(outputs: Path) -> dict[str, Any]:
    return {
        result["choices"]["method"]: result["plan_value"]["microworld"]
        for result in results(outputs / "mine")
        if "plan_value" in result
    }


def test_a_trained_student_knows_a_good_plan(plan_tuning: Run, tmp_path: Path) -> None:
    """Micro-world: the true plan >= the teacher's > another problem's, to base and student."""
    outputs = tmp_path / "multirun_outputs"
    words = ("-m", "method=zero_shot,sft,m1", *WORDS, f"paths.outputs={outputs}")
    first = plan_tuning(*words, timeout=600)
    assert first.returncode == 0, first.stderr
    before = built(outputs)
    second = plan_tuning(*words, *VALUED, timeout=600)
    assert second.returncode == 0, second.stderr
    assert "at most 2," in second.stdout  # texts: 120 problems x (1 + 9 + 9) are 2,280
    after = built(outputs)
    assert {name: after[name] for name in before} == before, "something was built again"
    new = sorted(name.split("/")[1] for name in after.keys() - before.keys())
    assert new == ["corpora", *["plan_values"] * 3]

    for method in ("zero_shot", "m1"):
        found = figures(outputs)[method]
        per_token = {name: item["per_token"] for name, item in found["conditions"].items()}
        assert per_token["true"] > per_token["teacher"], method  # no verifier left bad plans out
        assert per_token["teacher"] > per_token["other"] + 0.1, method
        assert per_token["true"] > per_token["none"], method
        assert found["contrasts"][f"{found['subject']} - other"]["low"] > 0
        assert found["contrasts"][f"true - {found['subject']}"]["low"] > 0
        assert found["followed"]["edit"] == "step_dropped"
        assert found["followed"]["n"] > 100
        assert 0 < found["followed"]["rate"] < 1  # the usual base: 0.86
    assert figures(outputs)["sft"]["conditions"].keys() == {"none"}
    assert (figures(outputs)["zero_shot"]["subject"], figures(outputs)["m1"]["subject"]) == (
        "teacher",
        "own",
    )
    content = json.loads((outputs / "mine" / "comparison.json").read_text())
    assert {item["n"] for item in content["plan_values"]["rank_correlations"]} == {3}
    assert "What a plan is worth" in (outputs / "mine" / "report.html").read_text()
