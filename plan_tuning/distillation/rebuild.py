"""A corpus that holds a teacher's thoughts -> the same corpus without them, for nothing.

Every row names the stored replies that it rests on. They are read again without their thoughts,
parsed and graded as a distillation does it. Nobody is asked: the Plan Verifier's scores stay those
that it gave when it saw the thoughts as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import build, fingerprint_of, folder_of, is_complete, read_manifest
from plan_tuning.config.grading import grading_from
from plan_tuning.config.teacher import DistillationConfig
from plan_tuning.distillation.card import write_card
from plan_tuning.distillation.corpus import (
    PROBLEMS,
    TRAJECTORIES,
    CorpusError,
    read_problems,
    read_trajectories,
)
from plan_tuning.distillation.filters import STANDARD_FILTERS, UNSCORED
from plan_tuning.distillation.funnel import Tally, unscored_filters
from plan_tuning.distillation.parquet import write_records
from plan_tuning.distillation.synthesis import MISSING, OK, TRUNCATED, mark_duplicates
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Problem, Reply, Trajectory, Verdict
from plan_tuning.tasks.regrading import VERSIONS
from plan_tuning.teachers.replies import settled
from plan_tuning.teachers.store import CallStore
from plan_tuning.text.parsing import SCORE_PARSERS, UNPARSED, Score, parse_plan

_VERSION = 1


def rebuild_corpus(source: Path, outputs: Path) -> Path:
    """Write a corpus anew from the replies that it rests on.

    Args:
        source: folder of a finished corpus.
        outputs: root of all results; its ``calls`` hold the replies. Of one that is not there, the
            text in the corpus itself is read.

    Returns:
        The folder of the new corpus, an artifact of its own.

    Raises:
        CorpusError: the folder is no finished corpus, or one that was imported.
    """
    if not is_complete(source):
        raise CorpusError(f"{source} is no finished corpus: give the folder of one")
    manifest = read_manifest(source)
    if "imported" in manifest["facts"]:
        raise CorpusError(
            f"{source} was imported: it rests on no stored replies, and thoughts were cut off when "
            "it was read. To read the file again: plan-tuning corpus import FILE"
        )
    spec = {"corpus": manifest["fingerprint"], "is_without_thoughts": True}

    def make(folder: Path) -> Mapping[str, Any]:
        return _make(folder, source, manifest, outputs / "calls")

    root = outputs / "artifacts"
    fingerprint = fingerprint_of(spec, stage="corpora", version=_VERSION)
    build(
        root,
        "corpora",
        fingerprint,
        make,
        spec={**manifest["spec"], "is_without_thoughts": True},
        upstream={"corpus": manifest["fingerprint"]},
    )
    return folder_of(root, "corpora", fingerprint)


def _make(
    folder: Path, source: Path, manifest: Mapping[str, Any], calls: Path
) -> Mapping[str, Any]:
    distillation = _distillation(manifest["spec"].get("distillation", {}))
    problems = read_problems(source)
    by_id = {problem.id: problem for problem in problems}
    rows: dict[str, list[Trajectory]] = {}
    for row in read_trajectories(source):
        rows.setdefault(row.problem_id, []).append(row)
    is_unscored = all(row.score_status == UNSCORED for found in rows.values() for row in found)
    filters = unscored_filters(problems) if is_unscored else STANDARD_FILTERS
    tally = Tally(len(problems), filters)
    written: list[Trajectory] = []
    grading = grading_from(manifest["spec"].get("grading", {}))
    with CallStore(calls) as store, Grader(grading) as grader:
        reader = _Reader(store, grader, distillation)
        for problem_id, candidates in rows.items():
            again = mark_duplicates([reader.read(row, by_id[problem_id]) for row in candidates])
            tally.add(again)
            written.extend(again)
    write_records(folder / TRAJECTORIES, Trajectory, written)
    write_records(folder / PROBLEMS, Problem, problems)
    facts = {**manifest["facts"], **tally.facts(), **VERSIONS}
    write_card(folder, facts, problems, distillation)
    return facts


def _distillation(values: Mapping[str, Any]) -> DistillationConfig:
    """Rebuild the config from what was hashed of it; the other fields had their defaults."""
    known = {field.name for field in dataclasses.fields(DistillationConfig)}
    return DistillationConfig(**{name: value for name, value in values.items() if name in known})


class _Reader:
    """Reads the replies of one row again."""

    def __init__(self, store: CallStore, grader: Grader, config: DistillationConfig) -> None:
        self._store = store
        self._grader = grader
        self._parse_score = SCORE_PARSERS[config.score_parser]

    def read(self, row: Trajectory, problem: Problem) -> Trajectory:
        """Make a row anew; what rests on a text that is no plan is left out."""
        if row.score_status == UNSCORED:
            return row  # it came with its data set, and no reply of anybody stands behind it
        texts = (row.constraints, row.plan, row.score_text, row.execution)
        statuses = ("ok", row.plan_status, "ok", row.execution_status)
        constraints, plan_reply, verified, executed = self._replies(row, texts, statuses)
        plan = parse_plan(plan_reply.text)
        status = plan_reply.status if plan or plan_reply.status != OK else "empty"
        row = dataclasses.replace(
            row,
            constraints=constraints.text,
            plan=plan,
            plan_status=status,
            duplicate_of=None,
            plan_score=None,
            score_status=MISSING,
            score_text="",
            execution="",
            execution_status=MISSING,
            execution_answer="",
            verdict=None,
        )
        if status != OK:
            return row
        if verified.status != MISSING:
            is_ok = verified.status == OK
            score = self._parse_score(verified.text) if is_ok else Score(None, UNPARSED)
            row = dataclasses.replace(
                row,
                plan_score=score.value,
                score_status=score.status,
                score_text=verified.text,
            )
        if executed.status != MISSING:
            row = dataclasses.replace(row, **self._graded(executed, problem))
        return row

    def _replies(
        self, row: Trajectory, texts: Iterable[str], statuses: Iterable[str]
    ) -> list[Reply]:
        """Find the replies of a row; where the store lacks one, the corpus's own text is read."""
        keys = [*row.call_keys, "", "", "", ""][:4]
        found = []
        for key, text, status in zip(keys, texts, statuses, strict=True):
            reply = self._store.get(key) if key else None
            if reply is None:
                reply = settled(Reply(text, status=status if text or status != OK else MISSING))
            found.append(reply)
        return found

    def _graded(self, executed: Reply, problem: Problem) -> dict[str, Any]:
        values = {"execution": executed.text, "execution_status": executed.status}
        if executed.status not in (OK, TRUNCATED):
            return {**values, "verdict": Verdict.NO_ANSWER}
        grade = self._grader.grade(executed.text, problem, finish_reason=executed.finish_reason)
        return {**values, "execution_answer": grade.answer, "verdict": grade.verdict}
