"""Who executes and whose plans: what it depends on, what it refuses, which plans are taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from composition import graph

from plan_tuning.config.checks import ConfigError
from plan_tuning.evaluation.predictions import SolveError, other_problems, teacher_plans
from plan_tuning.job.graph import JobGraph
from plan_tuning.records import Trajectory

pytestmark = pytest.mark.integration


def m2(*overrides: str) -> JobGraph:
    return graph("method=m2", *overrides)


def keys(job: JobGraph) -> list[str]:
    return [stage.fingerprint for stage in job.predictions]


SWAPS = [
    *("executor=base", "executor=self", "executor=teacher", "executor=model"),
    "evaluation.plan=none",
    "evaluation.plan=teacher",
    "evaluation.plan=true",
    "evaluation.plan=other",
    "evaluation.engine=continuous_batching",
]


def test_every_executor_and_plan_has_predictions_of_its_own() -> None:
    found = [m2("executor=base", override).predictions[0].fingerprint for override in SWAPS[4:]]
    found += [m2(override).predictions[0].fingerprint for override in SWAPS[:4]]
    assert len(set(found)) == len(found)


def test_an_executor_alone_is_the_untrained_student() -> None:
    zero_shot = graph("method=zero_shot")
    assert [stage.fingerprint for stage in m2().executor_predictions] == keys(zero_shot)
    assert keys(m2("evaluation.plan=none")) == keys(zero_shot)
    assert not m2("executor.zero_shot=false").executor_predictions
    assert keys(m2("executor.zero_shot=false")) == keys(m2())


@pytest.mark.parametrize("swap", ["none", "teacher", "true"])
def test_no_student_is_trained_for_plans_that_it_does_not_write(swap: str) -> None:
    job = m2(f"evaluation.plan={swap}")
    assert job.student is None
    assert job.corpus is None
    assert keys(m2(f"evaluation.plan={swap}", "trainer.max_steps=3")) == keys(job)
    alone = m2(f"evaluation.plan={swap}", "executor=self")
    assert alone.student is not None


def test_a_teachers_spec_counts_and_its_address_does_not() -> None:
    assert keys(m2("executor=teacher", "teacher.concurrency=3")) == keys(m2("executor=teacher"))
    assert keys(m2("executor=teacher", "teacher.label=other")) != keys(m2("executor=teacher"))
    other = m2("executor=teacher", "+teacher@executor.teacher=openai", "evaluation.plan=none")
    assert keys(other) != keys(m2("executor=teacher", "evaluation.plan=none"))


def test_teacher_plans_come_from_one_distilled_test_set_a_benchmark() -> None:
    job = m2("evaluation.plan=teacher")
    assert [stage.label for stage in job.plan_corpora] == [stage.label for stage in job.predictions]
    assert len({stage.fingerprint for stage in job.plan_corpora}) == len(job.plan_corpora)
    for corpus, predictions in zip(job.plan_corpora, job.predictions, strict=True):
        assert corpus.spec["problems"]["split"] == "test"
        assert predictions.upstream["plan_corpus"] == corpus.fingerprint


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=m1", "evaluation.plan=none"], "method=m2"),
        (["evaluation.plan=theirs"], "own, none, teacher, true, other"),
        (["evaluation.plan_corpus=x"], "evaluation.plan=teacher"),
        (["evaluation.plan=teacher", "evaluation.plan_corpus=no_such"], "existing folder"),
        (["evaluation.plan=true", "evaluation.benchmarks=[aime2024]"], "evaluation.plan=teacher"),
        (["executor=teacher", "evaluation.benchmarks=[aime2024]"], "executor=teacher"),
        (["executor.name=model"], "executor=model"),
        (["evaluation.engine=sglang"], "continuous_batching"),
        (["evaluation.engine=server"], "evaluation.server.model=student"),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        m2(*overrides)


def test_nobody_trains_on_a_distilled_test_set(tmp_path: Path) -> None:
    problems = {"split": "test", "world": {}}
    manifest = {"schema": 1, "fingerprint": "f", "spec": {"problems": problems}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=r"evaluation\.plan_corpus"):
        m2(f"corpus.path={tmp_path}")
    job = m2("evaluation.plan=teacher", f"evaluation.plan_corpus={tmp_path}")
    assert {stage.fingerprint for stage in job.plan_corpora} == {"f"}


def row(candidate: int, plan: str, score: int | None, status: str = "ok") -> Trajectory:
    return Trajectory(
        problem_id="p", candidate=candidate, problem="?", answer="1", solution="",
        plan=plan, plan_status=status, plan_score=score,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(0, "a", 10), row(1, "b", 90)], "b"),
        ([row(1, "b", 90), row(0, "a", 90)], "a"),
        ([row(0, "a", None), row(1, "b", -100)], "b"),
        ([row(0, "a", None)], "a"),
        ([row(0, "cut", 95, "truncated"), row(1, "", 95), row(2, "c", 1)], "c"),
        ([row(0, "", None, "refused")], ""),
    ],
)
def test_the_best_scored_plan_is_taken(rows: list[Trajectory], expected: str) -> None:
    assert teacher_plans(rows) == {"p": expected}


@pytest.mark.parametrize("count", [2, 3, 10])
def test_everybody_gets_somebody_elses_plan(count: int) -> None:
    ids = [f"p{i}" for i in range(count)]
    others = other_problems(ids)
    assert sorted(others.values()) == sorted(ids)
    assert all(name != other for name, other in others.items())
    assert others == other_problems(ids[::-1])


def test_one_problem_has_no_other() -> None:
    with pytest.raises(SolveError, match="two problems"):
        other_problems(["p"])
