"""completion, problem -> verdict: the one grader of final answers.

The Answer Verifier of the distillation, the reward of GRPO and every benchmark ask this class, so
that their figures mean the same. Nearly all answers are decided in the calling process by text
work; what needs algebra goes to a pool of workers that can be killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from plan_tuning.config.grading import GradingConfig
from plan_tuning.grading.answers import (
    BOX_RULE,
    COMMITTED_RULES,
    NONE,
    TRUNCATED,
    Extraction,
    extract,
)
from plan_tuning.grading.equivalence import compare, gold_defect, request_fields
from plan_tuning.grading.pool import WorkerPool
from plan_tuning.grading.scalars import Criteria
from plan_tuning.records import Problem, Verdict

logger = logging.getLogger(__name__)

GRADER_VERSION = 2
"""Raised by hand whenever a verdict may change; see :mod:`plan_tuning.tasks.regrading`."""

_OUT_OF_LENGTH = "length"  # the finish reason of a completion that was cut off


@dataclass(frozen=True, slots=True)
class Grade:
    """What the grader says about one completion."""

    verdict: Verdict
    answer: str  # as extracted; empty where there is none
    rule: str  # extraction rule
    is_strict: bool  # right by a boxed answer

    @property
    def is_correct(self) -> bool:
        """Whether the answer is right."""
        return self.verdict is Verdict.CORRECT


class Grader:
    """Grades completions; owns the worker pool, which starts with the first need for algebra.

    Use it as a context manager, from any thread and from asyncio.
    """

    def __init__(self, config: GradingConfig | None = None) -> None:
        self.config = config or GradingConfig()
        self.pool = WorkerPool(self.config.num_workers, self.config.wall_s, self.config.memory_mb)
        self._owner = os.getpid()
        self._threads = self._new_threads()
        self._lock = threading.Lock()
        self._verdicts: OrderedDict[tuple[object, ...], Verdict] = OrderedDict()
        self._defects: dict[tuple[str, str], str | None] = {}

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers; calling it twice does no harm."""
        self.pool.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def grade(
        self,
        completion: str,
        problem: Problem,
        *,
        finish_reason: str = "stop",
        require_box: bool = False,
    ) -> Grade:
        """Grade one completion.

        Args:
            completion: the model's text.
            problem: the problem with its gold answer and style.
            finish_reason: ``length`` says that the text was cut off: only an answer that was
                committed to before that counts (box, answer tag, ``####``).
            require_box: accept a boxed answer only, as a reward must.
        """
        found, decided = self._decide(completion, problem, finish_reason, require_box)
        if decided is None:
            decided = self._by_algebra(found.answer, problem)
        return _grade(found, decided)

    def grade_many(
        self,
        items: Sequence[tuple[str, Problem]],
        *,
        finish_reasons: Sequence[str] | None = None,
        require_box: bool = False,
    ) -> list[Grade]:
        """Grade a batch with all workers, keeping its order.

        Args:
            items: completions with their problems.
            finish_reasons: one for each item; all ``stop`` where absent.
            require_box: as in :meth:`grade`.

        Raises:
            ValueError: the number of finish reasons is not the number of items.
        """
        reasons = finish_reasons if finish_reasons is not None else ["stop"] * len(items)
        if len(reasons) != len(items):
            raise ValueError(f"{len(reasons)} finish reasons for {len(items)} completions")
        decisions = [
            self._decide(text, problem, reason, require_box)
            for (text, problem), reason in zip(items, reasons, strict=True)
        ]
        waiting = {
            index: self._executor().submit(self._by_algebra, found.answer, items[index][1])
            for index, (found, decided) in enumerate(decisions)
            if decided is None
        }
        return [
            _grade(found, waiting[index].result() if decided is None else decided)
            for index, (found, decided) in enumerate(decisions)
        ]

    async def grade_async(
        self,
        completion: str,
        problem: Problem,
        *,
        finish_reason: str = "stop",
        require_box: bool = False,
    ) -> Grade:
        """Grade one completion without blocking the event loop; see :meth:`grade`."""
        found, decided = self._decide(completion, problem, finish_reason, require_box)
        if decided is None:
            decided = await asyncio.get_running_loop().run_in_executor(
                self._executor(), self._by_algebra, found.answer, problem
            )
        return _grade(found, decided)

    def check_gold(self, problem: Problem) -> str | None:
        """Say why a problem's gold answer cannot be graded against; None where it can."""
        for gold in (problem.answer, *problem.accepted_answers):
            key = (gold, problem.style)
            if key not in self._defects:
                if len(self._defects) > self.config.cache_size:
                    self._defects.clear()
                self._defects[key] = gold_defect(gold, problem.style)
            if self._defects[key] is not None:
                return self._defects[key]
        return None

    def _new_threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.config.num_workers, thread_name_prefix="grading")

    def _executor(self) -> ThreadPoolExecutor:
        if self._owner != os.getpid():  # threads and held locks do not survive a fork
            self._owner = os.getpid()
            self._threads, self._lock = self._new_threads(), threading.Lock()
        return self._threads

    def _decide(
        self, completion: str, problem: Problem, finish_reason: str, require_box: bool
    ) -> tuple[Extraction, Verdict | None]:
        """Extract and compare by text work; the verdict is None where algebra is needed."""
        found = extract(completion, style=problem.style, require_box=require_box)
        if self.check_gold(problem) is not None:
            return found, Verdict.BAD_GOLD
        if found.status == TRUNCATED:
            return found, Verdict.TRUNCATED
        if finish_reason == _OUT_OF_LENGTH and found.rule not in COMMITTED_RULES:
            return found, Verdict.TRUNCATED
        if found.status == NONE:
            return found, Verdict.NO_ANSWER
        criteria = Criteria.of(problem, self.config)
        undecided = False
        for gold in (problem.answer, *problem.accepted_answers):
            result = compare(gold, found.answer, criteria)
            if result:
                return found, Verdict.CORRECT
            undecided = undecided or result is None
        return found, None if undecided else Verdict.WRONG

    def _by_algebra(self, answer: str, problem: Problem) -> Verdict:
        """Have a worker compare, unless the same comparison is remembered."""
        criteria = Criteria.of(problem, self.config)
        worst = Verdict.WRONG
        for gold in (problem.answer, *problem.accepted_answers):
            key = (
                gold,
                answer,
                criteria.style,
                criteria.is_multiple_answer,
                criteria.unit,
                criteria.tolerance,
            )
            with self._lock:
                verdict = self._verdicts.get(key)
            if verdict is None:
                verdict = self._ask(gold, answer, criteria, problem.id)
                with self._lock:
                    self._verdicts[key] = verdict
                    while len(self._verdicts) > self.config.cache_size:
                        self._verdicts.popitem(last=False)
            if verdict is Verdict.CORRECT:
                return verdict
            if verdict is not Verdict.WRONG:
                worst = verdict
        return worst

    def _ask(self, gold: str, answer: str, criteria: Criteria, problem_id: str) -> Verdict:
        reply = self.pool.call(request_fields(gold, answer, criteria))
        failure = reply.get("failure")
        if failure is None:
            return Verdict.CORRECT if reply["equal"] else Verdict.WRONG
        logger.info("grading %s: %s on the answer %.200r", problem_id or "?", failure, answer)
        return Verdict.TIMEOUT if failure == "timeout" else Verdict.ERROR


def _grade(found: Extraction, verdict: Verdict) -> Grade:
    is_strict = verdict is Verdict.CORRECT and found.rule == BOX_RULE
    return Grade(verdict, found.answer, found.rule, is_strict)
