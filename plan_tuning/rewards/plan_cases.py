"""What every plan reward sees: a plan with its problem, and the means that it may be handed.

A reward is pure. Where it needs a large model it is handed ``ask``, where it needs a small one
``generate`` and ``log_probs``, where it compares texts ``embed``; who stands behind them is the
business of whoever calls it: a GRPO training, or an audit of stored rows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from plan_tuning.config.extensions import DEFAULT_METHOD
from plan_tuning.records import Ask, Completion, Problem
from plan_tuning.text.formats import Conditioned

Array = np.ndarray[Any, Any]

Key = tuple[str, int]
"""What a draw of a frozen model hangs on: a name and a sample's number."""

Generate = Callable[[Sequence[Conditioned], Sequence[Key]], list[Completion]]
"""From texts to what a frozen model writes behind each text's ``before``, in their order."""

LogProbs = Callable[[Sequence[Conditioned]], list[list[float]]]
"""From texts to the log-probabilities of the tokens of each text's ``target``, one pass each."""

Grade = Callable[[Completion, Problem], Awaitable[bool | None]]
"""Whether an execution ends in the right answer; None where the grader itself failed."""


Contradiction = Callable[[Sequence[tuple[str, str]]], list[float]]
"""From pairs (premise, hypothesis) to the probability that the second contradicts the first."""

Grammar = Callable[[Sequence[str]], list[float]]
"""From sentences to the probability that each is grammatical."""


class SentenceEncoder(Protocol):
    """Texts to vectors; equal texts have equal ones, and cosines say how alike texts are."""

    def __call__(self, texts: Sequence[str], /) -> Array:
        """Encode N texts, (N, D)."""


@dataclass(frozen=True, slots=True)
class PlanCase:
    """A plan of a problem, and what it may be compared with."""

    problem: Problem
    plan: str  # empty where there is none
    teacher_plan: str = ""  # the golden plan; empty where nobody knows one
    execution: str = ""  # a right execution that is not the plan's own; empty: none is known


@dataclass(frozen=True)
class Means:
    """What rewards are handed; a reward whose record does not need a thing never touches it.

    Args:
        ask: a large model.
        embed: a sentence encoder.
        contradicts: a model of contradictions, for ROSCOE's scores of it.
        grammatical: a model of grammar, likewise.
        generate: a frozen executor that writes.
        log_probs: a frozen executor that computes log-probabilities.
        grade: reads the answers of executions.
        asked_as: method in whose words the frozen executor is asked.
        prompt: matched or paper, of the frozen executor.
        baselines: what the frozen executor does without a plan, by kind and problem; kept by the
            caller, so that it is computed once a problem.
    """

    ask: Ask | None = None
    embed: SentenceEncoder | None = None
    contradicts: Contradiction | None = None
    grammatical: Grammar | None = None
    generate: Generate | None = None
    log_probs: LogProbs | None = None
    grade: Grade | None = None
    asked_as: str = DEFAULT_METHOD
    prompt: str = "matched"
    baselines: MutableMapping[str, float] = field(default_factory=dict)


class PlanRewardError(ValueError):
    """A plan reward was called without what its record says that it needs."""
