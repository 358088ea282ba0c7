"""The installed command in a subprocess, with its own outputs folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .warm import WarmCommand

Run = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "plan_tuning.main", *arguments]


def usual_environment() -> dict[str, str]:
    names = ("PATH", "HOME", "TMPDIR", "LANG", "VIRTUAL_ENV", "PYTHONPATH")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}


@pytest.fixture
def environment() -> dict[str, str]:
    return usual_environment()


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmCommand]:
    """One interpreter with the heavy libraries for all tests of this process."""
    command = WarmCommand(usual_environment())
    yield command
    command.close()


@pytest.fixture
def plan_tuning(tmp_path: Path, environment: dict[str, str], warm: WarmCommand) -> Run:
    """Run ``plan-tuning …`` in an empty working directory."""

    def run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        if environment == warm.environment:
            return warm.run(arguments, tmp_path, timeout)
        return subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def results(folder: Path) -> list[dict[str, Any]]:
    """All result.json files of a sweep."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]


def built(outputs: Path) -> dict[str, float]:
    """Finished artifacts and when they were made."""
    return {
        str(path.parent.relative_to(outputs)): path.stat().st_mtime
        for path in (outputs / "artifacts").glob("*/*/manifest.json")
    }
