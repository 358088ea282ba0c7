"""The task of mathematics: numbers, formulas and sets, in the paper's words."""

from __future__ import annotations

from plan_tuning.tasks.task import Task

TASK = Task()
