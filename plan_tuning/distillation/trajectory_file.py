"""A file of somebody's trajectories: what is imported of it, its rows, what is wrong with them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import file_fingerprint, fingerprint_of
from plan_tuning.config.checks import require, require_choice
from plan_tuning.config.data import SPLITS
from plan_tuning.config.extensions import find
from plan_tuning.distillation.trajectory_rows import (
    ColumnError,
    Columns,
    Row,
    RowReading,
    told_by,
)
from plan_tuning.tasks.benchmarks import benchmark_named
from plan_tuning.tasks.json_rows import DataError
from plan_tuning.tasks.row_files import file_of, rows_of_file, rows_of_hub

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


@dataclass(frozen=True)
class TrajectoryFile:
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

    def command(self, present: Row) -> str:
        """Write the command that imports this, with columns that there are.

        Args:
            present: every column of the file; they replace those that it lacks, as far as their
                names tell.
        """
        words = ["plan-tuning", "corpus", "import", self.source]
        columns = self.reading.columns_read
        taken = set(columns.values())
        for role, name in columns.items():
            if name not in present:
                meant = (other for other in _OTHER_NAMES.get(role, ()) if other in present)
                name = next((other for other in meant if other not in taken), "COLUMN")
                taken.add(name)
            if name != getattr(Columns(), role):
                words += [f"--{role}-key", name]
        shape = told_by(present, RowReading(columns=self.reading.columns)).shape
        for option, value, default in (
            ("shape", self.reading.shape, shape),
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


def read_rows(given: TrajectoryFile) -> tuple[list[tuple[int, Row]], dict[str, Any]]:
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


def columns_of(rows: Sequence[tuple[int, Row]]) -> Row:
    """Take every column that a row has, with its first value."""
    present: dict[str, Any] = {}
    for _, row in rows:
        for column, value in row.items():
            if present.get(column) is None:
                present[column] = value
    return present


def _plain(value: Any) -> Any:
    """Reduce a row of the Hub to what can be hashed; what is no plain value by its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | bool) else repr(value)


def told(given: TrajectoryFile, number: int, present: Row, error: ColumnError) -> str:
    """Say which row and column, which columns there are, and a command that would work."""
    listed = f"columns: {', '.join(map(str, present)) or 'none'}"
    command = given.command(present)
    if error.column in present:
        other = f", or name another column by --{error.role}-key" if error.role else ""
        return (
            f"{given.source}, row {number}: {error} ({listed}). Leave such rows out{other}: "
            f"{command} --skip-bad"
        )
    text = f"{given.source}: {error} ({listed}). "
    if error.role == "answer" and "--answer-key COLUMN" in command:
        joined = command.replace("--answer-key COLUMN", "--problems SET=FILE")
        return (
            f"{text}Name the column of the gold answer by --answer-key, or have the answers joined "
            f"from a set of problems: {joined}"
        )
    return f"{text}Try for example: {command}"


def without_plan(
    given: TrajectoryFile, present: Row, left_out: Mapping[str, Sequence[int]], others: int
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
    return f"{given.source}: {where}{because} (columns: {', '.join(map(str, present))})"
