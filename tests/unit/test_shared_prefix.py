"""Attention over shared prompts in bfloat16: as exact as the kernel of PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from plan_tuning.students.generation import shared_prefix
from plan_tuning.students.generation.cohorts import Cohort
from plan_tuning.students.generation.sequences import Row
from plan_tuning.students.generation.shared_prefix import attend, product

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS, SAMPLES, TOKENS, HEADS, KV_HEADS, SIZE = 3, 2, 200, 4, 2, 64
ROWS = PROMPTS * SAMPLES
SCALING = SIZE**-0.5


def draw(largest: float, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Query, new key and value, prompts' keys and values, whose scores reach ``largest``."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    query, key = random(ROWS, HEADS, 1, SIZE), random(ROWS, KV_HEADS, 1, SIZE)
    keys = random(PROMPTS, KV_HEADS, TOKENS, SIZE)
    highest = (query[:, :1] @ keys[:1, :1].transpose(-1, -2)).abs().max() * SCALING
    values = [random(ROWS, KV_HEADS, 1, SIZE), random(PROMPTS, KV_HEADS, TOKENS, SIZE)]
    parts = (query * (largest / highest), key, values[0], keys, values[1])
    return tuple(part.to(dtype) for part in parts)


def full(states: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    """What every row sees, once for each query head: (B, H, T + 1, D)."""
    rows = torch.cat([prompts.repeat_interleave(SAMPLES, 0), states], dim=2)
    return rows.repeat_interleave(HEADS // KV_HEADS, 1)


def ours(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    query, key, value, keys, values = parts
    cache = DynamicCache()
    cache.update(keys, values, 0)
    mask = torch.ones((PROMPTS, TOKENS), dtype=torch.long)
    rows = [Row(index, (1,), None, tokens=[2]) for index in range(ROWS)]
    owner = [index // SAMPLES for index in range(ROWS)]
    cohort = Cohort(cache, mask, owner, rows, 8)
    return attend(cohort, 0, query, key, value, SCALING).transpose(1, 2)


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("largest", [5.0, 20.0, 41.0])
@pytest.mark.parametrize(
    ("dtype", "times"), [(torch.bfloat16, 1.1), (torch.float16, 1.1), (torch.float32, 2.0)]
)
def test_its_error_is_that_of_the_kernel(largest: float, dtype: torch.dtype, times: float) -> None:
    parts = draw(largest, dtype)
    query, key, value, keys, values = (part.double() for part in parts)
    weights = torch.softmax(query @ full(key, keys).transpose(-1, -2) * SCALING, dim=-1)
    exact = weights @ full(value, values)
    kernel = torch.nn.functional.scaled_dot_product_attention(
        parts[0], full(parts[1], parts[3]), full(parts[2], parts[4]), scale=SCALING
    )
    found = ours(parts)
    assert found.dtype == dtype
    assert error(found, exact) <= times * error(kernel, exact)


def test_scores_in_bfloat16_would_be_worse() -> None:
    """Or the test above could not fail."""
    query, key, value, keys, values = draw(41.0, torch.bfloat16)
    scores = query @ full(key, keys).transpose(-1, -2) * SCALING
    rounded = torch.softmax(scores.float(), dim=-1).to(torch.bfloat16) @ full(value, values)
    wide = (query.double() @ full(key, keys).double().transpose(-1, -2)) * SCALING
    exact = torch.softmax(wide, dim=-1) @ full(value, values).double()
    assert error(rounded, exact) > 3 * error(ours((query, key, value, keys, values)), exact)


@pytest.mark.parametrize("largest", [5.0, 41.0])
def test_autocast_rounds_no_scores(largest: float) -> None:
    """What it hands over: rotated queries and keys in float32, values in bfloat16."""
    parts = draw(largest, torch.float32)
    parts = tuple(part.bfloat16() if place in (2, 4) else part for place, part in enumerate(parts))
    query, key, value, keys, values = (part.double() for part in parts)
    weights = torch.softmax(query @ full(key, keys).transpose(-1, -2) * SCALING, dim=-1)
    exact = weights @ full(value, values)
    plain = ours(parts)
    with torch.autocast("cpu", torch.bfloat16):
        kernel = torch.nn.functional.scaled_dot_product_attention(
            parts[0], full(parts[1], parts[3]), full(parts[2], parts[4]), scale=SCALING
        )
        found = ours(parts)
    assert torch.equal(found, plain)
    assert error(found, exact) <= error(kernel, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shorter_floats_are_summed_up_in_float32(dtype: torch.dtype) -> None:
    draw_numbers = np.random.default_rng(0)
    left, right = (
        torch.tensor(draw_numbers.normal(size=shape)).to(dtype)
        for shape in ((2, 3, 4, 64), (2, 3, 64, 5))
    )
    found = product(left, right)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, left.double() @ right.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_returns_float32_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = (
        torch.randn(shape, device="cuda", dtype=torch.bfloat16)
        for shape in ((2, 3, 4, 64), (2, 3, 64, 5))
    )
    fast = product(left, right)
    monkeypatch.setattr(shared_prefix, "_GIVES_FLOAT32", False)
    np.testing.assert_allclose(fast.cpu(), product(left, right).cpu(), rtol=1e-5, atol=1e-5)
