"""Every prepared experiment: documented, indexed, and it composes to the jobs that it promises.

Each one is composed once, as its sweep would compose it, and everything is asked of these jobs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from composition import FOLDER, NAMES, calls_of, jobs_of

from plan_tuning.sweep.jobs import Job

from .test_earlier_fingerprints import FINGERPRINTS, described

pytestmark = pytest.mark.integration

Jobs = Callable[[str], list[Job]]

# jobs; for the twins also jobs of one seed; teacher calls at most (of one seed)
JOBS = {
    "main": (20, 20, 311_568),
    "filtering": (17, 17, 119_568),
    "threshold": (16, 16, 119_568),
    "candidates": (13, 13, 186_825),
    "mixing": (13, 13, 311_568),
    "mixing_mitigations": (14, 14, 311_568),
    "out_of_domain": (20, 20, 311_568),
    "scale": (27, 27, 119_568),
    "domains": (12, 12, 151_200),
    # corpus, plans of the test set, and the teacher as executor: with 3 plans and without
    "executor_and_plan": (13, 13, 119_568 + 21_104 + 4 * 1_319),
    "micro_main": (14, 6, 20_000),
    "micro_filtering": (27, 9, 20_000),
    "micro_threshold": (24, 8, 20_000),
    "micro_candidates": (39, 13, 50_000),
    "micro_mixing": (15, 5, 40_000),
    "micro_mixing_mitigations": (42, 14, 40_000),
    "micro_out_of_domain": (14, 6, 20_000),
    "micro_domains": (18, 6, 36_000),
    "micro_scale": (30, 10, 20_000),
    # besides, a judgement of each completion of 12 students of an epoch: 234 steps x 32 x 8
    "rewards": (18, 18, 119_568 + 12 * 234 * 32 * 8),
    "objective_rewards": (18, 18, 119_568 + 3 * 234 * 32 * 8),  # a judge in one arm, 3 seeds
    "micro_objective_rewards": (18, 6, 20_000 + 30 * 16 * 8),
    "micro_grpo": (12, 4, 20_000),
    "micro_rewards": (27, 9, 20_000),
    "micro_executor_and_plan": (33, 15, 20_000 + 4 * 3_000 + 5 * 4 * 300),
    "quickstart": (22, 8, 20_000),
    "first_real": (5, 5, 0),
}
PAPER = ("main", "filtering", "threshold", "candidates", "mixing", "out_of_domain",
         "executor_and_plan", "scale", "rewards")  # fmt: skip
FACTS = ("Question:", "Grid:", "Teacher:", "Time:", "Command: plan-tuning experiment=")
MICRO = [name for name in NAMES if name.startswith("micro_")]
KEYS = ("GEMINI_API_KEY", "OPENAI_API_KEY")
HIDDEN = ("paths.outputs=", "experiment=")
# The settings of an experiment's earlier fingerprints, where its own are others now.
EARLIER = {"quickstart": ("trainer=micro",)}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """All jobs of an experiment, composed without a key in the environment and kept."""
    outputs = tmp_path_factory.mktemp("outputs")
    kept: dict[str, list[Job]] = {}

    def composed(name: str) -> list[Job]:
        if name not in kept:
            with pytest.MonkeyPatch.context() as patch:
                for key in KEYS:
                    patch.delenv(key, raising=False)
                kept[name] = jobs_of(outputs, f"experiment={name}")
        return kept[name]

    return composed


def header(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return "\n".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def test_every_ablation_of_the_paper_has_a_micro_twin() -> None:
    assert {*PAPER, *(f"micro_{name}" for name in PAPER)} <= set(NAMES)
    assert set(NAMES) == set(JOBS) == set(FINGERPRINTS["experiments"])


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
def test_an_experiment_is_the_jobs_of_its_grids(name: str, jobs: Jobs) -> None:
    """Its jobs can work, are as many as the index says and stand where they always stood."""
    found = jobs(name)
    for job in found:
        assert job.config.sweep_name == name
        assert job.graph.predictions
        assert (job.config.model.kind == "micro") == name.startswith(("micro_", "quickstart"))
    all_jobs, one_seed, calls = JOBS[name]
    assert len(found) == all_jobs
    first = found if all_jobs == one_seed else [job for job in found if job.config.seed == 0]
    assert len(first) == one_seed
    said = f"at most {calls:,} " if calls else "Teacher calls: none"
    assert said in calls_of(first)
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    row = next(line for line in index.splitlines() if line.startswith(f"| `{name}` |"))
    assert f"| {all_jobs} |" in row
    if name not in (*EARLIER, "rewards"):  # whose earlier settings are in test_rates.py
        assert_earlier(name, found)


@pytest.mark.parametrize("name", EARLIER)
def test_its_earlier_settings_find_its_earlier_artifacts(name: str, tmp_path: Path) -> None:
    assert_earlier(name, jobs_of(tmp_path, f"experiment={name}", *EARLIER[name]))


def assert_earlier(name: str, found: Sequence[Job]) -> None:
    hidden = (*HIDDEN, *EARLIER.get(name, ()))
    stages = {
        " ".join(word for word in job.overrides if not word.startswith(hidden)): described(
            job.graph
        )
        for job in found
    }
    earlier = FINGERPRINTS["experiments"][name]
    assert {words: stages.get(words) for words in earlier} == earlier


def test_first_real_is_the_same_from_files_and_on_a_card(
    tmp_path: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With files instead of the Hub, and with another student and its trainer."""
    rows = tmp_path / "socratic.jsonl"
    row = {"question": "1+1?", "answer": "How many? ** It is <<1+1=2>>2.\n#### 2"}
    rows.write_text(json.dumps(row) + "\n")
    weights = tmp_path / "weights.gguf"
    weights.write_bytes(b"GGUF")
    words = ("experiment=first_real", f"data.path={rows}")
    found = jobs_of(tmp_path, *words, f"model.path={weights}")
    assert len(found) == len(jobs("first_real")) == 5
    bases = {job.graph.base.fingerprint for job in found if job.graph.base is not None}
    assert len(bases) == 1
    assert {job.graph.corpus.fingerprint for job in found if job.graph.corpus} != set()
    for job in found:
        assert job.config.benchmarks == ["gsm8k_socratic_internal_split"]
        assert job.config.trainer.threads == 1
    larger = jobs_of(tmp_path, *words, "model=qwen3_0_6b", "trainer=gpu_bf16", "seed=0,1,2")
    assert len(larger) == 13  # the untrained student has no seed
    for job in larger:
        assert job.config.model.path == "Qwen/Qwen3-0.6B"
        assert (job.config.trainer.precision, job.config.trainer.max_steps) == ("bf16", 32)


@pytest.mark.parametrize(
    "names", [("main", "out_of_domain"), ("micro_main", "micro_out_of_domain")]
)
def test_out_of_domain_evaluates_the_very_students_of_main(
    names: tuple[str, str], jobs: Jobs
) -> None:
    main, elsewhere = (
        {job.graph.student.fingerprint for job in jobs(name) if job.graph.student} for name in names
    )
    assert main == elsewhere != set()
