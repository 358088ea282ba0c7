"""Folders of finished jobs -> runs: reads result.json and the files it references.

A result that is missing, half-written or of another schema becomes a :class:`Hole`; nothing here
raises for the sake of one bad file, because a comparison comes at the end of every sweep.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULT = "result.json"
SCHEMA = 1
_NOT_JOBS = frozenset({"artifacts", "calls"})
_JOB_MARKS = (".hydra", "run.log")
_SHOWN_SWEEPS = 12
TRAJECTORIES = "trajectories.parquet"
_PREDICTION_KEYS = frozenset({"problem_id", "sample", "gold", "is_correct", "verdict", "text"})
_TRAJECTORY_KEYS = frozenset(
    {"problem_id", "candidate", "problem", "plan", "plan_score", "verdict"}
)


class ComparisonError(ValueError):
    """A comparison was asked for something that does not exist."""


@dataclass(frozen=True)
class Run:
    """One job as its result.json tells it; paths are resolved against the job's folder."""

    folder: Path
    name: str
    sweep: str
    status: str  # completed, failed
    error: str
    is_debug: bool
    choices: Mapping[str, str]
    settings: Mapping[str, Any]  # flat: "filter.plan_score_threshold" -> 80
    overrides: tuple[str, ...]
    seed: int
    metrics: Mapping[str, Mapping[str, Any]]  # benchmark -> figures
    predictions: Mapping[str, Path]
    fingerprints: Mapping[str, Any]
    corpus: Mapping[str, Any]  # empty where the job needs none
    training: Mapping[str, Any]
    curves: Path | None
    stages: Mapping[str, Mapping[str, Any]]
    wall_s: float
    teacher_calls: int
    cost_usd: float | None  # None: the price is unknown
    corpus_calls: int  # that the corpus rests on, whoever bought them
    corpus_usd: float | None  # None: the price is unknown
    facts: Mapping[str, Any] = field(default_factory=dict)  # versions, device, created, tags, key
    defects: tuple[str, ...] = ()  # figures that cannot be used, and why

    @property
    def is_completed(self) -> bool:
        """Whether the job ended and its figures count."""
        return self.status == "completed"

    def prediction_key(self, benchmark: str) -> str:
        """Fingerprint of the predictions on ``benchmark``, empty where none is recorded."""
        keys = self.fingerprints.get("predictions")
        return str(keys.get(benchmark, "")) if isinstance(keys, Mapping) else ""


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
        real = [run for run in done if not run.is_debug]
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
        inside = [folder] if (folder / RESULT).exists() else _jobs_below(folder)
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
        if (path / RESULT).exists() or any((path / mark).exists() for mark in _JOB_MARKS)
    ]


def read_run(folder: Path) -> Run:
    """Read one job's result.json.

    Raises:
        ComparisonError: the file is absent, not JSON, or not a result of this schema.
    """
    path = folder / RESULT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ComparisonError("no result.json: the job was killed, or is still running") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ComparisonError(f"result.json cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ComparisonError(f"result.json is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ComparisonError("result.json holds no object")
    if content.get("schema") != SCHEMA:
        raise ComparisonError(
            f"result.json has schema {content.get('schema')!r}, this version reads {SCHEMA}"
        )
    try:
        return _run(folder, content)
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ComparisonError(f"result.json does not have the expected fields: {error}") from error


def _run(folder: Path, content: Mapping[str, Any]) -> Run:
    error = content.get("error") or {}
    curves = content.get("curves")
    cost = content.get("cost_usd")
    metrics = {
        str(name): _figures(figures)
        for name, figures in (content.get("metrics") or {}).items()
        if figures
    }
    defects = [
        f"{name}: an accuracy of {figures['accuracy']} is no share, left out"
        for name, figures in metrics.items()
        if not _is_share(figures.get("accuracy"))
    ]
    return Run(
        folder=folder,
        name=str(content.get("job") or folder.name),
        sweep=str(content.get("sweep") or ""),
        status=str(content.get("status") or "failed"),
        error=": ".join(str(error[key]) for key in ("type", "message") if error.get(key)),
        is_debug=bool(content.get("debug")),
        choices={k: str(v) for k, v in (content.get("choices") or {}).items() if v is not None},
        settings=flatten(content.get("settings") or {}),
        overrides=tuple(str(text) for text in content.get("overrides") or ()),
        seed=int(content.get("seed") or 0),
        metrics={k: v for k, v in metrics.items() if _is_share(v.get("accuracy"))},
        predictions={
            str(name): folder / str(where)
            for name, where in (content.get("predictions") or {}).items()
        },
        fingerprints=dict(content.get("fingerprints") or {}),
        corpus=_corpus(content.get("corpus") or {}),
        training=dict(content.get("training") or {}),
        curves=folder / str(curves) if curves else None,
        stages={str(k): dict(v) for k, v in (content.get("stages") or {}).items()},
        wall_s=_finite(content.get("wall_s")) or 0.0,
        teacher_calls=int(content.get("teacher_calls") or 0),
        cost_usd=_finite(cost),
        corpus_calls=int((content.get("corpus") or {}).get("teacher_answers") or 0),
        corpus_usd=_finite((content.get("corpus") or {}).get("cost_usd")),
        facts={key: content.get(key) for key in ("versions", "device", "created", "tags", "key")},
        defects=tuple(defects),
    )


def _finite(value: Any) -> float | None:
    number = None if value is None else float(value)
    return number if number is None or math.isfinite(number) else None


def _is_share(accuracy: float | None) -> bool:
    """Whether an accuracy can be computed with; that of nothing is None, and no defect."""
    return accuracy is None or 0.0 <= accuracy <= 1.0


def _figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Check the figures that are computed with; an accuracy of nothing is None."""
    checked = dict(figures)
    if checked.get("accuracy") is not None:
        checked["accuracy"] = float(checked["accuracy"])
    checked["n"] = int(checked.get("n") or 0)
    return checked


def _corpus(corpus: Mapping[str, Any]) -> dict[str, Any]:
    counts = {key: dict(corpus.get(key) or {}) for key in ("funnel", "reasons")}
    return {**corpus, **counts, "rows": int(corpus.get("rows") or 0)} if corpus else {}


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
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError):
        return []
    is_sound = all(isinstance(row, dict) and row.keys() >= _PREDICTION_KEYS for row in rows)
    return rows if is_sound else []


def corpus_file(run: Run) -> Path | None:
    """Find the trajectories that the run's student learned from."""
    where = run.corpus.get("path")
    path = run.folder / str(where) / TRAJECTORIES if where else None
    return path.resolve() if path is not None and path.is_file() else None


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
        step = _number(row.get("step"))
        for name, text in row.items():
            if not name or name in ("step", "epoch") or step is None:
                continue
            value = _number(text)
            if value is not None:
                curves.setdefault(name, []).append((step, value))
    return curves


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
