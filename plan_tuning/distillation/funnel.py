"""Trajectories -> figures: the funnel, what the verifiers are worth, and what plans look like."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plan_tuning.config.filter import FilterConfig
from plan_tuning.distillation.filters import RECOMPUTE, STANDARD_FILTERS, filter_trajectories
from plan_tuning.distillation.recomputation import NO_EQUATION
from plan_tuning.records import Problem, Trajectory
from plan_tuning.tasks.dataset_plans import dataset_plan
from plan_tuning.text.parsing import parse_score, parse_score_released
from plan_tuning.text.plans import (
    distinct_n,
    is_spoiler,
    leaks,
    repetition,
    self_bleu,
    similarity,
    steps,
)

FUNNEL = (
    "problems",
    "candidates",
    "plans",
    "distinct",
    "scored",
    "good_score",
    "executed",
    "correct",
    "selected",
)
GOOD_SCORE = 80
_DIVERSITY_PROBLEMS = 200  # diversity is quadratic in N: it is measured on about so many problems
_UNEXECUTED = ("missing", "absent")
_SCORES = range(-100, 101)


class Checks:
    """Running means of what :mod:`plan_tuning.text.plans` finds in plans."""

    def __init__(self) -> None:
        self.plans = 0
        self._sums: defaultdict[str, float] = defaultdict(float)

    def add(self, rows: Iterable[Trajectory]) -> None:
        """Count rows whose plan is usable."""
        for row in rows:
            if row.plan_status != "ok":
                continue
            self.plans += 1
            self._sums["leak_rate"] += leaks(row.plan, row.answer, row.problem)
            self._sums["spoiler_rate"] += is_spoiler(row.plan)
            self._sums["repetition"] += repetition(row.plan)
            self._sums["steps"] += len(steps(row.plan))
            self._sums["characters"] += len(row.plan)

    def means(self) -> dict[str, float]:
        """Means by name, and the number of plans."""
        out: dict[str, float] = {"plans": self.plans}
        if self.plans:
            out |= {name: round(total / self.plans, 4) for name, total in self._sums.items()}
        return out


class Tally:
    """Everything that is counted while a corpus is made; memory does not grow with it.

    Args:
        total: problems that will be counted, in whatever order they are finished.
        filters: what is kept is counted for each; the last one is the strictest.
    """

    def __init__(self, total: int, filters: Sequence[FilterConfig] = STANDARD_FILTERS) -> None:
        self._filters = filters
        self._diversity_stride = max(1, total // _DIVERSITY_PROBLEMS)
        self.problems = 0
        self.funnel: Counter[str] = Counter()
        self.plan_status: Counter[str] = Counter()
        self.score_status: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.reasons: dict[str, Counter[str]] = {f.name: Counter() for f in filters}
        self.parser_differs = 0
        self._right: Counter[int] = Counter()  # executions by plan score
        self._wrong: Counter[int] = Counter()
        self._before, self._after = Checks(), Checks()
        self._diversity = dict.fromkeys(("distinct_2", "self_bleu", "similarity"), 0.0)
        self._diverse_problems = 0

    def add(self, rows: Sequence[Trajectory]) -> None:
        """Count all candidates of one problem."""
        self.problems += 1
        for row in rows:
            self._add_row(row)
        for config in self._filters:
            if config.recompute and not any(row.annotated_execution for row in rows):
                self.kept[config.name] += 0
                self.reasons[config.name][NO_EQUATION] += len(rows)
                continue
            if config.answer and any(
                row.plan_status == "ok" and row.execution_status in _UNEXECUTED for row in rows
            ):
                executed = [row for row in rows if row.execution_status not in _UNEXECUTED]
                result = filter_trajectories(executed, config)
            else:
                result = filter_trajectories(rows, config)
            self.kept[config.name] += bool(result.kept)
            self.reasons[config.name].update(result.reasons)
            if config is self._filters[-1]:
                self._after.add(result.kept)
        self._before.add(rows)
        if rows and zlib.crc32(rows[0].problem_id.encode()) % self._diversity_stride == 0:
            self._add_diversity([row.plan for row in rows if row.plan_status == "ok"])

    def _add_row(self, row: Trajectory) -> None:
        self.plan_status[row.plan_status] += 1
        self.funnel["candidates"] += 1
        if row.plan_status != "ok":
            return
        self.funnel["plans"] += 1
        self.funnel["distinct"] += row.duplicate_of is None
        self.score_status[row.score_status] += 1
        if row.plan_score is not None:
            self.funnel["scored"] += 1
            self.funnel["good_score"] += row.plan_score >= GOOD_SCORE
        if row.score_text:
            self.parser_differs += parse_score(row.score_text) != parse_score_released(
                row.score_text
            )
        if row.execution_status in ("ok", "truncated"):
            self.funnel["executed"] += 1
            self.verdicts[str(row.verdict)] += 1
            self.funnel["correct"] += row.is_correct
            if row.plan_score is not None:
                (self._right if row.is_correct else self._wrong)[row.plan_score] += 1

    def _add_diversity(self, plans: list[str]) -> None:
        if len(plans) < 2:
            return
        self._diverse_problems += 1
        pairs = [similarity(a, b) for i, a in enumerate(plans) for b in plans[i + 1 :]]
        self._diversity["distinct_2"] += distinct_n(plans, 2)
        self._diversity["self_bleu"] += self_bleu(plans)
        self._diversity["similarity"] += sum(pairs) / len(pairs)

    @property
    def score_auc(self) -> float | None:
        """Chance that a right execution's plan scored above a wrong one's; None where undefined."""
        rights, wrongs = self._right.total(), self._wrong.total()
        if not rights or not wrongs:
            return None
        below, area = 0, 0.0
        for score in _SCORES:
            area += self._right[score] * (below + self._wrong[score] / 2)
            below += self._wrong[score]
        return area / (rights * wrongs)

    def line(self) -> str:
        """What was counted, in one line."""
        kept = ", ".join(f"filter={name} keeps {count}" for name, count in self.kept.items())
        return (
            f"{self.problems} problems bring {self.funnel['plans']} plans and "
            f"{self.funnel['executed']} executions, {self.funnel['correct']} of them right; {kept}"
        )

    def _funnel(self) -> dict[str, int]:
        """The steps by name; without scores the last ones are those of the strictest filter."""
        strictest = self._filters[-1].name
        counts = {"problems": self.problems, **self.funnel}
        if strictest == "two_stage":
            return {**counts, "selected": self.kept[strictest]}
        return {**counts, f"kept_by_{strictest}": self.kept[strictest]}

    def facts(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        n = max(1, self._diverse_problems)
        auc = self.score_auc
        return {
            "problems": self.problems,
            "funnel": self._funnel(),
            "kept_problems": dict(self.kept),
            "kept_rate": {
                name: round(count / self.problems, 4) if self.problems else 0.0
                for name, count in self.kept.items()
            },
            "reasons": {name: dict(sorted(c.items())) for name, c in self.reasons.items()},
            "plan_status": dict(self.plan_status),
            "score_status": dict(self.score_status),
            "verdicts": dict(self.verdicts),
            "released_parser_differs": self.parser_differs,
            "score_auc": None if auc is None else round(auc, 4),
            "plans_before": self._before.means(),
            "plans_after": self._after.means(),
            "diversity": {name: round(total / n, 4) for name, total in self._diversity.items()},
        }


def unscored_filters(problems: Iterable[Problem]) -> tuple[FilterConfig, ...]:
    """The filters that ask for no score, for plans that come with their problems."""
    plain = tuple(config for config in STANDARD_FILTERS if not config.plan)
    plans = map(dataset_plan, problems)
    has_equations = any(plan is not None and plan.annotated_execution for plan in plans)
    return (*plain, RECOMPUTE) if has_equations else plain


def funnel_rows(funnel: Mapping[str, int]) -> list[tuple[str, int]]:
    """The steps of a funnel in their order, for people; no steps of scores where nobody scored."""
    names = FUNNEL if "selected" in funnel else tuple(funnel)
    return [(name.replace("_", " "), funnel.get(name, 0)) for name in names]
