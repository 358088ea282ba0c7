"""Reference executions and plans -> log-probabilities: what a plan is worth to a student.

Teacher-forced: every reference execution is put behind every plan of its problem, and the
log-probabilities of its own tokens are added up. Nothing is generated. The measure is handed
``log_probs``, one forward pass of a student, and knows no model.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plan_tuning import interruption
from plan_tuning.artifacts import write_atomic
from plan_tuning.config.training import PromptConfig
from plan_tuning.evaluation.plan_conditions import ALTERED, GIVEN, Conditions
from plan_tuning.evaluation.writers import Progress
from plan_tuning.job_record import ConditionFigures, ContrastFigures, FollowedFigures, PlanValue
from plan_tuning.records import Problem, from_json, to_json
from plan_tuning.statistics.intervals import mean_interval
from plan_tuning.students.templates import prompt_ids
from plan_tuning.text.formats import Conditioned, conditioned

LogProbs = Callable[[Sequence[tuple[Sequence[int], int]]], list[list[float]]]
"""One forward pass: texts (their tokens, and the first one that is asked for) to the
log-probabilities of their tokens from there on."""


_KEEP_EVERY_S = 20.0  # seconds


@dataclass(frozen=True, slots=True)
class PlanValueRow:
    """One reference execution behind one plan; the rows that comparisons pair."""

    problem_id: str
    condition: str
    log_prob: float  # of the whole execution, in nats
    tokens: int  # of the execution
    plan: str = ""

    @property
    def per_token(self) -> float:
        """In nats a token."""
        return self.log_prob / self.tokens


def target_tokens(tokenizer: Any, text: Conditioned) -> tuple[list[int], int]:
    """Tokenise a target behind what stands in front of it.

    The completion is tokenised as one text, as in training. A token belongs to the target that any
    character of the target is in.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        text: prompt, what stands in front, target, what closes it.

    Returns:
        Tokens up to the target's last one, and the index of its first one.
    """
    prompt = prompt_ids(tokenizer, text.messages)
    written = tokenizer(
        text.before + text.target + text.after,
        add_special_tokens=False,
        return_offsets_mapping=True,
    )
    begin = len(text.before)
    end = begin + len(text.target)
    inside = [
        place
        for place, (first, last) in enumerate(written["offset_mapping"])
        if last > begin and first < end
    ]
    ids = [*prompt, *written["input_ids"][: inside[-1] + 1]]
    return ids, len(prompt) + inside[0]


def passes(lengths: Mapping[str, int], budget: int) -> list[list[str]]:
    """Group texts into forward passes of similar lengths, the longest ones first.

    Args:
        lengths: of the texts by name, in tokens.
        budget: padded tokens of a pass; a longer text goes alone.

    >>> passes({"a": 3, "b": 9, "c": 4}, 9)
    [['b'], ['c', 'a']]
    """
    groups: list[list[str]] = []
    for name in sorted(lengths, key=lambda name: -lengths[name]):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


class Measurement:
    """The rows of one student on one benchmark, condition by condition.

    Equal plans of a problem are computed once, so conditions that are the same differ by exactly
    zero. Which texts share a pass depends on the plans alone, without a plan on the problems: two
    students of equal weights agree to the bit there, and everywhere if they plan alike. What is
    finished lies in ``path``; a successor goes on behind it with the same passes.
    """

    def __init__(
        self,
        path: Path,
        tokenizer: Any,
        log_probs: LogProbs,
        *,
        method: str,
        prompt: PromptConfig | str,
        batch_tokens: int,
        progress: Progress | None = None,
    ) -> None:
        self._path = path
        self._tokenizer = tokenizer
        self._log_probs = log_probs
        self._method = method
        self._prompt = prompt
        self._budget = batch_tokens
        self._progress = progress
        self._tokens = 0
        self._kept = time.monotonic()

    def rows(
        self, references: Mapping[str, tuple[Problem, str]], chosen: Conditions
    ) -> list[PlanValueRow]:
        """Compute what is not there yet, and list the rows of all conditions.

        Args:
            references: problem and reference execution by problem id.
            chosen: the plans of every condition.
        """
        done = {(row.condition, row.problem_id): row for row in read_rows(self._path)}
        known: dict[tuple[str, str], PlanValueRow] = {}  # by problem and plan
        found: list[PlanValueRow] = []
        total = sum(len(plans) for plans in chosen.plans.values())
        for condition, plans in chosen.plans.items():
            wanted = {name: plan for name, plan in plans.items() if (name, plan) not in known}
            texts = {
                name: target_tokens(self._tokenizer, self._conditioned(*references[name], plan))
                for name, plan in wanted.items()
            }
            for group in passes({name: len(ids) for name, (ids, _) in texts.items()}, self._budget):
                if any((condition, name) not in done for name in group):
                    interruption.check()
                    computed = self._log_probs([texts[name] for name in group])
                    for name, values in zip(group, computed, strict=True):
                        done[condition, name] = PlanValueRow(
                            name, condition, math.fsum(values), len(values), wanted[name]
                        )
                    self._keep(done.values())
                known |= {(name, wanted[name]): done[condition, name] for name in group}
                self._tokens += sum(len(texts[name][0]) for name in group)
                if self._progress is not None:
                    self._progress("plan value", len(known), total, self._tokens)
            found += [
                replace(known[name, plan], condition=condition) for name, plan in plans.items()
            ]
        write_rows(self._path, found)
        return found

    def _keep(self, rows: Iterable[PlanValueRow]) -> None:
        """Write what is computed so far, now and then."""
        now = time.monotonic()
        if now - self._kept > _KEEP_EVERY_S:
            write_rows(self._path, list(rows))
            self._kept = now

    def _conditioned(self, problem: Problem, execution: str, plan: str) -> Conditioned:
        return conditioned(
            problem.problem,
            plan,
            execution,
            method=self._method,
            prompt=self._prompt,
            style=problem.style,
        )


def read_rows(path: Path) -> list[PlanValueRow]:
    """Read the rows that :func:`write_rows` wrote; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [from_json(PlanValueRow, json.loads(line)) for line in file if line.strip()]


