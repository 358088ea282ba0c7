"""Student to predictions: inference in one call, for M2 in two, then the grader's verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.extensions import PLAIN, names, record
from plan_tuning.config.training import PromptConfig
from plan_tuning.evaluation.writers import (
    LocalWriter,
    Messages,
    Progress,
    SolveError,
    Writer,
    Written,
)
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Prediction, Problem, Trajectory
from plan_tuning.students.loading import Student
from plan_tuning.text import formats

Case = tuple[Problem, int]  # a problem and the number of the sample


def solve(
    student: Student | Writer,
    problems: Sequence[Problem],
    *,
    method: str,
    prompt: PromptConfig | str,
    evaluation: EvaluationConfig,
    benchmark: str,
    grader: Grader,
    executor: Student | Writer | None = None,
    plans: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Answer and grade every problem, ``evaluation.num_samples`` times.

    Args:
        student: who answers, or for m2 who plans.
        problems: the test problems.
        method: experiments/METHOD.md section 3; m2 plans first and has the executor follow.
        prompt: matched or paper.
        evaluation: decoding; ``plan=other`` gives the executor another problem's plan.
        benchmark: written into the predictions.
        grader: reads the final text.
        executor: executes m2's plans, None: the student itself; not read for other methods.
        plans: plans to execute instead of the student's own, by problem id (a plan swap of m2).
            Where one is empty the executor solves the problem by itself.
        progress: told about every finished batch.

    Returns:
        Predictions, problem by problem and sample by sample.

    Raises:
        SolveError: plans are given for a method that executes none, or not for all problems.
    """
    if plans is not None:
        _check_plans(plans, problems, method)
    cases = [(p, sample) for p in problems for sample in range(evaluation.num_samples)]
    calls = _Calls(evaluation, prompt, progress)
    writer = _writer(student, evaluation)
    if record("method", method).calls == 2:
        executing = writer if executor is None else _writer(executor, evaluation)
        if plans is None:
            found = calls.plans(writer, cases, method)
        else:
            found = [(plans[problem.id], 0) for problem, _ in cases]
        asked, written = calls.executions(executing, cases, [plan for plan, _ in found])
    else:
        asked, written = calls.answers(writer, cases, method)
        # An answer without tags has no plan.
        found = [
            (formats.parse_plan(answer.said) if "<plan>" in answer.said else "", 0)
            for answer in written
        ]
    return [
        _grade(
            grader,
            problem,
            sample,
            benchmark=benchmark,
            plan=plan,
            messages=messages,
            answer=answer,
            tokens=tokens + answer.num_tokens,  # both calls are the price of the answer
        )
        for (problem, sample), messages, answer, (plan, tokens) in zip(
            cases, asked, written, found, strict=True
        )
    ]


def _writer(student: Student | Writer, evaluation: EvaluationConfig) -> Writer:
    return LocalWriter(student, evaluation) if isinstance(student, Student) else student


def _check_plans(plans: Mapping[str, str], problems: Sequence[Problem], method: str) -> None:
    if record("method", method).calls != 2:
        known = " or ".join(one for one in names("method") if record("method", one).calls == 2)
        raise SolveError(f"method={method} carries out no given plan: choose method={known}")
    missing = [problem.id for problem in problems if problem.id not in plans]
    if missing:
        raise SolveError(
            f"{len(missing)} of {len(problems)} problems have no plan to swap in, for example "
            f"{missing[0]}: the plans belong to another test set. With evaluation.plan_corpus=null "
            "the job distils this one"
        )


def teacher_plans(trajectories: Iterable[Trajectory]) -> dict[str, str]:
    """Choose the teacher's plan of each problem: the best scored one, the earliest among equals.

    The Plan Verifier chooses, for it knows no gold answer; the Answer Verifier does, and choosing
    by it would let the gold answers of a test set into its plans.

    Args:
        trajectories: all candidates of a test set.

    Returns:
        Plans by problem id, empty where the teacher wrote none that can be used.
    """
    best: dict[str, tuple[int, int, str]] = {}
    plans: dict[str, str] = {}
    for row in trajectories:
        plans.setdefault(row.problem_id, "")
        if row.plan_status != "ok" or not row.plan.strip():
            continue
        score = row.plan_score if row.plan_score is not None else -101  # below any score
        rank = (-score, row.candidate, row.plan)
        if row.problem_id not in best or rank < best[row.problem_id]:
            best[row.problem_id] = rank
            plans[row.problem_id] = row.plan
    return plans


