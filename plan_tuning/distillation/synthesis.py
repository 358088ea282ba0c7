"""Problems -> trajectories: constraints, N plans, verification, execution, answer check.

Each problem is asked about on its own and each of its plans as soon as it is written; no request
waits for those of another problem. Only a window of problems is under way at any time, so memory
does not grow with their number. Plans with the same text share their requests through the store,
and every candidate stays a row.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace

from plan_tuning.config.teacher import DistillationConfig
from plan_tuning.distillation.given_plans import given_row
from plan_tuning.distillation.teacher_requests import (
    constraints_request,
    execute_request,
    plan_request,
    verify_request,
)
from plan_tuning.distillation.usability import Usability
from plan_tuning.grading.grader import Grade, Grader
from plan_tuning.records import Ask, Problem, Reply, Trajectory, Verdict
from plan_tuning.tasks.dataset_plans import dataset_plan
from plan_tuning.text.parsing import PARSED, SCORE_PARSERS, UNPARSED, Score, parse_plan

MISSING = "missing"
OK = "ok"
TRUNCATED = "truncated"
_UNREAD = 8  # finished problems that may wait for an earlier one, in windows
FINAL = ("rejected", "failed")  # a longer request would end the same way


@dataclass(frozen=True, slots=True)
class Execution:
    """What became of one plan's execution."""

    reply: Reply
    answer: str
    verdict: Verdict


Progress = Callable[[tuple[Trajectory, ...]], None]
"""Called with the trajectories of each problem as it is finished."""


async def distil(
    problems: Iterable[Problem],
    ask: Ask,
    grader: Grader,
    config: DistillationConfig,
    *,
    window: int,
    on_progress: Progress | None = None,
) -> AsyncIterator[tuple[Trajectory, ...]]:
    """Let the teacher plan, verify and execute.

    Args:
        problems: with gold answers.
        ask: the teacher.
        grader: the Answer Verifier.
        config: how plans are sampled, verified and executed.
        window: problems under way at the same time; after so many without one usable reply of a
            kind the distillation ends.
        on_progress: told of each problem as it is finished, in whatever order, but before it is
            yielded.

    Yields:
        All candidates of one problem, in the order of the problems.

    Raises:
        TeacherError: the teacher cannot go on; whatever it answered is in its store.
        UnusableError: not one reply of a kind was usable, in the first window of problems or, where
            there are fewer, in all of them.
    """
    usability = Usability(ask, config, window=window)
    started = 0
    unread: deque[asyncio.Task[tuple[Trajectory, ...]]] = deque()
    running: set[asyncio.Task[tuple[Trajectory, ...]]] = set()
    finished = asyncio.Event()

    def on_done(task: asyncio.Task[tuple[Trajectory, ...]]) -> None:
        running.discard(task)
        finished.set()

    async def run(problem: Problem) -> tuple[Trajectory, ...]:
        rows = await _ProblemRequests(problem, usability.ask, grader, config).run()
        if on_progress is not None:  # part of the task: whoever finds it done has been told
            on_progress(rows)
        usability.on_finished(problem.id)
        return rows

    iterator = iter(problems)
    is_exhausted = False
    try:
        while True:
            usability.check()
            # A problem that waits long must not stop the others, nor may results pile up behind it.
            while not is_exhausted and len(running) < window and len(unread) < _UNREAD * window:
                if started >= window and usability.is_doubtful:
                    break  # the first window says whether the rest is worth its price
                problem = next(iterator, None)
                if problem is None:
                    is_exhausted = True
                    break
                task = asyncio.create_task(run(problem))
                task.add_done_callback(on_done)
                unread.append(task)
                running.add(task)
                started += 1
            if not unread:
                usability.check(is_over=True)
                return
            if unread[0].done():
                yield unread.popleft().result()
            else:
                finished.clear()
                await finished.wait()
    finally:
        for task in unread:
            task.cancel()
        await asyncio.gather(*unread, return_exceptions=True)


