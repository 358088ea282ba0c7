"""Parquet files of records: columns that nothing fills are not there; what is read is kept."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
from sweep_builder import trajectories

from plan_tuning.distillation import corpus
from plan_tuning.distillation.corpus import CorpusError, read_trajectories
from plan_tuning.distillation.parquet import RecordWriter
from plan_tuning.records import Trajectory

NAME = "annotated_execution"


def _written(path: Path, rows: list[Trajectory]) -> list[str]:
    with RecordWriter(path, Trajectory) as writer:
        writer.add(rows)
    return list(pyarrow.parquet.read_schema(path).names)


def test_an_optional_field_has_a_column_where_a_record_has_a_value(tmp_path: Path) -> None:
    plain = trajectories(3)
    path = tmp_path / "trajectories.parquet"
    assert NAME not in _written(path, plain)
    noted = [replace(row, annotated_execution="<<1+1=2>>") for row in plain]
    names = _written(path, noted)
    assert names.index(NAME) == names.index("execution") + 1
    assert [*read_trajectories(tmp_path)] == noted


def test_a_value_that_comes_late_widens_what_was_written(tmp_path: Path) -> None:
    plain = trajectories(1_000)  # three groups and a half
    noted = [*plain[:-1], replace(plain[-1], annotated_execution="<<1+1=2>>")]
    path = tmp_path / "trajectories.parquet"
    with RecordWriter(path, Trajectory) as writer:
        for start in range(0, len(noted), 500):
            writer.add(noted[start : start + 500])
    assert [*read_trajectories(tmp_path)] == noted
    assert NAME in pyarrow.parquet.read_schema(path).names


def test_an_edited_file_is_read_anew_and_nobody_changes_what_is_kept(tmp_path: Path) -> None:
    first = trajectories(3)
    path = tmp_path / "trajectories.parquet"
    _written(path, first)
    found = read_trajectories(path)
    found.pop()
    again = read_trajectories(path)
    assert again == first
    assert again[0] is found[0]  # it was not read again
    stamp = path.stat().st_mtime_ns
    edited = [replace(row, plan=row.plan[::-1]) for row in first]
    _written(path, edited)
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert read_trajectories(path) == read_trajectories(tmp_path) == edited
    path.unlink()
    with pytest.raises(CorpusError, match=r"there is no trajectories\.parquet"):
        read_trajectories(tmp_path)


def test_a_large_file_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trajectories.parquet"
    _written(path, trajectories(3))
    monkeypatch.setattr(corpus, "_KEPT_BYTES", path.stat().st_size - 1)
    first, second = read_trajectories(path), read_trajectories(path)
    assert first == second
    assert first[0] is not second[0]
