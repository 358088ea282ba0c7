"""Reads W&B's offline runs back with W&B's own command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any


def _inspect(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def summary(folder: Path) -> dict[str, Any]:
    """State, config and final values of a run."""
    content: dict[str, Any] = json.loads(_inspect(folder, "--summary"))
    return content


def records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All records of a run, by kind."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in _inspect(folder).splitlines():
        record = json.loads(line)
        kind = record["type"]
        if isinstance(record.get(kind), dict):
            found[kind].append(record[kind])
    return found
