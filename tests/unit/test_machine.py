"""What a machine cannot do is refused before anything is bought."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
import torch
from composition import config_of

from plan_tuning.config.checks import ConfigError
from plan_tuning.job.graph import job_graph
from plan_tuning.job.machine import check_machine, loading

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")


def check(outputs: Path, *overrides: str) -> str:
    config = config_of(f"paths.outputs={outputs}", *overrides)
    return check_machine(config, job_graph(config))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.accelerator=cuda"], r"trainer\.accelerator=cuda.*trainer=cpu_small"),
        (["adapter=qlora"], r"adapter=qlora.*adapter=lora"),
        (["method=zero_shot", "trainer.accelerator=cuda"], r"trainer\.accelerator=cuda"),
    ],
)
def test_a_job_that_needs_a_card_is_refused(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(tmp_path, *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["stages=[distill]", "trainer.accelerator=cuda"],
        ["stages=[distill]", "adapter=qlora"],
        ["method=zero_shot", "adapter=qlora"],
    ],
)
def test_what_a_job_does_not_do_is_not_checked(tmp_path: Path, overrides: list[str]) -> None:
    assert check(tmp_path, *overrides) == "cpu"


def test_garbage_is_looked_for_again_once_modules_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "pytorch_lightning", raising=False)  # a fresh process
    gc.unfreeze()
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()
    with pytest.raises(ImportError), loading():
        raise ImportError
    assert gc.isenabled()
