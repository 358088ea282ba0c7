"""Trajectories -> training rows: two verifiers, then a choice among the candidates that pass.

Pure functions over what a corpus holds, so a sweep over filters asks the teacher nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from plan_tuning.config.extensions import find
from plan_tuning.config.filter import UNSCORED_ADVICE, FilterConfig
from plan_tuning.distillation.recomputation import defect
from plan_tuning.records import Trajectory, Verdict
from plan_tuning.text.plans import leaks, similarity

STANDARD_FILTERS = (
    FilterConfig(name="none", plan=False, answer=False, selection="first"),
    FilterConfig(name="plan_only", plan=True, answer=False, selection="best"),
    FilterConfig(name="answer_only", plan=False, answer=True, selection="first"),
    FilterConfig(name="two_stage", plan=True, answer=True, selection="best"),
)
"""The paper's choices of the group ``filter``, under its names."""

RECOMPUTE = FilterConfig(
    name="recompute", plan=False, answer=True, selection="first", recompute=True
)
"""For executions that come with their data set: the equations in them are computed again."""

USABLE = "ok"
MISSING = "missing"
ABSENT = "absent"  # the execution of a row that was imported without one
UNSCORED = "unscored"  # a plan that no verifier was asked about
_EXECUTED = ("ok", "truncated")


class FilterError(ValueError):
    """A filter asks for what a corpus does not hold."""


@dataclass(frozen=True, slots=True)
class FilterResult:
    """Rows that are kept, and why the others are not.

    ``reasons`` counts every candidate under exactly one word, ``kept`` among them.
    """

    kept: list[Trajectory]
    reasons: dict[str, int]
    problems: int  # in the corpus, kept or not

    @property
    def kept_problems(self) -> int:
        """Problems of which at least one trajectory is kept."""
        return len({row.problem_id for row in self.kept})

    @property
    def kept_rate(self) -> float:
        """Share of the problems that are kept."""
        return self.kept_problems / self.problems if self.problems else 0.0


def filter_trajectories(
    rows: Sequence[Trajectory], config: FilterConfig, *, needs_execution: bool = False
) -> FilterResult:
    """Apply a filter.

    Args:
        rows: all candidates of all problems of a corpus; the order of the problems is kept.
        config: which verifiers decide, and which of the passing candidates is taken.
        needs_execution: the rows teach executions (m1, sft_teacher_cot), so a candidate without a
            whole one does not pass, whatever the filter; learners of plans alone (m2) need none.

    Raises:
        FilterError: a candidate that passes so far was never executed, and its execution is to be
            learnt or its answer to be checked; or it was never scored, and its score decides; or no
            execution has equations that could be computed again; or no row was imported with an
            execution, and executions are asked for.
    """
    if config.answer or needs_execution:
        _check_executions(rows, config)
    if config.recompute and not any(row.annotated_execution for row in rows):
        raise FilterError(_not_annotated(config))
    groups: dict[str, list[Trajectory]] = {}
    for row in rows:
        groups.setdefault(row.problem_id, []).append(row)
    reasons: Counter[str] = Counter()
    kept: list[Trajectory] = []
    for group in groups.values():
        passing = []
        for row in sorted(group, key=lambda row: row.candidate):
            reason = rejection(row, config, needs_execution=needs_execution)
            if reason is None:
                passing.append(row)
            else:
                reasons[reason] += 1
        chosen = select(passing, config)
        reasons["not_selected"] += len(passing) - len(chosen)
        kept.extend(chosen)
    if config.max_rows is not None and len(kept) > config.max_rows:
        reasons["over_max_rows"] += len(kept) - config.max_rows
        lots = sorted(
            kept, key=lambda row: (_lot(config.seed, "rows", row.problem_id), row.candidate)
        )
        lots = lots[: config.max_rows]
        taken = {(row.problem_id, row.candidate) for row in lots}
        kept = [row for row in kept if (row.problem_id, row.candidate) in taken]
    reasons["kept"] = len(kept)
    counts = {reason: reasons[reason] for reason in sorted(reasons) if reasons[reason]}
    return FilterResult(kept=kept, reasons=counts, problems=len(groups))


