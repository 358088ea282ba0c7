"""An outputs folder of an earlier commit: found, read and gone on with by this one.

tests/data/outputs.tar.xz was left by commit 2e415db: a finished job with its corpus, calls, student
and predictions; an SFT and a GRPO training killed behind a checkpoint; and what both became there
when nobody killed them.
"""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from .conftest import Run, built, results

pytestmark = pytest.mark.e2e

ARCHIVE = Path(__file__).resolve().parent.parent / "data" / "outputs.tar.xz"
# Python 3.11 knows it from 3.11.4 on.
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as packed:
        packed.extractall(folder, **SAFELY)
    return folder


@pytest.fixture
def outputs(archive: Path, tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as packed:
        packed.extractall(tmp_path, **SAFELY)
    return tmp_path / "outputs"


def words_of(archive: Path, name: str) -> list[str]:
    """The very command that left the job."""
    commands = json.loads((archive / "commands.json").read_text())
    own = commands["jobs"][name]
    keys = {word.partition("=")[0] for word in own}
    small = [word for word in commands["small"] if word.partition("=")[0] not in keys]
    return [*own, *small, "paths.outputs=outputs"]


def is_same_processor(archive: Path) -> bool:
    """Whether sums are rounded here as they were there."""
    made_on = json.loads((archive / "machine.json").read_text())
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return made_on == {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": found.group(1) if found else "",
        "torch": torch.__version__,
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_finished_job_is_found(plan_tuning: Run, archive: Path, outputs: Path) -> None:
    before = built(outputs)
    ran = plan_tuning(*words_of(archive, "done"))
    assert ran.returncode == 0, ran.stderr
    assert "1 of 1 jobs are finished already" in ran.stderr + ran.stdout
    assert built(outputs) == before
    compared = plan_tuning("compare", "outputs/done")
    assert compared.returncode == 0, compared.stderr
    (row,) = results(outputs / "done")
    assert row["status"] == "completed"


def test_paid_answers_are_found(plan_tuning: Run, archive: Path, outputs: Path) -> None:
    (corpus,) = (outputs / "artifacts" / "corpora").glob("*/trajectories.parquet")
    kept = corpus.read_bytes()
    manifest = corpus.with_name("manifest.json")
    manifest.unlink()
    ran = plan_tuning(*words_of(archive, "done"), "stages=[distill]", "sweep_name=again")
    assert ran.returncode == 0, ran.stderr
    calls = json.loads(manifest.read_text())["facts"]["calls"]
    assert (calls["bought"], calls["cached"] > 0) == (0, True)
    assert corpus.read_bytes() == kept


@pytest.mark.parametrize(
    ("name", "step", "log"), [("sft", 4, "val_samples.jsonl"), ("grpo", 3, "completions.jsonl")]
)
def test_a_half_trained_student_is_finished_bit_by_bit(
    name: str, step: int, log: str, plan_tuning: Run, archive: Path, outputs: Path
) -> None:
    ran = plan_tuning(*words_of(archive, name))
    assert ran.returncode == 0, ran.stderr
    (row,) = results(outputs / "single")
    expected = archive / "expected" / name
    then = json.loads((expected / "result.json").read_text())
    assert row["training"]["resumed_from_step"] == step
    assert row["key"] == then["key"]
    student = outputs / "artifacts" / "students" / row["fingerprints"]["student"]
    ours, theirs = (load_file(f / "model.safetensors") for f in (student, expected))
    assert ours.keys() == theirs.keys()
    if not is_same_processor(archive):
        for key, weight in theirs.items():
            torch.testing.assert_close(ours[key], weight, rtol=1e-3, atol=1e-4)
        return
    assert (student / "model.safetensors").read_bytes() == (
        expected / "model.safetensors"
    ).read_bytes()
    assert lines(student / log) == lines(expected / log)
    assert row["metrics"] == then["metrics"]
