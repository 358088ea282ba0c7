"""Which problems GRPO trains on, and with which plan beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.comparison.audit_rows import audit_rows
from plan_tuning.config.filter import FilterConfig
from plan_tuning.distillation.corpus import (
    PROBLEMS,
    TRAJECTORIES,
    write_records,
    write_trajectories,
)
from plan_tuning.distillation.reference_executions import human_execution
from plan_tuning.records import Problem, Trajectory, Verdict
from plan_tuning.training.grpo.data import planned_problems

NAMES = ("a", "b", "c", "d")


def row(name: str, candidate: int, score: int, is_right: bool, **values: Any) -> Trajectory:
    fields: dict[str, Any] = {
        "problem": f"What is {name}?",
        "answer": "1",
        "solution": "1",
        "plan": f"{name}{candidate}",
        "plan_score": score,
        "score_status": "parsed",
        "execution": "1",
        "execution_status": "ok",
        "verdict": Verdict.CORRECT if is_right else Verdict.WRONG,
    }
    return Trajectory(problem_id=name, candidate=candidate, **(fields | values))


ROWS = [
    row("b", 0, 70, True),
    row("b", 1, 95, False),
    row("b", 2, 90, True),
    row("a", 0, 80, True),
    row("a", 1, 100, True, plan=""),  # no plan, whatever its score
    row("c", 0, 10, False),
    row("d", 0, 85, False),
]
TWO_STAGE = FilterConfig()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_trajectories(folder / TRAJECTORIES, ROWS)
    problems = [Problem(name, f"What is {name}?", "1") for name in NAMES]
    write_records(folder / PROBLEMS, Problem, problems)
    return folder


@pytest.mark.parametrize(
    ("chosen", "plans"),
    [
        (TWO_STAGE, {"a": "a0", "b": "b2"}),
        (replace(TWO_STAGE, answer=False), {"a": "a0", "b": "b1", "d": "d0"}),
        (replace(TWO_STAGE, plan=False, selection="first"), {"a": "a0", "b": "b0"}),
        (replace(TWO_STAGE, plan=False, answer=False, selection="first"),
         {"a": "a0", "b": "b0", "c": "c0", "d": "d0"}),
        (replace(TWO_STAGE, selection="all"), {"a": "a0", "b": "b2"}),  # the first that passes
        (replace(TWO_STAGE, max_rows=1), {"a": "a0", "b": "b2"}),  # rows are not what is trained on
        (replace(TWO_STAGE, plan_score_threshold=100), {}),
    ],
)  # fmt: skip
def test_one_plan_a_problem_as_the_filter_says_in_the_order_of_the_problems(
    corpus: Path, chosen: FilterConfig, plans: dict[str, str]
) -> None:
    planned, counts = planned_problems(corpus, chosen)
    assert [(one.problem.id, one.teacher_plan) for one in planned] == list(plans.items())
    assert counts["rows"] == len(plans)
    assert counts["problems_without_plan"] == len(NAMES) - len(plans)
    assert sum(counts["reasons"].values()) == len(ROWS), "every candidate is counted once"


def test_plans_need_no_execution(tmp_path: Path, corpus: Path) -> None:
    rows = [replace(r, execution="", execution_status="missing", verdict=None) for r in ROWS]
    write_trajectories(tmp_path / TRAJECTORIES, rows)
    (tmp_path / PROBLEMS).write_bytes((corpus / PROBLEMS).read_bytes())
    planned, _ = planned_problems(tmp_path, replace(TWO_STAGE, answer=False))
    assert [one.teacher_plan for one in planned] == ["a0", "b1", "d0"]


def test_human_rationales_are_never_mixed_with_the_teachers_executions(tmp_path: Path) -> None:
    """As in an audit: which language a problem has would hang on its candidates being right."""
    problems = [Problem(name, f"What is {name}?", "1", solution=f"human {name}") for name in NAMES]
    write_records(tmp_path / PROBLEMS, Problem, problems)
    every = replace(TWO_STAGE, answer=False, plan=False, selection="first")

    def executions(rows: list[Trajectory]) -> dict[str, str]:
        write_trajectories(tmp_path / TRAJECTORIES, rows)
        planned, _ = planned_problems(tmp_path, every)
        audited = audit_rows(rows, problems, is_planted=True)
        found = {one.problem.id: one.execution for one in planned}
        in_audit = {one.problem_id: one.case.execution for one in audited.golden}
        assert {name: found[name] for name in in_audit} == in_audit
        return found

    several = [replace(r, plan=f"1. Add {r.problem_id}.\n2. Halve it.") for r in ROWS]
    assert executions(several) == {"a": "1", "b": "1", "c": "", "d": ""}
    wrong = [replace(r, verdict=Verdict.WRONG) for r in several]
    human = {name: f"human {name}\nThe answer is \\boxed{{1}}." for name in NAMES}
    assert executions(wrong) == human


@pytest.mark.parametrize(
    ("style", "solution", "answer", "expected"),
    [
        ("math", "2+3=5", "5", "2+3=5\nThe answer is \\boxed{5}."),
        ("microworld", "2+3=5", "5", "2+3=5\nThe answer is \\boxed{5}."),
        ("code", "Add one.", "def f(x):\n    return {1: x}",
         "Add one.\n```python\ndef f(x):\n    return {1: x}\n```"),
        ("code", "```python\nf = 1\n```", "f = 1", "```python\nf = 1\n```"),
        ("code", "", "f = 1", ""),
    ],
)  # fmt: skip
def test_a_human_execution_ends_as_its_task_ends(
    style: str, solution: str, answer: str, expected: str
) -> None:
    problem = Problem("p", "", answer, solution=solution, style=style)
    assert human_execution(problem) == expected
