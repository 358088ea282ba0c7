"""Data set on disk or on the Hub -> problems: every benchmark and training set, read and checked.

``load`` returns problems; ``read`` also says which rows were left out and why. A set comes from a
path (in the set's own published schema or as id/problem/answer/solution rows) or from the Hub at a
pinned revision. A name that is none of theirs is a set of the user's own, which has a path. What
the rows mean stands in :mod:`plan_tuning.tasks.schemas`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import file_fingerprint, hashed_values
from plan_tuning.config.data import RowForm
from plan_tuning.config.extensions import DEFAULT_TASK, extension_spec, find, records, task_of
from plan_tuning.grading.answer_rules import problem_defect
from plan_tuning.records import Problem
from plan_tuning.tasks.json_rows import DataError
from plan_tuning.tasks.published_sets import Benchmark, HubSource
from plan_tuning.tasks.row_files import file_of, rows_of_file, rows_of_hub
from plan_tuning.tasks.schemas import RowError
from plan_tuning.tasks.schemas import own as own_row

logger = logging.getLogger(__name__)

# Bump when a reader turns the same rows into other problems: the spec of its data changes with it.
READER_VERSION = 1

# A field that only the published rows of a set have; rows without one may be anybody's.
_PUBLISHED_FIELDS: Mapping[str, frozenset[str]] = {
    "gsm8k": frozenset({"question"}),
    "math": frozenset({"level", "type", "subject", "unique_id"}),
    "math_7500": frozenset({"level", "type"}),
    "math500": frozenset({"level", "subject", "unique_id"}),
    "strategyqa": frozenset({"qid", "question", "facts", "decomposition"}),
}
_OWN = "data=jsonl data.name=mine data.path=FILE"


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read: the problems, and the rows that were left out, by reason."""

    problems: list[Problem]
    left_out: dict[str, list[str]]  # reason -> ids
    spec: dict[str, Any]  # see :func:`source_spec`
    note: str = ""  # what whoever gave the file may not have meant


def load(
    name: str,
    *,
    split: str,
    path: str | None = None,
    revision: str | None = None,
    form: RowForm | None = None,
) -> list[Problem]:
    """Read the problems of a data set; see :func:`read`."""
    reading = read(name, split=split, path=path, revision=revision, form=form)
    if reading.note:
        _say(logging.WARNING, reading.note)
    return reading.problems


def read(
    name: str,
    *,
    split: str,
    path: str | None = None,
    revision: str | None = None,
    form: RowForm | None = None,
) -> Reading:
    """Read a data set and say which rows were left out.

    Left out are rows whose gold answer cannot be graded and rows that repeat the text and answer of
    an earlier one; both are logged by id.

    Args:
        name: a record of the kind ``data``; a reader of rows from outside needs a
            path. With a path any other name is one's own, see ``form``.
        split: train or test; with a path to one file it only names the ids.
        path: a folder with ``<split>.jsonl``, ``.parquet``, ``.json`` or ``.csv``, or one such
            file; None reads from the Hub.
        revision: another commit of the Hub's repository than the pinned one.
        form: of the rows of a set that is no record; None: the default one.

    Raises:
        DataError: unknown set or split, absent or empty file, a row that cannot be read, or no
            access to the Hub.
    """
    benchmark = _benchmark(name, path, form)
    if path is not None:
        file = file_of(name, split, Path(path))
        rows: Iterable[tuple[int, Any]] = rows_of_file(file)
        where = str(file)
    else:
        source = _source_of(benchmark, split, revision)
        rows = enumerate(_rows_of_hub(source, name), start=1)
        where = f"{source.repository}@{source.revision[:12]}"
    excluded = _excluded(benchmark, split) if path is None else frozenset()
    problems: list[Problem] = []
    left_out: dict[str, list[str]] = {}
    seen_ids: dict[str, int] = {}
    seen_texts: set[tuple[str, str]] = set()
    num_rows, marks = 0, _PUBLISHED_FIELDS.get(name, frozenset())
    is_published = not marks
    for number, row in rows:
        try:
            if not isinstance(row, Mapping):
                raise RowError("", f"is {type(row).__name__}, expected an object")
            problem = benchmark.read_row(row, f"{name}-{split}-{number - 1}", name)
        except RowError as error:
            field_part = f", field {error.field!r}" if error.field else ""
            raise DataError(
                f"{where}, row {number}{field_part}: {error}"
                + (
                    f". Problems of your own: {_OWN}"
                    if path and find("data", name) is not None
                    else ""
                )
            ) from error
        is_published = is_published or not marks.isdisjoint(row)
        if _squeezed(problem.problem) in excluded:
            continue
        num_rows += 1
        if problem.id in seen_ids:
            raise DataError(
                f"{where}, row {number}, field 'id': {problem.id!r} is the id of row "
                f"{seen_ids[problem.id]} too; ids must differ"
            )
        seen_ids[problem.id] = number
        text = (_squeezed(problem.problem), problem.answer)
        problem = _of_its_task(problem, benchmark)
        reason = problem_defect(problem)
        if reason is None and text in seen_texts:
            reason = "repeats an earlier row"
        seen_texts.add(text)
        if reason is None:
            problems.append(problem)
        else:
            left_out.setdefault(reason, []).append(problem.id)
    if num_rows == 0:
        raise DataError(f"{where} holds no rows: give a file with one problem per row")
    _report(where, name, split, num_rows, left_out, benchmark)
    note = ""
    if not is_published and num_rows != benchmark.num_rows.get(split):
        note = (
            f"{where}: these rows have none of {name}'s own fields; they are read, graded and "
            f"reported as {name}. If they are problems of your own: {_OWN}"
        )
    return Reading(problems, left_out, source_spec(name, split, path, revision, form), note)


