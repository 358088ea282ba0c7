"""Student's plan, teacher_plan -> R_plan in [0, 1]: by a judge, by aligned steps, by embeddings.

All three see the same plan after the same guards: a plan that copies the problem, repeats itself,
pastes the answer or says everything in one step earns nothing, whatever it resembles. Pure: a judge
is a request to render and a reply to read, embeddings are vectors that the caller brings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from plan_tuning.config.reward import PlanRewardConfig
from plan_tuning.records import Request
from plan_tuning.rewards.plan_cases import Means, PlanCase, PlanRewardError
from plan_tuning.text.plans import leaks, repetition, steps
from plan_tuning.text.prompts import render

ROLE = "judge"

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_TAG = re.compile(
    r"(?i)</?\s*(?:problem|reference_plan|golden_plan|candidate_plan|student_plan|plan|output|input)"
    r"\b[^<>]*>"
)
_LABEL = re.compile(r"(?i)(?<![^\W_])similarity[\s*_`\"'\])]*[:=：]")
_VALUE = re.compile(
    r"(?:[\s*_`\"'\[({<$]|(?i:about|approximately|roughly|around)\b)*"
    r"([+\-\u2212\u2013]?)(\d+(?:[.,]\d+)?|[.,]\d+)\s*(%?)"
)

_ECHO_GRAM = 4  # words; shorter runs are shared by any two texts about one problem
_ECHO_SHARE = 0.5
_MOST_REPEATED = 0.34
_GIANT_FACTOR = 2.0


def units(plan: str) -> list[list[str]]:
    r"""Split a plan into what is aligned: its steps in words, or the words of a plan of one line.

    >>> units("1. Add both.\n2. Halve."), units("Bob's Eve's ;")
    ([['add', 'both'], ['halve']], [["bob's"], ["eve's"]])
    """
    lines = [_words(step) for step in steps(plan)]
    lines = [line for line in lines if line]
    if len(lines) == 1:
        return [[word] for word in lines[0]]
    return lines


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def step_similarity(reference: str, candidate: str, *, metric: str = "token_f1") -> float:
    r"""Compare two plans step by step, in order: twice the aligned similarity over all steps.

    The best alignment keeps the order and uses each step once, so that neither reordering nor
    repeating pays; steps without a partner count against either plan.

    Args:
        reference: the teacher's plan. A plan of one line is compared word by word.
        candidate: the student's plan.
        metric: how alike two steps are: token_f1 (bag of words) or rouge_l (common subsequence).

    >>> step_similarity("1. Add both.\n2. Halve it.", "1. Add both.\n2. Halve it.")
    1.0
    >>> round(step_similarity("1. Add both.\n2. Halve it.", "1. Halve it.\n2. Add both."), 2)
    0.5
    """
    alike = _token_f1 if metric == "token_f1" else _rouge_l
    first, second = _units_of_both(reference, candidate)
    return _ordered_f1(len(first), len(second), lambda i, j: alike(first[i], second[j]))


def embedding_similarity(
    reference: str, candidate: str, vectors: Callable[[Sequence[str]], np.ndarray[Any, Any]]
) -> float:
    """Compare two plans as :func:`step_similarity` does, steps by the cosine of their embeddings.

    Args:
        reference: the teacher's plan.
        candidate: the student's plan.
        vectors: from N texts to (N, D).
    """
    first, second = _units_of_both(reference, candidate)
    if not first or not second:
        return float(not first and not second)
    texts = [" ".join(words) for words in (*first, *second)]
    found = np.asarray(vectors(texts), float)
    found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    cosine = np.clip(found[: len(first)] @ found[len(first) :].T, 0.0, 1.0)  # (n, m)
    return _ordered_f1(len(first), len(second), lambda i, j: float(cosine[i, j]))


async def by_steps(
    cases: Sequence[PlanCase], config: PlanRewardConfig, means: Means
) -> list[float | None]:
    """Reward plans by :func:`step_similarity`, which is in [0, 1] as it stands."""
    return [step_similarity(c.teacher_plan, c.plan, metric=config.metric) for c in cases]


async def by_embeddings(
    cases: Sequence[PlanCase], config: PlanRewardConfig, means: Means
) -> list[float | None]:
    """Reward plans by :func:`embedding_similarity`: in [0, 1], negative cosines count as 0.

    Raises:
        PlanRewardError: nobody handed an encoder over.
    """
    embed = means.embed
    if embed is None:
        raise PlanRewardError("plans are compared by embeddings: nobody handed an encoder over")
    return [embedding_similarity(c.teacher_plan, c.plan, embed) for c in cases]


def _units_of_both(reference: str, candidate: str) -> tuple[list[list[str]], list[list[str]]]:
    """Split the candidate as the reference is split: a plan of several lines has steps."""
    lines = [_words(step) for step in steps(reference)]
    if len([line for line in lines if line]) == 1:
        return units(reference), [[word] for step in steps(candidate) for word in _words(step)]
    return units(reference), [line for step in steps(candidate) if (line := _words(step))]


def _ordered_f1(n: int, m: int, alike: Callable[[int, int], float]) -> float:
    """Find the alignment in order with the greatest sum; 2 * sum / (n + m)."""
    if not n or not m:
        return float(n == m)
    best = [0.0] * (m + 1)
    for i in range(n):
        diagonal = 0.0
        for j in range(m):
            above = best[j + 1]
            best[j + 1] = max(above, best[j], diagonal + alike(i, j))
            diagonal = above
    return min(1.0, 2.0 * best[m] / (n + m))


def _token_f1(first: Sequence[str], second: Sequence[str]) -> float:
    common = (Counter(first) & Counter(second)).total()
    return 2.0 * common / (len(first) + len(second))


def _rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    return _ordered_f1(len(first), len(second), lambda i, j: float(first[i] == second[j]))


def guarded(
    candidate: str, *, reference: str, problem: str, answer: str, guards: Sequence[str]
) -> str | None:
    r"""Say which guard a plan runs into; None for an honest plan.

    What the teacher's own plan does is never held against the student's.

    Args:
        candidate: the student's plan; an empty one is refused as ``empty``.
        reference: the teacher's plan.
        problem: the problem's text.
        answer: gold answer.
        guards: echo: half of the problem's runs of four words stand in the plan. repetition: more
            than a third of the steps are repeated. answer: it holds the answer or a box. giant:
            one step where the teacher has several, and longer than twice the teacher's plan.

    >>> guarded("1. The answer is \\boxed{5}.", reference="1. Add.\n2. Report.", problem="2+3?",
    ...         answer="5", guards=["answer"])
    'answer'
    """
    own = steps(candidate)
    words = [word for step in own for word in _words(step)]
    if not words:
        return "empty"
    is_leaky = leaks(candidate, answer, problem) and not leaks(reference, answer, problem)
    if "answer" in guards and is_leaky:
        return "answer"
    if "echo" in guards:
        asked = _grams(_words(problem))
        if asked:
            share = len(asked & _grams(words)) / len(asked)
            given = len(asked & _grams(_words(reference))) / len(asked)
            if share >= max(_ECHO_SHARE, 2 * given):
                return "echo"
    if "repetition" in guards:
        share, allowed = repetition(candidate), repetition(reference)
        if len(own) == len(steps(reference)) == 1:  # plans of one line: their words are the steps
            share, allowed = _repeated(words), _repeated(_words(reference))
        if share > max(_MOST_REPEATED, allowed):
            return "repetition"
    is_long = len(words) > _GIANT_FACTOR * len(_words(reference))
    if "giant" in guards and is_long and len(own) == 1 < len(steps(reference)):
        return "giant"
    return None


def _grams(words: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + _ECHO_GRAM]) for i in range(len(words) - _ECHO_GRAM + 1)}


def _repeated(words: Sequence[str]) -> float:
    return 1.0 - len(set(words)) / len(words) if words else 0.0


def judge_requests(
    problem: str,
    reference: str,
    candidate: str,
    config: PlanRewardConfig,
    *,
    problem_id: str = "",
    style: str = "math",
    is_reminded: bool = False,
) -> list[Request]:
    """Ask how alike two plans are; the mean of the replies is the reward.

    Our tags are taken out of both plans, so that a plan cannot pretend to be another one.

    Args:
        problem: the problem's text.
        reference: the teacher's plan.
        candidate: the student's plan.
        config: votes, orders and sampling of the judge.
        problem_id: for logs.
        style: of the problem, in whose task's words it is asked.
        is_reminded: the retry after a reply that could not be read.
    """
    pair = (_TAG.sub(" ", reference).strip(), _TAG.sub(" ", candidate).strip())
    orders = [pair, pair[::-1]] if config.swap else [pair]
    return [
        Request(
            role=ROLE,
            messages=render(
                ROLE,
                style=style,
                is_reminded=is_reminded,
                problem=problem,
                reference=first,
                candidate=second,
            ),
            temperature=config.temperature,
            max_tokens=config.max_reply_tokens,
            sample_index=vote,
            seed=vote,
            problem_id=problem_id,
        )
        for first, second in orders
        for vote in range(config.votes)
    ]


def read_similarity(text: str) -> float | None:
    r"""Read a judge's reply: the number behind the last ``Similarity:``, None where there is none.

    Percentages are divided by 100; a plain number outside [0, 1] is no similarity.

    >>> read_similarity("Alike.\n**Similarity:** 0.87"), read_similarity("Similarity: 87%")
    (0.87, 0.87)
    >>> read_similarity("Similarity: high") is None, read_similarity("Similarity: 87") is None
    (True, True)
    """
    labels = list(_LABEL.finditer(text))
    if not labels:
        return None
    found = _VALUE.match(text, labels[-1].end())
    if found is None or text[found.end() : found.end() + 1].isalnum():
        return None
    value = float(found[2].replace(",", ".")) * (0.01 if found[3] else 1.0)
    if found[1] not in ("", "+") and value:
        return None
    return round(value, 6) if 0.0 <= value <= 1.0 else None
