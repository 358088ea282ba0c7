"""Messages to texts: students that are asked in tokens, by whichever engine.

``solve`` asks a :class:`Writer` and does not know which it is; those that are asked in text are in
:mod:`plan_tuning.evaluation.text_writers`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.extensions import record
from plan_tuning.config.training import PromptConfig
from plan_tuning.job_record import Compute
from plan_tuning.records import Completion, Message, Problem
from plan_tuning.students.flops import writing
from plan_tuning.students.generation.in_process import InProcessEngine
from plan_tuning.students.generation.protocol import (
    Engine,
    EngineLostError,
    Key,
    Sampling,
    Vocabulary,
)
from plan_tuning.students.loading import Student
from plan_tuning.students.memory import release_card_memory
from plan_tuning.students.templates import batch_prompt_ids, template_date
from plan_tuning.text import formats
from plan_tuning.text.thoughts import split_thoughts

logger = logging.getLogger(__name__)

Messages = Sequence[Message]
Progress = Callable[[str, int, int, int], None]
"""Called with (phase, finished rows, all rows, generated tokens so far) after each batch."""


class SolveError(ValueError):
    """An evaluation that cannot be done as it is asked for."""


@dataclass(frozen=True, slots=True)
class Written:
    """One answer, as it was generated; what is read and graded is what it says after its thoughts.

    Every engine's answers pass here, so thoughts are cut off alike.
    """

    text: str
    finish_reason: str  # stop, stop_string, length
    num_tokens: int

    @property
    def said(self) -> str:
        """The text without its thoughts."""
        return split_thoughts(self.text).text

    @property
    def is_cut(self) -> bool:
        """Whether it ends in a thought that was not closed."""
        return split_thoughts(self.text).is_open


class Writer(Protocol):
    """Whoever answers test problems or executes plans."""

    computed: Compute  # since somebody set this to nothing

    def request(self, problem: Problem, method: str, prompt: PromptConfig | str) -> Messages:
        """Ask for an answer (or for m2: a plan) to a problem."""

    def execution_request(self, problem: Problem, plan: str) -> Messages:
        """Ask for a plan to be executed."""

    def write(
        self,
        keys: Sequence[Key],
        asked: Sequence[Messages],
        *,
        max_new_tokens: int,
        phase: str,
        progress: Progress | None,
    ) -> list[Written]:
        """Answer everything that is asked, in its order."""

    def facts(self) -> dict[str, Any]:
        """Say what the answers hang on, beside the Spec."""


class StudentRequests:
    """Students are asked in the words that they were trained on."""

    computed = Compute()

    def facts(self) -> dict[str, Any]:
        """Say what the answers hang on, beside the Spec, for the manifest of predictions."""
        return {}

    def request(self, problem: Problem, method: str, prompt: PromptConfig | str) -> Messages:
        """Ask for an answer (or for m2: a plan) to a problem."""
        return formats.student_messages(
            problem.problem, method=method, prompt=prompt, style=problem.style
        )

    def execution_request(self, problem: Problem, plan: str) -> Messages:
        """Ask for a plan to be executed."""
        return formats.executor_messages(problem.problem, plan, style=problem.style)


Lend = Callable[[int], AbstractContextManager[Engine]]
"""Opens an engine for a call whose longest row may have so many tokens, its prompt included."""

Measure = Callable[[Iterable[int], Sequence[tuple[int, int]]], Compute]
"""From the tokens of each prompt that is read, and those of each row's prompt and completion."""


