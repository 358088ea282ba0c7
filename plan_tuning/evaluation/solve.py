"""Student to predictions: one call, or for M2 two calls; then the grader reads the text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.training import PromptConfig
from plan_tuning.records import Completion, Message, Prediction, Problem
from plan_tuning.students.generation import generate
from plan_tuning.students.loading import Student
from plan_tuning.students.templates import prompt_ids
from plan_tuning.tasks.grading import Grader
from plan_tuning.text import formats

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int, int], None]
"""Called with (phase, finished rows, all rows, generated tokens so far) after each batch."""


class SolveError(ValueError):
    """An evaluation that cannot be done as it is asked for."""


def solve(
    student: Student,
    problems: Sequence[Problem],
    *,
    method: str,
    prompt: PromptConfig | str,
    evaluation: EvaluationConfig,
    benchmark: str,
    grader: Grader,
    executor: Student | None = None,
    plans: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Answer and grade every problem, ``evaluation.num_samples`` times.

    Args:
        student: who answers, or for m2 who plans.
        problems: the test problems.
        method: METHOD.md section 3; m2 plans first and has the executor carry the plan out.
        prompt: matched or paper.
        evaluation: decoding.
        benchmark: written into the predictions.
        grader: reads the final text.
        executor: carries out m2's plans, None: the student itself; not read for other methods.
        plans: plans to carry out instead of the student's own, by problem id (a plan swap of m2).
        progress: told about every finished batch.

    Returns:
        Predictions, problem by problem and sample by sample.

    Raises:
        SolveError: plans are given for a method that carries out none, or not for all problems.
    """
    if plans is not None:
        _check_plans(plans, problems, method)
    cases = [(p, sample) for p in problems for sample in range(evaluation.num_samples)]
    if method == "m2":
        return _two_calls(
            student,
            executor or student,
            cases,
            prompt=prompt,
            evaluation=evaluation,
            benchmark=benchmark,
            grader=grader,
            given=plans,
            progress=progress,
        )
    asked = [
        formats.student_messages(p.problem, method=method, prompt=prompt, style=p.style)
        for p, _ in cases
    ]
    found = _call(student, cases, asked, evaluation, evaluation.max_new_tokens, "solving", progress)
    return [
        _grade(
            grader,
            problem,
            sample,
            benchmark=benchmark,
            # An answer without tags has no plan.
            plan=formats.parse_plan(completion.text) if "<plan>" in completion.text else "",
            messages=messages,
            completion=completion,
            tokens=len(completion.token_ids),
        )
        for (problem, sample), messages, completion in zip(cases, asked, found, strict=True)
    ]


def _check_plans(plans: Mapping[str, str], problems: Sequence[Problem], method: str) -> None:
    if method != "m2":
        raise SolveError(f"method={method} carries out no given plan: choose method=m2")
    missing = [problem.id for problem in problems if problem.id not in plans]
    if missing:
        raise SolveError(
            f"{len(missing)} of {len(problems)} problems have no plan to swap in, for example "
            f"{missing[0]}: distil the test set first, for example data.split=test stages=[distill]"
        )


def _two_calls(
    student: Student,
    executor: Student,
    cases: Sequence[tuple[Problem, int]],
    *,
    prompt: PromptConfig | str,
    evaluation: EvaluationConfig,
    benchmark: str,
    grader: Grader,
    given: Mapping[str, str] | None,
    progress: Progress | None,
) -> list[Prediction]:
    """Have the student plan and the executor carry out (METHOD.md section 3, M2)."""
    if given is None:
        asked = [
            formats.student_messages(p.problem, method="m2", prompt=prompt, style=p.style)
            for p, _ in cases
        ]
        limit = evaluation.max_plan_tokens
        written = _call(student, cases, asked, evaluation, limit, "planning", progress)
        plans = [formats.parse_plan(completion.text) for completion in written]
        spent = [len(completion.token_ids) for completion in written]
    else:
        plans = [given[problem.id] for problem, _ in cases]
        spent = [0] * len(cases)
    asked = [
        formats.executor_messages(problem.problem, plan, style=problem.style)
        for (problem, _), plan in zip(cases, plans, strict=True)
    ]
    found = _call(
        executor, cases, asked, evaluation, evaluation.max_new_tokens, "executing", progress
    )
    return [
        _grade(
            grader,
            problem,
            sample,
            benchmark=benchmark,
            plan=plan,
            messages=messages,
            completion=completion,
            tokens=tokens + len(completion.token_ids),  # both calls are the price of the answer
        )
        for (problem, sample), plan, messages, completion, tokens in zip(
            cases, plans, asked, found, spent, strict=True
        )
    ]


def _call(
    student: Student,
    cases: Sequence[tuple[Problem, int]],
    asked: Sequence[Sequence[Message]],
    evaluation: EvaluationConfig,
    max_new_tokens: int,
    phase: str,
    progress: Progress | None,
) -> list[Completion]:
    rendered: dict[str, list[int]] = {}
    prompts = []
    for messages in asked:  # the samples of a problem ask the same
        key = "\x1e".join(f"{m['role']}\x1f{m['content']}" for m in messages)
        if key not in rendered:
            rendered[key] = prompt_ids(student.tokenizer, messages)
        prompts.append(rendered[key])
    return generate(
        student,
        prompts,
        keys=[(f"{phase}/{problem.id}", sample) for problem, sample in cases],
        max_new_tokens=max_new_tokens,
        temperature=evaluation.temperature,
        top_p=evaluation.top_p,
        top_k=evaluation.top_k,
        seed=evaluation.seed,
        batch_tokens=evaluation.batch_tokens,
        progress=None
        if progress is None
        else lambda rows, tokens: progress(phase, rows, len(prompts), tokens),
    )


def _grade(
    grader: Grader,
    problem: Problem,
    sample: int,
    *,
    benchmark: str,
    plan: str,
    messages: Sequence[Message],
    completion: Completion,
    tokens: int,
) -> Prediction:
    grade = grader.grade(completion.text, problem, finish_reason=completion.finish_reason)
    return Prediction(
        problem_id=problem.id,
        benchmark=benchmark,
        sample=sample,
        text=completion.text,
        answer=grade.answer,
        rule=grade.rule,
        verdict=grade.verdict,
        is_correct=grade.is_correct,
        is_correct_strict=grade.is_strict,
        gold=problem.answer,
        difficulty=problem.difficulty,
        plan=plan,
        prompt="\n\n".join(message["content"] for message in messages),
        finish_reason=completion.finish_reason,
        completion_tokens=tokens,
    )
