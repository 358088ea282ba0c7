"""Folders of finished jobs -> runs: reads result.json and the files it references.

A result that is missing, half-written or of another schema becomes a :class:`Hole`; nothing here
raises for the sake of one bad file, because a comparison comes at the end of every sweep.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plan_tuning.evaluation.judgement import row_key
from plan_tuning.job_record import RESULT_FILE, JobError, JobResult, ResultError, parse_result
from plan_tuning.records import Verdict
from plan_tuning.tasks.regrading import Regrading

_NOT_JOBS = frozenset({"artifacts", "calls"})
_JOB_MARKS = (".hydra", "run.log")
_SHOWN_SWEEPS = 12
TRAJECTORIES = "trajectories.parquet"
EVIDENCE = "evidence"  # folder: what of the artifacts travels with a sweep
_PREDICTION_KEYS = frozenset({"problem_id", "sample", "gold", "is_correct", "verdict", "text"})
_TRAJECTORY_KEYS = frozenset(
    {"problem_id", "candidate", "problem", "plan", "plan_score", "verdict"}
)


class ComparisonError(ValueError):
    """A comparison was asked for something that does not exist."""


@dataclass(frozen=True)
class Run:
    """One job with its result.json; paths are resolved against the job's folder."""

    folder: Path
    name: str
    result: JobResult  # its metrics and costs are such that can be computed with
    choices: Mapping[str, str]
    settings: Mapping[str, Any]  # flat: "filter.plan_score_threshold" -> 80
    predictions: Mapping[str, Path]
    curves: Path | None
    plan_values: Mapping[str, Path] = field(default_factory=dict)  # by benchmark
    defects: tuple[str, ...] = ()  # figures that cannot be used, and why
    regraded: Mapping[str, Regrading] = field(default_factory=dict)  # by benchmark

    @property
    def seed(self) -> int:
        """The job's seed."""
        return self.result.seed

    @property
    def is_completed(self) -> bool:
        """Whether the job ended and its figures count."""
        return self.result.status == "completed"

    @property
    def error(self) -> str:
        """What ended a failed job, empty where nothing is recorded."""
        error = self.result.error or JobError()
        return ": ".join(text for text in (error.type, error.message) if text)

    @property
    def training_rows(self) -> int:
        """How many rows of the corpus, or else of the data, the student learned from."""
        corpus, training = self.result.corpus, self.result.training or {}
        return (corpus.rows if corpus else None) or training.get("rows") or 0

    def accuracy(self, benchmark: str) -> float | None:
        """The run's accuracy on ``benchmark``, 0..1; None where it has none."""
        metrics = self.result.metrics.get(benchmark)
        return None if metrics is None else metrics.accuracy


