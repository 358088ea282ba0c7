"""Sizes of passes that were found out: a checkpoint keeps them, a resumed training has them."""

from pathlib import Path

import pytest
from composition import config_of

from plan_tuning.config.model import AdapterConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.job.pass_sizes import remembered
from plan_tuning.job.stage_memory import MICRO
from plan_tuning.training.checkpoints import latest_checkpoint, pass_sizes_in, step_of
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.sft.fit import SFTSettings, train_student

from .sft_world import make_rows
from .test_sft import MODEL, TRAINER, _StopAt

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]


def test_a_checkpoint_keeps_the_sizes_of_its_passes(base: Path, tmp_path: Path) -> None:
    knobs = {**TRAINER, "max_steps": 6, "checkpoint_every_n_steps": 2, "micro_batch_tokens": 128}
    settings = SFTSettings(
        MODEL, AdapterConfig(), TrainerConfig(**knobs), MethodConfig(name="m1"), seed=3
    )
    folder = tmp_path / "student"
    run = TrainingRun(folder, tmp_path / "run", [_StopAt(tmp_path, 3)], pass_sizes={MICRO: 128})
    with pytest.raises(OSError, match="no space"):
        train_student(run, settings, base, make_rows(24))
    saved = latest_checkpoint(run.checkpoints)
    assert saved is not None
    assert pass_sizes_in(saved) == {MICRO: 128}
    today = config_of("method=m1", f"{MICRO}=999")
    resumed = remembered(today, frozenset({MICRO}), folder)
    assert resumed.trainer.micro_batch_tokens == 128
    facts = train_student(
        TrainingRun(folder, tmp_path / "run", pass_sizes={MICRO: 128}), settings, base,
        make_rows(24),
    )  # fmt: skip
    assert facts["resumed_from_step"] == step_of(saved) > 0
    assert facts["steps"] == 6
