"""A problem and what is known of it so far -> the next request to the teacher."""

from __future__ import annotations

from plan_tuning.config.teacher import DistillationConfig
from plan_tuning.records import Problem, Reply, Request
from plan_tuning.text.prompts import render


def constraints_request(problem: Problem, config: DistillationConfig) -> Request:
    """Ask for what any solution has to respect."""
    return Request(
        role="constraints",
        messages=render("constraints", style=problem.style, problem=problem.problem),
        temperature=config.temperature,
        max_tokens=config.max_constraints_tokens,
        problem_id=problem.id,
    )


def plan_request(problem: Problem, config: DistillationConfig, index: int) -> Request:
    """Ask for candidate ``index``."""
    return Request(
        role="plan",
        messages=render("plan", style=problem.style, problem=problem.problem),
        temperature=config.plan_temperature,
        max_tokens=config.max_plan_tokens,
        sample_index=index,
        seed=index,
        problem_id=problem.id,
    )


def verify_request(
    problem: Problem,
    config: DistillationConfig,
    plan: str,
    constraints: Reply,
    *,
    is_reminded: bool = False,
) -> Request:
    """Ask for a plan's score."""
    return Request(
        role="verify",
        messages=render(
            "verify",
            style=problem.style,
            is_reminded=is_reminded,
            problem=problem.problem,
            constraints=constraints.text.strip(),
            plan=plan,
        ),
        temperature=config.temperature,
        max_tokens=config.max_verify_tokens,
        problem_id=problem.id,
    )


def execute_request(
    problem: Problem, config: DistillationConfig, plan: str, *, is_reminded: bool = False
) -> Request:
    """Ask for a plan to be executed."""
    return Request(
        role="execute",
        messages=render(
            "execute",
            style=problem.style,
            is_reminded=is_reminded,
            problem=problem.problem,
            plan=plan,
        ),
        temperature=config.temperature,
        max_tokens=config.max_execute_tokens,
        problem_id=problem.id,
    )
