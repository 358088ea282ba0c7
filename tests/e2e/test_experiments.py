"""The prepared experiments: one that is paid for, dry, and micro twins in their cheap form."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Run, built, results

pytestmark = pytest.mark.e2e

FAST = ("debug=fast", "logger=csv", "seed=0", "hydra/launcher=basic")


# of the twins that no test below looks at more closely: what narrows each one, and its jobs then
TWINS = {
    "micro_threshold": (("filter.plan_score_threshold=-100,80", "filter=two_stage"), 2),
    "micro_candidates": (("distillation.num_candidates=2", "filter.selection=best,all"), 2),
    "micro_rewards": (("start=m1", "reward=answer,plan"), 4),
    "micro_grpo": (("reward=plan_and_answer",), 3),
    "micro_executor_and_plan": (("executor=self,teacher", "evaluation.plan=own,other"), 4),
    "micro_scale": (("method=m1", "data.fraction=1.0"), 2),
}


@pytest.fixture(scope="module")
def shared_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all twins, so that base and corpora are built once."""
    return tmp_path_factory.mktemp("twins")


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_runs_to_its_comparison(name: str, plan_tuning: Run, shared_outputs: Path) -> None:
    words, num_jobs = TWINS[name]
    ran = plan_tuning(
        f"experiment={name}", *FAST, *words, "evaluation.benchmarks=[microworld]",
        f"paths.outputs={shared_outputs}",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr + ran.stdout
    rows = results(shared_outputs / name)
    assert [row["status"] for row in rows] == ["completed"] * num_jobs
    text = (shared_outputs / name / "comparison.md").read_text()
    said = ("agrees", "disagrees", "undecided", "No claim is public")
    assert any(word in text for word in said), (
        "a direction against the paper, or that none is known"
    )


def test_the_dry_run_of_a_paid_sweep_names_the_missing_key_and_makes_nothing(
    plan_tuning: Run, tmp_path: Path
) -> None:
    listed = plan_tuning("experiment=main", "dry_run=true")
    assert listed.returncode == 2, "without a key and a budget no job could work"
    assert "export GEMINI_API_KEY=" in listed.stdout
    assert "teacher.budget_usd=5" in listed.stdout
    assert "20 jobs" in listed.stdout
    assert "311,568" in listed.stdout
    assert "USD" in listed.stdout
    assert not list(tmp_path.iterdir())


def test_micro_filtering_ends_in_a_table_against_the_paper(
    plan_tuning: Run, tmp_path: Path
) -> None:
    ran = plan_tuning("experiment=micro_filtering", *FAST, "filter=none,two_stage")
    assert ran.returncode == 0, ran.stderr
    sweep = tmp_path / "multirun_outputs" / "micro_filtering"
    assert len(results(sweep)) == 5, (
        "2 filters, with and without a number of rows, and the baseline"
    )
    text = (sweep / "comparison.md").read_text()
    assert "filtering in two stages is key" in text
    assert any(word in text for word in ("agrees", "disagrees", "undecided"))


def test_micro_mixing_shares_calls_and_counts_rows_by_source(
    plan_tuning: Run, tmp_path: Path
) -> None:
    ran = plan_tuning("experiment=micro_mixing", *FAST)
    assert ran.returncode == 0, ran.stderr
    rows = results(tmp_path / "multirun_outputs" / "micro_mixing")
    by_data = {row["choices"]["data"]: row for row in rows}
    both = by_data["microworld_mixed"]
    assert sum(row["teacher_calls"] for row in rows if "by_source" in (row["corpus"] or {})) == 0
    counts = both["corpus"]["by_source"]
    assert counts["microworld_a"]["rows"] == by_data["microworld"]["corpus"]["rows"]
    assert counts["microworld_b"]["rows"] == by_data["microworld_b"]["corpus"]["rows"]
    text = (tmp_path / "multirun_outputs" / "micro_mixing" / "comparison.md").read_text()
    assert "GSM8K + MATH mixed" in text


def test_micro_objective_rewards_end_in_a_table_of_what_each_reward_taught(
    plan_tuning: Run, shared_outputs: Path
) -> None:
    ran = plan_tuning(
        "experiment=micro_objective_rewards", *FAST, "method.val_problems=4",
        "method.prompts_per_step=2", "evaluation.benchmarks=[microworld]",
        "reward.plan.kind=uplift,likelihood,roscoe", f"paths.outputs={shared_outputs}",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert "uplift has 64 executions of up to 64 tokens a step by start" in ran.stdout
    sweep = shared_outputs / "micro_objective_rewards"
    rows = results(sweep)
    kinds = {row["choices"]["reward"]: 0 for row in rows}
    assert len(rows) == 4
    assert set(kinds) == {"answer", "plan_and_answer"}
    text = (sweep / "comparison.md").read_text()
    for said in ("dead groups", "hacks, first → last", "held-out, end", "kind=likelihood"):
        assert said in text
    student = next(row for row in rows if row["choices"]["reward"] == "answer")
    folder = shared_outputs / "artifacts" / "students" / student["fingerprints"]["student"]
    onward = plan_tuning(
        "method=grpo", "start=path", f"start.path={folder}", "reward=plan_and_answer",
        "reward.plan.kind=executability", "reward.plan.max_execution_tokens=32", "method.steps=1",
        "method.prompts_per_step=2", *FAST[:3], "stages=[distill,train]",
        f"paths.outputs={shared_outputs}",
    )  # fmt: skip
    assert onward.returncode == 0, onward.stderr + onward.stdout


def test_out_of_domain_trains_nothing_after_main(plan_tuning: Run, tmp_path: Path) -> None:
    words = (*FAST, "method=zero_shot,m1")
    first = plan_tuning("experiment=micro_main", *words)
    assert first.returncode == 0, first.stderr
    outputs = tmp_path / "multirun_outputs"
    before = {key for key in built(outputs) if "predictions" not in key}
    second = plan_tuning("experiment=micro_out_of_domain", *words)
    assert second.returncode == 0, second.stderr
    assert {key for key in built(outputs) if "predictions" not in key} == before
    for row in results(outputs / "micro_out_of_domain"):
        assert list(row["metrics"]) == [
            "microworld_depth", "microworld_distractors", "microworld_templates"
        ]  # fmt: skip
