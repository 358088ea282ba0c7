"""Records of one kind -> a parquet file, group by group: the files of a corpus."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from plan_tuning.records import UNLESS_NONE, to_json

_ROWS_PER_GROUP = 2000
_TYPES = {
    "candidate": "int32",
    "plan_score": "int32",
    "duplicate_of": "int32",
    "cost_usd": "float64",
    "tolerance": "float64",
    "is_multiple_answer": "bool_",
}
_LISTS = ("call_keys", "accepted_answers")


def _schema(kind: type, without: Collection[str]) -> Any:
    import pyarrow as pa

    def type_of(name: str) -> Any:
        if name in _LISTS:
            return pa.list_(pa.string())
        return getattr(pa, _TYPES.get(name, "string"))()

    names = [f.name for f in dataclasses.fields(kind) if f.name not in without]
    return pa.schema([(name, type_of(name)) for name in names])


class RecordWriter:
    """Writes records to parquet group by group.

    A field whose key is absent where it is None has no column until a record has a value for it,
    so that what an earlier version wrote is written again to the byte.
    """

    def __init__(self, path: Path, kind: type) -> None:
        self._path, self._kind = path, kind
        self._absent = {f.name for f in dataclasses.fields(kind) if f.metadata == UNLESS_NONE}
        self._rows: list[Any] = []
        self._open()

    def _open(self) -> None:
        import pyarrow.parquet as pq

        self._schema = _schema(self._kind, self._absent)
        self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")

    def _widen(self, names: Collection[str]) -> None:
        """Give columns to fields that the groups so far had no value for."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._writer.close()
        before = pq.read_table(self._path)
        self._absent -= set(names)
        self._open()
        nothing = pa.nulls(before.num_rows)
        columns = [
            before[field.name] if field.name in before.column_names else nothing.cast(field.type)
            for field in self._schema
        ]
        table = pa.Table.from_arrays(columns, schema=self._schema)
        if table.num_rows:
            self._writer.write_table(table, row_group_size=_ROWS_PER_GROUP)

    def add(self, rows: Iterable[Any]) -> None:
        """Take rows; they are written in groups."""
        self._rows.extend(rows)
        if len(self._rows) >= _ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            found = {n for n in self._absent if any(getattr(r, n) is not None for r in self._rows)}
            if found:
                self._widen(found)
            columns = [
                pa.array([_cell(getattr(row, field.name)) for row in self._rows], type=field.type)
                for field in self._schema
            ]
            self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
            self._rows.clear()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


def _cell(value: Any) -> Any:
    """Lists stay lists, other structures become JSON text."""
    if value is None or isinstance(value, str):  # most are; the last question takes a microsecond
        return value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return json.dumps(to_json(value), ensure_ascii=False)
    return value


def write_records(path: Path, kind: type, rows: Iterable[Any]) -> None:
    """Write records of one kind to a parquet file."""
    with RecordWriter(path, kind) as writer:
        writer.add(rows)
