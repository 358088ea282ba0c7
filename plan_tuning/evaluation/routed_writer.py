"""A routed student: each problem is answered by the adapter that its router chooses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plan_tuning.config.training import PromptConfig
from plan_tuning.evaluation.writers import (
    Messages,
    Progress,
    StudentRequests,
    Writer,
    Written,
)
from plan_tuning.job_record import Compute
from plan_tuning.records import Problem
from plan_tuning.students.generation.protocol import Key
from plan_tuning.students.memory import release_card_memory
from plan_tuning.students.routing import read_router


class RoutedWriter(StudentRequests):
    """Adapters of one base, of which one at a time answers.

    A problem is answered exactly as by the student that it is routed to.

    Args:
        folder: of the routed student; its router goes by the text and the source of a problem.
        writer_of: from the folder of an adapter to whoever writes with it.
    """

    def __init__(self, folder: Path, writer_of: Callable[[Path], Writer]) -> None:
        self._router = read_router(folder)
        self._writer_of = writer_of
        self._asked: dict[str, Problem] = {}  # by id
        self._loaded: tuple[str, Writer] | None = None
        self._counts: dict[str, dict[str, int]] = {}  # by phase

    def request(self, problem: Problem, method: str, prompt: PromptConfig | str) -> Messages:
        """Ask for an answer (or for m2: a plan) to a problem."""
        return self._note(super().request(problem, method, prompt), problem)

    def execution_request(self, problem: Problem, plan: str) -> Messages:
        """Ask for a plan to be executed."""
        return self._note(super().execution_request(problem, plan), problem)

    def _note(self, messages: Messages, problem: Problem) -> Messages:
        self._asked[problem.id] = problem
        return messages

    def write(
        self,
        keys: Sequence[Key],
        asked: Sequence[Messages],
        *,
        max_new_tokens: int,
        phase: str,
        progress: Progress | None,
    ) -> list[Written]:
        """Answer everything that is asked, in its order.

        Raises:
            RoutingError: the oracle has no adapter for a problem's source.
        """
        problems = [self._asked[name] for name, _ in keys]
        chosen = self._router.choose([p.problem for p in problems], [p.source for p in problems])
        self._counts[phase] = dict(Counter(chosen))
        written: dict[int, Written] = {}
        for source in self._router.sources:
            places = [place for place, name in enumerate(chosen) if name == source]
            if not places:
                continue
            writer = self._writer(source)
            writer.computed = Compute()
            answers = writer.write(
                [keys[place] for place in places],
                [asked[place] for place in places],
                max_new_tokens=max_new_tokens,
                phase=phase,
                progress=progress,
            )
            self.computed += writer.computed
            written.update(zip(places, answers, strict=True))
        return [written[place] for place in range(len(asked))]

    def _writer(self, source: str) -> Writer:
        """The writer of an adapter; the one before it gives its memory back."""
        if self._loaded is None or self._loaded[0] != source:
            self._loaded = None
            release_card_memory()
            self._loaded = (source, self._writer_of(self._router.folders[source]))
        return self._loaded[1]

    def facts(self) -> dict[str, Any]:
        """Say which adapter was asked how often, and what its answers hang on."""
        found = {} if self._loaded is None else self._loaded[1].facts()
        return {**found, "routed": self._counts}