class EngineWriter(StudentRequests):
    """A student that is asked in tokens, whichever engine continues them.

    Args:
        vocabulary: the student's.
        lend: opens the engine for a call.
        evaluation: how it writes.
        measure: what its model computes.
    """

    def __init__(
        self, vocabulary: Vocabulary, lend: Lend, evaluation: EvaluationConfig, measure: Measure
    ) -> None:
        self.vocabulary = vocabulary
        self.evaluation = evaluation
        self._lend = lend
        self._measure = measure
        self._facts: Mapping[str, Any] = {}

    def write(
        self,
        keys: Sequence[Key],
        asked: Sequence[Messages],
        *,
        max_new_tokens: int,
        phase: str,
        progress: Progress | None,
    ) -> list[Written]:
        """Answer everything that is asked, in its order; a lost engine is opened again once."""
        evaluation = self.evaluation
        names = ["\x1e".join(f"{m['role']}\x1f{m['content']}" for m in one) for one in asked]
        distinct: dict[str, Messages] = {}
        for name, messages in zip(names, asked, strict=True):  # a problem's samples ask the same
            distinct.setdefault(name, messages)
        ids = batch_prompt_ids(self.vocabulary.tokenizer, list(distinct.values()))
        rendered = dict(zip(distinct, ids, strict=True))
        prompts = [rendered[name] for name in names]
        if not prompts:
            return []

        def tell(rows: int, tokens: int) -> None:
            if progress is not None:
                progress(phase, rows, len(prompts), tokens)

        def ask() -> list[Completion]:
            with self._lend(max(map(len, prompts)) + max_new_tokens) as engine:
                self._facts = engine.facts()
                return engine.generate(
                    prompts,
                    keys=[(f"{phase}/{name}", sample) for name, sample in keys],
                    sampling=Sampling(
                        max_new_tokens,
                        evaluation.temperature,
                        evaluation.top_p,
                        evaluation.top_k,
                        evaluation.seed,
                        tuple(evaluation.stop_strings(phase)),
                    ),
                    progress=tell,
                )

        try:
            completions = ask()
        except EngineLostError as error:
            logger.warning("%s; it is opened again and asked once more", error)
            completions = ask()
        sizes = [(len(p), len(c.token_ids)) for p, c in zip(prompts, completions, strict=True)]
        read = [len(prompt) for prompt in rendered.values()]  # once for all samples
        self.computed += self._measure(read, sizes)
        return [Written(c.text, c.finish_reason, len(c.token_ids)) for c in completions]

    def facts(self) -> dict[str, Any]:
        """Name a date in prompts, and what the engine's answers hang on."""
        date = template_date(self.vocabulary.tokenizer)
        found: dict[str, Any] = {} if date is None else {"template_date": date}
        return found | dict(self._facts)


class LocalWriter(EngineWriter):
    """A student on this machine, run by the engine that the evaluation chooses."""

    def __init__(self, student: Student, evaluation: EvaluationConfig) -> None:
        self.student = student
        self.engine = InProcessEngine(
            student,
            record("engine", evaluation.engine),
            batch_tokens=evaluation.batch_tokens,
            decoding=evaluation.decoding,
        )
        super().__init__(
            Vocabulary(student.tokenizer, student.end_ids),
            lambda _: self.engine,
            evaluation,
            partial(writing, student.causal_lm),
        )

    def facts(self) -> dict[str, Any]:
        """Name a date in prompts, and what rounding hangs on."""
        return super().facts() | dict(self.engine.facts())


class AdapterOffWriter(LocalWriter):
    """The base of a student whose adapter is being trained: the same weights, its updates off."""

    def write(
        self,
        keys: Sequence[Key],
        asked: Sequence[Messages],
        *,
        max_new_tokens: int,
        phase: str,
        progress: Progress | None,
    ) -> list[Written]:
        """Answer everything that is asked, in its order."""
        with self.student.model.disable_adapter():
            return super().write(
                keys, asked, max_new_tokens=max_new_tokens, phase=phase, progress=progress
            )


class WaitingWriter(StudentRequests):
    """A student that waits in the machine's memory and is on the card while it writes.

    Args:
        load: reads it into the machine's memory; called at the first use.
        device: where it computes.
        evaluation: how it writes.
    """

    def __init__(
        self, load: Callable[[], Student], device: str, evaluation: EvaluationConfig
    ) -> None:
        self._load = load
        self._device = device
        self._evaluation = evaluation
        self._student: Student | None = None

    def write(
        self,
        keys: Sequence[Key],
        asked: Sequence[Messages],
        *,
        max_new_tokens: int,
        phase: str,
        progress: Progress | None,
    ) -> list[Written]:
        """Answer everything that is asked, in its order."""
        if self._student is None:
            self._student = self._load()
        model = self._student.model
        model.to(self._device)
        try:
            return LocalWriter(self._student, self._evaluation).write(
                keys, asked, max_new_tokens=max_new_tokens, phase=phase, progress=progress
            )
        finally:
            model.to("cpu")
            release_card_memory()
