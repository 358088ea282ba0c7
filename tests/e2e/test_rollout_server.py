"""GRPO with a vLLM of its own: server and trainer are killed, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import Run, command, results

pytestmark = pytest.mark.e2e


def servers(folder: Path) -> list[int]:
    """Processes that serve weights in a folder, without the guardians that started them."""
    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        words = process.info["cmdline"] or []
        is_server = len(words) > 2 and words[1].endswith("protocol_double.py")
        if is_server and any(str(folder) in word for word in words):
            found.append(process.info["pid"])
    return found


def await_for(found: Callable[[], Any], job: subprocess.Popen[bytes] | None = None) -> Any:
    until = time.monotonic() + 120
    while not (value := found()):
        assert time.monotonic() < until
        assert job is None or job.poll() is None, "the job ended before it could be killed"
        time.sleep(0.02)
    return value


def test_server_and_trainer_are_killed_and_the_same_command_goes_on(
    plan_tuning: Run, root: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    outputs = tmp_path / "multirun_outputs"
    double = f"{sys.executable} {root / 'tests' / 'protocol_double.py'}"
    words = [
        "method=grpo", "start=base", "reward=answer", "reward.length_weight=1", "adapter=lora",
        "filter=none", "debug=fast", "seed=0", "logger=csv", "method.checkpoint_every_n_steps=1",
        "method.log_completions_every_n_steps=1", "method.learning_rate=1e-3", "method.steps=6",
        "model=tiny_qwen3", "data.limit=12", "method.prompts_per_step=2", "method.group_size=4",
        "method.max_new_tokens=16",
        "stages=[distill,train]", f"paths.outputs={outputs}",
        "method.engine=vllm", f"evaluation.vllm.command={double}",
    ]  # fmt: skip
    log = tmp_path / "job.log"
    with log.open("wb") as file:
        job = subprocess.Popen(
            command(*words), cwd=tmp_path, env=environment, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    checkpoints = lambda: list((outputs / "artifacts").rglob("checkpoints/step-*.ckpt"))  # noqa: E731
    await_for(checkpoints, job)
    (first,) = servers(outputs)
    os.kill(first, signal.SIGKILL)
    (second,) = await_for(lambda: [pid for pid in servers(outputs) if pid != first], job)
    done = {path.name for path in checkpoints()}
    await_for(lambda: {path.name for path in checkpoints()} - done, job)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    await_for(lambda: not psutil.pid_exists(second))
    assert "asked anew (1 of 3 times)" in log.read_text()
    assert not list((outputs / "artifacts" / "students").glob("*/manifest.json"))

    resumed = plan_tuning(*words)
    assert resumed.returncode == 0, resumed.stderr
    assert "problems and versions those of a training" in resumed.stdout
    (row,) = [r for r in results(outputs / "single") if r["status"] == "completed"]
    assert row["training"]["resumed_from_step"] >= 1
    assert row["training"]["steps"] == 6
    key = row["fingerprints"]["student"]
    student = outputs / "artifacts" / "students" / key
    lines = [json.loads(line) for line in (student / "completions.jsonl").read_text().splitlines()]
    versions = {(line["step"], line["weight_version"]) for line in lines}
    assert versions == {(step, f"grpo-{key}-{step:06d}") for step in range(6)}
    probe = json.loads((student / "manifest.json").read_text())["facts"]["probe"]
    assert len(probe["tokens"]) == len(probe["log_probs"]) == 8
    assert not servers(outputs)