def advice(rows: Sequence[Trajectory]) -> str:
    """Say what helps where a filter keeps nothing.

    Args:
        rows: all candidates of the corpus. No filter is too strict where none of them has a plan.
    """
    statuses = Counter(row.plan_status for row in rows)
    if not statuses or statuses["ok"]:
        return "Loosen the filter (filter=none) or distil more problems (data.limit)"
    found = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    if statuses.most_common(1)[0][0] == "truncated":
        cure = "give the teacher more room, for example distillation.max_plan_tokens=8192"
    else:
        cure = "choose another teacher.model"
    return f"Not one plan of the corpus can be used ({found}): {cure}, and distil again"


def decisions(
    rows: Sequence[Trajectory], config: FilterConfig, *, needs_execution: bool = False
) -> list[dict[str, Any]]:
    """Say of every candidate what the filter makes of it: the rows of a table for people.

    Raises:
        FilterError: as :func:`filter_trajectories` does, whose arguments these are.
    """
    result = filter_trajectories(rows, config, needs_execution=needs_execution)
    kept = {(row.problem_id, row.candidate) for row in result.kept}
    table = []
    for row in rows:
        is_kept = (row.problem_id, row.candidate) in kept
        reason = "kept" if is_kept else rejection(row, config, needs_execution=needs_execution)
        table.append(
            {
                "problem_id": row.problem_id,
                "candidate": row.candidate,
                "problem": row.problem,
                "plan": row.plan,
                "plan_score": row.plan_score,
                "kept": is_kept,
                "reason": reason or "not_selected",
                "execution": row.execution,
                "answer": row.execution_answer,
                "gold": row.answer,
                "is_correct": row.is_correct,
            }
        )
    return table


def rejection(
    row: Trajectory, config: FilterConfig, *, needs_execution: bool = False
) -> str | None:
    """Say why a candidate does not pass; None where it does.

    Raises:
        FilterError: its answer or its execution is asked for and it was not executed, or its score
            is asked for and it was not scored.
    """
    if row.plan_status != USABLE or not row.plan:
        return f"plan_{row.plan_status}" if row.plan_status != USABLE else "plan_empty"
    if config.plan and row.score_status == UNSCORED:
        raise FilterError(_not_scored(row, config))
    if config.plan and row.plan_score is None:
        return f"score_{row.score_status}"
    if config.plan and row.plan_score is not None and row.plan_score < config.plan_score_threshold:
        return "score_below_threshold"
    if config.drop_leaks and leaks(row.plan, row.answer, row.problem):
        return "leak"
    if row.execution_status == MISSING:
        if config.answer or needs_execution:
            raise FilterError(_not_executed(row, config))
        return _further_rejection(row, config)
    if row.execution_status == ABSENT and not (config.answer or needs_execution):
        return _further_rejection(row, config)
    if row.execution_status not in _EXECUTED or (
        needs_execution and row.execution_status != USABLE
    ):
        return f"execution_{row.execution_status}"
    if config.answer and not row.is_correct:
        return f"answer_{row.verdict or Verdict.NO_ANSWER}"
    if config.recompute and (reason := defect(row.annotated_execution or "", row.answer)):
        return reason
    return _further_rejection(row, config)


def _further_rejection(row: Trajectory, config: FilterConfig) -> str | None:
    """Ask a filter from outside about a candidate that the verifiers let pass."""
    extension = find("filter", config.name)
    if extension is None or not extension.is_outside:
        return None
    reason: str | None = extension.load()(row, config)
    return reason


