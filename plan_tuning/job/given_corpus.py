"""A corpus that is given by its path: who may learn from it, and what the filter keeps of it.

Distilled elsewhere or imported, it says of itself in its manifest which problems it is about.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import is_complete, read_manifest
from plan_tuning.config.checks import ConfigError, Finding
from plan_tuning.config.model import MicroModelConfig
from plan_tuning.config.run import Config
from plan_tuning.records import Trajectory


def check_use(folder: Path, config: Config) -> None:
    """Refuse what a corpus is not for, as far as its manifest tells.

    Raises:
        ConfigError: the micro student would have to read real problems, or a student would be
            trained on test problems.
    """
    sources = _sources(folder)
    # The micro student's vocabulary holds no real problem.
    if isinstance(config.model, MicroModelConfig) and any("world" not in s for s in sources):
        raise ConfigError(
            "model",
            config.model.name,
            "the micro student knows the micro-world's words only, and the corpus is not of it",
            f"corpus.path={config.corpus.path} model=tiny_qwen3 data=gsm8k",
        )
    is_of_test_set = any(str(source.get("split", "")).startswith("test") for source in sources)
    if is_of_test_set and "train" in config.stages:
        raise ConfigError(
            "corpus.path",
            config.corpus.path,
            "these are plans for test problems, and nothing is ever trained on those",
            f"method=m2 evaluation.plan=teacher evaluation.plan_corpus={config.corpus.path}",
        )


def check_selection(folder: Path, config: Config) -> Finding:
    """Filter a corpus as the job will, and say what is left to train on."""
    from plan_tuning.distillation.filters import advice, filter_trajectories

    chosen, needs_execution = config.filter, config.method.learns_execution
    try:
        rows = _trajectories(folder)
        result = filter_trajectories(rows, chosen, needs_execution=needs_execution)
    except (ValueError, OSError) as error:
        return Finding("error", str(error))
    text = (
        f"{folder}: filter={chosen.name} keeps {len(result.kept)} of {len(rows)} trajectories, "
        f"of {result.kept_problems} of {result.problems} problems"
    )
    if result.kept:
        return Finding("ok", text)
    reasons = ", ".join(f"{name} {count}" for name, count in result.reasons.items() if count)
    return Finding("error", f"{text} ({reasons}). {advice(rows)}")


@functools.lru_cache(maxsize=4)
def _trajectories(folder: Path) -> list[Trajectory]:
    """Read the rows; the file itself, so that nothing is graded again and remembered beside it."""
    from plan_tuning.distillation.corpus import TRAJECTORIES, read_trajectories

    return read_trajectories(folder / TRAJECTORIES)


def _sources(folder: Path) -> list[Mapping[str, Any]]:
    """What a corpus says of its problems, source by source; nothing where it has no manifest."""
    if not is_complete(folder):
        return []
    problems = read_manifest(folder)["spec"].get("problems", {})
    sources: list[Mapping[str, Any]] = problems.get("mixture", [problems])
    return sources
