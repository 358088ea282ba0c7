"""Merged adapters: their updates are those that the rules give, in float64."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from plan_tuning.config.merge import MergeConfig
from plan_tuning.students.adapter_merging import (
    WEIGHTS,
    Adapter,
    low_rank,
    merge_adapters,
    read_adapter,
)
from plan_tuning.students.loading import StudentError
from plan_tuning.students.merge_rules import ties

LAYERS = {"base_model.model.q_proj.": (6, 5), "base_model.model.v_proj.": (4, 6)}  # out, in


def adapter(folder: Path, seed: int, *, rank: int = 2, **settings: object) -> Path:
    folder.mkdir()
    noise = torch.Generator().manual_seed(seed)
    factors = {}
    for layer, (out, into) in LAYERS.items():
        factors[f"{layer}lora_A.weight"] = torch.randn(rank, into, generator=noise)
        factors[f"{layer}lora_B.weight"] = torch.randn(out, rank, generator=noise)
    save_file(factors, folder / WEIGHTS)
    written = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 8, "bias": "none", "target_modules": ["q"],
        "base_model_name_or_path": "base", **settings,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return folder


def merged(
    tmp_path: Path, folders: list[Path], knobs: MergeConfig, rule: object = None
) -> tuple[Adapter, dict]:
    out = tmp_path / "merged"
    out.mkdir()
    facts = merge_adapters(out, folders, knobs.shares_of(len(folders)), knobs, rule)
    return read_adapter(out), facts


def update(folder: Path, layer: str) -> np.ndarray:
    """The update by its definition, in NumPy."""
    from safetensors.numpy import load_file

    factors = load_file(folder / WEIGHTS)
    settings = json.loads((folder / "adapter_config.json").read_text())
    scaling = settings["lora_alpha"] / settings["r"]
    first, second = (factors[f"{layer}lora_{part}.weight"].astype(np.float64) for part in "AB")
    return scaling * second @ first


@pytest.mark.parametrize("name", ["linear", "task_arithmetic"])
def test_a_weighted_sum_is_exact_at_the_sum_of_the_ranks(tmp_path: Path, name: str) -> None:
    folders = [adapter(tmp_path / str(n), n, rank=n + 1) for n in range(3)]
    weights = [1.0, 2.0, 5.0]
    found, facts = merged(tmp_path, folders, MergeConfig(name, ["a", "b", "c"], weights))
    assert facts["rank"] == 1 + 2 + 3
    assert facts["left_out"] == 0.0
    scale = 1.0 if name == "task_arithmetic" else 1 / 8
    for layer in LAYERS:
        meant = sum(scale * w * update(f, layer) for w, f in zip(weights, folders, strict=True))
        np.testing.assert_allclose(found.update(layer).numpy(), meant, rtol=1e-5, atol=1e-6)


def test_a_smaller_rank_is_the_best_of_its_size(tmp_path: Path) -> None:
    folders = [adapter(tmp_path / str(n), n) for n in range(2)]
    found, facts = merged(tmp_path, folders, MergeConfig("linear", rank=2))
    assert facts["rank"] == 2
    lost = total = 0.0
    for layer in LAYERS:
        meant = sum(update(folder, layer) for folder in folders) / 2
        left, values, right = np.linalg.svd(meant)
        best = (left[:, :2] * values[:2]) @ right[:2]
        np.testing.assert_allclose(found.update(layer).numpy(), best, rtol=1e-4, atol=1e-5)
        lost += float((values[2:] ** 2).sum())
        total += float((values**2).sum())
    assert facts["left_out"] == pytest.approx((lost / total) ** 0.5, rel=1e-6)
    assert facts["left_out"] > 0.05


def test_a_rule_sees_whole_updates(tmp_path: Path) -> None:
    folders = [adapter(tmp_path / str(n), n) for n in range(2)]
    knobs = MergeConfig("ties", density=0.5, rank=6)  # of full rank: nothing is cut
    found, facts = merged(tmp_path, folders, knobs, ties)
    assert facts["left_out"] < 1e-6
    for layer in LAYERS:
        updates = [torch.from_numpy(update(folder, layer)) for folder in folders]
        meant = ties(updates, [0.5, 0.5], knobs, layer)
        torch.testing.assert_close(found.update(layer), meant, rtol=1e-4, atol=1e-5)


def test_factors_of_a_low_rank_matrix_are_exact() -> None:
    noise = torch.Generator().manual_seed(0)
    shapes = ((7, 2), (2, 5))
    left, right = (torch.randn(*s, generator=noise, dtype=torch.float64) for s in shapes)
    first, second = low_rank(left @ right, 2)
    assert (first.shape, second.shape) == ((2, 5), (7, 2))
    torch.testing.assert_close(second @ first, left @ right)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "another kind.*use_dora"),
        ({"bias": "all"}, "another kind"),
        ({"base_model_name_or_path": "elsewhere"}, "base_model_name_or_path"),
        ({"target_modules": ["q", "v"]}, "target_modules"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    folders = [adapter(tmp_path / "one", 0), adapter(tmp_path / "two", 1, **settings)]
    with pytest.raises(StudentError, match=message):
        merged(tmp_path, folders, MergeConfig("linear"))
