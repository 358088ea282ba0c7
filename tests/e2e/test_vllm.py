"""Jobs that start the server of their own student: a program that speaks vLLM's protocol."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import Run, built, results

pytestmark = pytest.mark.e2e

FAST = ("debug=fast", "logger=csv", "adapter=lora", "evaluation.limit=3",
        "evaluation.benchmarks=[microworld]")  # fmt: skip
# Two-call students of a LoRA adapter; the untrained model executes, with and without their plans.
SWEEP = ("-m", "hydra/launcher=basic", "method=zero_shot,m2", "evaluation.engine=native,vllm",
         "sweep_name=mine")  # fmt: skip
# Ends its first server after three completions; the second one stays.
ONCE = 'if mkdir "$0"; then export DOUBLE_FAULT=dies:3; fi 2>/dev/null; exec "$@"'


def predictions(outputs: Path, result: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """The manifest and the rows of a job's first predictions."""
    (fingerprint, *_) = result["fingerprints"]["predictions"].values()
    folder = outputs / "artifacts" / "predictions" / fingerprint
    rows = (folder / "predictions.jsonl").read_text().splitlines()
    return json.loads((folder / "manifest.json").read_text()), [json.loads(row) for row in rows]


def starts(outputs: Path) -> list[str]:
    """The commands that started a server."""
    logs = sorted(outputs.glob("*/*/vllm.log"))
    return [line for log in logs for line in log.read_text().splitlines() if line[:2] == "$ "]


def left_over(folder: Path) -> list[str]:
    """Processes that name a folder: a server bears that of its weights."""
    named = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return [" ".join(words) for words in named if any(str(folder) in word for word in words)]


def test_jobs_serve_their_students(plan_tuning: Run, root: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "multirun_outputs"
    double = [sys.executable, str(root / "tests" / "protocol_double.py")]
    words = (*FAST, f"paths.outputs={outputs}")

    def by(*command: str) -> str:
        return f"evaluation.vllm.command=[{','.join([*command, *double])}]"

    ran = plan_tuning(*SWEEP, *words, by())
    assert ran.returncode == 0, ran.stderr
    assert len(starts(outputs)) == 1, "two jobs, both calls of m2 and its executor share a server"
    assert not left_over(outputs)
    found = {(r["choices"]["method"], r["settings"]["evaluation"]["engine"]): r
             for r in results(outputs / "mine")}  # fmt: skip
    for method in ("zero_shot", "m2"):
        mine, native = predictions(outputs, found[method, "native"])
        theirs, served = predictions(outputs, found[method, "vllm"])
        assert served == native, "greedy answers are those of this project's own engine"
        assert theirs["spec"] == mine["spec"] | {"engine": "vllm"}
        assert theirs["facts"]["vllm"]["version"] == "0.0.double"
        computed = [facts["facts"]["compute"] for facts in (mine, theirs)]
        assert computed[0] | {"seconds": 0} == computed[1] | {"seconds": 0}

    before = built(outputs)
    sampled = ("method=m2", "evaluation.engine=vllm", "evaluation.plan=other", *words,
               "evaluation.num_samples=2", "evaluation.temperature=1.0",
               "executor.zero_shot=false")  # fmt: skip
    refused = plan_tuning(*sampled, by("env", "'DOUBLE_FAULT=starts_not'"))
    assert refused.returncode == 2
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert "ValueError: No available memory for the cache blocks." in line
    assert built(outputs) == before
    ran = plan_tuning(*sampled, by("sh", "-c", f"'{ONCE}'", str(tmp_path / "once")))
    assert ran.returncode == 0, ran.stderr
    assert "asked once more" in ran.stdout
    (new,) = built(outputs).keys() - before.keys()
    assert new.startswith("artifacts/predictions")
    (result,) = [r for r in results(outputs / "single") if r["status"] == "completed"]
    assert len(predictions(outputs, result)[1]) == 3 * 2
    assert not left_over(outputs)
