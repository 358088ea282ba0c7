"""Rules of merging against NumPy in float64, written apart from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from plan_tuning.config.merge import MergeConfig
from plan_tuning.students.loading import StudentError
from plan_tuning.students.merge_rules import (
    Rule,
    dare_ties,
    kept_entries,
    largest,
    task_arithmetic,
    ties,
)
from plan_tuning.students.merging import merge_differences

Arrays = Sequence[np.ndarray]
SHARES = [0.5, 0.3, 0.2]


def drawn(count: int = 3, shape: tuple[int, ...] = (6, 5)) -> list[torch.Tensor]:
    noise = torch.Generator().manual_seed(7)
    return [torch.randn(*shape, generator=noise, dtype=torch.float64) for _ in range(count)]


def elected(deltas: Arrays, shares: Sequence[float]) -> np.ndarray:
    """Entry by entry, in plain loops: elect a sign, average who has it."""
    merged = np.zeros_like(deltas[0])
    for place in np.ndindex(deltas[0].shape):
        values = [delta[place] for delta in deltas]
        total = sum(share * value for share, value in zip(shares, values, strict=True))
        agreeing = [
            (share, value) for share, value in zip(shares, values, strict=True) if value * total > 0
        ]
        if agreeing:
            weight = sum(share for share, _ in agreeing)
            merged[place] = sum(share * value for share, value in agreeing) / weight
    return merged


def test_task_arithmetic_is_the_weighted_sum() -> None:
    deltas = drawn()
    knobs = MergeConfig("task_arithmetic", ["a", "b", "c"], [1.0, 0.5, 2.0], scale=0.3)
    found = task_arithmetic(deltas, knobs.shares, knobs, "w").numpy()
    meant = 0.3 * np.einsum("s,s...->...", np.array([1.0, 0.5, 2.0]), np.stack(deltas))
    np.testing.assert_allclose(found, meant, rtol=1e-14)
    plain = MergeConfig("task_arithmetic")
    added = task_arithmetic(deltas, plain.shares_of(3), plain, "w")
    np.testing.assert_allclose(added.numpy(), sum(d.numpy() for d in deltas), rtol=1e-14)


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_trims_elects_and_averages(density: float) -> None:
    deltas, knobs = drawn(), MergeConfig("ties", density=density, scale=1.5)
    trimmed = []
    for delta in deltas:
        array = delta.numpy().copy()
        bound = np.sort(np.abs(array).ravel())[::-1][round(density * array.size) - 1]
        array[np.abs(array) < bound] = 0.0
        trimmed.append(array)
        assert (largest(delta, density).numpy() == array).all()
    found = ties(deltas, SHARES, knobs, "w").numpy()
    np.testing.assert_allclose(found, 1.5 * elected(trimmed, SHARES), rtol=1e-13)


def test_ties_of_one_student_twice_is_that_student() -> None:
    (delta,) = drawn(1)
    knobs = MergeConfig("ties", density=1.0)
    torch.testing.assert_close(ties([delta, delta], [0.5, 0.5], knobs, "w"), delta)


def test_dare_drops_by_lot_and_rescales() -> None:
    deltas, knobs = drawn(shape=(80, 90)), MergeConfig("dare_ties", density=0.25, seed=3)
    masks = [kept_entries((80, 90), knobs, "w", place) for place in range(3)]
    assert all(abs(mask.mean() - 0.25) < 0.02 for mask in masks)
    assert not (masks[0] == masks[1]).all()
    dropped = [np.where(m, d.numpy(), 0.0) / 0.25 for m, d in zip(masks, deltas, strict=True)]
    found = dare_ties(deltas, SHARES, knobs, "w").numpy()
    np.testing.assert_allclose(found, elected(dropped, SHARES), rtol=1e-13)
    other = dare_ties(deltas, SHARES, MergeConfig("dare_ties", density=0.25, seed=4), "w")
    assert not np.array_equal(other.numpy(), found)
    assert np.array_equal(dare_ties(deltas, SHARES, knobs, "w").numpy(), found)
    assert not np.array_equal(dare_ties(deltas, SHARES, knobs, "v").numpy(), found)


@pytest.mark.parametrize("rule", [task_arithmetic, ties, dare_ties])
def test_differences_are_added_to_the_base(rule: Rule, tmp_path: Path) -> None:
    """Of float32 weights; the oracle is the rule on differences in float64."""
    base, *students = [tensor.float() for tensor in drawn(4)]
    folders = []
    for place, weight in enumerate([base, *students]):
        folder = tmp_path / str(place)
        folder.mkdir()
        save_file({"w": weight, "count": torch.arange(2)}, folder / "model.safetensors")
        folders.append(folder)
    out = tmp_path / "out"
    out.mkdir()
    knobs = MergeConfig(rule.__name__, density=0.5)
    merge_differences(out, folders[1:], folders[0], SHARES, knobs, rule)
    deltas = [student.double() - base.double() for student in students]
    meant = (base.double() + rule(deltas, SHARES, knobs, "w")).float()
    found = load_file(out / "model.safetensors")
    assert torch.equal(found["w"], meant)
    assert torch.equal(found["count"], torch.arange(2))


def test_another_base_is_refused(tmp_path: Path) -> None:
    for name, weights in (("base", {"v": torch.ones(2)}), ("one", {"w": torch.ones(2)})):
        (tmp_path / name).mkdir()
        save_file(weights, tmp_path / name / "model.safetensors")
    knobs, one = MergeConfig("ties"), tmp_path / "one"
    with pytest.raises(StudentError, match="has no weight w"):
        merge_differences(tmp_path, [one, one], tmp_path / "base", [0.5, 0.5], knobs, ties)
