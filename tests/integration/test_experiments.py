"""Every prepared experiment: documented, indexed, and it composes to jobs that can work."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from planning import FOLDER, NAMES, jobs_of

pytestmark = pytest.mark.integration

PAPER = ("main", "filtering", "threshold", "candidates", "mixing", "out_of_domain",
         "executor_and_plan", "scale", "rewards")  # fmt: skip
FACTS = ("Question:", "Grid:", "Teacher:", "Time:", "Command: plan-tuning experiment=")
MICRO = [name for name in NAMES if name.startswith("micro_")]


def header(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return "\n".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def test_every_ablation_of_the_paper_has_a_micro_twin() -> None:
    assert {*PAPER, *(f"micro_{name}" for name in PAPER)} <= set(NAMES)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "quickstart"])
def test_the_header_says_what_it_costs_and_how_to_start_it(name: str) -> None:
    text = header(name)
    for fact in (*FACTS, "Paper:"):
        assert fact in text, f"{name}.yaml says nothing about {fact}"
    assert f"experiment={name}" in text
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert content["sweep_name"] == name
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"| `{name}` |" in index


@pytest.mark.parametrize("name", MICRO)
def test_a_micro_twin_runs_with_any_launcher(name: str) -> None:
    """Knobs of one launcher in an experiment would refuse every other launcher."""
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert "launcher" not in content["hydra"]


@pytest.mark.parametrize("name", NAMES)
def test_every_grid_composes_without_a_network_or_a_key(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("GEMINI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    jobs = jobs_of(tmp_path, f"experiment={name}", first_only=True)
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert 1 <= len(jobs) <= len(content["hydra"]["sweeper"]["grids"])
    for job in jobs:
        assert job.config.sweep_name == name
        assert job.graph.predictions
        assert (job.config.model.kind == "micro") == name.startswith(("micro_", "quickstart"))


def test_out_of_domain_evaluates_the_very_students_of_main(tmp_path: Path) -> None:
    for pair in (("main", "out_of_domain"), ("micro_main", "micro_out_of_domain")):
        students = [
            {
                job.graph.student.fingerprint
                for job in jobs_of(tmp_path, f"experiment={name}", "method=m1", first_only=True)
                if job.graph.student
            }
            for name in pair
        ]
        assert students[0] == students[1] != set()
