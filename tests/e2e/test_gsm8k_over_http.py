"""Real GSM8K problems, a real HTTP teacher on loopback, tiny students: the flow on real input."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Run, results

pytestmark = pytest.mark.e2e


@pytest.fixture
def server(shared: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a teacher that knows GSM8K's training problems and answers without faults."""
    port_file = tmp_path / "port"
    process = subprocess.Popen(
        [
            sys.executable,
            str(shared / "tools" / "faulty_teacher.py"),
            "--problems", str(shared / "data" / "gsm8k" / "train.jsonl"),
            "--question-key", "problem",
            "--port-file", str(port_file),
        ],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while not port_file.exists():
        assert process.poll() is None, "the teacher did not start"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port_file.read_text()}/v1"
    process.kill()
    process.wait()


def test_distil_filter_train_evaluate(
    plan_tuning: Run, server: str, shared: Path, tmp_path: Path
) -> None:
    common = [
        "data=gsm8k", f"data.path={shared / 'data' / 'gsm8k'}", "data.limit=64",
        "teacher=openai_compatible", f"teacher.api_base={server}", "model=tiny_qwen3",
        "filter=two_stage", "evaluation.limit=12", "evaluation.max_new_tokens=32",
        "trainer.max_steps=4",
    ]  # fmt: skip
    for extra in (["method=m1"], ["method=m2", "adapter=lora"]):
        ran = plan_tuning(*common, *extra)
        assert ran.returncode == 0, ran.stderr
    done = results(tmp_path / "multirun_outputs" / "single")
    assert [row["choices"]["method"] for row in done] == ["m1", "m2"]
    assert done[0]["fingerprints"]["corpus"] == done[1]["fingerprints"]["corpus"]
    # 1 constraints call and 5 x (plan, verify, execute); equal plans share their calls
    assert 64 * 10 < done[0]["teacher_calls"] <= 64 * 16
    assert done[1]["teacher_calls"] == 0, "the second job buys nothing"
    for row in done:
        assert row["metrics"]["gsm8k"]["n"] == 12
        assert 0 < row["corpus"]["rows"] <= 64
        folder = tmp_path / "multirun_outputs" / "artifacts" / "students"
        student = folder / row["fingerprints"]["student"]
        assert (student / "README.md").is_file()
    manifest = json.loads((student / "manifest.json").read_text())
    assert manifest["facts"]["steps"] == 4
    assert (student / "adapter_config.json").is_file()


def test_three_families_train_export_reload_and_answer(
    plan_tuning: Run, server: str, shared: Path, tmp_path: Path
) -> None:
    """One corpus over HTTP, once; then each family learns to plan, with an adapter."""
    common = [
        "data=gsm8k", f"data.path={shared / 'data' / 'gsm8k'}", "data.limit=24",
        "teacher=openai_compatible", f"teacher.api_base={server}", "filter=none",
        "evaluation.limit=4", "evaluation.max_new_tokens=12", "evaluation.max_plan_tokens=12",
        "trainer.max_steps=3", "logger=csv",
    ]  # fmt: skip
    arms = {
        "tiny_gemma3": ["executor=teacher", "evaluation.plan=own"],
        "tiny_qwen3": ["trainer.packing=true", "trainer.ema_decay=0.5"],
        "tiny_llama": ["evaluation.plan_stop=['</plan>']"],
    }
    for model, extra in arms.items():
        ran = plan_tuning(*common, "method=m2", "adapter=lora", f"model={model}", *extra)
        assert ran.returncode == 0, ran.stderr
        assert "it/s]" not in ran.stderr, "no bars in a log"
    done = {r["choices"]["model"]: r for r in results(tmp_path / "multirun_outputs" / "single")}
    assert done.keys() == arms.keys()
    assert len({row["fingerprints"]["corpus"] for row in done.values()}) == 1
    students = tmp_path / "multirun_outputs" / "artifacts" / "students"
    for row in done.values():
        assert row["metrics"]["gsm8k"]["n"] == 4
        folder = students / row["fingerprints"]["student"]
        names = {path.name for path in folder.iterdir()}
        assert {"README.md", "chat_template.jinja", "generation_config.json"} <= names
        assert "adapter_config.json" in names
        card = (folder / "README.md").read_text()
        assert "| method | m2 |" in card
        assert row["fingerprints"]["corpus"] in card
    planner = done["tiny_gemma3"]
    assert planner["executor_zero_shot"]["gsm8k"]["n"] == 4, "what the teacher solves by itself"
    assert planner["teacher_calls"] > 0
    assert done["tiny_qwen3"]["teacher_calls"] == 0, "the corpus was there"


def test_an_existing_student_and_corpus_enter_by_path(
    plan_tuning: Run, server: str, shared: Path, tmp_path: Path
) -> None:
    common = [
        "data=gsm8k", f"data.path={shared / 'data' / 'gsm8k'}", "data.limit=8",
        "teacher=openai_compatible", f"teacher.api_base={server}", "model=tiny_llama",
        "evaluation.limit=4", "evaluation.max_new_tokens=16", "trainer.max_steps=2", "logger=csv",
    ]  # fmt: skip
    first = plan_tuning(*common, "method=m1", "filter=none")
    assert first.returncode == 0, first.stderr
    outputs = tmp_path / "multirun_outputs"
    (row,) = results(outputs / "single")
    corpus = outputs / "artifacts" / "corpora" / row["fingerprints"]["corpus"]
    student = outputs / "artifacts" / "students" / row["fingerprints"]["student"]

    elsewhere = ["paths.outputs=elsewhere"]
    trained = plan_tuning(*common, "method=m2", "filter=none", f"corpus.path={corpus}", *elsewhere)
    assert trained.returncode == 0, trained.stderr
    tested = plan_tuning(*common, "method=m1", f"student.path={student}", "stages=[evaluate]",
                         *elsewhere)  # fmt: skip
    assert tested.returncode == 0, tested.stderr
    by_method = {r["choices"]["method"]: r for r in results(tmp_path / "elsewhere" / "single")}
    assert by_method["m1"]["metrics"]["gsm8k"] == row["metrics"]["gsm8k"]
    assert by_method["m2"]["teacher_calls"] == 0
