"""Problems of one file -> training problems and an internal split, which no training row repeats.

For data that bring no test set. It is a part of the same file and says so wherever it is named: no
figure on it is one on a published benchmark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from plan_tuning.records import Problem
from plan_tuning.tasks.contamination import tokens
from plan_tuning.tasks.json_rows import DataError


def cut(
    problems: Sequence[Problem], *, count: int, seed: int
) -> tuple[list[Problem], list[Problem]]:
    """Hold questions out, before any share of the others is taken.

    Which are held out depends on the seed and on each question's words alone, so a smaller split
    is part of a larger one, and ``data.limit`` and ``data.fraction`` change nothing of it. Rows
    with the same question (case, punctuation and spacing do not count) are never on both sides.

    Args:
        problems: of the file, in its order.
        count: different questions that are held out; the first row of each is asked.
        seed: of the draw.

    Returns:
        The training problems and the held-out ones, each in the file's order.

    Raises:
        DataError: nothing would be left to train on.
    """
    questions: dict[str, list[Problem]] = {}
    for problem in problems:
        questions.setdefault(" ".join(tokens(problem.problem)), []).append(problem)
    if count >= len(questions):
        raise DataError(
            f"data.holdout={count}: there are {len(questions)} different questions, and none would "
            f"be left to train on; for example data.holdout={max(1, len(questions) // 5)}"
        )

    def lot(question: str) -> bytes:
        return hashlib.sha256(f"{seed}\x1fholdout\x1f{question}".encode()).digest()

    held = set(sorted(questions, key=lot)[:count])
    asked = {questions[question][0].id for question in held}
    out = {problem.id for question in held for problem in questions[question]}
    return (
        [problem for problem in problems if problem.id not in out],
        [problem for problem in problems if problem.id in asked],
    )
