"""Plans that come with the data become corpora, with nobody asked or with a teacher's verdicts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from plan_tuning.config.grading import GradingConfig
from plan_tuning.config.teacher import DistillationConfig, TeacherConfig
from plan_tuning.distillation.card import CARD
from plan_tuning.distillation.corpus import make_corpus, read_trajectories
from plan_tuning.distillation.estimate import dry_run
from plan_tuning.distillation.filters import (
    RECOMPUTE,
    STANDARD_FILTERS,
    FilterError,
    filter_trajectories,
)
from plan_tuning.records import Problem
from plan_tuning.tasks.benchmarks import load
from plan_tuning.tasks.dataset_plans import dataset_plan

from .teacher_server import distil_corpus, known_to, load_server, teacher_config

pytestmark = pytest.mark.integration

DATASET = TeacherConfig(backend="dataset", model="dataset")


def socratic(shared: Path) -> list[Problem]:
    path = shared / "data" / "gsm8k_socratic" / "test.jsonl"
    return load("gsm8k_socratic", split="train", path=str(path))


def test_the_whole_socratic_file_becomes_a_corpus_without_a_call(
    shared: Path, tmp_path: Path
) -> None:
    problems = socratic(shared)
    (tmp_path / "corpus").mkdir()
    facts = make_corpus(
        tmp_path / "corpus", problems, DATASET, DistillationConfig(), GradingConfig(),
        tmp_path / "calls", progress=False,
    )  # fmt: skip
    assert not (tmp_path / "calls").exists()
    assert facts["calls"]["bought"] == facts["calls"]["cached"] == 0
    assert facts["cost_usd"] == {"corpus": 0.0, "this_run": 0.0}
    assert facts["score_status"] == {"unscored": 1319}
    assert facts["verdicts"] == {"correct": 1319}
    assert facts["kept_problems"] == {"none": 1319, "answer_only": 1319, "recompute": 1208}
    assert facts["funnel"]["kept_by_recompute"] == 1208
    assert "selected" not in facts["funnel"]
    assert facts["test_problems"] == {"gsm8k": 1319}
    assert facts["plans_before"]["leak_rate"] == round(4 / 1319, 4)
    card = (tmp_path / "corpus" / CARD).read_text(encoding="utf-8")
    assert "Nobody was asked" in card
    assert "1319 GSM8K test problems" in card
    rows = read_trajectories(tmp_path / "corpus")
    kept = filter_trajectories(rows, RECOMPUTE, needs_execution=True)
    assert (kept.kept_problems, kept.reasons) == (
        1208, {"kept": 1208, "chain_ends_elsewhere": 93, "no_annotated_equation": 18},
    )  # fmt: skip
    assert not any("<<" in row.execution or "<<" in row.plan for row in rows)
    with pytest.raises(FilterError, match="filter=two_stage keeps plans by their score"):
        filter_trajectories(rows, STANDARD_FILTERS[-1])


def test_decompositions_are_executed_by_facts_and_answer(shared: Path, tmp_path: Path) -> None:
    problems = load("strategyqa", split="test", path=str(shared / "data" / "strategyqa"))
    (tmp_path / "corpus").mkdir()
    facts = make_corpus(
        tmp_path / "corpus", problems, DATASET, DistillationConfig(), GradingConfig(),
        tmp_path / "calls", progress=False,
    )  # fmt: skip
    assert facts["kept_problems"] == {"none": len(problems), "answer_only": len(problems)}
    with pytest.raises(FilterError, match="annotated equations"):
        filter_trajectories(read_trajectories(tmp_path / "corpus"), RECOMPUTE)


def test_a_teacher_verifies_and_executes_given_plans_for_three_calls_a_problem(
    shared: Path, tmp_path: Path
) -> None:
    problems = socratic(shared)[:8]
    bare = dataclasses.replace(problems[-1], metadata={})
    problems[-1] = bare
    config = DistillationConfig(plans="dataset")
    with load_server(shared).FaultyTeacher(known_to(problems)) as server:
        teacher = teacher_config(server.base_url)
        expected = dry_run(problems, teacher, config, tmp_path / "calls")
        facts = distil_corpus(
            tmp_path / "corpus", problems, teacher, tmp_path / "calls", plans="dataset"
        )
        stats = server.stats()
        left = dry_run(problems, teacher, config, tmp_path / "calls")
    asked = {role: count for role, count in expected.to_buy.items() if count}
    assert stats["by_stage"] == asked == {"constraints": 7, "verify": 7, "execute": 7}
    assert facts["calls"]["bought"] == 21
    assert left.calls == 0
    rows = read_trajectories(tmp_path / "corpus")
    assert [row.candidate for row in rows] == [0] * 8
    plans = [given.plan for p in problems if (given := dataset_plan(p)) is not None]
    assert [row.plan for row in rows] == [*plans, ""]
    assert rows[-1].plan_status == "missing"
    assert all(row.score_status == "parsed" and row.execution for row in rows[:-1])
    assert filter_trajectories(rows, STANDARD_FILTERS[-1]).reasons["plan_missing"] == 1
    with pytest.raises(FilterError, match="annotated equations"):  # a teacher writes none
        filter_trajectories(rows, RECOMPUTE)
    assert "the data set's own plan of each problem" in (tmp_path / "corpus" / CARD).read_text()
