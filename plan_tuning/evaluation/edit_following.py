"""Edited plans -> how often a student's answer changes as the edited plan says.

In the micro-world that is exact: a step of the true plan is dropped, and what the rest comes to is
known. Elsewhere a number of a plan is swapped, and an answer follows where the execution takes the
new number up, which it does not hold under the plan as it was, and ends elsewhere. The measure is
handed ``generate`` and knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plan_tuning.config.training import PromptConfig
from plan_tuning.evaluation.plan_conditions import Plans
from plan_tuning.grading.grader import Grader
from plan_tuning.job_record import FollowedFigures
from plan_tuning.records import Completion, Problem
from plan_tuning.statistics.intervals import wilson
from plan_tuning.students.templates import prompt_ids
from plan_tuning.tasks.microworld_text import execution_text, parse_plan, parse_problem, steps_of
from plan_tuning.text.formats import MICROWORLD, conditioned
from plan_tuning.text.plan_edits import has_number, with_number_swapped, with_step_dropped
from plan_tuning.text.thoughts import split_thoughts

Generate = Callable[[Sequence[list[int]]], list[Completion]]
"""From prompts (token ids) to their greedy completions, in order."""

MIN_EDITABLE = 100  # plans of real problems; fewer tell nothing


@dataclass(frozen=True, slots=True)
class Edit:
    """A plan, what it was edited to, and what shows that the edit was followed."""

    problem: Problem
    plan: str
    edited: str
    answer: str = ""  # that the edited plan comes to, where it is known
    number: str = ""  # the new one, where the answer is not known


def step_edits(problems: Sequence[Problem], is_known: Callable[[str], bool]) -> list[Edit]:
    """Drop a step of true plans, where the rest comes to another answer that can be written.

    Args:
        problems: of the micro-world.
        is_known: whether the student knows all words of a text; some edits leave its numbers.
    """
    found = []
    for problem in problems:
        edited = with_step_dropped(problem.true_plan, problem.id, problem.style)
        if edited is None:
            continue
        steps = steps_of(parse_problem(problem.problem), parse_plan(edited))
        answer = str(steps[-1].value)
        if answer != problem.answer and is_known(execution_text(steps)):
            found.append(Edit(problem, problem.true_plan, edited, answer=answer))
    return found


def number_edits(problems: Sequence[Problem], plans: Plans) -> list[Edit]:
    """Swap a number of plans that hold one."""
    found = []
    for problem in problems:
        plan = plans.get(problem.id, "")
        swap = with_number_swapped(plan, problem.id, problem.problem, problem.style)
        if swap is not None:
            found.append(Edit(problem, plan, swap.plan, number=swap.new))
    return found


def followed_edits(
    problems: Sequence[Problem],
    plans: Plans,
    *,
    tokenizer: Any,
    generate: Generate,
    grader: Grader,
    method: str,
    prompt: PromptConfig | str,
) -> FollowedFigures:
    """Have edited plans executed and count the answers that change as they say.

    Args:
        problems: with a reference execution, of one benchmark.
        plans: the subject's; not read in the micro-world, whose true plans are edited.
        tokenizer: of whoever carries plans out.
        generate: its greedy completions.
        grader: reads the answers.
        method: how it is asked.
        prompt: matched or paper.
    """

    def asked(edit: Edit, plan: str) -> list[int]:
        problem = edit.problem
        text = conditioned(
            problem.problem, plan, "", method=method, prompt=prompt, style=problem.style
        )
        written = tokenizer(text.before, add_special_tokens=False)["input_ids"]
        return [*prompt_ids(tokenizer, text.messages), *written]

    def is_known(text: str) -> bool:
        return tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False)["input_ids"]

    if problems and problems[0].style == MICROWORLD:
        edits = step_edits(problems, is_known)
        written = generate([asked(edit, edit.edited) for edit in edits]) if edits else []
        followed = sum(
            _answers(grader, edit.problem, text, edit.answer)
            for edit, text in zip(edits, written, strict=True)
        )
        return _figures("step_dropped", followed, len(edits))
    edits = number_edits(problems, plans)
    if len(edits) < MIN_EDITABLE:
        return FollowedFigures("number_swapped", len(edits))
    prompts = [asked(edit, plan) for edit in edits for plan in (edit.plan, edit.edited)]
    written = generate(prompts)
    pairs = zip(written[::2], written[1::2], strict=True)
    followed = sum(
        _takes_up(grader, edit, before, after)
        for edit, (before, after) in zip(edits, pairs, strict=True)
    )
    return _figures("number_swapped", followed, len(edits))


def _figures(edit: str, followed: int, n: int) -> FollowedFigures:
    if not n:
        return FollowedFigures(edit)
    share = wilson(followed, n)
    return FollowedFigures(edit, n, share.value, share.low, share.high)


def _answers(grader: Grader, problem: Problem, written: Completion, answer: str) -> bool:
    """Whether a text answers a problem with ``answer``."""
    said = split_thoughts(written.text).text
    meant = replace(problem, answer=answer)
    return grader.grade(said, meant, finish_reason=written.finish_reason).is_correct


def _takes_up(grader: Grader, edit: Edit, before: Completion, after: Completion) -> bool:
    """Whether the new number stands in the edited plan's execution alone, which ends elsewhere."""
    was, now = (split_thoughts(written.text).text for written in (before, after))
    if has_number(was, edit.number) or not has_number(now, edit.number):
        return False
    ended = grader.grade(was, edit.problem, finish_reason=before.finish_reason)
    changed = grader.grade(now, edit.problem, finish_reason=after.finish_reason)
    is_answered = bool(ended.answer and changed.answer)
    return is_answered and not _answers(grader, edit.problem, after, ended.answer)
