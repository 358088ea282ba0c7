"""Corpus to training rows: the filter, then each kept trajectory in the method's format."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from plan_tuning.config.filter import FilterConfig
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.training import MethodConfig, PromptConfig
from plan_tuning.distillation.corpus import read_trajectories
from plan_tuning.distillation.filters import advice, filter_trajectories
from plan_tuning.records import Problem, Trajectory
from plan_tuning.tasks.benchmarks import rationale_advice
from plan_tuning.tasks.mixture import Item, count_tokens, levels, mix, tagged
from plan_tuning.text.formats import FormatError, render_completion, student_messages
from plan_tuning.training.sft.batches import RowError, TrainingRow

logger = logging.getLogger(__name__)

# Reasons of rows that are left out, beside those of the filter.
_NO_RATIONALE = "no_human_rationale"
_PART_MISSING = "part_missing"


def training_rows(
    *,
    method: MethodConfig,
    prompt: PromptConfig,
    chosen: FilterConfig,
    problems: Sequence[Problem],
    corpus: Path | None,
    mixture: MixtureDataConfig | None = None,
    order: str = "shuffled",
) -> tuple[list[TrainingRow], dict[str, Any]]:
    """Write what the student is trained on.

    Args:
        method: what the student learns.
        prompt: suffixes of the prompt.
        chosen: which trajectories become rows; without effect when there is no corpus.
        problems: the rows of ``sft`` on all problems; ignored when there is a corpus.
        corpus: folder of the corpus, or None.
        mixture: how the rows of several sources are mixed; None for a single source.
        order: the curriculum, see :func:`plan_tuning.tasks.mixture.levels`.

    Returns:
        The rows, and how they came about: ``rows`` kept and ``reasons`` of what was not.

    Raises:
        RowError: nothing is left to train on.
        MixtureError: a source has no rows left, or the data does not allow the order.
    """
    write = partial(_row, method.name, prompt, mixture)
    pairs: list[tuple[Problem | Trajectory, TrainingRow]] = []
    if corpus is None:
        for problem in problems:
            if problem.solution.strip():
                pairs.append((problem, write(problem, solution=problem.solution)))
        reasons = {_NO_RATIONALE: len(problems) - len(pairs)}
    else:
        result = filter_trajectories(
            read_trajectories(corpus), chosen, needs_execution=method.learns_execution
        )
        reasons = dict(result.reasons)
        for kept in result.kept:
            try:
                row = write(kept, plan=kept.plan, execution=kept.execution, solution=kept.solution)
            except FormatError:  # the teacher never wrote the part that this method learns
                reasons[_PART_MISSING] = reasons.get(_PART_MISSING, 0) + 1
                continue
            pairs.append((kept, row))
    if not pairs:
        is_bare = method.record.learns == ("solution",) and _PART_MISSING in reasons
        raise RowError(
            f"no row is left for method={method.name} filter={chosen.name}: {reasons}. "
            + (
                rationale_advice(method.name)
                if corpus is None or is_bare
                else advice(read_trajectories(corpus))
            )
        )
    if reasons.get(_NO_RATIONALE):
        logger.warning(
            "%d of %d problems have no `solution` and are left out: it is what method=%s learns",
            reasons[_NO_RATIONALE],
            len(problems),
            method.name,
        )
    if mixture is not None and corpus is None:
        _check_sources(pairs, mixture, method.name)
    rows, by_source = _mixed(pairs, mixture, order)
    selection = {"rows": len(rows), "reasons": {k: v for k, v in reasons.items() if v}}
    return rows, selection | ({} if mixture is None else {"by_source": by_source})


def _check_sources(
    pairs: Sequence[tuple[Problem | Trajectory, TrainingRow]],
    mixture: MixtureDataConfig,
    method: str,
) -> None:
    """Refuse a mixture with a source that holds nothing which the method learns."""
    given = {source.source for source, _ in pairs}
    bare = [name for name in mixture.sources if name not in given]
    if bare:
        raise RowError(f"no row of {', '.join(bare)} has a rationale: {rationale_advice(method)}")


def _mixed(
    pairs: Sequence[tuple[Problem | Trajectory, TrainingRow]],
    mixture: MixtureDataConfig | None,
    order: str,
) -> tuple[list[TrainingRow], dict[str, dict[str, int]]]:
    """Mix the sources and number the levels of the curriculum; count rows and tokens a source."""
    items = [
        Item(
            source=source.source,
            key=f"{row.problem_id}/{getattr(source, 'candidate', 0)}",
            tokens=sum(count_tokens(segment.text) for segment in row.segments),
            difficulty=source.difficulty,
        )
        for source, row in pairs
    ]
    chosen = (
        list(range(len(items))) if mixture is None else mix(items, mixture.sources, mixture.mixing)
    )
    numbers = levels(items, order)
    by_source: dict[str, dict[str, int]] = {}
    for index in chosen:
        counts = by_source.setdefault(items[index].source, {"rows": 0, "tokens": 0})
        counts["rows"] += 1
        counts["tokens"] += items[index].tokens
    return [replace(pairs[index][1], level=numbers[index]) for index in chosen], by_source


def _row(
    method: str,
    prompt: PromptConfig,
    mixture: MixtureDataConfig | None,
    source: Problem | Trajectory,
    *,
    plan: str = "",
    execution: str = "",
    solution: str = "",
) -> TrainingRow:
    """Write one row; problems and trajectories share the fields that are used here."""
    tag = "" if mixture is None else mixture.tag_of(source.source)
    return TrainingRow(
        problem_id=source.id if isinstance(source, Problem) else source.problem_id,
        messages=student_messages(
            tagged(source.problem, tag), method=method, prompt=prompt, style=source.style
        ),
        segments=render_completion(
            method,
            plan=plan,
            execution=execution,
            solution=solution,
            answer=source.answer,
            style=source.style,
        ),
        source=source.source,
    )
