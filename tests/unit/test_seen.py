"""Training problems in a test set: a run says so, and result.json holds how many."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from plan_tuning.config.registration import register, resource_folder
from plan_tuning.config.run import Config
from plan_tuning.config.typed import typed
from plan_tuning.job.inputs import count_seen, training_texts
from plan_tuning.job.result import Outcome
from plan_tuning.job_record import JobResult, parse_result
from plan_tuning.records import to_json
from plan_tuning.sweep.jobs import print_sync_command

register()


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    for name, texts in {
        "train": ["What is 1 + 1?", "And 2?"],
        "test": ["what is 1+1", "3?"],
    }.items():
        rows = [{"question": text, "answer": "so\n#### 2"} for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(resource_folder("conf")), version_base="1.3"):
        words = ["data=gsm8k", f"data.path={tmp_path}", "model=tiny_qwen3", "method=sft"]
        yield typed(compose("config", words))
    GlobalHydra.instance().clear()


def test_seen_problems_are_counted_and_named(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    train = training_texts(config, None)
    assert train is not None
    with caplog.at_level(logging.WARNING):
        assert count_seen(train, "gsm8k", "gsm8k", config) == 1
    (line,) = caplog.messages
    assert "1 of 2 test problems stand in the training problems" in line
    assert "evaluation.decontaminate=FILE" in line
    caplog.clear()
    assert count_seen(train - {("what", "is", "1", "1")}, "gsm8k", "gsm8k", config) == 0
    assert caplog.messages == []


def test_what_is_not_known_is_not_counted(config: Config, tmp_path: Path) -> None:
    train = training_texts(config, None)
    assert train is not None
    (tmp_path / "test.jsonl").unlink()
    assert count_seen(train, "gsm8k", "gsm8k", config) is None
    (tmp_path / "train.jsonl").unlink()
    assert training_texts(config, None) is None
    outcome = Outcome()
    outcome.add_seen("gsm8k", None)
    assert outcome.seen_in_training is None


def test_the_record_may_lack_it() -> None:
    assert "seen_in_training" not in to_json(JobResult())
    counted = to_json(JobResult(seen_in_training={"gsm8k": 0, "math500": 3}))
    assert parse_result(counted).seen_in_training == {"gsm8k": 0, "math500": 3}
    assert parse_result(to_json(JobResult())).seen_in_training is None


def test_the_upload_command_of_a_sweep_pastes(capsys: pytest.CaptureFixture[str]) -> None:
    print_sync_command(Path("/tmp/it's mine"))
    assert """wandb sync '/tmp/it'"'"'s mine'/*/wandb/offline-run-*""" in capsys.readouterr().out
