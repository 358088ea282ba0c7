"""Question 3 in its cheap form: students of sources, merged, routed, and the verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from plan_tuning.students.adapter_merging import read_adapter

from .conftest import Run, built, results

pytestmark = pytest.mark.e2e

FAST = ("debug=fast", "logger=csv", "hydra/launcher=basic")
TESTS = ("microworld_d", "microworld_c")


def texts(row: dict[str, Any], folder: Path, benchmark: str) -> list[tuple[str, str]]:
    lines = (folder / row["job"] / row["predictions"][benchmark]).read_text().splitlines()
    return [(one["problem_id"], one["text"]) for one in map(json.loads, lines)]


def test_the_experiment_merges_and_routes_the_students_of_its_sources(
    plan_tuning: Run, tmp_path: Path
) -> None:
    ran = plan_tuning("experiment=micro_mixing_mitigations", *FAST, "seed=0")
    assert ran.returncode == 0, ran.stderr
    outputs = tmp_path / "multirun_outputs"
    sweep, students = outputs / "micro_mixing_mitigations", outputs / "artifacts" / "students"
    rows = results(sweep)
    assert [row["status"] for row in rows] == ["completed"] * 14
    arms = ("data.mixing.", "trainer.", "merge")
    plain = {
        row["choices"]["data"]: row
        for row in rows
        if not any(word.startswith(arms) for word in row["overrides"])
    }
    alone = [plain[name] for name in ("microworld_d", "microworld_c")]
    own = [row["fingerprints"]["student"] for row in alone]
    merged = {row["choices"]["merge"]: row for row in rows if row["choices"]["merge"] != "none"}
    for row in merged.values():
        folder = students / row["fingerprints"]["student"]
        assert json.loads((folder / "manifest.json").read_text())["spec"]["students"] == own
    adapters = [read_adapter(students / name) for name in own]
    mean = read_adapter(students / merged["linear"]["fingerprints"]["student"])
    for layer in mean.factors:
        exact = sum(adapter.update(layer) for adapter in adapters) / 2
        torch.testing.assert_close(mean.update(layer), exact, rtol=1e-5, atol=1e-7)
    oracle = next(row for row in rows if "merge.router=oracle" in row["overrides"])
    for row, benchmark in zip(alone, TESTS, strict=True):
        assert texts(oracle, sweep, benchmark) == texts(row, sweep, benchmark)
    nearest = next(row for row in rows if "merge.router=nearest" in row["overrides"])
    predictions = outputs / "artifacts" / "predictions"
    asked = predictions / nearest["fingerprints"]["predictions"][TESTS[0]] / "manifest.json"
    routed = json.loads(asked.read_text())["facts"]["routed"]
    (counts,) = routed.values()  # of the one phase
    assert sum(counts.values()) == 8
    assert set(counts) <= set(TESTS)
    text = (sweep / "comparison.md").read_text()
    assert "## Mixed training" in text
    assert "interference (alone − mixed)" in text
    assert any(word in text for word in ("Mixing costs", "Undecided whether", "Mixing helps"))
    cosines = [row for row in rows if "trainer.pcgrad=module" in row["overrides"]]
    assert len(cosines) == 1

    before = built(outputs)
    words = ("data=microworld_conflict", "adapter=lora", "adapter.rank=8", "adapter.alpha=16",
             "trainer.learning_rate=1e-2", "trainer.max_steps=-1", "trainer.epochs=4", "merge=ties",
             "sweep_name=weights")  # fmt: skip
    swept = plan_tuning("-m", *words, *FAST, "seed=0", "merge.weights=[0.9,0.1],[0.5,0.5]")
    assert swept.returncode == 0, swept.stderr
    made = sorted(key.split("/")[1] for key in built(outputs).keys() - before.keys())
    assert made == ["predictions"] * 2 + ["students"], "half and half is the experiment's own"


def test_a_merge_trains_the_students_of_its_sources(plan_tuning: Run, tmp_path: Path) -> None:
    words = ("data=microworld_conflict", "merge=linear", *FAST[:2], "seed=1")
    refused = plan_tuning(*words, "stages=[distill,evaluate]")
    assert refused.returncode != 0
    assert "does not list train" in refused.stderr + refused.stdout
    ran = plan_tuning(*words)
    assert ran.returncode == 0, ran.stderr
    kinds = [key.split("/")[1] for key in built(tmp_path / "multirun_outputs")]
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    assert counts == {"bases": 1, "corpora": 2, "predictions": 2, "students": 3}
