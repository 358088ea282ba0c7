"""Problems that bring their plans -> trajectories: nobody is asked, and no plan has a score.

One candidate a problem. Its execution is graded as a teacher's is; whether plans are good, nobody
said, so filters that ask for scores refuse these rows (``score_status`` is ``unscored``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from plan_tuning.distillation.filters import MISSING, UNSCORED, USABLE
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Problem, Trajectory
from plan_tuning.tasks.dataset_plans import dataset_plan

_AT_A_TIME = 64  # executions that are graded side by side


def given_row(problem: Problem) -> Trajectory:
    """Make the one candidate of a problem out of its own plan, neither scored nor executed."""
    given = dataset_plan(problem)
    return Trajectory(
        problem_id=problem.id,
        candidate=0,
        problem=problem.problem,
        answer=problem.answer,
        solution=problem.solution,
        plan=given.plan if given else "",
        plan_status=USABLE if given else MISSING,
        source=problem.source,
        difficulty=problem.difficulty,
        style=problem.style,
        true_plan=problem.true_plan,
    )


async def given_trajectories(
    problems: Sequence[Problem], grader: Grader
) -> AsyncIterator[tuple[Trajectory, ...]]:
    """Make trajectories of the plans and executions that came with the data.

    Yields:
        The one candidate of each problem, in the order of the problems.
    """
    for start in range(0, len(problems), _AT_A_TIME):
        some = problems[start : start + _AT_A_TIME]
        for row in await asyncio.gather(*(_graded(problem, grader) for problem in some)):
            yield (row,)


async def _graded(problem: Problem, grader: Grader) -> Trajectory:
    given, row = dataset_plan(problem), given_row(problem)
    row = replace(row, score_status=UNSCORED)
    if given is None or not given.execution:
        return row
    grade = await grader.grade_async(given.execution, problem, finish_reason="stop")
    return replace(
        row,
        execution=given.execution,
        annotated_execution=given.annotated_execution,
        execution_status=USABLE,
        execution_answer=grade.answer,
        verdict=grade.verdict,
    )
