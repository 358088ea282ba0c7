"""Somebody's file of trajectories -> a corpus artifact: checked, graded, with funnel and card.

Rows of the same problem are its candidates, in their order. Nobody is asked: what a file does not
hold (a score, an execution) is missing, and filters say so.
"""

from __future__ import annotations

import logging
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import build, file_fingerprint, fingerprint_of, folder_of, hashed_values
from plan_tuning.config.checks import require, require_choice
from plan_tuning.config.data import SPLITS, RowForm
from plan_tuning.config.extensions import find
from plan_tuning.config.grading import GradingConfig
from plan_tuning.distillation.candidate_groups import CandidateGroups, JoinedProblems, is_wanted
from plan_tuning.distillation.card import write_import_card
from plan_tuning.distillation.corpus import PROBLEMS, TRAJECTORIES
from plan_tuning.distillation.funnel import Tally
from plan_tuning.distillation.parquet import write_records
from plan_tuning.distillation.synthesis import MISSING, OK
from plan_tuning.distillation.trajectory_rows import (
    ColumnError,
    Columns,
    Row,
    RowReading,
    told_by,
)
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Problem, Trajectory
from plan_tuning.tasks.benchmarks import benchmark_named, read
from plan_tuning.tasks.json_rows import DataError
from plan_tuning.tasks.regrading import VERSIONS
from plan_tuning.tasks.row_files import file_of, rows_of_file, rows_of_hub

logger = logging.getLogger(__name__)

# Bump when the same rows are read otherwise: the corpus is another one then.
READER_VERSION = 1
_STAGE_VERSION = 1
_CHUNK = 512  # executions between two steps of the progress bar
_SHOWN_ROWS = 5
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# What other people's columns are called.
_OTHER_NAMES: Mapping[str, Sequence[str]] = {
    "problem": ("problem", "question", "prompt", "input", "query", "instruction"),
    "answer": ("answer", "final_answer", "gold", "gold_answer", "final", "target", "label"),
    "plan": ("plan", "plan_text", "teacher_plan", "planning", "decomposition", "outline", "steps"),
    "execution": ("execution", "solution", "response", "completion", "output", "rationale"),
    "score": ("plan_score", "score", "verifier_score", "rating"),
    "messages": ("messages", "conversations", "conversation", "chat"),
}

Progress = Callable[[int, int], None]
"""Told how many executions are graded, of how many."""