@dataclass(frozen=True)
class Hole:
    """A job whose result cannot be read, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Results:
    """Everything that was found below the folders of a comparison."""

    runs: tuple[Run, ...]
    holes: tuple[Hole, ...]

    @property
    def completed(self) -> tuple[Run, ...]:
        """Runs whose figures are compared: debug runs count only where there are no others."""
        done = [run for run in self.runs if run.is_completed]
        real = [run for run in done if not run.result.debug]
        return tuple(real or done)

    @property
    def failed(self) -> tuple[Run, ...]:
        """Runs that ended in an error."""
        return tuple(run for run in self.runs if not run.is_completed)

    @property
    def num_debug_left_out(self) -> int:
        """Completed debug runs that are not compared, because there are real ones."""
        return len([run for run in self.runs if run.is_completed]) - len(self.completed)


def load(folders: Sequence[Path]) -> Results:
    """Read every job in and directly below ``folders``.

    Args:
        folders: sweeps, or folders of single jobs; a job that two of them name counts once.

    Raises:
        ComparisonError: a folder does not exist or holds sweeps instead of jobs, or none was given.
    """
    if not folders:
        raise ComparisonError(
            "no folder to compare; give at least one: plan-tuning compare multirun_outputs/mine"
        )
    jobs: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ComparisonError(
                f"{folder} is not a folder; a sweep or a job is needed, "
                "for example: plan-tuning compare multirun_outputs/mine"
            )
        inside = [folder] if (folder / RESULT_FILE).exists() else _jobs_below(folder)
        if not inside and (sweeps := [path for path in _subfolders(folder) if _jobs_below(path)]):
            shown = ", ".join(str(path) for path in sweeps[:_SHOWN_SWEEPS])
            more = f" and {len(sweeps) - _SHOWN_SWEEPS} more" if sweeps[_SHOWN_SWEEPS:] else ""
            raise ComparisonError(
                f"{folder} holds sweeps and no jobs; name the sweeps: {shown}{more}. "
                f"For example: plan-tuning compare {sweeps[0]}"
            )
        jobs.update({path.resolve(): None for path in inside})
    runs: list[Run] = []
    holes: list[Hole] = []
    for path in jobs:
        try:
            runs.append(read_run(path))
        except ComparisonError as error:
            holes.append(Hole(path, str(error)))
    return Results(tuple(runs), tuple(holes))


def _subfolders(folder: Path) -> list[Path]:
    return [
        path for path in sorted(folder.iterdir()) if path.is_dir() and path.name not in _NOT_JOBS
    ]


def _jobs_below(folder: Path) -> list[Path]:
    return [
        path
        for path in _subfolders(folder)
        if (path / RESULT_FILE).exists() or any((path / mark).exists() for mark in _JOB_MARKS)
    ]


def read_run(folder: Path) -> Run:
    """Read one job's result.json.

    Raises:
        ComparisonError: the file is absent, not JSON, or not a result of this schema.
    """
    path = folder / RESULT_FILE
    try:
        return run_of(folder, parse_result(json.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise ComparisonError("no result.json: the job was killed, or is still running") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ComparisonError(f"result.json cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ComparisonError(f"result.json is not JSON: {error}") from error
    except ResultError as error:
        raise ComparisonError(str(error)) from error


def run_of(folder: Path, result: JobResult) -> Run:
    """Make a run of a job's record: figures that cannot be used are left out, files looked for."""
    sound = {name: item for name, item in result.metrics.items() if _is_share(item.accuracy)}
    corpus = result.corpus and replace(result.corpus, cost_usd=_finite(result.corpus.cost_usd))
    run = Run(
        folder=folder,
        name=result.job or folder.name,
        result=replace(
            result,
            metrics=sound,
            corpus=corpus,
            wall_s=_finite(result.wall_s) or 0.0,
            cost_usd=_finite(result.cost_usd),
        ),
        choices={key: name for key, name in result.choices.items() if name is not None},
        settings=flatten(result.settings),
        predictions={},
        curves=folder / result.curves if result.curves else None,
        defects=tuple(
            f"{name}: an accuracy of {item.accuracy} is no share, left out"
            for name, item in result.metrics.items()
            if name not in sound
        ),
    )
    found = {
        name: _present(run, path, name) or path for name, path in original_predictions(run).items()
    }
    values = {}
    for name, path in original_values(run).items():
        kept = (values_evidence(place, run, name) for place in (folder, folder.parent))
        there = (file for file in (path, *kept) if file is not None and file.is_file())
        values[name] = next(there, path)
    return replace(run, predictions=found, plan_values=values)


def original_predictions(run: Run) -> dict[str, Path]:
    """Name the files that a job's predictions were written to, whether or not they are there."""
    return {name: run.folder / where for name, where in run.result.predictions.items()}


def corpus_path(run: Run) -> Path | None:
    """Name the file of the trajectories that a job's student learned from, there or not."""
    where = run.result.corpus.path if run.result.corpus else ""
    return run.folder / where / TRAJECTORIES if where else None


def original_values(run: Run) -> dict[str, Path]:
    """Name the files that a job's plan values were written to, whether or not they are there."""
    return {name: run.folder / where for name, where in (run.result.plan_values or {}).items()}


def values_evidence(folder: Path, run: Run, benchmark: str) -> Path | None:
    """Name the file in ``folder`` that stands for plan values of ``run``; None without any."""
    key = (run.result.fingerprints.plan_values or {}).get(benchmark)
    if not key or Path(key).name != key:
        return None
    return folder / EVIDENCE / "plan_values" / key / "plan_values.jsonl.gz"


