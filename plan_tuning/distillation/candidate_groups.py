"""Rows of somebody's file -> problems with their candidates, each row checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from plan_tuning.distillation.synthesis import mark_duplicates
from plan_tuning.distillation.trajectory_rows import (
    ColumnError,
    GivenTrajectory,
    Row,
    RowReading,
    read_row,
)
from plan_tuning.grading.answer_rules import problem_defect
from plan_tuning.records import Problem, Trajectory
from plan_tuning.tasks.contamination import tokens


class JoinedProblems:
    """A set of problems, in which the problem of a row is looked up.

    Args:
        problems: of the set, with gold answers.
        column: of the rows that names the problem, for errors.
    """

    def __init__(self, problems: Iterable[Problem], column: str) -> None:
        self._column = column
        self._by_id: dict[str, Problem] = {}
        self._by_text: dict[str, Problem] = {}
        self._by_words: dict[tuple[str, ...], Problem | None] = {}
        for problem in problems:
            words = tuple(tokens(problem.problem))
            self._by_id[problem.id] = problem
            self._by_text[_squeezed(problem.problem)] = problem
            self._by_words[words] = None if words in self._by_words else problem

    def of(self, problem: Problem) -> Problem:
        """Find a problem: by its id where it has one, else by its text.

        Case, signs and spacing do not count, unless two problems of the set differ in nothing else.

        Raises:
            ColumnError: the set has no such problem.
        """
        if problem.id:
            found = self._by_id.get(problem.id)
        else:
            found = self._by_text.get(_squeezed(problem.problem))
            found = found or self._by_words.get(tuple(tokens(problem.problem)))
        if found is None:
            raise ColumnError(self._column, "names no problem of the set of --problems")
        return found


@dataclass
class CandidateGroups:
    """The problems of a file with their candidates, in the order of the file.

    Args:
        reading: how a row is read.
        name: of the set that the problems are of.
        split: that the problems are of; for the ids of problems without one.
        known: where problems and gold answers are joined from; None: the rows hold them.
    """

    reading: RowReading
    name: str
    split: str
    known: JoinedProblems | None = None
    _problems: dict[str, Problem] = field(default_factory=dict)  # by id, or by text without one
    _candidates: dict[str, list[GivenTrajectory]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Read a row and put it to its problem.

        Raises:
            ColumnError: it cannot be used.
        """
        given = read_row(row, self.reading, self.name)
        problem = given.problem
        key = problem.id or _squeezed(problem.problem)
        if self.known is not None:
            problem = self.known.of(problem)
            key = problem.id
        else:
            self._check(problem, self._problems.get(key))
        if key not in self._problems:
            own = f"{self.name}-{self.split}-{len(self._problems)}"
            self._problems[key] = replace(problem, id=problem.id or own)
        self._candidates.setdefault(key, []).append(given)

    def _check(self, problem: Problem, earlier: Problem | None) -> None:
        columns = self.reading.columns
        defect = problem_defect(problem)
        if defect is not None:
            raise ColumnError(columns.answer or "", f"cannot be graded: {defect}", "answer")
        if earlier is None:
            return
        if _squeezed(problem.problem) != _squeezed(earlier.problem):
            raise ColumnError(columns.id or "", "is the id of another problem in an earlier row")
        if problem.answer != earlier.answer:
            raise ColumnError(
                columns.answer or "", "differs from that of an earlier row of the same problem"
            )

    @property
    def problems(self) -> list[Problem]:
        """The problems, in the order in which the file names them first."""
        return list(self._problems.values())

    def trajectories(self) -> Iterator[tuple[Trajectory, ...]]:
        """Give the candidates of each problem, not graded yet."""
        for key, problem in self._problems.items():
            rows = [_trajectory(problem, i, row) for i, row in enumerate(self._candidates[key])]
            yield mark_duplicates(rows)


def _trajectory(problem: Problem, candidate: int, given: GivenTrajectory) -> Trajectory:
    return Trajectory(
        problem_id=problem.id,
        candidate=candidate,
        problem=problem.problem,
        answer=problem.answer,
        solution=problem.solution,
        plan=given.plan,
        plan_status=given.plan_status,
        plan_score=given.score.value,
        score_status=given.score.status,
        score_text=given.score_text,
        execution=given.execution,
        annotated_execution=given.annotated_execution,
        execution_status=given.execution_status,
        source=problem.source,
        difficulty=problem.difficulty,
        style=problem.style,
        true_plan=problem.true_plan,
    )


def _squeezed(text: str) -> str:
    return " ".join(text.split())