def write_rows(path: Path, rows: Sequence[PlanValueRow]) -> None:
    """Write rows as JSON lines."""
    lines = [json.dumps(to_json(row), ensure_ascii=False) for row in rows]
    write_atomic(path, "\n".join(lines) + "\n")


def contrasts(subject: str) -> list[tuple[str, str]]:
    """Which conditions are subtracted from which: (first, second) means first - second.

    >>> contrasts("own")[1]
    ('own', 'other')
    """
    if not subject:
        return []
    given = [(name, subject) for name in GIVEN if name != subject]
    return [*((subject, name) for name in ("none", *ALTERED)), *given]


def summarize_values(
    rows: Sequence[PlanValueRow],
    subject: str,
    left_out: Mapping[str, int],
    followed: FollowedFigures | None = None,
) -> PlanValue:
    """Turn rows of one benchmark into the figures of result.json.

    Args:
        rows: of all conditions.
        subject: whose plans are compared with others.
        left_out: problems without a reference execution, by reason.
        followed: how often edited plans were followed.
    """
    by_condition: dict[str, dict[str, PlanValueRow]] = {}
    for row in rows:
        by_condition.setdefault(row.condition, {})[row.problem_id] = row
    figures = {}
    for name, found in by_condition.items():
        n = len(found)
        figures[name] = ConditionFigures(
            n=n,
            per_token=math.fsum(row.per_token for row in found.values()) / n,
            log_prob=math.fsum(row.log_prob for row in found.values()) / n,
            tokens=sum(row.tokens for row in found.values()),
        )
    return PlanValue(
        subject=subject,
        way="own" if subject == "own" else "none",
        problems=len(by_condition.get("none", {})),
        left_out=left_out,
        conditions=figures,
        contrasts={
            f"{first} - {second}": _contrast(by_condition[first], by_condition[second])
            for first, second in contrasts(subject)
            if first in by_condition and second in by_condition
        },
        followed=followed or FollowedFigures(),
    )


def _contrast(
    first: Mapping[str, PlanValueRow], second: Mapping[str, PlanValueRow]
) -> ContrastFigures:
    found = mean_interval(
        [row.per_token - second[name].per_token for name, row in first.items() if name in second]
    )
    low, high = (None if math.isnan(bound) else bound for bound in (found.low, found.high))
    return ContrastFigures(None if not found.n else found.value, low, high, found.n)