def source_spec(
    name: str,
    split: str,
    path: str | None = None,
    revision: str | None = None,
    form: RowForm | None = None,
) -> dict[str, Any]:
    """Name what determines the rows, without reading them: a file's fingerprint or a Hub revision.

    Raises:
        DataError: unknown set or split, or an absent file.
    """
    benchmark = _benchmark(name, path, form)
    spec: dict[str, Any] = {"name": name, "split": split, "reader": READER_VERSION}
    spec |= extension_spec("data", name)
    if find("data", name) is None:
        spec["form"] = hashed_values(form or RowForm())
        spec |= extension_spec("task", task_of((form or RowForm()).style).name)
    if path is not None:
        return spec | {"digest": file_fingerprint(file_of(name, split, Path(path)))}
    source = _source_of(benchmark, split, revision)
    spec |= {"repository": source.repository, "revision": source.revision}
    without = benchmark.without.get(split)
    return spec | ({"without": f"{without.repository}@{without.revision}"} if without else {})


def benchmark_named(name: str) -> Benchmark:
    """Look a data set up.

    Raises:
        DataError: there is none of that name.
    """
    found = find("data", name)
    if found is None or found.needs:  # what is made or mixed is no set to read
        known = ", ".join(one.name for one in records("data") if not one.needs)
        raise DataError(
            f"there is no benchmark {name!r}: choose one of {known}, for example gsm8k, or say "
            f"where your own lies: {_OWN}, 'evaluation.benchmarks=[\"{name}=FILE\"]'"
        )
    loaded = found.load()
    return loaded if isinstance(loaded, Benchmark) else Benchmark(name, loaded, {}, {})


def _of_its_task(problem: Problem, benchmark: Benchmark) -> Problem:
    """Add what the task knows of a problem.

    Raises:
        DataError: the record of the set does not say that its problems are of that task.
    """
    task = task_of(problem.style)
    found = find("data", benchmark.name)
    if found is not None and task.name != (found.task or DEFAULT_TASK):
        raise DataError(
            f"the reader of {benchmark.name} makes problems of the style {problem.style}, and its "
            f'record does not say so: Extension("data", "{benchmark.name}", task="{task.name}")'
        )
    difficulty = task.load().difficulty
    if problem.difficulty or difficulty is None:
        return problem
    return replace(problem, difficulty=difficulty(problem))


def rationale_advice(method: str) -> str:
    """Say what a method does without that learns the human rationale."""
    return (
        f"method={method} needs a `solution` in each row: add it to the data (data=jsonl names "
        "another field by data.keys.solution=FIELD), or learn from a teacher: method=m1"
    )


def _benchmark(name: str, path: str | None, form: RowForm | None) -> Benchmark:
    """Look a published set up, or make one of the user's own, which is known by its path."""
    if path is None or find("data", name) is not None:
        return benchmark_named(name)
    return Benchmark(name, partial(own_row, form=form or RowForm()), {}, {})


def _source_of(benchmark: Benchmark, split: str, revision: str | None) -> HubSource:
    if split not in benchmark.splits:
        raise DataError(
            f"{benchmark.name} has no split {split!r}: choose one of "
            f"{', '.join(benchmark.splits)}, or give the file of your split as the path"
        )
    source = benchmark.splits[split]
    if revision is None:
        return source
    return HubSource(source.repository, revision, source.splits, source.configs)


def _rows_of_hub(source: HubSource, name: str) -> Iterator[Any]:
    instead = f"data.path=FOLDER or 'evaluation.benchmarks=[\"{name}=FOLDER\"]'"
    for config in source.configs:
        for split in source.splits:
            for row in rows_of_hub(source.repository, config, split, source.revision, instead):
                yield {**row, "hub_config": config, "hub_split": split}


def _excluded(benchmark: Benchmark, split: str) -> frozenset[str]:
    source = benchmark.without.get(split)
    if source is None:
        return frozenset()
    return frozenset(_squeezed(str(row["problem"])) for row in _rows_of_hub(source, benchmark.name))


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _report(
    where: str,
    name: str,
    split: str,
    num_rows: int,
    left_out: Mapping[str, list[str]],
    benchmark: Benchmark,
) -> None:
    for reason, ids in left_out.items():
        shown = ", ".join(ids[:10]) + (" …" if len(ids) > 10 else "")
        _say(logging.WARNING, f"{where}: {len(ids)} rows left out: {reason} ({shown})")
    expected = benchmark.num_rows.get(split)
    if expected is not None and num_rows != expected:
        text = f"{where}: {num_rows} rows; on the Hub {name} {split} has {expected}"
        _say(logging.INFO, text)


@cache
def _say(level: int, text: str) -> None:
    """Log once a process: a job reads a file several times."""
    logger.log(level, "%s", text)
