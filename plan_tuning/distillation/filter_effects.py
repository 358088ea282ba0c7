"""What filters do to plans beside dropping them: diversity and coherence, before and after.

Plans of one problem and plans of all problems are looked at apart. A set of few plans looks more
diverse than one of many, whatever they say, so sets are compared at equal size: the plan that a
filter takes with the one that ``filter=none`` takes of the same problem, in blocks of as many
problems; and the candidates that pass with as many drawn from all candidates of their problem. Pure
functions; definitions: experiments/METHOD.md section 11.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from plan_tuning.config.filter import FilterConfig
from plan_tuning.distillation.filters import (
    ABSENT,
    MISSING,
    RECOMPUTE,
    STANDARD_FILTERS,
    UNSCORED,
    USABLE,
    filter_trajectories,
    rejection,
)
from plan_tuning.records import Problem, Trajectory
from plan_tuning.rewards.hashed_encoder import HashedEncoder
from plan_tuning.rewards.plan_cases import PlanCase
from plan_tuning.rewards.roscoe import chains_of, score
from plan_tuning.statistics.intervals import Interval, mean_interval
from plan_tuning.text.plan_edits import plan_steps
from plan_tuning.text.plans import distinct_n, self_bleu, strategy_entropy

BLOCK = 20  # problems, whose plans make one set
_MAX_BLOCKS = 25  # self-BLEU is quadratic: sets are made of about so many problems
_MAX_SUBSETS = 20  # of a problem's candidates
_MAX_PROBLEMS = 200  # whose candidates are compared

Measure = Callable[[Sequence[Trajectory]], float]

SETS: Mapping[str, Measure] = {
    "distinct_1": lambda rows: distinct_n([row.plan for row in rows], 1),
    "distinct_2": lambda rows: distinct_n([row.plan for row in rows], 2),
    "self_bleu": lambda rows: self_bleu([row.plan for row in rows]),
    "strategy_entropy": lambda rows: strategy_entropy([(r.plan, r.problem) for r in rows]),
}
"""Of a set of plans, one a problem."""

CANDIDATES: Mapping[str, Measure] = {
    "candidates_distinct_2": SETS["distinct_2"],
    "candidates_self_bleu": SETS["self_bleu"],
}
"""Of the candidates of one problem."""

SINGLE = ("steps", "repetition_step", "informativeness_step")
"""Of a single plan; the last two are ROSCOE's, 1 is best."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a filter does to one figure.

    Attributes:
        before: its mean over all problems, unfiltered.
        after: its mean over what the filter keeps; equal to ``before`` for ``filter=none``.
        difference: filtered less unfiltered at equal size, of the same problems, with its paired
            95 % interval over problems (or blocks of them, which ``n`` counts).
        overall: what is kept less all that there was, the choice of problems included, with its
            95 % interval over problems; None of sets.
    """

    before: float
    after: float
    difference: Interval
    overall: Interval | None = None


@dataclass(frozen=True, slots=True)
class FilterEffects:
    """What one filter does to the plans of a corpus."""

    name: str
    problems: int  # kept
    effects: Mapping[str, Effect]  # by figure


def filter_effects(
    rows: Sequence[Trajectory], filters: Sequence[FilterConfig] | None = None
) -> list[FilterEffects]:
    """Compare what each filter keeps with what there was.

    Args:
        rows: all candidates of a corpus.
        filters: of which the corpus holds what they ask for; None: all such ones.
    """
    chosen = usable_filters(rows) if filters is None else filters
    sets, candidates = ({name: _remembering(f) for name, f in of.items()}
                        for of in (SETS, CANDIDATES))  # fmt: skip
    single = _Singles()
    unfiltered = {row.problem_id: row for row in filter_trajectories(rows, _NONE).kept}
    groups: dict[str, list[Trajectory]] = defaultdict(list)
    for row in rows:
        if row.plan_status == USABLE and row.plan:
            groups[row.problem_id].append(row)
    compared = [g for name in _shuffled(groups) if len(g := groups[name]) > 1][:_MAX_PROBLEMS]
    found = []
    for config in chosen:
        kept = {row.problem_id: row for row in filter_trajectories(rows, config).kept}
        both = [name for name in kept if name in unfiltered]
        effects = {name: _single_effect(single.of(name), unfiltered, kept, both) for name in SINGLE}
        for name, measure in sets.items():
            effects[name] = _set_effect(measure, unfiltered, kept, both)
        for name, measure in candidates.items():
            effects[name] = _candidates_effect(measure, compared, config)
        found.append(FilterEffects(config.name, len(kept), effects))
    return found


_NONE = STANDARD_FILTERS[0]


def usable_filters(rows: Sequence[Trajectory]) -> list[FilterConfig]:
    """The filters that ask for nothing which the rows lack."""
    usable = [row for row in rows if row.plan_status == USABLE and row.plan]
    has_scores = all(row.score_status != UNSCORED for row in usable)
    is_executed = all(row.execution_status not in (MISSING, ABSENT) for row in usable)
    found = [
        config
        for config in STANDARD_FILTERS
        if (has_scores or not config.plan) and (is_executed or not config.answer)
    ]
    if is_executed and any(row.annotated_execution for row in usable):
        found.append(RECOMPUTE)
    return found


def _remembering(measure: Measure) -> Measure:
    """Compute a figure of a set once: filters share most of their sets."""
    known: dict[tuple[tuple[str, int], ...], float] = {}

    def measured(rows: Sequence[Trajectory]) -> float:
        key = tuple((row.problem_id, row.candidate) for row in rows)
        if key not in known:
            known[key] = measure(rows)
        return known[key]

    return measured


class _Singles:
    """Figures of single plans, each computed once."""

    def __init__(self) -> None:
        self._embed = HashedEncoder()
        self._known: dict[tuple[str, str, str], float] = {}

    def of(self, name: str) -> Callable[[Trajectory], float]:
        """The function of one figure."""

        def measured(row: Trajectory) -> float:
            key = (name, row.problem_id, row.plan)
            if key not in self._known:
                self._known[key] = self._compute(name, row)
            return self._known[key]

        return measured

    def _compute(self, name: str, row: Trajectory) -> float:
        if name == "steps":
            return float(len(plan_steps(row.plan, row.style)))
        problem = Problem(row.problem_id, row.problem, row.answer, style=row.style)
        found = score(name, chains_of(PlanCase(problem, row.plan), self._embed, "paper"))
        return math.nan if found is None else found


def _single_effect(
    measure: Callable[[Trajectory], float],
    unfiltered: Mapping[str, Trajectory],
    kept: Mapping[str, Trajectory],
    both: Sequence[str],
) -> Effect:
    before = {name: measure(row) for name, row in unfiltered.items()}
    after = {name: measure(row) for name, row in kept.items()}
    return Effect(
        _mean(list(before.values())),
        _mean(list(after.values())),
        _difference([after[name] - before[name] for name in both]),
        _overall(before, after),
    )


def _overall(before: Mapping[str, float], after: Mapping[str, float]) -> Interval:
    """What is kept less all that there was: a ratio of sums over problems, linearised."""
    known = {name: value for name, value in before.items() if not math.isnan(value)}
    left = {name: value for name, value in after.items() if name in known}
    n, k = len(known), len(left)
    if k == 0:
        return _difference([])
    mean, kept = _mean(list(known.values())), _mean(list(left.values()))
    parts = [
        (n / k * (left[name] - kept) if name in left else 0.0) - (value - mean)
        for name, value in known.items()
    ]
    spread = mean_interval(parts)  # of parts that sum to 0
    change = kept - mean
    return Interval(change, change + spread.low, change + spread.high, n)


def _set_effect(
    measure: Measure,
    unfiltered: Mapping[str, Trajectory],
    kept: Mapping[str, Trajectory],
    both: Sequence[str],
) -> Effect:
    def of_blocks(rows: Mapping[str, Trajectory], names: Sequence[str]) -> list[float]:
        return [measure([rows[name] for name in block]) for block in _blocks(names)]

    before = of_blocks(unfiltered, list(unfiltered))
    first, second = of_blocks(unfiltered, both), of_blocks(kept, both)
    return Effect(
        _mean(before),
        _mean(second),
        _difference([two - one for one, two in zip(first, second, strict=True)]),
    )


def _candidates_effect(
    measure: Measure,
    groups: Sequence[Sequence[Trajectory]],
    config: FilterConfig,
) -> Effect:
    before, after, differences = [], [], []
    for group in groups:
        before.append(measure(group))
        passing = [row for row in group if rejection(row, config) is None]
        if len(passing) < 2:
            continue
        after.append(measure(passing))
        expected = _mean([measure(subset) for subset in _subsets(group, len(passing))])
        differences.append(after[-1] - expected)
    return Effect(_mean(before), _mean(after), _difference(differences))


def _subsets(group: Sequence[Trajectory], size: int) -> list[tuple[Trajectory, ...]]:
    """Every choice of so many candidates, or a draw of them."""
    if math.comb(len(group), size) <= _MAX_SUBSETS:
        return list(itertools.combinations(group, size))
    rng = random.Random(f"subsets/{group[0].problem_id}")
    return [tuple(rng.sample(list(group), size)) for _ in range(_MAX_SUBSETS)]


def _blocks(names: Sequence[str]) -> list[list[str]]:
    """Blocks of problems, the same whatever order they come in; what is left over is left out."""
    order = _shuffled(names)
    count = min(len(order) // BLOCK, _MAX_BLOCKS)
    return [order[start * BLOCK : (start + 1) * BLOCK] for start in range(count)]


def _shuffled(names: Mapping[str, object] | Sequence[str]) -> list[str]:
    order = sorted(names)
    random.Random("blocks").shuffle(order)
    return order


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _difference(values: Sequence[float]) -> Interval:
    return mean_interval([value for value in values if not math.isnan(value)])


LEGEND = (
    "Mean of what is kept; Δ: less the unfiltered plans of the same problems, at equal size "
    "[paired 95 % interval over problems; over blocks of 20 for sets of plans]; less all "
    "problems': the choice of problems included. * where the interval excludes 0. distinct, "
    "self-BLEU, strategy entropy (bits): a plan a problem, in blocks of 20; self-BLEU is lower "
    "where plans are more diverse. candidates: of one problem, against as many drawn from all of "
    "its own. "
    "repetition and informativeness: ROSCOE's, 1 is best, with hashed n-grams."
)


def effect_rows(found: Sequence[FilterEffects]) -> tuple[list[str], list[list[str]]]:
    """Lay effects out for readers: a line a figure, a column a filter.

    Args:
        found: as :func:`filter_effects` lists them; empty: there is nothing to show.
    """
    if not found:
        return [], []
    filters = [one for one in found if one.name != _NONE.name]
    head = ["figure", "unfiltered", *(f"{one.name} ({one.problems} kept)" for one in filters)]
    rows = []
    for name, effect in found[0].effects.items():
        shown = name.replace("_", " ")
        rows.append([shown, _number(effect.before), *(_cell(one.effects[name]) for one in filters)])
        if effect.overall is not None and filters:
            overall = [_change(one.effects[name].overall) for one in filters]
            rows.append([f"{shown}, less all problems'", "", *overall])
    return head, rows


def _cell(effect: Effect) -> str:
    change = _change(effect.difference)
    return f"{_number(effect.after)}, Δ {change}" if change else _number(effect.after)


def _change(change: Interval | None) -> str:
    if change is None or math.isnan(change.value):
        return ""
    if math.isnan(change.low):
        return f"{change.value:+.3f}"
    mark = "" if change.low <= 0 <= change.high else " *"
    return f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]{mark}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
