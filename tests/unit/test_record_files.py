"""Parquet files of records: a column that nothing fills is not there, whatever comes first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
from sweep_builder import trajectories

from plan_tuning.distillation.corpus import read_trajectories
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
