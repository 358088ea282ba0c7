"""The task of questions that are answered by yes or no, such as StrategyQA.

Its plans are the questions that have to be answered first; StrategyQA has them from humans
(:mod:`plan_tuning.tasks.dataset_plans`).
"""

from __future__ import annotations

from plan_tuning.records import Problem
from plan_tuning.tasks.task import Task
from plan_tuning.text.prompts import read_words


def _steps(problem: Problem) -> str:
    """Count the questions of the human plan; nothing where there is none."""
    found = problem.metadata.get("decomposition")
    return str(len(found)) if isinstance(found, list | tuple) and found else ""


TASK = Task(words=read_words("yes_no"), difficulty=_steps)
