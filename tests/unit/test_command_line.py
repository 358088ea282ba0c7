"""What was typed means what it says, or is refused with the words that do."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from composition import config_of, graph, jobs_of

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.command_line import TWICE, check_double_keys
from plan_tuning.config.training import StartTrainerConfig, TrainerConfig

MACHINE = {"accelerator", "card", "cpu_matmul", "devices", "strategy", "threads"}


def test_a_start_has_every_knob_of_a_trainer_but_the_machines() -> None:
    start = {f.name: f.default for f in fields(StartTrainerConfig)}
    assert set(start) == {f.name for f in fields(TrainerConfig)} - MACHINE
    assert set(start.values()) == {None}


def test_a_start_is_the_student_of_its_plain_job() -> None:
    words = ["trainer.max_steps=250", "trainer.learning_rate=1e-4"]
    plain = graph("method=m1", *words).student
    start = graph("method=grpo", *(f"start.{word}" for word in words)).start
    assert plain is not None
    assert start is not None
    assert start.fingerprint == plain.fingerprint
    as_the_job = graph("method=grpo", "trainer.max_steps=250", "start.trainer=null").start
    assert as_the_job is not None
    assert as_the_job.fingerprint == graph("method=m1", "trainer.max_steps=250").student.fingerprint  # type: ignore[union-attr]


def test_a_start_is_capped_by_debug() -> None:
    config = config_of("method=grpo", "debug=fast", "start.trainer.max_steps=250")
    assert config.start_trainer.max_steps == config.debug.max_steps
    config = config_of("method=grpo", "debug=fast", "trainer.max_steps=3")
    assert config.start_trainer.max_steps == 3


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("start.trainer.learning_rate=-1", r"^start\.trainer\.learning_rate=-1.*above 0"),
        ("start.trainer.select_by=accuracy", r"start\.trainer\.val_problems=64$"),
    ],
)
def test_a_bad_knob_of_the_start_is_named(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of("method=grpo", word)


def test_nine_keys_exist_twice() -> None:
    assert len(TWICE) == 9


@pytest.mark.parametrize("knob", TWICE)
def test_a_knob_of_the_start_is_not_taken_for_grpos(knob: str) -> None:
    grpo, m1 = config_of("method=grpo"), config_of()
    word = f"trainer.{knob}=1"
    with pytest.raises(ConfigError, match=rf"method\.{knob}=1, or start\.trainer\.{knob}=1$"):
        check_double_keys([word], [grpo, grpo])
    check_double_keys([word], [grpo, m1])
    check_double_keys([f"method.{knob}=1", f"start.trainer.{knob}=1"], [grpo])


def test_sweeps_of_grpo_alone_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        jobs_of(tmp_path, "method=grpo", "trainer.learning_rate=1e-6,1e-5")
    assert "method.learning_rate=1e-6,1e-5" in capsys.readouterr().err
    assert len(jobs_of(tmp_path, "method=grpo,m1", "trainer.learning_rate=1e-6")) == 2
