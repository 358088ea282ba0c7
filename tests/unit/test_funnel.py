"""What is counted about a corpus, and what a distillation would cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plan_tuning.config.teacher import DistillationConfig, TeacherConfig
from plan_tuning.distillation.estimate import count_missing_calls, dry_run
from plan_tuning.distillation.funnel import Tally
from plan_tuning.records import Problem, Trajectory, Verdict


def row(problem: int, candidate: int, score: int | None, is_right: bool, **values: Any) -> Any:
    defaults: dict[str, Any] = {
        "problem_id": f"p{problem}",
        "candidate": candidate,
        "problem": "What is left?",
        "answer": "35",
        "solution": "35",
        "plan": f"1. Do {candidate}.",
        "plan_score": score,
        "score_status": "unparsed" if score is None else "parsed",
        "score_text": "unreadable" if score is None else f"Score: {score}",
        "execution": "done",
        "execution_status": "ok",
        "verdict": Verdict.CORRECT if is_right else Verdict.WRONG,
    }
    return Trajectory(**(defaults | values))


def test_the_funnel_counts_every_stage() -> None:
    tally = Tally(2)
    tally.add(
        [
            row(0, 0, 90, True),
            row(0, 1, 90, True, plan="1. Do 0.", duplicate_of=0),
            row(0, 2, None, False),
            row(0, 3, None, False, plan="", plan_status="refused", execution_status="missing"),
        ]
    )
    tally.add([row(1, index, 10, index == 0) for index in range(4)])
    facts = tally.facts()
    assert facts["funnel"] == {
        "problems": 2,
        "candidates": 8,
        "plans": 7,
        "distinct": 6,
        "scored": 6,
        "good_score": 2,
        "executed": 7,
        "correct": 3,
        "selected": 1,
    }
    assert facts["kept_problems"] == {
        "none": 2,
        "plan_only": 1,
        "answer_only": 2,
        "two_stage": 1,
    }
    assert facts["plan_status"] == {"ok": 7, "refused": 1}
    assert facts["released_parser_differs"] == 1  # it reads "unreadable" as -100


@pytest.mark.parametrize(
    ("rights", "wrongs", "auc"),
    [
        ([90, 80], [70, 60], 1.0),
        ([60], [90], 0.0),
        ([80], [80], 0.5),
        ([90, 50], [70, 50], 0.625),
        ([90], [], None),
        ([], [], None),
    ],
)
def test_the_verifiers_auc(rights: list[int], wrongs: list[int], auc: float | None) -> None:
    tally = Tally(1)
    scored = [(score, True) for score in rights] + [(score, False) for score in wrongs]
    tally.add([row(0, i, score, right) for i, (score, right) in enumerate(scored)])
    assert tally.score_auc == auc


PAID = TeacherConfig(
    backend="http",
    model="m",
    api_base="http://127.0.0.1:1/v1",
    price={"input": 1.0, "output": 2.0},
    requests_per_minute=100,
    concurrency=64,
)


def test_a_sweep_bounds_its_calls() -> None:
    estimate = count_missing_calls(7473 + 12000, PAID, DistillationConfig())
    assert estimate.calls == 311_568  # experiments/METHOD.md section 2
    assert estimate.usd_low is not None
    assert estimate.usd_high is not None
    assert 0 < estimate.usd_low < estimate.usd_high
    assert estimate.minutes == pytest.approx(3115.68)


def test_a_dry_run_needs_neither_store_nor_key(tmp_path: Path) -> None:
    problems = [Problem(id=str(i), problem=f"What is {i} + 1?", answer="1") for i in range(3)]
    config = DistillationConfig(num_candidates=2)
    estimate = dry_run(problems, PAID, config, tmp_path / "calls")
    assert estimate.to_buy == {"constraints": 3, "plan": 6, "verify": 6, "execute": 6}
    assert estimate.cached == dict.fromkeys(estimate.to_buy, 0)
    assert "What is 0 + 1?" in estimate.first_prompts["plan"][-1]["content"]
    assert not (tmp_path / "calls").exists()


def test_a_free_teacher_costs_nothing() -> None:
    free = TeacherConfig(backend="http", model="m", api_base="http://127.0.0.1:1/v1")
    assert count_missing_calls(10, free, DistillationConfig()).usd_high == 0.0
