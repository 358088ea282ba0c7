"""Fixtures that several files of integration tests share: tiny students, rewards, a grader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from plan_tuning.config.grading import GradingConfig
from plan_tuning.grading.grader import Grader


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny untrained Qwen3."""
    from plan_tuning.students.tiny import make_tiny

    folder = tmp_path_factory.mktemp("tiny") / "qwen3"
    make_tiny(folder, "qwen3", 0)
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny student whose words are not equally likely, as GRPO needs it."""
    from .grpo_world import make_start

    return make_start(tmp_path_factory.mktemp("students") / "tiny")


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """GRPO rewards the share of digits."""
    from plan_tuning.training.grpo import fit

    from .grpo_world import DigitRewards

    monkeypatch.setattr(fit, "RewardWorker", DigitRewards)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    """A grader that waits long for algebra, since the machine may be busy."""
    with Grader(GradingConfig(wall_s=20.0)) as grader:
        yield grader
