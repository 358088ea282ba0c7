"""GRPO from the command line: the experiment, a judge over HTTP with faults, and a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ..integration.teacher_server import gsm8k, known_to, load_server
from .conftest import Run, command, results

pytestmark = pytest.mark.e2e


def completions(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "completions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_micro_grpo_ends_in_a_comparison_with_its_start_and_its_control(
    plan_tuning: Run, tmp_path: Path
) -> None:
    ran = plan_tuning(
        "experiment=micro_grpo", "debug=fast", "seed=0", "logger=csv", "hydra/launcher=basic"
    )
    assert ran.returncode == 0, ran.stderr
    outputs = tmp_path / "multirun_outputs"
    rows = results(outputs / "micro_grpo")
    assert {row["status"] for row in rows} == {"completed"}
    arms = [row for row in rows if row["choices"]["method"] == "grpo"]
    assert {row["choices"]["reward"] for row in arms} == {"answer", "plan_and_answer"}
    (start,) = {row["fingerprints"]["start"] for row in arms}
    plain = {row["fingerprints"]["student"]: row for row in rows if row not in arms}
    assert plain[start]["fingerprints"]["start"] is None, "the start is the plain job's artifact"
    (control,) = [row for key, row in plain.items() if key != start]
    assert control["fingerprints"]["start"] == start, "the control goes on from there as well"
    assert control["training"]["steps"] == 6
    for row in arms:
        assert row["training"]["steps"] == 6
        assert row["training"]["final_reward"] is not None
        student = outputs / "artifacts" / "students" / row["fingerprints"]["student"]
        assert {line["step"] for line in completions(student)} == {0}
    text = (outputs / "micro_grpo" / "comparison.md").read_text(encoding="utf-8")
    assert "plan_and_answer" in text
    assert "continued" in text, "start and control are two rows"


FAULTS = {
    "500": 0.1, "429": 0.1, "reset_mid": 0.1, "truncated_json": 0.05, "empty": 0.1,
    "malformed_score": 0.2, "refusal": 0.05,
}  # fmt: skip
# One short plan after another: a tiny student has to learn to write such before it is judged.
SHORT_PLANS = [
    "1. Note the amounts.\n2. Combine them.",
    "1. List the amounts.\n2. Add them up.",
    "1. Read the amounts.\n2. Work them out.",
    "1. Find the amounts.\n2. Put them together.",
    "1. Name the amounts.\n2. Sum them.",
]


def test_a_judge_over_http_with_faults_on_real_problems(
    plan_tuning: Run, shared: Path, tmp_path: Path
) -> None:
    tool = load_server(shared)
    rows = [row | {"plans": SHORT_PLANS} for row in known_to(gsm8k(shared, 8_000))]
    faults = {f"{name}@similarity": rate for name, rate in FAULTS.items()}
    with tool.FaultyTeacher(rows, faults=faults, retry_after=(0.02, 0.05)) as server:
        words = [
            "data=gsm8k", f"data.path={shared / 'data' / 'gsm8k'}", "data.limit=4",
            "model=tiny_qwen3", "method=grpo", "reward=plan_and_answer", "reward.plan.kind=judge",
            "teacher=openai_compatible", f"teacher.api_base={server.base_url}",
            "teacher.price={input: 1.0, output: 2.0}", "teacher.budget_usd=1",
            "filter=none", "filter@start.filter=none",
            "start.trainer.max_steps=50", "start.trainer.learning_rate=1e-2",
            "trainer.val_fraction=0", "method.steps=2", "method.prompts_per_step=3",
            "method.group_size=4", "method.max_new_tokens=40", "method.temperature=0.8",
            "method.log_completions_every_n_steps=1",
            "evaluation.limit=2", "evaluation.max_new_tokens=8", "logger=csv",
        ]  # fmt: skip
        listed = plan_tuning(*words, "dry_run=true")
        assert listed.returncode == 0, listed.stderr
        assert f"{2 * 3 * 4} for judgements of plans" in listed.stdout

        ran = plan_tuning(*words)
        assert ran.returncode == 0, ran.stderr
        stats = server.stats()
        assert stats["by_stage"]["similarity"] > 0
        assert stats["by_fault"], "some calls failed"
        assert stats["repeat_after_ok"] == 0
        meant = {entry["similarity"] for entry in server.ledger if entry["stage"] == "similarity"}

        outputs = tmp_path / "multirun_outputs"
        (row,) = results(outputs / "single")
        assert row["status"] == "completed"
        assert row["training"]["steps"] == 2
        (corpus,) = (outputs / "artifacts" / "corpora").glob("*/manifest.json")
        bought = json.loads(corpus.read_text())["facts"]
        assert row["teacher_calls"] > bought["calls"]["bought"], "the judge's calls are counted"
        assert row["cost_usd"] > bought["cost_usd"]["this_run"] > 0, "and paid"

        student = outputs / "artifacts" / "students" / row["fingerprints"]["student"]
        written = completions(student)
        assert len(written) == 2 * 3 * 4
        judged = [line for line in written if line["plan"] and line["reward_plan"]]
        assert judged
        for line in judged:
            assert line["reward_plan"] in meant
            found = tool.similarity(line["teacher_plan"], line["plan"])
            assert line["reward_plan"] == pytest.approx(found, abs=0.006)

        # The same job once more, from its start: what the judge has said is not asked again.
        shutil.rmtree(student)
        again = plan_tuning(*words)
        assert again.returncode == 0, again.stderr
        assert server.stats()["repeat_after_ok"] == 0
        before = {(line["step"], line["problem_id"], line["sample"]): line for line in written}
        for line in completions(student):
            earlier = before[line["step"], line["problem_id"], line["sample"]]
            if earlier["step"] == 0 and earlier["reward_plan"] is not None:
                assert line == earlier | {"advantage": line["advantage"]}


def test_kill_9_and_the_same_command_goes_on(
    plan_tuning: Run, tmp_path: Path, environment: dict[str, str]
) -> None:
    words = [
        "method=grpo", "start=base", "reward=answer", "reward.length_weight=1",
        "filter=none", "debug=fast", "seed=0", "logger=csv", "method.checkpoint_every_n_steps=1",
        "method.learning_rate=1e-3", "method.prompts_per_step=8", "stages=[distill,train]",
    ]  # fmt: skip
    whole = plan_tuning(*words, "paths.outputs=whole")
    assert whole.returncode == 0, whole.stderr

    outputs = tmp_path / "multirun_outputs"
    for kind in ("bases", "corpora"):  # what is not to be killed
        finished = tmp_path / "whole" / "artifacts" / kind
        shutil.copytree(finished, outputs / "artifacts" / kind)
    process = subprocess.Popen(
        command(*words), cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while not list((outputs / "artifacts").rglob("checkpoints/step-*.ckpt")):
        assert process.poll() is None, "the job ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((outputs / "artifacts" / "students").glob("*/manifest.json"))

    resumed = plan_tuning(*words)
    assert resumed.returncode == 0, resumed.stderr
    (row,) = [r for r in results(outputs / "single") if r["status"] == "completed"]
    (expected,) = results(tmp_path / "whole" / "single")
    assert row["training"]["resumed_from_step"] >= 1
    assert row["training"]["steps"] == expected["training"]["steps"] == 6
    assert expected["training"]["resumed_from_step"] == 0
    key = row["fingerprints"]["student"]
    assert key == expected["fingerprints"]["student"]
    weights = [
        (folder / "artifacts" / "students" / key / "model.safetensors").read_bytes()
        for folder in (outputs, tmp_path / "whole")
    ]
    assert weights[0] == weights[1], "bit by bit what was not interrupted"
    assert row["training"]["first_reward"] == expected["training"]["first_reward"]
