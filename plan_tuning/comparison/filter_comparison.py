"""The corpora of compared jobs -> what filters do to their plans, pooled by data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from plan_tuning.comparison.runs import EVIDENCE, Run, corpus_files
from plan_tuning.distillation.corpus import read_trajectories
from plan_tuning.distillation.filter_effects import FilterEffects, filter_effects
from plan_tuning.records import Trajectory, to_json
from plan_tuning.statistics.intervals import Interval

UNNAMED = "problems of no named set"
PARTIAL = (
    "What filters do to plans is counted on whole corpora, and {count} of this comparison are here "
    "in small (evidence/ of a copied sweep): run plan-tuning compare --plans beside the artifacts."
)


@dataclass(frozen=True)
class CorporaEffects:
    """What filters do to the plans of one data set."""

    source: str
    corpora: int
    effects: tuple[FilterEffects, ...]


def corpora_effects(runs: Sequence[Run]) -> tuple[list[CorporaEffects], str]:
    """Pool the corpora that runs rest on, and compare what filters keep with what there was.

    A problem of two corpora is two problems, for its candidates were drawn twice.

    Returns:
        One entry a data set; and what could not be counted, empty where everything was.
    """
    rows: dict[str, list[Trajectory]] = defaultdict(list)
    corpora: dict[str, int] = defaultdict(int)
    partial = 0
    for path in corpus_files(runs):
        if EVIDENCE in path.parts:
            partial += 1
            continue
        found = read_trajectories(path.parent)
        for source in {row.source for row in found}:
            corpora[source] += 1
        for row in found:
            rows[row.source].append(replace(row, problem_id=f"{path.parent.name}/{row.problem_id}"))
    effects = [
        CorporaEffects(source, corpora[source], tuple(filter_effects(rows[source])))
        for source in sorted(rows)
    ]
    return effects, PARTIAL.format(count=partial) if partial else ""


def effects_values(found: Sequence[CorporaEffects]) -> list[dict[str, Any]]:
    """Plain values for comparison.json; what is not known is null."""
    return [
        {
            "source": one.source,
            "corpora": one.corpora,
            "filters": [
                {
                    "name": each.name,
                    "problems": each.problems,
                    "figures": {
                        name: {
                            "before": _known(effect.before),
                            "after": _known(effect.after),
                            "difference": _interval(effect.difference),
                            "overall": _interval(effect.overall),
                        }
                        for name, effect in each.effects.items()
                    },
                }
                for each in one.effects
            ],
        }
        for one in found
    ]


def _interval(one: Interval | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {key: _known(value) for key, value in to_json(one).items()}


def _known(value: float) -> float | None:
    return value if value == value else None  # nan
