"""The ledger against a count of real code on tensors without contents, for four trainings.

Real widths and a few layers, of which bytes are a linear function; all presets at their whole
depth: ``python experiments/benchmarks/memory.py``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from composition import jobs_of

from plan_tuning.job.memory_report import memory_line
from plan_tuning.students import shapes

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("model", "adapter", "kind", "is_kept"),
    [
        ("qwen3_0_6b", "full", "sft", False),
        ("llama3_2_1b", "lora", "sft", True),
        ("smollm2_360m", "full", "grpo", False),
        ("gemma3_1b", "lora", "grpo", True),
    ],
)
def test_a_prediction_is_within_a_tenth_of_what_is_counted(
    model: str, adapter: str, kind: str, is_kept: bool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(root / "experiments" / "benchmarks"))
    from memory import compared

    few = {
        name: dataclasses.replace(shape, layers=3, sliding_layers=2 if shape.window else 0)
        for name, shape in shapes.PUBLISHED.items()
    }
    monkeypatch.setattr(shapes, "PUBLISHED", few)
    found = compared(model, adapter, kind, is_kept=is_kept)
    assert found["error"] == pytest.approx(0.0, abs=0.1), found


@pytest.mark.parametrize(("experiment", "size"), [("main", 80), ("filtering", 24), ("rewards", 80)])
def test_a_sweep_says_which_cards_it_runs_on(experiment: str, size: int, tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, f"experiment={experiment}", "teacher.budget_usd=900")
    line = memory_line((job.config, job.graph) for job in jobs)
    assert line is not None
    assert line.startswith("Memory: at most ")
    assert f"cards from {size} GB on" in line.partition(";")[0]


def test_a_sweep_on_the_cpu_says_nothing_of_cards(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "seed=0,1")
    assert memory_line((job.config, job.graph) for job in jobs) is None
