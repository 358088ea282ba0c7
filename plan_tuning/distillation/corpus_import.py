"""Somebody's file of trajectories -> a corpus artifact: checked, graded, with funnel and card.

Rows of the same problem are its candidates, in their order. Nobody is asked: what a file does not
hold (a score, an execution) is missing, and filters say so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import build, fingerprint_of, folder_of, hashed_values
from plan_tuning.config.data import RowForm
from plan_tuning.config.filter import FilterConfig
from plan_tuning.config.grading import GradingConfig
from plan_tuning.distillation.candidate_groups import CandidateGroups, JoinedProblems
from plan_tuning.distillation.card import write_card
from plan_tuning.distillation.corpus import PROBLEMS, TRAJECTORIES
from plan_tuning.distillation.filters import ABSENT, RECOMPUTE, STANDARD_FILTERS, UNSCORED
from plan_tuning.distillation.funnel import Tally
from plan_tuning.distillation.parquet import write_records
from plan_tuning.distillation.synthesis import OK
from plan_tuning.distillation.trajectory_file import (
    TrajectoryFile,
    columns_of,
    read_rows,
    told,
    without_plan,
)
from plan_tuning.distillation.trajectory_rows import (
    ColumnError,
    Row,
    check_columns,
    told_by,
)
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Problem, Trajectory
from plan_tuning.tasks.benchmarks import read
from plan_tuning.tasks.json_rows import DataError
from plan_tuning.tasks.published_tests import known_test_problems
from plan_tuning.tasks.regrading import VERSIONS

logger = logging.getLogger(__name__)

# Bump when the same rows are read otherwise: the corpus is another one then.
READER_VERSION = 1
_STAGE_VERSION = 1
_CHUNK = 512  # executions between two steps of the progress bar
_SHOWN_ROWS = 5

Progress = Callable[[int, int], None]
"""Told how many executions are graded, of how many."""


def import_corpus(
    given: TrajectoryFile,
    outputs: Path,
    grading: GradingConfig | None = None,
    progress: Progress | None = None,
) -> tuple[Path, bool]:
    """Import trajectories; what was imported before is found again by its content.

    Args:
        given: what is imported, and how.
        outputs: root of all results.
        grading: the Answer Verifier's policy; None: the default one.
        progress: told how far the grading is.

    Returns:
        The folder of the corpus, and whether it is new.

    Raises:
        DataError: the file cannot be read, or one of its rows; names row and column.
    """
    rows, origin = read_rows(given)
    present = columns_of(rows)
    reading = told_by(present, given.reading)
    given = replace(given, reading=reading)
    try:
        check_columns(present, reading)
        for column in given.where:
            if column not in present:
                raise ColumnError(column, "is absent")
    except ColumnError as error:
        raise DataError(told(given, 1, present, error)) from error
    known, joined = _joined(given)
    collected = _collect(given, rows, known)  # before anything is written
    grading = grading or GradingConfig()
    spec = {
        "problems": {"name": given.set_name, "split": given.split, **joined},
        "import": {
            **origin,
            "reader": READER_VERSION,
            "reading": hashed_values(reading),
            "where": dict(given.where),
            "skip_bad": given.skip_bad,
        },
        "grading": hashed_values(grading),
    }

    def make(folder: Path) -> Mapping[str, Any]:
        return _make(folder, given, collected, grading, progress)

    root = outputs / "artifacts"
    fingerprint = fingerprint_of(spec, stage="corpora", version=_STAGE_VERSION)
    is_new = build(root, "corpora", fingerprint, make, spec=spec)
    return folder_of(root, "corpora", fingerprint), is_new


def _joined(given: TrajectoryFile) -> tuple[JoinedProblems | None, dict[str, Any]]:
    """Read the set that problems are joined from; and say what determines it."""
    if given.joined is None:
        return None, {}
    name, path = given.joined
    found = read(name, split=given.split, path=path, form=RowForm(given.reading.style))
    columns = given.reading.columns
    known = JoinedProblems(found.problems, columns.id or columns.problem or columns.messages)
    return known, {"joined": found.spec}


@dataclass(frozen=True)
class _Collected:
    """What a file holds, not graded yet."""

    problems: list[Problem]
    candidates: list[tuple[Trajectory, ...]]  # of each problem
    counts: Mapping[str, Any]  # of its rows, for the facts


def _collect(
    given: TrajectoryFile, rows: Sequence[tuple[int, Row]], known: JoinedProblems | None
) -> _Collected:
    """Read every row, and put it to its problem.

    Raises:
        DataError: a row cannot be used, or none has a plan.
    """
    groups = CandidateGroups(given.reading, given.set_name, given.split, known)
    left_out: dict[str, list[int]] = {}
    others = 0
    for number, row in rows:
        if any(str(row.get(column)) != value for column, value in given.where.items()):
            others += 1
            continue
        try:
            groups.add(row)
        except ColumnError as error:
            if not given.skip_bad:
                raise DataError(told(given, number, columns_of(rows), error)) from error
            left_out.setdefault(str(error), []).append(number)
    for reason, numbers in left_out.items():
        shown = ", ".join(map(str, numbers[:_SHOWN_ROWS]))
        logger.warning("%d rows are left out: %s (first: %s)", len(numbers), reason, shown)
    candidates = list(groups.trajectories())
    if not any(row.plan_status == OK for group in candidates for row in group):
        raise DataError(without_plan(given, columns_of(rows), left_out, others))
    counts = {
        "rows": len(rows),
        "rows_of_other_values": others,
        "left_out": {reason: len(numbers) for reason, numbers in left_out.items()},
        "most_candidates": max(map(len, candidates)),
    }
    return _Collected(groups.problems, candidates, counts)


def _make(
    folder: Path,
    given: TrajectoryFile,
    collected: _Collected,
    grading: GradingConfig,
    progress: Progress | None,
) -> Mapping[str, Any]:
    started = time.perf_counter()
    problems = collected.problems
    with Grader(grading) as grader:
        candidates = _graded(collected.candidates, problems, grader, progress)
    tally = Tally(len(problems), _filters(candidates))
    for group in candidates:
        tally.add(group)
    rows_of_all = (row for group in candidates for row in group)
    write_records(folder / TRAJECTORIES, Trajectory, rows_of_all)
    write_records(folder / PROBLEMS, Problem, problems)
    facts: dict[str, Any] = {
        **tally.facts(),
        **VERSIONS,
        "imported": {
            "from": given.source if given.file is None else given.file.name,
            "split": given.split,
            "shape": given.reading.shape,
            **collected.counts,
        },
        **grader.facts(),
        "import_s": round(time.perf_counter() - started, 3),
    }
    known = known_test_problems(problem.problem for problem in problems)
    if known:
        facts["test_problems"] = known
    write_card(folder, facts, problems)
    return facts


def _filters(groups: Sequence[tuple[Trajectory, ...]]) -> tuple[FilterConfig, ...]:
    """The filters that ask for nothing which the rows lack."""
    rows = [row for group in groups for row in group]
    has_scores = any(row.score_status != UNSCORED for row in rows)
    chosen = [config for config in STANDARD_FILTERS if has_scores or not config.plan]
    if any(row.annotated_execution for row in rows):
        chosen.insert(0 if has_scores else len(chosen), RECOMPUTE)
    return tuple(chosen)


def _graded(
    groups: Sequence[tuple[Trajectory, ...]],
    problems: Sequence[Problem],
    grader: Grader,
    progress: Progress | None,
) -> list[tuple[Trajectory, ...]]:
    """Have the grader read every execution."""
    items = [
        (row, problem)
        for group, problem in zip(groups, problems, strict=True)
        for row in group
        if row.execution_status != ABSENT
    ]
    judged: dict[tuple[str, int], Trajectory] = {}
    for start in range(0, len(items), _CHUNK):
        chunk = items[start : start + _CHUNK]
        grades = grader.grade_many(
            [(row.execution, problem) for row, problem in chunk],
            finish_reasons=["stop" if r.execution_status == OK else "length" for r, _ in chunk],
        )
        for (row, _), grade in zip(chunk, grades, strict=True):
            judged[row.problem_id, row.candidate] = replace(
                row, execution_answer=grade.answer, verdict=grade.verdict
            )
        if progress is not None:
            progress(len(judged), len(items))
    return [
        tuple(judged.get((row.problem_id, row.candidate), row) for row in group) for group in groups
    ]
