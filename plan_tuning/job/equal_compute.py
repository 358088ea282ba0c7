"""``method.continued_steps=match=FINGERPRINT``: as much more training as another student had.

The matched student is finished, and so is the plain job's student that training goes on from: the
operations of the first beyond its own start, divided by those of a step of the second, are the
steps. They are found before anything is hashed, so that the same number by hand is the same job.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plan_tuning.artifacts import folder_of, is_complete, read_manifest
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import Config
from plan_tuning.config.training import MATCH
from plan_tuning.job.compute import own_compute

_KEY = "method.continued_steps"
_BY_HAND = "method.continued_steps=250"


def matched_steps(config: Config, plain: str) -> int:
    """Find the steps of continued training that cost what a finished student's training did.

    Args:
        config: the job, whose ``method.continued_steps`` names that student.
        plain: fingerprint of the plain job's student.

    Raises:
        ConfigError: one of the two is not there or does not say what it cost, or they are of
            different models.
    """
    named = str(config.method.matched)
    students = config.paths.artifacts
    target = _manifest(students, named)
    if target is None:
        raise ConfigError(
            _KEY,
            f"{MATCH}{named}",
            f"no finished student of that fingerprint is in {students / 'students'}, whose "
            "folders are named by theirs; a job's is fingerprints.student in its result.json",
            _BY_HAND,
        )
    begun = _manifest(students, plain)
    if begun is None:
        raise ConfigError(
            _KEY,
            f"{MATCH}{named}",
            f"the student that training goes on from ({plain}) has to be finished first: a step "
            "of it says what a step costs; run the same command with method.continued_steps=0",
            _BY_HAND,
        )
    if target["spec"].get("model") != begun["spec"].get("model"):
        raise ConfigError(
            _KEY,
            f"{MATCH}{named}",
            f"that student is of another model, {target['spec'].get('model')}; this job's is "
            f"{begun['spec'].get('model')}",
            _BY_HAND,
        )
    wanted, known = (_flops(students, name) for name in (named, plain))
    per_step = known / int(begun["facts"]["steps"])
    return max(1, round(wanted / per_step))


def _manifest(artifacts: Path, fingerprint: str) -> dict[str, Any] | None:
    is_name = bool(fingerprint) and Path(fingerprint).name == fingerprint
    folder = folder_of(artifacts, "students", fingerprint) if is_name else None
    return read_manifest(folder) if folder is not None and is_complete(folder) else None


def _flops(artifacts: Path, fingerprint: str) -> float:
    """Read the operations of a student's own training.

    Raises:
        ConfigError: its manifest does not hold them.
    """
    found = own_compute(folder_of(artifacts, "students", fingerprint))
    if found is None or not found.flops:
        raise ConfigError(
            _KEY,
            f"{MATCH}{fingerprint}" if fingerprint else MATCH,
            f"student {fingerprint} does not say what its training cost: it was merged, or trained "
            "before that was recorded (its folder removed, the same command trains it again)",
            _BY_HAND,
        )
    return found.flops
