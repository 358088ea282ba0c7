"""Two gloo processes on the CPU train the same student as one, with whole weights or shards."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_jobs import train, trainer
from safetensors.torch import load_file

from plan_tuning.config.checks import ConfigError
from plan_tuning.training.lightning import TrainingError
from plan_tuning.training.logs import CurveFile
from plan_tuning.training.processes import train_in_ranks

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def ranks(folder: Path, base: Path, strategy: str, **values: Any) -> dict[str, Any]:
    """Train with two processes; what is none of the trainer's goes to the training itself."""
    own = {key: values.pop(key) for key in ("adapter", "dies_after") if key in values}
    folder.mkdir(exist_ok=True)
    config = trainer(2, strategy=strategy, **values)
    return dict(
        train_in_ranks(partial(train, folder, base, config, **own), config, folder / "metrics.csv")
    )


@pytest.mark.parametrize(
    ("strategy", "adapter", "values"),
    [
        ("ddp", "full", {}),
        ("fsdp", "full", {"gradient_checkpointing": True, "max_grad_norm": 0.05}),
        ("fsdp", "lora", {"val_fraction": 0.3, "val_every_n_steps": 1, "select_best": True}),
    ],
)
def test_two_processes_equal_one(
    tmp_path: Path, base: Path, strategy: str, adapter: str, values: dict[str, Any]
) -> None:
    loggers = [CurveFile(tmp_path / "one" / "metrics.csv")]
    facts = train(tmp_path / "one", base, trainer(1, **values), adapter=adapter, loggers=loggers)
    found = ranks(tmp_path / "two", base, strategy, adapter=adapter, **values)
    probe, told = facts.pop("probe"), found.pop("probe", None)
    if strategy == "fsdp":  # no rank has the whole weights
        assert told is None
    else:
        assert (told["prompt"], told["tokens"]) == (probe["prompt"], probe["tokens"])
        assert told["log_probs"] == pytest.approx(probe["log_probs"], abs=1e-3)
    assert found.keys() == facts.keys()
    for one in (found, facts):
        del one["compute"]["seconds"]
    for key in facts.keys() - {"train_s", "tokens_per_s"}:
        assert found[key] == pytest.approx(facts[key], rel=1e-4), key
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert one.keys() == two.keys()
    start = load_file(base / "model.safetensors") if adapter == "full" else {}
    for name in one:
        # AdamW's first steps are the learning rate times a sign: tiny gradients may flip it
        gap = (one[name] - two[name]).abs()
        assert gap.mean() < 2e-5, name
        moved = (one[name] - start[name]).abs().mean() if start else one[name].abs().mean()
        assert gap.mean() <= 0.05 * moved, name
    assert (tmp_path / "two" / "metrics.csv").is_file()


def test_shards_go_on_from_their_checkpoint_and_so_does_one_process(
    tmp_path: Path, base: Path
) -> None:
    values = {"checkpoint_every_n_steps": 1}
    ranks(tmp_path / "whole", base, "fsdp", **values)
    with pytest.raises(TrainingError, match="out of luck"):
        ranks(tmp_path / "cut", base, "fsdp", dies_after=2, **values)
    shutil.copytree(tmp_path / "cut", tmp_path / "alone")
    facts = ranks(tmp_path / "cut", base, "fsdp", **values)
    assert facts["resumed_from_step"] == 2
    whole, resumed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name
    assert train(tmp_path / "alone", base, trainer(1, **values))["resumed_from_step"] == 2
    alone = weights_of(tmp_path / "alone")
    for name in whole:
        assert (whole[name] - alone[name]).abs().mean() < 2e-5, name


def test_a_job_does_not_start_itself_again(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"trainer\.devices=1"):
        train(tmp_path / "two", base, trainer(2))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA cards")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_cards_equal_one(tmp_path: Path, base: Path, strategy: str) -> None:
    values = {"accelerator": "cuda", "precision": "bf16", "gradient_checkpointing": True}
    facts = train(tmp_path / "one", base, trainer(1, **values))
    found = ranks(tmp_path / "two", base, strategy, **values)
    for key in ("first_loss", "final_loss"):
        assert found[key] == pytest.approx(facts[key], rel=0.02), key
