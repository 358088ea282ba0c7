"""A corpus -> the plans that rewards are audited on, each with what is known about it.

Every problem lends one plan as the golden one, which rewards compare with and which is not rewarded
itself: the best one by the Plan Verifier, whose score knows nothing of executions, so that no label
leaks into the choice; the first one where nobody scored. The two labels are kept apart: whether a
plan is right is known in the micro-world, and of planted flaws; whether an execution is right,
wherever plans were executed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from plan_tuning.config.checks import ConfigError
from plan_tuning.distillation.filters import USABLE
from plan_tuning.distillation.reference_executions import reference_executions
from plan_tuning.records import Problem, Trajectory, Verdict
from plan_tuning.rewards.plan_cases import PlanCase
from plan_tuning.text.formats import is_micro
from plan_tuning.text.plan_flaws import variants

_UNKNOWN = (None, Verdict.BAD_GOLD, Verdict.ERROR)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A plan that is rewarded."""

    case: PlanCase
    plan_right: bool | None = None  # None: nobody knows
    execution_right: bool | None = None
    kind: str = ""  # what was planted; empty: the corpus's own plan

    @property
    def problem_id(self) -> str:
        """Whose group it belongs to."""
        return self.case.problem.id


@dataclass(frozen=True, slots=True)
class AuditRows:
    """What is rewarded, and what probes are made from."""

    rows: tuple[AuditRow, ...]
    golden: tuple[AuditRow, ...]  # one a problem, with its golden plan for its own plan
    problems: int  # in the corpus, audited or not


def audit_rows(
    trajectories: Sequence[Trajectory],
    problems: Sequence[Problem],
    *,
    limit: int | None = None,
    seed: int = 0,
    is_planted: bool = False,
) -> AuditRows:
    """Choose golden plans and label the others.

    Args:
        trajectories: all candidates of a corpus; those without a usable plan are left out.
        problems: of the corpus.
        limit: audit so many problems, drawn by ``seed``; None: all.
        seed: of the draw.
        is_planted: reward variants of the golden plan, whose flaws are known, in place of the other
            candidates.

    Raises:
        ConfigError: nothing is left to be rewarded.
    """
    groups: dict[str, list[Trajectory]] = {}
    for row in trajectories:
        if row.plan_status == USABLE and row.plan.strip():
            groups.setdefault(row.problem_id, []).append(row)
    golden = {name: _golden(group) for name, group in groups.items()}
    usable = [name for name in groups if is_planted or len(groups[name]) > 1]
    count = len(usable) if limit is None else min(limit, len(usable))
    drawn = set(random.Random(f"audit/{seed}").sample(usable, count))
    chosen = [name for name in usable if name in drawn]
    known = {problem.id: problem for problem in problems}
    asked = {name: known.get(name) or _problem(row) for name, row in golden.items()}
    executions = reference_executions(trajectories, asked.values())
    cases = {
        name: PlanCase(
            asked[name],
            plan=golden[name].plan,
            teacher_plan=golden[name].plan,
            execution=executions.get(name, ""),
        )
        for name in chosen
    }
    own = {name: _labelled(cases[name], golden[name]) for name in chosen}
    rows: list[AuditRow] = []
    for place, name in enumerate(chosen):
        if is_planted:
            other = golden[chosen[(place + 1) % len(chosen)]].plan
            rows += _planted(cases[name], other)
        else:
            rows += [_labelled(cases[name], row) for row in groups[name] if row is not golden[name]]
    if not rows:
        raise ConfigError(
            "reward-audit",
            f"{len(trajectories)} trajectories",
            "no problem has a plan beside its golden one that a reward could be asked about"
            + (": plans of one line have no steps to plant flaws in" if is_planted else ""),
            "plan-tuning reward-audit CORPUS --plant makes flawed plans of those that are there",
        )
    return AuditRows(tuple(rows), tuple(own.values()), len({r.problem_id for r in trajectories}))


def _golden(group: Sequence[Trajectory]) -> Trajectory:
    """The candidate that the Plan Verifier prefers; the earlier one of equals."""
    return max(
        group, key=lambda row: (-101 if row.plan_score is None else row.plan_score, -row.candidate)
    )


def _problem(row: Trajectory) -> Problem:
    """The problem of a row, as far as the row says."""
    return Problem(
        id=row.problem_id,
        problem=row.problem,
        answer=row.answer,
        solution=row.solution,
        source=row.source,
        style=row.style,
        difficulty=row.difficulty,
        true_plan=row.true_plan,
    )


def _labelled(case: PlanCase, row: Trajectory) -> AuditRow:
    true_plan = case.problem.true_plan or row.true_plan
    return AuditRow(
        replace(case, plan=row.plan),
        plan_right=row.plan.split() == true_plan.split() if true_plan.strip() else None,
        execution_right=None if row.verdict in _UNKNOWN else row.is_correct,
    )


def _planted(case: PlanCase, other_plan: str) -> list[AuditRow]:
    problem = case.problem
    if is_micro(problem.style):
        return []
    found = variants(case.plan, problem.id, problem.problem, problem.style, other_plan)
    return [
        AuditRow(replace(case, plan=one.plan), plan_right=not one.is_flawed, kind=one.kind)
        for one in found
    ]
