"""completion, problem -> verdict: the one grader of final answers.

The Answer Verifier of the distillation, the reward of GRPO and every benchmark ask this class, so
that their figures mean the same. Nearly all answers are decided in the calling process by text
work; what needs algebra goes to a pool of workers that can be killed, and an answer that is a
program to the sandbox, with its tests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.grading import GradingConfig
from plan_tuning.grading.answer_rules import AnswerRules, is_run, rules_of
from plan_tuning.grading.answers import (
    BOX_RULE,
    COMMITTED_RULES,
    FENCE_RULE,
    NONE,
    TRUNCATED,
    Extraction,
)
from plan_tuning.grading.equivalence import request_fields
from plan_tuning.grading.pool import comparing_pool
from plan_tuning.grading.sandbox.runner import KEY as RUN_CODE
from plan_tuning.grading.sandbox.runner import TIMEOUT, Sandbox, SandboxError
from plan_tuning.grading.scalars import Criteria
from plan_tuning.records import Problem, Verdict

logger = logging.getLogger(__name__)

GRADER_VERSION = 2
"""Raised by hand whenever a verdict may change; see :mod:`plan_tuning.tasks.regrading`."""

_STRICT_RULES = (BOX_RULE, FENCE_RULE)
_OUT_OF_LENGTH = "length"  # the finish reason of a completion that was cut off


@dataclass(frozen=True, slots=True)
class Grade:
    """What the grader says about one completion."""

    verdict: Verdict
    answer: str  # as extracted; empty where there is none
    rule: str  # extraction rule
    is_strict: bool  # right by a boxed answer, or by a program in a fence

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
        num_workers = self.config.num_workers
        self.pool = comparing_pool(num_workers, self.config.wall_s, self.config.memory_mb)
        self.sandbox = Sandbox(self.config.sandbox, num_workers)
        self._has_run = False
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
        self.sandbox.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def facts(self) -> dict[str, Any]:
        """Say, for the manifest of what is graded, in which sandbox programs were run, if any."""
        return {"sandbox": asdict(self.sandbox.isolation())} if self._has_run else {}

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
            decided = self._settled(found.answer, problem)
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
            index: self._executor().submit(self._settled, found.answer, items[index][1])
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
                self._executor(), self._settled, found.answer, problem
            )
        return _grade(found, decided)

    def check_gold(self, problem: Problem) -> str | None:
        """Say why a problem's gold answer cannot be graded against; None where it can."""
        for gold in (problem.answer, *problem.accepted_answers):
            key = (gold, problem.style)
            if key not in self._defects:
                if len(self._defects) > self.config.cache_size:
                    self._defects.clear()
                self._defects[key] = rules_of(problem.style).gold_defect(gold, problem.style)
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
        """Extract and compare by text work; the verdict is None where that does not decide."""
        rules = rules_of(problem.style)
        if is_run(problem.style):
            self._check_may_run(problem)
        found = rules.extract(completion, style=problem.style, require_box=require_box)
        if self.check_gold(problem) is not None:
            return found, Verdict.BAD_GOLD
        if found.status == TRUNCATED:
            return found, Verdict.TRUNCATED
        if finish_reason == _OUT_OF_LENGTH and found.rule not in COMMITTED_RULES:
            return found, Verdict.TRUNCATED
        if found.status == NONE:
            return found, Verdict.NO_ANSWER
        if is_run(problem.style):
            has_tests = bool(rules.tests(problem).test.strip())
            return found, None if has_tests else Verdict.BAD_GOLD
        criteria = Criteria.of(problem, self.config)
        undecided = False
        for gold in (problem.answer, *problem.accepted_answers):
            result = rules.compare(gold, found.answer, criteria)
            if result:
                return found, Verdict.CORRECT
            undecided = undecided or result is None
        return found, None if undecided else Verdict.WRONG

    def _check_may_run(self, problem: Problem) -> None:
        if not self.config.run_code:
            raise ConfigError(
                RUN_CODE,
                False,
                f"true for problems of the style {problem.style}, whose answers are programs: they "
                "are graded by running them, in the sandbox",
                f"{RUN_CODE}=true",
            )

    def _settled(self, answer: str, problem: Problem) -> Verdict:
        """Decide what text work did not."""
        rules = rules_of(problem.style)
        if is_run(problem.style):
            return self._by_tests(answer, problem, rules)
        return self._by_algebra(answer, problem)

    def _by_tests(self, answer: str, problem: Problem, rules: AnswerRules) -> Verdict:
        """Run a program with the problem's tests, unless that is remembered."""
        program, tests = rules.program(answer, problem), rules.tests(problem)
        key = ("program", program, tests)
        with self._lock:
            verdict = self._verdicts.get(key)
        if verdict is not None:
            return verdict
        self._has_run = True
        try:
            failure = self.sandbox.failure(program, tests)
        except SandboxError as error:
            logger.warning("grading %s: the sandbox failed (%s)", problem.id or "?", error)
            return Verdict.ERROR
        verdict = Verdict.CORRECT if failure is None else Verdict.WRONG
        verdict = Verdict.TIMEOUT if failure == TIMEOUT else verdict
        self._remember(key, verdict)
        return verdict

    def _remember(self, key: tuple[object, ...], verdict: Verdict) -> None:
        with self._lock:
            self._verdicts[key] = verdict
            while len(self._verdicts) > self.config.cache_size:
                self._verdicts.popitem(last=False)

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
                self._remember(key, verdict)
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
    is_strict = verdict is Verdict.CORRECT and found.rule in _STRICT_RULES
    return Grade(verdict, found.answer, found.rule, is_strict)
