"""Records of one kind -> a parquet file, group by group: the files of a corpus."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from plan_tuning.records import to_json

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


def _schema(kind: type) -> Any:
    import pyarrow as pa

    def type_of(name: str) -> Any:
        if name in _LISTS:
            return pa.list_(pa.string())
        return getattr(pa, _TYPES.get(name, "string"))()

    return pa.schema([(f.name, type_of(f.name)) for f in dataclasses.fields(kind)])


class RecordWriter:
    """Writes records to parquet group by group."""

    def __init__(self, path: Path, kind: type) -> None:
        import pyarrow.parquet as pq

        self._schema = _schema(kind)
        self._names = self._schema.names
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[Any] = []

    def add(self, rows: Iterable[Any]) -> None:
        """Take rows; they are written in groups."""
        self._rows.extend(rows)
        if len(self._rows) >= _ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            columns = [
                pa.array([_cell(getattr(row, name)) for row in self._rows], type=field.type)
                for name, field in zip(self._names, self._schema, strict=True)
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
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return json.dumps(to_json(value), ensure_ascii=False)
    return value


def write_records(path: Path, kind: type, rows: Iterable[Any]) -> None:
    """Write records of one kind to a parquet file."""
    with RecordWriter(path, kind) as writer:
        writer.add(rows)