def evidence_file(folder: Path, run: Run, benchmark: str | None) -> Path | None:
    """Name the file in ``folder`` that stands for predictions or the corpus of ``run``.

    Args:
        folder: of the sweep or the job.
        run: whose artifact it is.
        benchmark: of the predictions; None: the corpus.

    Returns:
        None for what has no fingerprint.
    """
    keys = run.result.fingerprints
    key = keys.corpus if benchmark is None else keys.predictions.get(benchmark)
    if not key or Path(key).name != key:
        return None
    if benchmark is None:
        return folder / EVIDENCE / "corpora" / key / TRAJECTORIES
    return folder / EVIDENCE / "predictions" / key / "predictions.jsonl.gz"


def _present(run: Run, path: Path, benchmark: str | None) -> Path | None:
    """Find an artifact's file where it was written, or else in the evidence that travelled."""
    if path.is_file():
        return path
    kept = (evidence_file(folder, run, benchmark) for folder in (run.folder, run.folder.parent))
    return next((file for file in kept if file is not None and file.is_file()), None)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _is_share(accuracy: float | None) -> bool:
    """Whether an accuracy can be computed with; that of nothing is None, and no defect."""
    return accuracy is None or 0.0 <= accuracy <= 1.0


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into dotted keys; lists stay values.

    >>> flatten({"data": {"limit": 8, "path": None}, "seed": 0})
    {'data.limit': 8, 'data.path': None, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def read_predictions(run: Run, benchmark: str) -> list[dict[str, Any]]:
    """Read a run's graded answers; an empty list where the file is absent or broken.

    They stay plain values with the fields of :class:`plan_tuning.records.Prediction`: a comparison
    reads tens of thousands of them and needs few fields of most.
    """
    path = run.predictions.get(benchmark)
    if path is None or not path.is_file():
        return []
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, EOFError, zlib.error, ValueError):
        return []
    if not all(isinstance(row, dict) and row.keys() >= _PREDICTION_KEYS for row in rows):
        return []
    found = run.regraded.get(benchmark)
    return rows if found is None else [_with_verdict(row, found) for row in rows]


def _with_verdict(row: dict[str, Any], found: Regrading) -> dict[str, Any]:
    """Give a prediction today's verdict."""
    changed = found.changed.get(row_key(row["problem_id"], row["sample"]))
    if changed is None:
        return row
    return row | {
        "verdict": changed["verdict"],
        "answer": changed["answer"],
        "rule": changed["rule"],
        "is_correct": changed["verdict"] == Verdict.CORRECT,
        "is_correct_strict": changed["is_strict"],
    }


def corpus_file(run: Run) -> Path | None:
    """Find the trajectories that the run's student learned from."""
    path = corpus_path(run)
    found = None if path is None else _present(run, path, None)
    return None if found is None else found.resolve()


def corpus_files(runs: Sequence[Run]) -> list[Path]:
    """List the corpora of runs, each once, wherever the copies of it lie."""
    found: dict[tuple[str | None, str], Path] = {}
    for run in runs:
        path = corpus_file(run)
        if path is not None:
            found.setdefault((run.result.fingerprints.corpus, path.parent.name), path)
    return list(found.values())


def read_trajectories(path: Path) -> list[dict[str, Any]]:
    """Read a corpus's candidates as plain values; an empty list where the file is broken."""
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException):
        return []
    return rows if all(row.keys() >= _TRAJECTORY_KEYS for row in rows[:1]) else []


def read_curves(run: Run) -> dict[str, list[tuple[float, float]]]:
    """Read training curves: metric -> (step, value) pairs, without what is not a number."""
    if run.curves is None or not run.curves.is_file():
        return {}
    try:
        with run.curves.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        step = finite_number(row.get("step"))
        for name, text in row.items():
            if not name or name in ("step", "epoch") or step is None:
                continue
            value = finite_number(text)
            if value is not None:
                curves.setdefault(name, []).append((step, value))
    return curves


def finite_number(text: str | None) -> float | None:
    """Read a number; None where the text is none, or not finite."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
