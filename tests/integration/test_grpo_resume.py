"""A GRPO training that ends early goes on: bit-equal, after a kill, and after what ends a judge."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.teachers.errors import BudgetError, TeacherError
from plan_tuning.training.grpo import fit as grpo_fit
from plan_tuning.training.grpo.module import GRPOModule
from plan_tuning.training.grpo.rollout import Rollout
from plan_tuning.training.grpo.update import PolicyUpdate

from .grpo_world import (
    DigitRewards,
    HalfDeadRewards,
    assert_equal_weights,
    metrics,
    train,
)

pytestmark = pytest.mark.integration


VARIANTS: dict[str, dict[str, Any]] = {
    "kl": {"adapter": "full"},
    "lora": {"adapter": "lora", "kl_weighting": "ratio", "loss": "dapo"},
    "off_policy": {"mini_batches": 2, "buffer_epochs": 2, "loss": "gspo", "epsilon_low": 3e-4},
    "redraws": {"max_redraws": 2, "beta": 0.0, "loss": "dr_grpo", "scaling": "none"},
    "kl_in_reward": {"kl_in": "reward", "baseline": "leave_one_out", "truncation": "mask"},
    "dead_redraws": {"max_redraws": 2, "prompts_per_step": 3},
    "amplified": {"credit": "plan_amplified", "off_policy_bound": 0.1, "buffer_epochs": 2},
    "penalised": {"truncation": "penalise", "overlong_buffer": 4, "credit": "segment"},
    "cispo": {"loss": "cispo", "importance_cap": 2.0, "entropy_bonus": 0.01, "beta": 0.0},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_two_and_two_steps_are_four_bit_by_bit(
    start: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = HalfDeadRewards if "redraws" in name else DigitRewards
    monkeypatch.setattr(grpo_fit, "RewardWorker", worker)
    settings = {"checkpoint_every_n_steps": 2} | VARIANTS[name]
    whole = train(tmp_path / "whole", start, **settings)
    assert whole["steps"] == 4
    assert whole["resumed_from_step"] == 0
    if "redraws" in name:
        assert sum(row["train/redraws"] for row in metrics(tmp_path / "whole")[:2]) > 0
    step = GRPOModule.training_step

    def interrupted(self: GRPOModule, batch: int, batch_idx: int) -> None:
        if self.finished_steps == 3:
            os.remove(tmp_path / "no such file")  # any error; here one that saves nothing
        step(self, batch, batch_idx)

    monkeypatch.setattr(GRPOModule, "training_step", interrupted)
    monkeypatch.setattr(grpo_fit.StepCheckpoints, "on_exception", lambda *_: None)
    with pytest.raises(FileNotFoundError):
        train(tmp_path / "parts", start, **settings)
    monkeypatch.setattr(GRPOModule, "training_step", step)
    resumed = train(tmp_path / "parts", start, **settings)
    assert resumed["resumed_from_step"] == 2
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")
    files = [(tmp_path / part / "completions.jsonl").read_text() for part in ("whole", "parts")]
    assert files[0] == files[1]
    assert not (tmp_path / "parts" / "checkpoints").exists()


class SpentRewards(HalfDeadRewards):
    """The judge's budget is spent in the middle of a step, behind a redraw."""

    left = 10**9

    async def _rewards_of(self, rollout: Rollout) -> dict[str, float]:
        SpentRewards.left -= 1
        if SpentRewards.left < 0:
            raise BudgetError("the budget is spent")
        return await super()._rewards_of(rollout)


def test_what_ends_the_judge_loses_no_finished_step(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the default rhythm, which saves nothing in so short a run."""
    monkeypatch.setattr(grpo_fit, "RewardWorker", SpentRewards)
    settings = {"prompts_per_step": 3, "max_redraws": 2}
    train(tmp_path / "whole", start, **settings)
    rows = metrics(tmp_path / "whole")
    assert rows[2]["train/redraws"] > 0
    drawn = sum(row["train/drawn_groups"] for row in rows[:2])
    SpentRewards.left = int(4 * (drawn + 3 + 1))  # a third of the third step's first redraw
    with pytest.raises(TeacherError, match="the budget is spent"):
        train(tmp_path / "parts", start, **settings)
    saved = [file.name for file in (tmp_path / "parts" / "checkpoints").iterdir()]
    assert saved == ["step-000000002.ckpt"]
    SpentRewards.left = 10**9
    assert train(tmp_path / "parts", start, **settings)["resumed_from_step"] == 2
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.usefixtures("digits")
def test_weights_between_two_updates_of_a_step_are_not_saved(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = PolicyUpdate._check

    def failing(self: PolicyUpdate, statistics: Any, step: int) -> None:
        check(self, statistics, step)
        if step == 2 and self.state.has_begun:
            raise ValueError("in the middle")

    monkeypatch.setattr(PolicyUpdate, "_check", failing)
    with pytest.raises(ValueError, match="in the middle"):
        train(tmp_path / "s", start, buffer_epochs=2)
    assert not (tmp_path / "s" / "checkpoints").exists()


@pytest.mark.usefixtures("digits")
def test_ctrl_c_keeps_the_finished_steps(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = PolicyUpdate.learn

    def interrupted(self: PolicyUpdate, *args: Any, **kwargs: Any) -> Any:
        if kwargs["step"] == 3:
            raise KeyboardInterrupt
        return learn(self, *args, **kwargs)

    train(tmp_path / "whole", start)
    monkeypatch.setattr(PolicyUpdate, "learn", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path / "parts", start)
    signal.signal(signal.SIGINT, before)
    monkeypatch.setattr(PolicyUpdate, "learn", learn)
    assert train(tmp_path / "parts", start)["resumed_from_step"] == 3
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import grpo_world
grpo_world.grpo_fit.RewardWorker = grpo_world.DigitRewards
grpo_world.train(Path({folder!r}), Path({start!r}), steps=40)
"""


@pytest.mark.usefixtures("digits")
def test_kill_9_and_the_same_call_goes_on(start: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    code = KILLED.format(here=str(Path(__file__).parent), folder=str(folder), start=str(start))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if list((folder / "checkpoints").glob("step-*.ckpt")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = train(folder, start, steps=40)
    assert resumed["resumed_from_step"] in (10, 20, 30)
    train(tmp_path / "whole", start, steps=40)
    assert_equal_weights(folder, tmp_path / "whole")
