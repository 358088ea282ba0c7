"""Trajectories from elsewhere: from the import to students and plan swaps, by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Run, results

pytestmark = pytest.mark.e2e

SHORT = (
    "model=tiny_llama", "trainer.max_steps=2", "evaluation.max_new_tokens=8",
    "evaluation.max_plan_tokens=8", "evaluation.limit=2", "logger=csv",
)  # fmt: skip


def corpora(folder: Path) -> list[Path]:
    found = (folder / "multirun_outputs" / "artifacts" / "corpora").glob("*/manifest.json")
    return sorted((path.parent for path in found), key=lambda path: path.stat().st_mtime)


def chats(file: Path) -> Path:
    """Twelve sums as chat messages, each with a plan, an execution and a score."""
    rows = []
    for number in range(12):
        said = f"<plan>1. Add {number} and 2.</plan><output>\\boxed{{{number + 2}}}</output>"
        turns = [("user", f"What is {number} + 2?"), ("assistant", said)]
        messages = [{"role": role, "content": content} for role, content in turns]
        rows.append({"messages": messages, "answer": str(number + 2), "plan_score": 75 + number})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_students_learn_from_chats_that_were_imported(plan_tuning: Run, tmp_path: Path) -> None:
    file = chats(tmp_path / "sums.jsonl")
    words = ("corpus", "import", str(file), "--score-key", "plan_score")
    first = plan_tuning(*words)
    assert first.returncode == 0, first.stderr
    assert "imported before" in plan_tuning(*words).stdout
    (corpus,) = corpora(tmp_path)
    tested = tmp_path / "test.jsonl"
    tested.write_text('{"problem": "What is 1 + 1?", "answer": "2"}\n', encoding="utf-8")
    own = (f"corpus.path={corpus}", f'evaluation.benchmarks=["sums={tested}"]', *SHORT)
    short = ("method.steps=1", "method.prompts_per_step=2", "method.group_size=2",
             "method.max_new_tokens=8", "start=base", "reward=answer")  # fmt: skip
    for method in (["m1"], ["m2"], ["grpo", *short]):
        ran = plan_tuning(*own, f"method={method[0]}", *method[1:], "filter=two_stage")
        assert ran.returncode == 0, ran.stderr
    done = {row["choices"]["method"]: row for row in results(tmp_path / "multirun_outputs/single")}
    assert done.keys() == {"m1", "m2", "grpo"}
    for row in done.values():
        assert row["fingerprints"]["corpus"] == corpus.name
        assert row["corpus"]["rows"] == 7, "those of score 80 to 86"
        assert row["teacher_calls"] == 0


def test_released_plans_of_test_problems_are_swapped_in_and_never_learned(
    plan_tuning: Run, shared: Path, tmp_path: Path
) -> None:
    plans = shared / "data" / "plans" / "olympiadbench_plans.jsonl"
    problems = f"olympiadbench={shared / 'data' / 'olympiadbench' / 'test.jsonl'}"
    words = ("corpus", "import", str(plans))
    refused = plan_tuning(*words)
    assert refused.returncode == 2
    assert "column 'answer' is absent" in refused.stderr
    assert "--problems SET=FILE" in refused.stderr
    whole = plan_tuning(*words, "--problems", problems, "--split", "test")
    assert whole.returncode == 0, whole.stderr
    one = plan_tuning(*words, "--problems", problems, "--split", "test", "--where", "planner=gsm8k")
    assert one.returncode == 0, one.stderr
    both, single = corpora(tmp_path)
    facts = [json.loads((path / "manifest.json").read_text())["facts"] for path in (both, single)]
    assert [one["funnel"]["candidates"] for one in facts] == [1348, 674]
    assert [one["funnel"]["plans"] for one in facts] == [1347, 674], "one is empty"
    assert facts[0]["problems"] == facts[1]["problems"] == 674

    trained = plan_tuning(f"corpus.path={single}", *SHORT, "method=m2", "filter=none")
    assert trained.returncode == 2
    assert "nothing is ever trained on those" in trained.stderr
    swapped = plan_tuning(
        *SHORT, "method=m2", "evaluation.plan=teacher", f"evaluation.plan_corpus={single.name}",
        f'evaluation.benchmarks=["{problems}"]',
    )  # fmt: skip
    assert swapped.returncode == 0, swapped.stderr
    (row,) = results(tmp_path / "multirun_outputs" / "single")
    folder = tmp_path / "multirun_outputs/artifacts/predictions"
    found = folder / row["fingerprints"]["predictions"]["olympiadbench"] / "predictions.jsonl"
    with plans.open(encoding="utf-8") as lines:
        of_gsm8k = {row["plan"] for row in map(json.loads, lines) if row["planner"] == "gsm8k"}
    given = {_words(plan) for plan in of_gsm8k}
    used = [json.loads(line)["plan"] for line in found.read_text().splitlines()]
    assert len(used) == 2
    assert all(_words(plan) in given for plan in used)


def test_a_published_test_split_is_named_whatever_its_file_is_called(
    plan_tuning: Run, shared: Path, tmp_path: Path
) -> None:
    file = shared / "data" / "gsm8k_socratic" / "test.jsonl"
    ran = plan_tuning("corpus", "import", str(file), "--name", "sums")
    assert ran.returncode == 0, ran.stderr
    assert "among these are 1319 GSM8K test problems" in ran.stdout
    (corpus,) = corpora(tmp_path)
    facts = json.loads((corpus / "manifest.json").read_text())["facts"]
    assert facts["test_problems"] == {"gsm8k": 1319}
    assert facts["funnel"]["correct"] == 1319, "each ends in the box of its gold number"
    assert facts["kept_problems"]["recompute"] == 1208, "as with teacher=dataset"
    assert "1319 GSM8K test problems" in (corpus / "README.md").read_text()
    problems = f"gsm8k={shared / 'data' / 'gsm8k'}"
    words = (f"corpus.path={corpus}", *SHORT, "method=m1", "filter=recompute")
    tested = plan_tuning(*words, f'evaluation.benchmarks=["{problems}"]', "dry_run=true")
    assert tested.returncode == 2
    assert "trained on 1319 GSM8K test problems" in tested.stdout + tested.stderr


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())
