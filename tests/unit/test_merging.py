"""Merging students: against NumPy in float64, and what cannot be merged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.merge import MergeConfig
from plan_tuning.students.loading import StudentError
from plan_tuning.students.merging import linear, merge_students

Weights = dict[str, torch.Tensor]


def student(folder: Path, weights: Weights, *, shards: int = 1, words: str = "{}") -> Path:
    folder.mkdir()
    names = sorted(weights)
    files = ["model.safetensors"] if shards == 1 else [f"model-{n}.safetensors" for n in (1, 2)]
    for place, file in enumerate(files):
        save_file({name: weights[name] for name in names[place :: len(files)]}, folder / file)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text("{}")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text(words)
    (folder / "manifest.json").write_text("{}")
    return folder


def drawn(seed: int, dtype: torch.dtype = torch.float32) -> Weights:
    noise = torch.Generator().manual_seed(seed)
    return {
        "embed": torch.randn(7, 3, generator=noise).to(dtype),
        "layer.weight": torch.randn(3, 3, generator=noise).to(dtype),
        "positions": torch.arange(4),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", [1, 2])
def test_the_average_is_that_of_float64(tmp_path: Path, dtype: torch.dtype, shards: int) -> None:
    given = [drawn(seed, dtype) for seed in range(3)]
    folders = [
        student(tmp_path / str(place), weights, shards=shards if place == 0 else 1)
        for place, weights in enumerate(given)
    ]
    shares = MergeConfig("linear", ["a", "b", "c"], [1.0, 2.0, 5.0]).shares
    assert shares == [0.125, 0.25, 0.625]
    out = tmp_path / "merged"
    out.mkdir()
    facts = merge_students(out, folders, shares, linear)
    assert facts == {"students": 3, "parameters": 7 * 3 + 3 * 3 + 4}
    found: Weights = {}
    for file in out.glob("*.safetensors"):
        found |= load_file(file)
    for name in ("embed", "layer.weight"):
        arrays = [weights[name].double().numpy() for weights in given]
        meant = np.einsum("s,s...->...", np.array(shares), np.stack(arrays))
        assert found[name].dtype == dtype
        assert torch.equal(found[name], torch.from_numpy(meant).to(dtype)), name
    assert torch.equal(found["positions"], torch.arange(4))
    assert json.loads((out / "config.json").read_text())["model_type"] == "llama"
    assert not (out / "manifest.json").exists()
    assert (out / "model.safetensors.index.json").exists() == (shards == 2)


def test_one_student_twice_is_that_student(tmp_path: Path) -> None:
    one = student(tmp_path / "one", drawn(0))
    out = tmp_path / "merged"
    out.mkdir()
    merge_students(out, [one, one], [0.5, 0.5], linear)
    found = load_file(out / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in drawn(0).items())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    one = student(tmp_path / "one", drawn(0))
    fewer = student(tmp_path / "fewer", {"embed": drawn(1)["embed"]})
    wider = student(tmp_path / "wider", drawn(1) | {"embed": torch.zeros(7, 4)})
    words = student(tmp_path / "words", drawn(1), words='{"other": 1}')
    adapter = student(tmp_path / "adapter", drawn(1))
    (adapter / "adapter_config.json").write_text("{}")
    empty = tmp_path / "empty"
    empty.mkdir()
    for other, message in (
        (fewer, "2 weights are in one of them only"),
        (wider, "embed has different shapes"),
        (words, "another vocabulary"),
        (adapter, r"adapter\.export=merged"),
        (empty, "holds no weights"),
    ):
        with pytest.raises(StudentError, match=message):
            merge_students(tmp_path, [one, other], [0.5, 0.5], linear)


@pytest.mark.parametrize(
    ("students", "weights", "name"),
    [
        (["one"], [], "linear"),
        (["one", "two"], [1.0], "linear"),
        (["one", "two"], [0.0, 0.0], "linear"),
        (["one", "two"], [-1.0, 2.0], "linear"),
        (["one", "two"], [], "none"),
        (["one", "two"], [], "slerp"),
    ],
)
def test_a_merge_that_cannot_be_is_refused(
    students: list[str], weights: list[float], name: str
) -> None:
    with pytest.raises(ConfigError, match=r"merge\."):
        MergeConfig(name, students, weights)
