"""What determines an artifact -> where it lies, and whether it is there."""

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
from plan_tuning.config.run import Config

# Bumped by hand when a stage's code changes what it writes for the same Spec.
STAGE_VERSIONS = {"bases": 1, "corpora": 1, "students": 1, "predictions": 1, "plan_values": 1}


@dataclass(frozen=True)
class Stage:
    """One stage of a job: its artifact, and whether it is already there."""

    kind: str  # bases, corpora, students, predictions, plan_values
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


def addressed(
    config: Config,
    kind: str,
    spec: Mapping[str, Any],
    upstream: Mapping[str, str] | None = None,
    label: str = "",
) -> Stage:
    """Address the stage that ``spec`` determines."""
    fingerprint = fingerprint_of(spec, stage=kind, version=STAGE_VERSIONS[kind])
    folder = folder_of(config.paths.artifacts, kind, fingerprint)
    return Stage(kind, fingerprint, spec, upstream or {}, folder, label)


def given_stage(kind: str, path: str, key: str) -> Stage:
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
    fingerprint = (
        read_manifest(folder)["fingerprint"] if is_complete(folder) else folder_fingerprint(folder)
    )
    return Stage(kind, fingerprint, {"path": fingerprint}, {}, folder, is_external=True)
