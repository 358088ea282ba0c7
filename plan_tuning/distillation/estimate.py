"""Problems, a teacher and its store -> what a distillation would still ask and cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from plan_tuning.config.teacher import DistillationConfig, TeacherConfig
from plan_tuning.distillation.teacher_requests import (
    constraints_request,
    execute_request,
    plan_request,
    verify_request,
)
from plan_tuning.records import Message, Problem, Reply, Request
from plan_tuning.tasks.dataset_plans import dataset_plan
from plan_tuning.teachers.pricing import Price, estimate_prompt_tokens, price_of
from plan_tuning.teachers.resampling import peek
from plan_tuning.teachers.store import FILE_NAME, CallStore, teacher_fingerprint
from plan_tuning.text.parsing import SCORE_PARSERS, parse_plan

if TYPE_CHECKING:
    from rich.console import RenderableType

ROLES = ("constraints", "plan", "verify", "execute")
# Tokens of a typical reply and of a typical problem's prompt (GSM8K, a flash-class teacher), used
# until the store holds replies of this teacher.
_TYPICAL_REPLY = {"constraints": 160, "plan": 220, "verify": 420, "execute": 450, "judge": 250}
_TYPICAL_PROMPT = {"constraints": 260, "plan": 260, "verify": 750, "execute": 450, "judge": 750}
_TYPICAL_LATENCY_S = 2.0
_LOW, _HIGH = 0.6, 2.0  # replies differ from the typical one by about so much
_SHOWN_CHARACTERS = 1500


@dataclass
class Estimate:
    """What a distillation still needs; where prices are unknown the USD are None."""

    problems: int
    cached: dict[str, int] = field(default_factory=dict)  # replies in the store, by role
    to_buy: dict[str, int] = field(default_factory=dict)  # calls to ask for at most, by role
    prompt_tokens: int = 0
    completion_tokens_low: int = 0
    completion_tokens_high: int = 0
    usd_low: float | None = None
    usd_high: float | None = None
    minutes: float = 0.0
    first_prompts: dict[str, tuple[Message, ...]] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Calls to ask for at most."""
        return sum(self.to_buy.values())


def count_missing_calls(
    problems_count: int, teacher: TeacherConfig, distillation: DistillationConfig
) -> Estimate:
    """Bound a distillation from above without looking at problems or store, for a sweep's list."""
    plans = problems_count * distillation.candidates
    written = 0 if distillation.has_given_plans else plans
    counts = {"constraints": problems_count, "plan": written, "verify": plans, "execute": plans}
    if not teacher.is_asked:
        counts = dict.fromkeys(counts, 0)
    estimate = Estimate(problems=problems_count, to_buy=counts)
    _price(estimate, _TYPICAL_PROMPT, _TYPICAL_REPLY, _TYPICAL_LATENCY_S, teacher)
    return estimate


def count_executions(calls: int, teacher: TeacherConfig) -> Estimate:
    """Price a number of executions beside a distillation, as a teacher executor does them."""
    estimate = Estimate(problems=calls, to_buy={"execute": calls})
    _price(estimate, _TYPICAL_PROMPT, _TYPICAL_REPLY, _TYPICAL_LATENCY_S, teacher)
    return estimate


def count_judgements(calls: int, judge: TeacherConfig) -> Estimate:
    """Price a number of comparisons of two plans, as GRPO's plan reward asks for them."""
    estimate = Estimate(problems=calls, to_buy={"judge": calls})
    _price(estimate, _TYPICAL_PROMPT, _TYPICAL_REPLY, _TYPICAL_LATENCY_S, judge)
    return estimate


def dry_run(
    problems: Sequence[Problem],
    teacher: TeacherConfig,
    distillation: DistillationConfig,
    calls: Path,
) -> Estimate:
    """Count what is in the store and what is not; nobody is asked, no key is needed.

    Args:
        problems: of the corpus to be.
        teacher: whose replies are looked up.
        distillation: which requests are made.
        calls: the store's folder; it need not exist.
    """
    walk = _Walk(teacher, distillation)
    replies, prompts = dict(_TYPICAL_REPLY), dict(_TYPICAL_PROMPT)
    latency = _TYPICAL_LATENCY_S
    if (calls / FILE_NAME).is_file():
        with CallStore(calls) as store:
            for problem in problems:
                walk.visit(problem, store)
            known = store.mean_tokens(teacher_fingerprint(teacher.spec()))
            for role in ROLES:
                if role in known:
                    prompts[role], replies[role] = int(known[role][0]), int(known[role][1])
            if known:
                latency = sum(means[2] for means in known.values()) / len(known)
    else:
        for problem in problems:
            walk.visit(problem, None)
    for role, total in walk.prompt_tokens.items():
        prompts[role] = round(total / walk.prompts[role])
    estimate = Estimate(
        problems=len(problems),
        cached={role: walk.cached[role] for role in ROLES},
        to_buy={role: walk.missing[role] for role in ROLES},
        first_prompts=walk.first_prompts,
    )
    _price(estimate, prompts, replies, latency, teacher)
    return estimate


