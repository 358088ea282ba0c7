"""File or folder of a data set, or a repository on the Hub -> its rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plan_tuning.tasks.json_rows import DataError, json_lines, read_json

SUFFIXES = (".jsonl", ".parquet", ".json", ".csv")


def file_of(name: str, split: str, path: Path) -> Path:
    """Find the file of a split.

    Args:
        name: of the data set, for the error.
        split: train or test.
        path: a folder with ``<split>.jsonl`` or another suffix of SUFFIXES, or one such file.

    Raises:
        DataError: there is no such file.
    """
    path = path.expanduser()
    if path.is_dir():
        for suffix in SUFFIXES:
            if (path / f"{split}{suffix}").is_file():
                return path / f"{split}{suffix}"
        raise DataError(
            f"{path} holds no {split}.jsonl, .parquet, .json or .csv for {name}: "
            f"name the file itself, for example {path}/rows.jsonl"
        )
    if not path.is_file():
        raise DataError(
            f"{path} does not exist: give {name} a folder with {split}.jsonl, or one file"
        )
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: {path.suffix or 'no suffix'} is none of {', '.join(SUFFIXES)}")
    return path


def rows_of_file(file: Path) -> Iterator[tuple[int, Any]]:
    """Read rows with their numbers, counted from 1.

    Raises:
        DataError: the file or one of its rows cannot be read.
    """
    if file.suffix == ".parquet":
        yield from _rows_of_parquet(file)
        return
    if file.suffix == ".csv":
        yield from _rows_of_csv(file)
        return
    if file.suffix == ".jsonl":
        yield from json_lines(file)
        return
    rows = read_json(file)
    if not isinstance(rows, list):
        raise DataError(f"{file} holds {type(rows).__name__}, expected a list of rows")
    yield from enumerate(rows, start=1)


def _rows_of_csv(file: Path) -> Iterator[tuple[int, Any]]:
    """Read rows below a line of names, counted from 1; an empty cell is an absent field."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines, strict=True), start=1):
                if None in row:
                    raise DataError(
                        f"{file}, row {number}: has more cells than the line of names; a text with "
                        "a comma or a line break stands in double quotes"
                    )
                yield number, {name: cell for name, cell in row.items() if cell}
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error})") from error
    except csv.Error as error:
        raise DataError(f"{file} is not CSV ({error})") from error


def _rows_of_parquet(file: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} is not a parquet file ({error})") from error
    yield from enumerate(table.to_pylist(), start=1)


def rows_of_hub(
    repository: str, config: str | None, split: str, revision: str, instead: str
) -> Iterator[Any]:
    """Read the rows of a split of a data set on the Hub.

    Args:
        repository: ``owner/name``.
        config: of the data set; None: its only one.
        split: by the Hub's name.
        revision: commit, branch or tag.
        instead: what helps without a network.

    Raises:
        DataError: it cannot be fetched.
    """
    import datasets

    try:
        yield from datasets.load_dataset(repository, config, split=split, revision=revision)
    except (OSError, ValueError) as error:  # no network, no such revision, gated
        raise DataError(
            f"{repository} at {revision} cannot be read from the Hub "
            f"({type(error).__name__}: {error}). Without a network, give a local copy: {instead}"
        ) from error
