"""When a GRPO training is given up, and when it is warned."""

from __future__ import annotations

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.training.grpo.metrics import dead_group_warning, stop_reason


def test_reasons_to_stop() -> None:
    last = {"train/kl": 0.5, "train/entropy": 0.2, "train/trained_tokens": 9.0}
    rewards = [1.0] * 5 + [0.0] * 5
    assert stop_reason(GRPOConfig(), last, rewards) is None
    for settings in ({"stop_kl": 0.4}, {"stop_entropy": 0.3}, {"stop_reward_drop": 0.9}):
        (key,) = settings
        assert f"method.{key}" in str(stop_reason(GRPOConfig(**settings), last, rewards))
    for settings in ({"stop_kl": 0.6}, {"stop_entropy": 0.1}, {"stop_reward_drop": 1.1}):
        assert stop_reason(GRPOConfig(**settings), last, rewards) is None
    silent = last | {"train/trained_tokens": 0.0, "train/entropy": 0.0}
    assert stop_reason(GRPOConfig(stop_entropy=0.3), silent, rewards) is None


def test_dead_groups_are_reported_once_and_not_from_two_steps_of_many() -> None:
    said = [dead_group_warning([1.0] * count, is_last=False) for count in range(1, 9)]
    assert [text is not None for text in said] == [count == 3 for count in range(1, 9)]
    assert "100 %" in str(said[2])
    assert dead_group_warning([1.0], is_last=True)
    assert dead_group_warning([0.0] * 5 + [1.0] * 4, is_last=True) is None
    assert dead_group_warning([1.0] * 9, is_last=True) is None, "said at the third step"
    late = [0.7, 0.7] + [1.0] * 6
    said = [dead_group_warning(late[:count], is_last=False) for count in range(1, 9)]
    assert [text is not None for text in said] == [count == 4 for count in range(1, 9)]
