"""Predictions of an earlier grader: what today's one is given of them, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from plan_tuning.records import Prediction, Problem, Verdict
from plan_tuning.tasks.regrading import Regrading, StoredAnswer


def stored_answers(
    rows: Sequence[Prediction], problems: Mapping[str, Problem]
) -> list[StoredAnswer]:
    """Take out of predictions what is graded again; rows of unknown problems stay as they are.

    Args:
        rows: of one benchmark.
        problems: by id; a gold answer that has changed since keeps the verdict too.
    """
    known = [row for row in rows if row.problem_id in problems]
    return [
        StoredAnswer(
            row_key(row.problem_id, row.sample),
            row.text,
            problems[row.problem_id],
            row.verdict,
            row.finish_reason,
            row.is_correct_strict,
        )
        for row in known
        if problems[row.problem_id].answer == row.gold
    ]


def with_verdict(row: Prediction, found: Regrading) -> Prediction:
    """Give a prediction today's verdict."""
    changed = found.changed.get(row_key(row.problem_id, row.sample))
    if changed is None:
        return row
    verdict = Verdict(changed["verdict"])
    return replace(
        row,
        verdict=verdict,
        answer=changed["answer"],
        rule=changed["rule"],
        is_correct=verdict is Verdict.CORRECT,
        is_correct_strict=changed["is_strict"],
    )


def row_key(problem_id: str, sample: int) -> str:
    """Name a prediction within its artifact."""
    return f"{problem_id}/{sample}"
