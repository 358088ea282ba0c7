"""The audit of plan rewards and the effects of filters, by the command, with real parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Run

pytestmark = pytest.mark.e2e

PROBES = {"echo", "one_step", "repetition", "pasted_answer", "another_plan", "shuffled_steps",
          "empty"}  # fmt: skip
KINDS = ["judge", "steps", "embedding", "verifier", "roscoe", "executability", "uplift",
         "likelihood"]  # fmt: skip


def test_every_reward_is_audited_on_the_micro_world(plan_tuning: Run, tmp_path: Path) -> None:
    made = plan_tuning("debug=fast", "stages=[distill]", "logger=csv")
    assert made.returncode == 0, made.stderr
    words = ("debug=fast", "reward.plan.samples=2", "reward.plan.max_execution_tokens=16")
    few = ("--problems", "20", "--retest", "3", "--probe", "4", "--out", "audit")
    ran = plan_tuning("reward-audit", "multirun_outputs", *few, *words)
    assert ran.returncode == 0, ran.stderr
    assert "control, similarity to the true plan: AUC of 0.95 or more: holds" in ran.stdout
    found = json.loads((tmp_path / "audit" / "reward_audit.json").read_text("utf-8"))
    assert found["labels"] == ["the plan is right", "the execution is right"]
    rewards = {one["name"]: one for one in found["rewards"]}
    assert set(KINDS) <= set(rewards)
    for one in rewards.values():
        assert set(one["probes"]) == PROBES, one["name"]
        assert one["rankings"]["the plan is right"]["auc"]["value"] is not None, one["name"]
        assert one["verdict"]
    # the judge of the micro-world compares link by link: no worse than the steps in their order
    assert rewards["judge"]["rankings"]["the plan is right"]["auc"]["value"] > 0.8
    cost = {name: one["per_thousand"] for name, one in rewards.items()}
    assert cost["judge"]["calls"] == 1000
    assert cost["steps"]["calls"] == cost["steps"]["generated"] == 0
    executed = cost["executability"]["generated"]
    assert 1000 < executed <= 2000  # two samples a plan, equal plans of a problem once
    # two samples a problem without a plan, of which forty plans are of twenty
    assert cost["uplift"]["generated"] == pytest.approx(executed + 1000)
    assert cost["likelihood"]["generated"] == 0 < cost["likelihood"]["passes"]
    table = (tmp_path / "audit" / "reward_audit.md").read_text("utf-8")
    assert "plan oracle: the ceiling" in table
    assert (tmp_path / "audit" / "reward_audit.svg").is_file()
    shown = plan_tuning("corpus", "diversity", "multirun_outputs")
    assert shown.returncode == 0, shown.stderr
    assert "two_stage" in shown.stdout
    assert "candidates self bleu" in shown.stdout


def plans_file(folder: Path) -> Path:
    """Forty sums with plans, two of each, and nobody who executed or scored them."""
    rows = [
        {"problem": f"Ann has {n} pens and buys {n + 2}.", "answer": str(2 * n + 2), "plan": plan}
        for n in range(20)
        for plan in (
            f"1. Find the {n + 2} pens.\n2. Add both amounts.\n3. Say how many pens.",
            f"1. List what Ann has: {n} pens.\n2. Add what she buys.",
        )
    ]
    file = folder / "plans.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_plans_without_executions_get_no_label_and_planted_flaws_bring_one(
    plan_tuning: Run, tmp_path: Path
) -> None:
    imported = plan_tuning("corpus", "import", str(plans_file(tmp_path)))
    assert imported.returncode == 0, imported.stderr
    bare = plan_tuning("reward-audit", "multirun_outputs", "--out", "bare")
    assert bare.returncode == 0, bare.stderr
    assert "Labels: none" in bare.stdout
    assert "not audited: judge" in bare.stdout
    assert "not audited: likelihood" in bare.stdout
    plain = json.loads((tmp_path / "bare" / "reward_audit.json").read_text("utf-8"))
    assert plain["labels"] == []
    assert all(one["rankings"] == {} and one["probes"] for one in plain["rewards"])
    planted = plan_tuning(
        "reward-audit", "multirun_outputs", "--plant", "--rewards", "steps,roscoe", "--out", "flaws"
    )
    assert planted.returncode == 0, planted.stderr
    found = json.loads((tmp_path / "flaws" / "reward_audit.json").read_text("utf-8"))
    assert found["labels"] == ["the plan is right"]
    (steps, roscoe) = found["rewards"]
    assert set(steps["by_kind"]) == {
        *("step_dropped", "steps_shuffled", "number_swapped", "step_foreign", "step_repeated"),
    }
    assert steps["by_kind"]["steps_shuffled"]["value"] > 0.9
    # sentences are the same ones in another order: ROSCOE's alignment has no order
    assert (
        roscoe["by_kind"]["steps_shuffled"]["value"] < steps["by_kind"]["steps_shuffled"]["value"]
    )
    own = tmp_path / "my_conf" / "reward"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("defaults: [plan]\nplan: {kind: mine}\nextension: mine.py\n")
    (own / "mine.py").write_text(
        "from plan_tuning.config.extensions import Extension\n"
        'EXTENSION = Extension("plan_similarity", "mine")\n'
        "def mine(reference, candidate):\n"
        "    return None if len(candidate) % 2 else 1 / len(candidate)\n"
    )
    words = ("--config-dir", "my_conf", "--rewards", "mine,steps", "--out", "own", "reward=mine")
    ran = plan_tuning("reward-audit", "multirun_outputs", *words)
    assert ran.returncode == 0, ran.stderr
    (mine, _) = json.loads((tmp_path / "own" / "reward_audit.json").read_text("utf-8"))["rewards"]
    assert 0 < mine["known_rate"] < 1
    refused = plan_tuning("reward-audit", "multirun_outputs", "--rewards", "judge")
    assert refused.returncode == 2
    assert "--rewards=judge is not allowed: it asks a large model" in refused.stderr