class _ProblemRequests:
    """The requests about one problem."""

    def __init__(
        self, problem: Problem, ask: Ask, grader: Grader, config: DistillationConfig
    ) -> None:
        self.problem = problem
        self.ask = ask
        self.grader = grader
        self.config = config
        self.parse_score = SCORE_PARSERS[config.score_parser]

    async def run(self) -> tuple[Trajectory, ...]:
        if self.config.has_given_plans and dataset_plan(self.problem) is None:
            return (given_row(self.problem),)
        constraints = asyncio.create_task(self._constraints())
        candidates = [
            asyncio.create_task(self._candidate(index, constraints))
            for index in range(self.config.candidates)
        ]
        try:
            rows = await asyncio.gather(*candidates)
        except BaseException:
            for task in (constraints, *candidates):
                task.cancel()
            await asyncio.gather(constraints, *candidates, return_exceptions=True)
            raise
        return mark_duplicates(rows)

    async def _constraints(self) -> Reply:
        return await self.ask(constraints_request(self.problem, self.config))

    async def _candidate(self, index: int, constraints: asyncio.Task[Reply]) -> Trajectory:
        row, plan_reply = given_row(self.problem), None
        if not self.config.has_given_plans:
            plan_reply = await self.ask(plan_request(self.problem, self.config, index))
            plan = parse_plan(plan_reply.text)
            status = plan_reply.status if plan or plan_reply.status != OK else "empty"
            row = replace(row, candidate=index, plan=plan, plan_status=status)
        plan, given = row.plan, await constraints
        if row.plan_status != OK:
            return _with_calls(row, given, plan_reply, None, None)
        if self.config.execution == "all":
            verified, execution = await asyncio.gather(
                self._verify(plan, given), self._execute(plan)
            )
            return self._complete(row, given, plan_reply, verified, execution)
        verified = await self._verify(plan, given)
        value = verified[1].value
        is_retained = value is not None and value >= self.config.execute_threshold
        return self._complete(
            row, given, plan_reply, verified, await self._execute(plan) if is_retained else None
        )

    def _complete(
        self,
        row: Trajectory,
        given: Reply,
        plan_reply: Reply | None,
        verified: tuple[Reply | None, Score],
        execution: Execution | None,
    ) -> Trajectory:
        verifier, score = verified
        row = replace(
            row,
            plan_score=score.value,
            score_status=score.status,
            score_text=verifier.text if verifier else "",
        )
        if execution is not None:
            row = replace(
                row,
                execution=execution.reply.text,
                execution_status=execution.reply.status,
                execution_answer=execution.answer,
                verdict=execution.verdict,
            )
        return _with_calls(row, given, plan_reply, verifier, execution.reply if execution else None)

    async def _verify(self, plan: str, constraints: Reply) -> tuple[Reply | None, Score]:
        """Score a plan; a reply that cannot be read is retried once, with a reminder."""
        if constraints.status not in (OK, TRUNCATED):
            return None, Score(None, MISSING)  # the verifier judges against the constraints
        reply, score = None, Score(None, UNPARSED)
        for is_reminded in (False, True):
            request = verify_request(
                self.problem, self.config, plan, constraints, is_reminded=is_reminded
            )
            reply = await self.ask(request)
            score = self.parse_score(reply.text) if reply.status == OK else Score(None, UNPARSED)
            if score.status == PARSED or reply.status in FINAL:
                break
        return reply, score

    async def _execute(self, plan: str) -> Execution:
        """Execute a plan; a reply without a final answer is retried once, with a reminder."""
        reply = Reply("", status=MISSING)
        grade: Grade | None = None
        for is_reminded in (False, True):
            reply = await self.ask(
                execute_request(self.problem, self.config, plan, is_reminded=is_reminded)
            )
            if reply.status not in (OK, TRUNCATED):
                break
            grade = await self.grader.grade_async(
                reply.text, self.problem, finish_reason=reply.finish_reason
            )
            if grade.verdict is not Verdict.NO_ANSWER:
                break
        if grade is None:
            return Execution(reply, "", Verdict.NO_ANSWER)
        return Execution(reply, grade.answer, grade.verdict)


def _with_calls(
    row: Trajectory,
    constraints: Reply,
    plan: Reply | None,
    verifier: Reply | None,
    execution: Reply | None,
) -> Trajectory:
    """Note which replies a row rests on, and what its own (not the shared constraints) cost."""
    replies = (constraints, plan, verifier, execution)
    # A call that failed to the end has no price, and was not paid.
    costs = [reply.cost_usd for reply in replies[1:] if reply and reply.status != "failed"]
    return replace(
        row,
        constraints=constraints.text,
        call_keys=tuple(reply.key if reply else "" for reply in replies),
        cost_usd=None if None in costs else sum(cost for cost in costs if cost),
    )


def mark_duplicates(rows: list[Trajectory]) -> tuple[Trajectory, ...]:
    """Point each repeated plan to its first occurrence, whose later calls it shares."""
    first: dict[str, int] = {}
    marked = []
    for row in rows:
        if row.plan_status == OK:
            earlier = first.setdefault(row.plan, row.candidate)
            if earlier != row.candidate:
                row = replace(row, duplicate_of=earlier)
        marked.append(row)
    return tuple(marked)
