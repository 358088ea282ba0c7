"""The moving average of weights: its recursion, the exchange, and going on from a state."""

from __future__ import annotations

import pytest
import torch

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.training import TrainerConfig
from plan_tuning.training.optim import WeightAverage


def weight(value: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([value, -value]))


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.999])
def test_the_average_follows_its_recursion(decay: float) -> None:
    parameter = weight(0.0)
    average = WeightAverage({"w": parameter}, decay)
    expected = None
    for step in range(1, 20):
        with torch.no_grad():
            parameter.fill_(float(step**2))
        average.update(step)
        now = min(decay, (1 + step) / (10 + step))
        expected = step**2 if expected is None else now * expected + (1 - now) * step**2
    torch.testing.assert_close(average.state_dict()["w"], torch.full((2,), float(expected or 0)))


def test_swapping_twice_changes_nothing() -> None:
    parameter = weight(1.0)
    average = WeightAverage({"w": parameter}, 0.9)
    average.update(1)
    with torch.no_grad():
        parameter.mul_(3.0)
    average.swap()
    assert parameter.tolist() == [1.0, -1.0]
    average.swap()
    assert parameter.tolist() == [3.0, -3.0]
    other = WeightAverage({"w": weight(7.0)}, 0.9)
    other.load_state_dict(average.state_dict())
    assert other.state_dict()["w"].tolist() == [1.0, -1.0]


@pytest.mark.parametrize("act", [lambda a: a.update(2), lambda a: a.swap()])
def test_averages_follow_weights_that_move_after_a_state_was_loaded(act) -> None:
    parameter = weight(1.0)
    average = WeightAverage({"w": parameter}, 0.9)
    average.load_state_dict({"w": torch.zeros(2)})
    # As a trainer moves a module to its device: the same object, elsewhere.
    torch.utils.swap_tensors(parameter, torch.nn.Parameter(torch.zeros(2, device="meta")))
    act(average)
    assert average.state_dict()["w"].device == parameter.device


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.ema_decay"):
        TrainerConfig(ema_decay=decay)
