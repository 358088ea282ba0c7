"""PCGrad and cosines against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plan_tuning.training.gradients import cosines, module_of, modules_of, projected

NAMES = (
    "base_model.model.model.layers.0.q_proj.lora_A.default.weight",
    "base_model.model.model.layers.0.q_proj.lora_B.default.weight",
    "base_model.model.model.layers.1.v_proj.lora_A.default.weight",
)
SHAPES = ((2, 3), (4, 2), (2, 5))


def drawn(seed: int) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(*shape, generator=noise, dtype=torch.float64)
        for name, shape in zip(NAMES, SHAPES, strict=True)
    }


def flat(gradient: dict[str, torch.Tensor], names: list[str]) -> np.ndarray:
    return np.concatenate([gradient[name].numpy().ravel() for name in names])


def reference(vectors: list[np.ndarray], order: list[list[int]]) -> np.ndarray:
    """PCGrad's algorithm 1, with the order in which each gradient meets the others."""
    total = np.zeros_like(vectors[0])
    for place, own in enumerate(vectors):
        left = own.copy()
        for other in order[place]:
            inner = left @ vectors[other]
            if inner < 0:
                left = left - inner / (vectors[other] @ vectors[other]) * vectors[other]
        total += left
    return total


def test_a_weight_belongs_to_its_module() -> None:
    assert modules_of(NAMES) == {
        "layers.0.q_proj": list(NAMES[:2]), "layers.1.v_proj": [NAMES[2]]
    }  # fmt: skip
    assert module_of("lm_head.weight") == "lm_head.weight"


@pytest.mark.parametrize("is_modular", [True, False])
def test_two_gradients_lose_what_opposes(is_modular: bool) -> None:
    first, second = drawn(0), {name: -0.5 * g + 0.1 for name, g in drawn(0).items()}
    groups = list(modules_of(NAMES).values()) if is_modular else [list(NAMES)]
    found = projected([first, second], groups, seed=[0])
    for names in groups:
        vectors = [flat(first, names), flat(second, names)]
        assert vectors[0] @ vectors[1] < 0
        meant = reference(vectors, [[1], [0]])
        np.testing.assert_allclose(flat(found, names), meant, rtol=1e-12)
        for vector in vectors:  # PCGrad's point: no step against either of them
            assert meant @ vector > -1e-9


def test_three_gradients_meet_in_an_order_of_the_seed() -> None:
    gradients = [drawn(n) for n in range(3)]
    vectors = [flat(g, list(NAMES)) for g in gradients]
    orders = [[[1, 2], [0, 2], [0, 1]], [[2, 1], [2, 0], [1, 0]]]
    every = [
        reference(vectors, [orders[a][0], orders[b][1], orders[c][2]])
        for a in (0, 1) for b in (0, 1) for c in (0, 1)
    ]  # fmt: skip
    found = flat(projected(gradients, [list(NAMES)], seed=[5, 1]), list(NAMES))
    assert any(np.allclose(found, one, rtol=1e-12) for one in every)
    again = flat(projected(gradients, [list(NAMES)], seed=[5, 1]), list(NAMES))
    assert np.array_equal(found, again)


def test_without_a_conflict_it_is_the_sum() -> None:
    first = drawn(0)
    second = {name: 2 * g for name, g in first.items()}
    found = projected([first, second], list(modules_of(NAMES).values()), seed=[0])
    for name in NAMES:
        torch.testing.assert_close(found[name], 3 * first[name])


def test_cosines_are_those_of_numpy() -> None:
    gradients = [drawn(n) for n in range(3)]
    found = cosines(gradients)
    pairs = [(0, 1), (0, 2), (1, 2)]
    for module, names in [*modules_of(NAMES).items(), ("all", list(NAMES))]:
        values = []
        for a, b in pairs:
            one, other = flat(gradients[a], names), flat(gradients[b], names)
            values.append(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
        assert found[module] == pytest.approx(np.mean(values), rel=1e-12)
    still = {name: torch.zeros_like(g) for name, g in gradients[0].items()}
    assert cosines([gradients[0], still]) == {}