def _check_executions(rows: Sequence[Trajectory], config: FilterConfig) -> None:
    """Refuse rows of which not one was imported with an execution."""
    usable = [row for row in rows if row.plan_status == USABLE and row.plan]
    if usable and all(row.execution_status == ABSENT for row in usable):
        by_filter = f"filter={config.name} checks answers"
        asks = by_filter if config.answer else "this method learns executions"
        raise FilterError(
            f"these plans were imported without executions, and {asks}. Import the file again with "
            "--execution-key COLUMN, or train on the plans alone: method=m2 filter=none, or "
            "filter=plan_only where the plans have scores"
        )


def _not_scored(row: Trajectory, config: FilterConfig) -> str:
    return (
        f"filter={config.name} keeps plans by their score, and the plan of problem "
        f"{row.problem_id} has none: it came with the data set, and no Plan Verifier was asked. "
        f"Choose {UNSCORED_ADVICE}; a file with scores is imported with --score-key COLUMN"
    )


def _not_annotated(config: FilterConfig) -> str:
    return (
        f"filter={config.name} computes the annotated equations (<<a=b>>) of each execution again, "
        "and no execution of this corpus has any: data=gsm8k_socratic has them, for "
        "teacher=dataset. Choose filter=answer_only or filter=none"
    )


def _not_executed(row: Trajectory, config: FilterConfig) -> str:
    if row.score_status == UNSCORED:
        return (
            f"an execution is needed, and problem {row.problem_id} brings a plan without one: "
            "choose method=m2 filter=none, which learns plans alone, or have a teacher execute the "
            "plans: distillation.plans=dataset teacher=openai_compatible "
            "teacher.api_base=http://127.0.0.1:8000/v1"
        )
    needs, instead = (
        (f"filter={config.name} checks answers", "or choose filter=plan_only")
        if config.answer
        else (
            f"this method learns executions and filter={config.name} passes plans of any score"
            if not config.plan
            else "this method learns executions and filter.plan_score_threshold="
            f"{config.plan_score_threshold} passes plans below those that were executed",
            "or choose filter=two_stage, or method=m2, which learns plans alone",
        )
    )
    return (
        f"{needs}, but candidate {row.candidate} of problem {row.problem_id} was not executed: "
        "this corpus was made with distillation.execution=retained. Make the missing executions "
        "with the same command and distillation.execution=all (replies that exist are not bought "
        f"again), {instead}"
    )


def select(passing: Sequence[Trajectory], config: FilterConfig) -> list[Trajectory]:
    """Choose among the passing candidates of one problem, which come in their order."""
    if not passing:
        return []
    if config.selection == "first":
        return [passing[0]]
    if config.selection == "random":
        return [min(passing, key=lambda row: _candidate_lot(config.seed, row))]
    distinct = _distinct(passing)
    if config.selection == "all":
        return distinct
    ranked = sorted(distinct, key=lambda row: (-_score(row), row.candidate))
    if config.selection == "best":
        return ranked[:1]
    chosen: list[Trajectory] = []
    for row in ranked:
        if all(similarity(row.plan, other.plan) < config.diverse_below for other in chosen):
            chosen.append(row)
    return sorted(chosen, key=lambda row: row.candidate)


def _distinct(rows: Iterable[Trajectory]) -> list[Trajectory]:
    """Leave out repeated plans."""
    first: dict[str, Trajectory] = {}
    for row in rows:
        first.setdefault(row.plan, row)
    return list(first.values())


def _score(row: Trajectory) -> int:
    return row.plan_score if row.plan_score is not None else -101


def _candidate_lot(seed: int, row: Trajectory) -> bytes:
    return _lot(seed, "candidate", f"{row.problem_id}\x1f{row.candidate}")


def _lot(seed: int, purpose: str, name: str) -> bytes:
    """Draw a lot: the same whatever other rows there are, so smaller samples are nested.

    Each purpose draws its own. A problem's candidate is the one with the least lot, which is less
    the more candidates there are: were the rows chosen by the same lots, problems with many
    candidates would crowd out the others.
    """
    return hashlib.sha256(f"{seed}\x1f{purpose}\x1f{name}".encode()).digest()
