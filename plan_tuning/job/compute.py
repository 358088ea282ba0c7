"""What a job rests on: tokens, operations and seconds, as the manifests of its stages say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import is_complete, read_manifest
from plan_tuning.job_record import Compute, JobCompute, parse_compute
from plan_tuning.records import to_json

FACT = "compute"  # of a manifest: what its making computed
START_FACT = "start_compute"  # of a student's: what the student that it began from had cost by then


def own_compute(folder: Path | None) -> Compute | None:
    """Read what the making of an artifact computed, without what it began from."""
    return parse_compute(_facts(folder).get(FACT))


def start_compute(folder: Path | None) -> Compute | None:
    """Read what a student's start had cost; nothing, where it began from the untrained model."""
    facts = _facts(folder)
    return parse_compute(facts[START_FACT]) if START_FACT in facts else Compute()


def training_compute(folder: Path | None) -> Compute | None:
    """Read what a student cost from the untrained model on; None: it is not recorded."""
    return _sum([own_compute(folder), start_compute(folder)])


def facts_of_start(start: Path | str | None) -> dict[str, Any]:
    """Note for a student's manifest what it begins from; nothing for the untrained model."""
    if start is None:
        return {}
    found = training_compute(Path(start))
    return {START_FACT: None if found is None else to_json(found)}


def job_compute(made: Sequence[Path], base: Path | None, predictions: Sequence[Path]) -> JobCompute:
    """Add up what the stages of a job computed, whoever built them.

    Args:
        made: the student's folder, or those of the students that were merged; none: untrained.
        base: of an untrained model that was made here.
        predictions: of all benchmarks.
    """
    return JobCompute(
        training=_sum(training_compute(folder) for folder in made),
        start=_sum(start_compute(folder) for folder in made),
        base=own_compute(base),
        evaluation=_sum(own_compute(folder) for folder in predictions),
    )


def _sum(parts: Iterable[Compute | None]) -> Compute | None:
    total = Compute()
    for part in parts:
        if part is None:
            return None
        total += part
    return total


def _facts(folder: Path | None) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if folder is not None and is_complete(folder):
        facts = read_manifest(folder)["facts"]
    return facts
