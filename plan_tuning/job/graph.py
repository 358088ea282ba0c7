"""The stages of a job: their artifacts, and which of them are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import (
    fingerprint_of,
    folder_fingerprint,
    folder_of,
    is_complete,
    read_manifest,
)
from plan_tuning.config.checks import ConfigError

# Bumped by hand when a stage's code changes what it writes for the same Spec.
STAGE_VERSIONS = {"bases": 1, "corpora": 1, "students": 1, "predictions": 1}


@dataclass(frozen=True)
class Stage:
    """One stage of a job: its artifact, and whether it is already there."""

    kind: str  # bases, corpora, students, predictions
    fingerprint: str
    spec: Mapping[str, Any]
    upstream: Mapping[str, str]  # role -> fingerprint
    folder: Path
    label: str = ""  # benchmark of a prediction
    is_external: bool = False  # given by path

    @property
    def is_done(self) -> bool:
        """Whether the artifact is complete on disk."""
        return is_complete(self.folder)

    @property
    def is_available(self) -> bool:
        """Whether there is nothing to build: complete, or given by the user as it is."""
        return self.is_external or self.is_done


@dataclass(frozen=True)
class JobGraph:
    """All stages of a job. ``None`` marks what the job does not need."""

    base: Stage | None
    corpus: Stage | None
    student: Stage | None
    predictions: tuple[Stage, ...]
    report_fingerprint: str = ""  # fingerprint of what only changes how predictions are summarised
    # Beside m2's predictions, benchmark by benchmark: its executor without any plan ...
    executor_predictions: tuple[Stage, ...] = ()
    # ... and the distilled test sets that a swap takes the teacher's plans from
    plan_corpora: tuple[Stage, ...] = ()
    executor_base: Stage | None = None  # of executor=model
    start: Stage | None = None  # what training begins from, where that is not the base

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in the order in which they are built."""
        head = (self.base, self.corpus, self.start, self.student, self.executor_base)
        tail = (*self.plan_corpora, *self.predictions, *self.executor_predictions)
        return (*(stage for stage in head if stage is not None), *tail)

    @property
    def fingerprint(self) -> str:
        """Two jobs with equal fingerprints mean the same."""
        keys = [stage.fingerprint for stage in (self.predictions or self.stages)]
        return "+".join([*keys, self.report_fingerprint] if self.report_fingerprint else keys)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to build."""
        last = (*self.predictions, *self.executor_predictions) if self.predictions else self.stages
        return all(stage.is_done for stage in last)


def stage(
    kind: str,
    spec: Mapping[str, Any],
    root: Path,
    upstream: Mapping[str, str],
    label: str = "",
) -> Stage:
    """Address the stage that ``spec`` determines."""
    key = fingerprint_of(spec, stage=kind, version=STAGE_VERSIONS[kind])
    return Stage(kind, key, spec, upstream, folder_of(root, kind, key), label)


def external(kind: str, path: str, key: str) -> Stage:
    """Take an artifact from elsewhere as it is.

    Args:
        kind: of the artifact.
        path: its folder.
        key: the configuration key that names it.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            key, path, "an existing folder", f"{key}=multirun_outputs/artifacts/{kind}/…"
        )
    address = (
        read_manifest(folder)["fingerprint"] if is_complete(folder) else folder_fingerprint(folder)
    )
    return Stage(kind, address, {"path": address}, {}, folder, is_external=True)