@dataclass(frozen=True)
class CorpusImport:
    """What is imported, and how it is read."""

    source: str  # a file, or the id of a data set on the Hub
    reading: RowReading = field(default_factory=RowReading)
    split: str = "train"
    name: str | None = None  # of the set; None: that of the joined set, or of the file
    problems: str | None = None  # SET, SET=PATH or FILE: problems and answers are joined from there
    where: Mapping[str, str] = field(default_factory=dict)  # only rows with these values
    skip_bad: bool = False
    revision: str = "main"  # on the Hub, as the next two
    hub_config: str | None = None
    hub_split: str | None = None  # None: as split

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ConfigError: the split or the name cannot be, or the joined set has no such split.
        """
        require_choice("--split", self.split, SPLITS)
        require(
            bool(_NAME.fullmatch(self.set_name)),
            "--name",
            self.set_name,
            "letters, digits, '_', '-' and '.': it names the set in ids and tables",
            "--name mine",
        )
        require(
            self.problems is None or self.reading.columns.answer is None,
            "--answer-key",
            self.reading.columns.answer,
            "the gold answers come from the set of --problems",
            f"--problems {self.problems}, without --answer-key",
        )
        joined = "" if self.joined is None else self.joined[0]
        record = find("data", joined) if joined else None
        if record is not None and not record.needs:
            splits = benchmark_named(joined).splits
            require(
                not splits or self.split in splits,
                "--split",
                self.split,
                f"the problems of {joined} are {' and '.join(splits)} problems only",
                "--split test",
            )

    @property
    def file(self) -> Path | None:
        """The file; None for a data set on the Hub."""
        path = Path(self.source).expanduser()
        is_hub = not path.exists() and not path.suffix and _HUB_ID.fullmatch(self.source)
        return None if is_hub else path

    @property
    def joined(self) -> tuple[str, str | None] | None:
        """Name and path of the set that problems are joined from; without a path it is the Hub's.

        None where the rows hold problems and answers themselves.
        """
        if self.problems is None:
            return None
        name, _, path = self.problems.partition("=")
        if not path and Path(name).expanduser().exists():
            return Path(name).stem, name
        return name, path or None

    @property
    def set_name(self) -> str:
        """Name of the set that the problems are of."""
        if self.name is not None:
            return self.name
        if self.joined is not None:
            return self.joined[0]
        return self.source.partition("/")[2] if self.file is None else self.file.stem

    def command(self, row: Row) -> str:
        """Write the command that imports this, with columns that the row has.

        Args:
            row: whose columns replace those that it lacks, as far as their names tell.
        """
        words = ["plan-tuning", "corpus", "import", self.source]
        columns = self.reading.columns
        taken = {name for name in vars(columns).values() if name in row}
        for role in (one.name for one in fields(columns)):
            name = getattr(columns, role)
            if name is None or (role == "messages") != (self.reading.shape == "chat"):
                continue
            if role in ("problem", "plan") and self.reading.shape == "chat":
                continue
            if name not in row:
                meant = (other for other in _OTHER_NAMES.get(role, ()) if other in row)
                name = next((other for other in meant if other not in taken), "COLUMN")
                taken.add(name)
            if name != getattr(Columns(), role):
                words += [f"--{role}-key", name]
        for option, value, default in (
            ("shape", self.reading.shape, told_by(row, RowReading(columns=columns)).shape),
            ("style", self.reading.style, RowReading().style),
            ("split", self.split, "train"),
            ("name", self.name, None),
            ("problems", self.problems, None),
            ("hub-config", self.hub_config, None),
            ("hub-split", self.hub_split, None),
            ("revision", self.revision, "main"),
        ):
            words += [] if value in (None, default) else [f"--{option}", value]
        words += [word for pair in self.where.items() for word in ("--where", "=".join(pair))]
        return shlex.join(words)


def import_corpus(
    given: CorpusImport,
    outputs: Path,
    grading: GradingConfig | None = None,
    progress: Progress | None = None,
) -> tuple[Path, bool]:
    """Import trajectories; what was imported before is found again by its content.

    Args:
        given: what is imported, and how.
        outputs: root of all results.
        grading: the Answer Verifier's policy; None: the default one.
        progress: told how far the grading is.

    Returns:
        The folder of the corpus, and whether it is new.

    Raises:
        DataError: the file cannot be read, or one of its rows; names row and column.
    """
    rows, origin = _read_rows(given)
    reading = told_by(rows[0][1], given.reading)
    given = replace(given, reading=reading)
    known, joined = _joined(given)
    grading = grading or GradingConfig()
    spec = {
        "problems": {"name": given.set_name, "split": given.split, **joined},
        "import": {
            **origin,
            "reader": READER_VERSION,
            "reading": hashed_values(reading),
            "where": dict(given.where),
            "skip_bad": given.skip_bad,
        },
        "grading": hashed_values(grading),
    }

    def make(folder: Path) -> Mapping[str, Any]:
        return _make(folder, given, rows, known, grading, progress)

    root = outputs / "artifacts"
    fingerprint = fingerprint_of(spec, stage="corpora", version=_STAGE_VERSION)
    is_new = build(root, "corpora", fingerprint, make, spec=spec)
    return folder_of(root, "corpora", fingerprint), is_new


def _read_rows(given: CorpusImport) -> tuple[list[tuple[int, Row]], dict[str, Any]]:
    """Read all rows with their numbers; and say what determines them.

    Raises:
        DataError: there are none, or one is no object.
    """
    numbered: Iterable[tuple[int, Any]]
    if given.file is not None:
        file = file_of(given.set_name, given.split, given.file)
        numbered = rows_of_file(file)
    else:
        split = given.hub_split or given.split
        instead = "plan-tuning corpus import FILE"
        found = rows_of_hub(given.source, given.hub_config, split, given.revision, instead)
        numbered = enumerate(found, start=1)
    rows: list[tuple[int, Row]] = []
    for number, row in numbered:
        if not isinstance(row, Mapping):
            raise DataError(
                f"{given.source}, row {number}: is {type(row).__name__}, expected an object"
            )
        rows.append((number, row))
    if not rows:
        raise DataError(f"{given.source} holds no rows: give a file with one trajectory a row")
    if given.file is not None:
        return rows, {"digest": file_fingerprint(file)}
    content = fingerprint_of(_plain([row for _, row in rows]), stage="rows", version=1)
    return rows, {"repository": given.source, "rows": content}


def _plain(value: Any) -> Any:
    """Reduce a row of the Hub to what can be hashed; what is no plain value by its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | bool) else repr(value)


def _joined(given: CorpusImport) -> tuple[JoinedProblems | None, dict[str, Any]]:
    """Read the set that problems are joined from; and say what determines it."""
    if given.joined is None:
        return None, {}
    name, path = given.joined
    found = read(name, split=given.split, path=path, form=RowForm(given.reading.style))
    columns = given.reading.columns
    known = JoinedProblems(found.problems, columns.id or columns.problem or columns.messages)
    return known, {"joined": found.spec}