class _Walk:
    """Follows the requests about each problem as far as the store goes."""

    def __init__(self, teacher: TeacherConfig, distillation: DistillationConfig) -> None:
        self._teacher, self._config = teacher, distillation
        self._parse = SCORE_PARSERS[distillation.score_parser]
        self.cached: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.prompts: Counter[str] = Counter()
        self.prompt_tokens: Counter[str] = Counter()
        self.first_prompts: dict[str, tuple[Message, ...]] = {}
        self._seen: set[tuple[str, str, str]] = set()

    def visit(self, problem: Problem, store: CallStore | None) -> None:
        given = dataset_plan(problem) if self._config.has_given_plans else None
        if self._config.has_given_plans and given is None:
            return  # without a plan nothing is asked about it
        constraints = self._look(constraints_request(problem, self._config), store)
        for index in range(self._config.candidates):
            reply = (
                self._look(plan_request(problem, self._config, index), store)
                if given is None
                else Reply(given.plan)
            )
            if reply is None:  # its plan is unknown, so both later requests are
                self.missing["verify"] += 1
                self.missing["execute"] += 1
                continue
            plan = given.plan if given else parse_plan(reply.text)
            if reply.status != "ok" or not plan or (problem.id, plan, "") in self._seen:
                continue
            self._seen.add((problem.id, plan, ""))
            score = None
            if constraints is None:
                self.missing["verify"] += 1
            else:
                verified = self._look(
                    verify_request(problem, self._config, plan, constraints), store
                )
                score = self._parse(verified.text).value if verified else None
                if verified and score is None:
                    self._look(
                        verify_request(problem, self._config, plan, constraints, is_reminded=True),
                        store,
                    )
            is_rejected = score is not None and score < self._config.execute_threshold
            if self._config.execution == "all" or not is_rejected:
                self._look(execute_request(problem, self._config, plan), store)

    def _look(self, request: Request, store: CallStore | None) -> Reply | None:
        self.first_prompts.setdefault(request.role, request.messages)
        self.prompts[request.role] += 1
        self.prompt_tokens[request.role] += estimate_prompt_tokens(request)
        reply = peek(store, self._teacher, request) if store is not None else None
        (self.cached if reply is not None else self.missing)[request.role] += 1
        return reply


def _price(
    estimate: Estimate,
    prompts: dict[str, int],
    replies: dict[str, int],
    latency_s: float,
    teacher: TeacherConfig,
) -> None:
    """Fill in tokens, USD and minutes."""
    estimate.prompt_tokens = sum(n * prompts[role] for role, n in estimate.to_buy.items())
    completion = sum(n * replies[role] for role, n in estimate.to_buy.items())
    estimate.completion_tokens_low = round(_LOW * completion)
    estimate.completion_tokens_high = round(_HIGH * completion)
    price = Price(0.0, 0.0, "free") if not estimate.calls else price_of(teacher)
    if price is not None:
        estimate.usd_low = price.usd(estimate.prompt_tokens, estimate.completion_tokens_low)
        estimate.usd_high = price.usd(estimate.prompt_tokens, estimate.completion_tokens_high)
    minutes = estimate.calls * latency_s / teacher.concurrency / 60
    if teacher.requests_per_minute:
        minutes = max(minutes, estimate.calls / teacher.requests_per_minute)
    if teacher.tokens_per_minute:
        tokens = estimate.prompt_tokens + completion
        minutes = max(minutes, tokens / teacher.tokens_per_minute)
    estimate.minutes = 0.0 if teacher.backend in ("scripted", "replay") else minutes


def render_estimate(estimate: Estimate, teacher: TeacherConfig) -> RenderableType:
    """Lay an estimate out for a terminal: counts, cost, time and the first prompts."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"dry run: {estimate.problems} problems, teacher {teacher.model}")
    table.add_column("request")
    table.add_column("in the store", justify="right")
    table.add_column("to ask (at most)", justify="right")
    for role in ROLES:
        table.add_row(role, str(estimate.cached.get(role, 0)), str(estimate.to_buy.get(role, 0)))
    table.add_row("all", str(sum(estimate.cached.values())), str(estimate.calls))
    if estimate.usd_low is None or estimate.usd_high is None:
        cost = "price unknown: give teacher.price={input: USD, output: USD} per million tokens"
    else:
        cost = f"{estimate.usd_low:.2f} to {estimate.usd_high:.2f} USD"
    summary = Text(
        f"tokens: {estimate.prompt_tokens:,} in, {estimate.completion_tokens_low:,} to "
        f"{estimate.completion_tokens_high:,} out\ncost: {cost}\n"
        f"time at the limits: about {estimate.minutes:.1f} minutes"
    )
    panels = [
        Panel(
            Text("\n\n".join(m["content"] for m in messages)[:_SHOWN_CHARACTERS]),
            title=f"first {role} request",
            title_align="left",
        )
        for role, messages in estimate.first_prompts.items()
    ]
    return Group(table, summary, *panels)
