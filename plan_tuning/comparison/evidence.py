"""Runs → ``evidence/`` in the folder of a sweep: what lets its comparison travel.

The predictions and corpora of a job are artifacts, which lie beside the sweep and are shared by
others. Whoever copies the sweep's folder alone takes these files along instead:

    evidence/predictions/<fingerprint>/predictions.jsonl.gz    every answer, as it was written
    evidence/plan_values/<fingerprint>/plan_values.jsonl.gz    every log-probability
    evidence/corpora/<fingerprint>/trajectories.parquet        scores and verdicts of all
                                                               candidates, texts of as many as a
                                                               page shows

A comparison of them is the one of the artifacts, to the byte. The 22 jobs of the quickstart, with
1,200 answers each and three corpora, come to 3 MB.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import MANIFEST
from plan_tuning.comparison.browser import MAX_TRAJECTORIES
from plan_tuning.comparison.runs import (
    EVIDENCE,
    ComparisonError,
    Run,
    corpus_file,
    corpus_path,
    evidence_file,
    original_predictions,
    original_values,
    read_run,
    values_evidence,
)
from plan_tuning.tasks.regrading import REGRADED_FILE

_OUTCOMES = ("problem_id", "candidate", "plan_score", "score_status", "verdict")
_TEXTS = ("problem", "answer", "plan", "score_text", "execution", "execution_answer", "constraints")


def keep_evidence(folder: Path, runs: Sequence[Run]) -> None:
    """Bring ``folder/evidence`` up to date for the runs in and directly below ``folder``.

    Files that are there already are left alone, and so are those that lie in the folder anyway. A
    folder that may not be written to keeps none.
    """
    if not os.access(folder, os.W_OK):
        return
    inside = [run for run in runs if folder.resolve() in (run.folder, run.folder.parent)]
    for run in inside:
        for name, source in original_predictions(run).items():
            target = evidence_file(folder, run, name)
            if target is not None and _is_wanted(source, target, folder):
                _write(target, source)
                _write_judged(target, source)
        for name, source in original_values(run).items():
            target = values_evidence(folder, run, name)
            if target is not None and _is_wanted(source, target, folder):
                _write(target, source)
        corpus, target = corpus_path(run), evidence_file(folder, run, None)
        if corpus is not None and target is not None and _is_wanted(corpus, target, folder):
            _write_corpus(target, corpus)
            _write_judged(target, corpus)


def keep_evidence_of_job(folder: Path) -> None:
    """Do it for a job outside a sweep."""
    keep_evidence(folder, [read_run(folder)])


def _is_wanted(source: Path, target: Path, folder: Path) -> bool:
    if not source.is_file() or source.resolve().is_relative_to(folder.resolve()):
        return False
    return not target.is_file() or target.stat().st_mtime < source.stat().st_mtime


def _write(target: Path, source: Path) -> None:
    with _replaced(target) as path, source.open("rb") as plain:  # noqa: SIM117
        with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
            shutil.copyfileobj(plain, packed)


def _write_judged(target: Path, source: Path) -> None:
    """Keep by which grader an artifact was judged, and what a later one changed."""
    for name in (MANIFEST, REGRADED_FILE):
        if (source.parent / name).is_file():
            with _replaced(target.with_name(name)) as path:
                shutil.copyfile(source.parent / name, path)


def _write_corpus(target: Path, source: Path) -> None:
    """Write what a report page shows of a corpus, and what its threshold figure counts."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(source)
    columns = {name: table[name] for name in _OUTCOMES if name in table.column_names}
    shown = pyarrow.array([row < MAX_TRAJECTORIES for row in range(table.num_rows)])
    for name in _TEXTS:
        if name in table.column_names:
            columns[name] = pyarrow.compute.if_else(shown, table[name], None)
    with _replaced(target) as path:
        pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="zstd")


@contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """Give a path to write to; what was written takes the place of ``target`` at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as folder:
        path = Path(folder) / target.name
        yield path
        path.replace(target)


@dataclass(frozen=True)
class Reading:
    """How much of what the jobs name could be read; kept in comparison.json."""

    predictions: int = 0  # files
    corpora: int = 0
    missing: tuple[Path, ...] = ()  # files, of both kinds

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Reading:
        """Look for the files of ``runs``."""
        files = {path.resolve(): path for run in runs for path in run.predictions.values()}
        corpora = {}
        for run in runs:
            path = corpus_path(run)
            if path is not None:
                corpora[path.resolve()] = corpus_file(run)
        lost = [path for path in files.values() if not path.is_file()]
        num_read = len(files) - len(lost)
        lost += [path for path, found in corpora.items() if found is None]
        there = {found for found in corpora.values() if found is not None}
        return cls(num_read, len(there), tuple(Path(os.path.normpath(path)) for path in lost))

    @property
    def advice(self) -> str:
        """Name the first missing path, and what to copy; empty where nothing is missing."""
        if not self.missing:
            return ""
        first = self.missing[0]
        return (
            f"{len(self.missing)} files of predictions and corpora are not there, the first one "
            f"{first}. On the machine of the jobs, run plan-tuning compare on their sweep and copy "
            f"its folder again: it then holds {EVIDENCE}/. Or copy the artifacts to "
            f"{first.parent.parent.parent}."
        )


def check_replaced(folder: Path, content: Mapping[str, Any], reading: Reading) -> None:
    """Make sure that a comparison with missing files does not replace one that had them.

    Args:
        folder: where the comparison is to be written.
        content: of its comparison.json.
        reading: what it was made from.

    Raises:
        ComparisonError: the comparison in ``folder`` tests what this one cannot.
    """
    path = folder / "comparison.json"
    if not reading.missing or not path.is_file():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        read = before.get("read", {})
        lost = _tested(before) & (_shown(content) - _tested(content))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # what is there is no comparison of ours
    counts = {"predictions": reading.predictions, "corpora": reading.corpora}
    if not lost and all(count >= read.get(name, 0) for name, count in counts.items()):
        return
    raise ComparisonError(
        f"{path} was made from more than is here and stays as it is ({len(lost)} of its tested "
        f"differences could not be tested again). {reading.advice} Or write elsewhere: --out "
        "OTHER, or replace it: --force"
    )


def _shown(content: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(row["label"], name) for row in content["rows"] for name in row["benchmarks"]}


def _tested(content: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {
        (row["label"], name)
        for row in content["rows"]
        for name, cell in row["benchmarks"].items()
        if (cell["difference"] or {}).get("p") is not None
    }