def _make(
    folder: Path,
    given: CorpusImport,
    rows: Sequence[tuple[int, Row]],
    known: JoinedProblems | None,
    grading: GradingConfig,
    progress: Progress | None,
) -> Mapping[str, Any]:
    started = time.perf_counter()
    groups = CandidateGroups(given.reading, given.set_name, given.split, known)
    left_out: dict[str, list[int]] = {}
    others = 0
    for number, row in rows:
        try:
            if is_wanted(row, given.where):
                groups.add(row)
            else:
                others += 1
        except ColumnError as error:
            if not given.skip_bad:
                raise DataError(_told(given, number, row, error)) from error
            left_out.setdefault(str(error), []).append(number)
    for reason, numbers in left_out.items():
        shown = ", ".join(map(str, numbers[:_SHOWN_ROWS]))
        logger.warning("%d rows are left out: %s (first: %s)", len(numbers), reason, shown)
    candidates, problems = list(groups.trajectories()), groups.problems
    if not any(row.plan_status == OK for group in candidates for row in group):
        raise DataError(_without_plan(given, rows[0][1], left_out, others))
    candidates = _graded(candidates, problems, grading, progress)
    tally = Tally(len(problems))
    for group in candidates:
        tally.add(group)
    rows_of_all = (row for group in candidates for row in group)
    write_records(folder / TRAJECTORIES, Trajectory, rows_of_all)
    write_records(folder / PROBLEMS, Problem, problems)
    facts: dict[str, Any] = {
        **tally.facts(),
        **VERSIONS,
        "imported": {
            "from": given.source if given.file is None else given.file.name,
            "split": given.split,
            "shape": given.reading.shape,
            "rows": len(rows),
            "rows_of_other_values": others,
            "left_out": {reason: len(numbers) for reason, numbers in left_out.items()},
            "most_candidates": max(map(len, candidates)),
        },
        "import_s": round(time.perf_counter() - started, 3),
    }
    write_import_card(folder, facts, problems)
    return facts


def _graded(
    groups: Sequence[tuple[Trajectory, ...]],
    problems: Sequence[Problem],
    grading: GradingConfig,
    progress: Progress | None,
) -> list[tuple[Trajectory, ...]]:
    """Have the grader read every execution."""
    items = [
        (row, problem)
        for group, problem in zip(groups, problems, strict=True)
        for row in group
        if row.execution_status != MISSING
    ]
    judged: dict[tuple[str, int], Trajectory] = {}
    with Grader(grading) as grader:
        for start in range(0, len(items), _CHUNK):
            chunk = items[start : start + _CHUNK]
            grades = grader.grade_many(
                [(row.execution, problem) for row, problem in chunk],
                finish_reasons=["stop" if r.execution_status == OK else "length" for r, _ in chunk],
            )
            for (row, _), grade in zip(chunk, grades, strict=True):
                judged[row.problem_id, row.candidate] = replace(
                    row, execution_answer=grade.answer, verdict=grade.verdict
                )
            if progress is not None:
                progress(len(judged), len(items))
    return [
        tuple(judged.get((row.problem_id, row.candidate), row) for row in group) for group in groups
    ]


def _told(given: CorpusImport, number: int, row: Row, error: ColumnError) -> str:
    """Say which row and column, which columns there are, and a command that would work."""
    present = ", ".join(map(str, row)) or "none"
    text = f"{given.source}, row {number}: {error} (columns: {present}). "
    if error.column in row:
        other = f", or name another column by --{error.role}-key" if error.role else ""
        return f"{text}Leave such rows out{other}: {given.command(row)} --skip-bad"
    command = given.command(row)
    if error.role == "answer" and "--answer-key COLUMN" in command:
        joined = command.replace("--answer-key COLUMN", "--problems SET=FILE")
        return (
            f"{text}Name the column of the gold answer by --answer-key, or have the answers joined "
            f"from a set of problems: {joined}"
        )
    return f"{text}Try for example: {command}"


def _without_plan(
    given: CorpusImport, row: Row, left_out: Mapping[str, Sequence[int]], others: int
) -> str:
    """Say that no plan was found, and where it was looked for."""
    columns = given.reading.columns
    is_chat = given.reading.shape == "chat"
    where = (
        f"no message of an assistant in column {columns.messages!r} holds a whole <plan>…</plan>"
        if is_chat
        else f"no row has a plan in column {columns.plan!r}"
    )
    found = [f"{len(numbers)} rows: {reason}" for reason, numbers in left_out.items()]
    found += [f"{others} rows: other values than those of --where"] if others else []
    because = f" ({'; '.join(found)})" if found else ""
    present = ", ".join(map(str, row))
    return f"{given.source}: {where}{because}. Columns of the first row: {present}"