def other_problems(ids: Sequence[str]) -> dict[str, str]:
    """Give every problem another one, each one once: the next in an order that is drawn by id.

    Args:
        ids: distinct ids of problems.

    Raises:
        SolveError: there is no other problem.

    >>> sorted(other_problems(["a", "b"]).items())
    [('a', 'b'), ('b', 'a')]
    """
    if len(ids) < 2:
        raise SolveError(
            "evaluation.plan=other needs two problems at the least: raise evaluation.limit"
        )
    order = sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())
    return dict(zip(order, [*order[1:], order[0]], strict=True))


class _Calls:
    """The calls of one evaluation."""

    def __init__(
        self,
        evaluation: EvaluationConfig,
        prompt: PromptConfig | str,
        progress: Progress | None,
    ) -> None:
        self._evaluation = evaluation
        self._prompt = prompt
        self._progress = progress

    def answers(
        self, writer: Writer, cases: Sequence[Case], method: str
    ) -> tuple[list[Messages], list[Written]]:
        """Ask for answers in one call."""
        asked = [writer.request(problem, method, self._prompt) for problem, _ in cases]
        limit = self._evaluation.max_new_tokens
        return asked, self._write(writer, cases, asked, limit, "solving")

    def plans(self, writer: Writer, cases: Sequence[Case], method: str) -> list[tuple[str, int]]:
        """Ask for plans: those of the problems, or of other ones; with the tokens they cost."""
        asked = [writer.request(problem, method, self._prompt) for problem, _ in cases]
        limit = self._evaluation.max_plan_tokens
        written = self._write(writer, cases, asked, limit, "planning")
        plans = [(formats.parse_plan(answer.said), answer.num_tokens) for answer in written]
        if self._evaluation.plan != "other":
            return plans
        found = {
            (problem.id, sample): plan for (problem, sample), plan in zip(cases, plans, strict=True)
        }
        others = other_problems(list(dict.fromkeys(problem.id for problem, _ in cases)))
        return [found[others[problem.id], sample] for problem, sample in cases]

    def executions(
        self, writer: Writer, cases: Sequence[Case], plans: Sequence[str]
    ) -> tuple[list[Messages], list[Written]]:
        """Have plans executed (experiments/METHOD.md section 3, M2)."""
        is_swapped = self._evaluation.plan != "own"
        asked = [
            writer.request(problem, PLAIN, self._prompt)
            if is_swapped and not plan
            else writer.execution_request(problem, plan)
            for (problem, _), plan in zip(cases, plans, strict=True)
        ]
        limit = self._evaluation.max_new_tokens
        return asked, self._write(writer, cases, asked, limit, "executing")

    def _write(
        self,
        writer: Writer,
        cases: Sequence[Case],
        asked: Sequence[Messages],
        limit: int,
        phase: str,
    ) -> list[Written]:
        written = writer.write(
            [(problem.id, sample) for problem, sample in cases],
            asked,
            max_new_tokens=limit,
            phase=phase,
            progress=self._progress,
        )
        if len(written) != len(cases):
            raise SolveError(f"{len(cases)} cases got {len(written)} answers")
        return written


def _grade(
    grader: Grader,
    problem: Problem,
    sample: int,
    *,
    benchmark: str,
    plan: str,
    messages: Messages,
    answer: Written,
    tokens: int,
) -> Prediction:
    finish_reason = "length" if answer.is_cut else answer.finish_reason
    grade = grader.grade(answer.said, problem, finish_reason=finish_reason)
    return Prediction(
        problem_id=problem.id,
        benchmark=benchmark,
        sample=sample,
        text=answer.text,
        answer=grade.answer,
        rule=grade.rule,
        verdict=grade.verdict,
        is_correct=grade.is_correct,
        is_correct_strict=grade.is_strict,
        gold=problem.answer,
        difficulty=problem.difficulty,
        plan=plan,
        prompt="\n\n".join(message["content"] for message in messages),
        finish_reason=finish_reason,
        completion_tokens=tokens,
    )
