"""When a GRPO training is given up, and when it is warned."""

from __future__ import annotations

import logging

import pytest

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.training.grpo.collapse import DeadGroupWarning, collapse


def test_reasons_to_stop() -> None:
    last = {"train/kl": 0.5, "train/entropy": 0.2, "train/trained_tokens": 9.0}
    rewards = [1.0] * 5 + [0.0] * 5
    assert collapse(GRPOConfig(), last, rewards) is None
    for settings in ({"stop_kl": 0.4}, {"stop_entropy": 0.3}, {"stop_reward_drop": 0.9}):
        (key,) = settings
        assert f"method.{key}" in str(collapse(GRPOConfig(**settings), last, rewards))
    for settings in ({"stop_kl": 0.6}, {"stop_entropy": 0.1}, {"stop_reward_drop": 1.1}):
        assert collapse(GRPOConfig(**settings), last, rewards) is None
    silent = last | {"train/trained_tokens": 0.0, "train/entropy": 0.0}
    assert collapse(GRPOConfig(stop_entropy=0.3), silent, rewards) is None


def test_dead_groups_are_reported_once_and_not_from_two_steps_of_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        warning = DeadGroupWarning()
        for count in range(1, 3):
            warning.check([1.0] * count, is_last=False)
        assert not caplog.records
        for count in range(3, 9):
            warning.check([1.0] * count, is_last=False)
        assert len(caplog.records) == 1
        DeadGroupWarning().check([1.0], is_last=True)
        assert len(caplog.records) == 2
        DeadGroupWarning().check([0.5] * 9, is_last=True)
        assert len(caplog.records) == 2
