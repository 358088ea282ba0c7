"""result.json: what a job leaves behind, the unit of comparison."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import provenance, write_atomic
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import Config
from plan_tuning.job.graph import JobGraph
from plan_tuning.records import Prediction, from_json, to_json

logger = logging.getLogger(__name__)

RESULT_SCHEMA = 1
RESULT_FILE = "result.json"
CURVES_FILE = "metrics.csv"
PREDICTIONS_FILE = "predictions.jsonl"
DECONTAMINATED = "_decontaminated"  # suffix of a benchmark without its contaminated problems


@dataclass(frozen=True)
class JobContext:
    """Where a job runs and what Hydra knows about it."""

    folder: Path
    name: str
    sweep_name: str | None  # None: a job outside a sweep
    overrides: tuple[str, ...] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a job has done so far; the raw material of result.json."""

    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    corpus: dict[str, Any] | None = None  # folder, funnel, cost, rows and reasons of the filter
    training: dict[str, Any] | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)  # by benchmark
    predictions: dict[str, Path] = field(default_factory=dict)  # by benchmark: file
    executor_zero_shot: dict[str, dict[str, Any]] = field(default_factory=dict)  # metrics, of m2
    teacher_calls: int = 0  # bought by this run of the job
    cost_usd: float | None = 0.0  # of those; None: the price is unknown
    device: str = "cpu"

    def add_cost(self, usd: float | None) -> None:
        """Account what was paid; with one price unknown the sum is."""
        self.cost_usd = None if usd is None or self.cost_usd is None else self.cost_usd + usd

    def add_calls(self, bought: int, usd: float | None) -> None:
        """Account teacher calls that this job bought, and what they cost."""
        self.teacher_calls += bought
        self.add_cost(usd)

    def add_stage(self, name: str, wall_s: float, *, is_cached: bool) -> None:
        """Account a stage's time; several parts of one stage add up."""
        record = self.stages.setdefault(name, {"wall_s": 0.0, "is_cached": True})
        record["wall_s"] = round(record["wall_s"] + wall_s, 3)
        record["is_cached"] = bool(record["is_cached"] and is_cached)


def log_accuracies(outcome: Outcome) -> None:
    """Log each benchmark's accuracy with its interval."""
    for name, row in outcome.metrics.items():
        logger.info(
            "%s: accuracy %.1f %% [%.1f, %.1f] of %d",
            name,
            100 * row["accuracy"],
            100 * row["low"],
            100 * row["high"],
            row["n"],
        )


def job_choices(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Take the project's groups out of what Hydra chose.

    >>> job_choices({"method": "m1", "hydra/launcher": "basic", "teacher@reward.judge": "gpt"})
    {'method': 'm1', 'teacher@reward.judge': 'gpt'}
    """
    return {
        key: value
        for key, value in choices.items()
        if not key.startswith("hydra") and "/" not in key
    }


def corpus_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Take out of a corpus's manifest what a job reports of it.

    ``teacher_answers`` and ``cost_usd`` are of the whole corpus, whoever bought it and in however
    many attempts; what this run of the job bought stands beside, in ``teacher_calls``.
    """
    calls, cost = facts.get("calls"), facts.get("cost_usd")
    return {
        "funnel": facts.get("funnel", {}),
        "teacher_answers": None if calls is None else calls["bought"] + calls["cached"],
        "cost_usd": None if cost is None else cost["corpus"],
    }


def check_overwritten(folder: Path, key: str) -> None:
    """Make sure that a job does not replace the finished result of another one.

    Raises:
        ConfigError: the folder holds a finished result of other settings under the same name.
    """
    path = folder / RESULT_FILE
    if not path.is_file():
        return
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("status") == "completed" and found.get("key") != key:
        raise ConfigError(
            "sweep_name",
            found.get("sweep") or folder.parent.name,
            f"another name: {folder} holds a finished job of the same name but of other settings, "
            "data or version of this program, which this one would replace (or remove that folder)",
            "sweep_name=other",
        )


def read_result(folder: Path, key: str) -> dict[str, Any] | None:
    """Read the result of an earlier run of the same job, if it was completed.

    A result of another meaning under the same name (an edited configuration) is not this job's.
    """
    path = folder / RESULT_FILE
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if result.get("status") == "completed" and result.get("key") == key:
        return result
    return None


def write_result(
    config: Config,
    graph: JobGraph,
    context: JobContext,
    outcome: Outcome,
    *,
    wall_s: float,
    error: BaseException | None = None,
) -> dict[str, Any]:
    """Write result.json, of a completed job or of a failed one, and return its content."""
    folder = context.folder
    first = graph.predictions[0].label if graph.predictions else None
    corpus = outcome.corpus
    if corpus is not None:
        corpus = {**corpus, "path": _relative(corpus["path"], folder)}
    result = {
        "schema": RESULT_SCHEMA,
        "status": "completed" if error is None else "failed",
        "error": None
        if error is None
        else {"type": type(error).__name__, "message": str(error)[:2000]},
        "job": context.name,
        "sweep": context.sweep_name,
        "debug": config.debug.enabled,
        "choices": dict(context.choices),
        "overrides": list(context.overrides),
        "tags": list(config.tags),
        "seed": config.seed,
        "settings": to_json(config),
        "key": graph.fingerprint,
        "fingerprints": fingerprints(graph),
        "objective": outcome.metrics[first]["accuracy"] if first in outcome.metrics else None,
        "metrics": outcome.metrics,
        "executor_zero_shot": outcome.executor_zero_shot,
        "predictions": {
            name: _relative(path, folder) for name, path in outcome.predictions.items()
        },
        "corpus": corpus,
        "training": outcome.training,
        "curves": CURVES_FILE if (folder / CURVES_FILE).is_file() else None,
        "device": outcome.device,
        "stages": outcome.stages,
        "wall_s": round(wall_s, 3),
        "teacher_calls": outcome.teacher_calls,
        "cost_usd": outcome.cost_usd,
        **provenance(),
    }
    write_atomic(folder / RESULT_FILE, json.dumps(result, indent=1, ensure_ascii=False))
    return result


def fingerprints(graph: JobGraph) -> dict[str, Any]:
    """Fingerprints of the job's artifacts, by role."""
    return {
        "base": graph.base.fingerprint if graph.base else None,
        "corpus": graph.corpus.fingerprint if graph.corpus else None,
        "start": graph.start.fingerprint if graph.start else None,
        "student": graph.student.fingerprint if graph.student else None,
        "predictions": {stage.label: stage.fingerprint for stage in graph.predictions},
        "executor_zero_shot": {
            stage.label: stage.fingerprint for stage in graph.executor_predictions
        },
    }


def _relative(path: str | Path, folder: Path) -> str:
    return Path(os.path.relpath(Path(path).resolve(), folder.resolve())).as_posix()


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions as JSON lines."""
    lines = [json.dumps(to_json(row), ensure_ascii=False) for row in predictions]
    write_atomic(path, "\n".join(lines) + "\n")


def read_predictions(path: Path) -> list[Prediction]:
    """Read what :func:`write_predictions` wrote."""
    with path.open(encoding="utf-8") as file:
        return [from_json(Prediction, json.loads(line)) for line in file if line.strip()]
