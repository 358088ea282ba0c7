"""Stored answers of an earlier grader -> today's verdicts, from their texts: nobody is asked.

Grader and reader of replies have versions, which stand in the facts of what they judged (none: 1)
and not in its fingerprint: the texts are the same. What a later version says about them is written
once, beside the artifact's own files, which stay as they are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import MANIFEST, read_manifest, write_atomic
from plan_tuning.config.grading import grading_from
from plan_tuning.config.microworld import OTHER_QUESTIONS
from plan_tuning.grading.grader import GRADER_VERSION, Grader
from plan_tuning.records import Problem, Verdict
from plan_tuning.text.thoughts import READING_VERSION, split_thoughts

logger = logging.getLogger(__name__)

VERSIONS: Mapping[str, int] = {"grader": GRADER_VERSION, "reading": READING_VERSION}
"""For the facts of everything that holds verdicts."""

REGRADED_FILE = f"regraded_{GRADER_VERSION}_{READING_VERSION}.json"
_UNDECIDED = (Verdict.TIMEOUT, Verdict.ERROR)  # says something about the machine
# Styles whose gold answer is all that a problem says about itself.
_PLAIN_STYLES = ("gsm8k", "math", "strategyqa", "microworld")


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A text with its verdict.

    Args:
        key: of the row within its artifact.
        text: as it was written, with thoughts.
        problem: gold answer, style and what else the grader reads.
        verdict: of the earlier grader.
        finish_reason: ``length`` where the text was cut off.
        is_strict: whether a boxed answer was right; None: not stored.
    """

    key: str
    text: str
    problem: Problem
    verdict: Verdict
    finish_reason: str = "stop"
    is_strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Regrading:
    """What today's grader says otherwise; ``changed``: row -> verdict, answer, rule, is_strict."""

    num_rows: int = 0
    changed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def is_judged_today(folder: Path) -> bool:
    """Whether an artifact's verdicts are today's; what has no manifest is taken as it is."""
    if not (folder / MANIFEST).is_file():
        return True
    facts = read_manifest(folder)["facts"]
    return all(facts.get(name, 1) >= version for name, version in VERSIONS.items())


def remembered(folder: Path) -> Regrading | None:
    """Read what was written beside an artifact; None where nothing was."""
    file = folder / REGRADED_FILE
    if is_judged_today(folder):
        return Regrading()
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    return Regrading(content["num_rows"], content["changed"])


def regrade(folder: Path, answers: Sequence[StoredAnswer]) -> Regrading:
    """Grade an artifact's texts again and remember what changed.

    A comparison that runs out of time says nothing new, so the earlier verdict stays then.
    """
    logger.info("%s: %d answers are graded again, once, by a newer grader", folder, len(answers))
    grading = read_manifest(folder)["spec"].get("grading", {})
    said = [split_thoughts(answer.text) for answer in answers]
    with Grader(grading_from(grading)) as grader:
        grades = grader.grade_many(
            [(text.text, answer.problem) for text, answer in zip(said, answers, strict=True)],
            finish_reasons=[
                "length" if text.is_open else answer.finish_reason
                for text, answer in zip(said, answers, strict=True)
            ],
        )
    changed = {
        answer.key: {
            "verdict": str(grade.verdict),
            "answer": grade.answer,
            "rule": grade.rule,
            "is_strict": grade.is_strict,
        }
        for answer, grade in zip(answers, grades, strict=True)
        if grade.verdict not in _UNDECIDED
        and (grade.verdict is not answer.verdict or answer.is_strict not in (None, grade.is_strict))
    }
    found = Regrading(len(answers), changed)
    content = {**VERSIONS, "num_rows": found.num_rows, "changed": changed}
    try:
        write_atomic(folder / REGRADED_FILE, json.dumps(content, indent=1) + "\n")
    except OSError as error:  # somebody else's folder: graded again the next time, too
        logger.info("%s: what changed is not remembered (%s)", folder, error.strerror)
    return found


def plain_problem(key: str, gold: str, source: str) -> Problem | None:
    """Make of a gold answer what the grader reads; None for sets whose problems say more.

    Args:
        key: the problem's id.
        gold: its answer.
        source: name of the benchmark.
    """
    style = source.partition("_")[0].rstrip("0123456789")  # math500, microworld_depth
    if source.startswith(OTHER_QUESTIONS):
        return None
    if style not in _PLAIN_STYLES:
        return None
    return Problem(id=key, problem="", answer=gold, style=style)
