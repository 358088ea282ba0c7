"""Several rows in one sequence: each sees itself only, so nothing changes but the padding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.records import Segment, SegmentKind
from plan_tuning.students import onednn, packed_rows
from plan_tuning.students.loading import Student, load_student
from plan_tuning.students.log_probs import token_log_probs
from plan_tuning.students.packed_rows import are_apart, attends_by_row, rows_apart
from plan_tuning.students.tiny import make_tiny
from plan_tuning.training.lightning import TrainingRun, checkpoint_activations
from plan_tuning.training.sft import batches
from plan_tuning.training.sft.batches import EncodedRow, MicroBatch, TrainingRow
from plan_tuning.training.sft.fit import SFTSettings, train_student

pytestmark = pytest.mark.integration

LENGTHS = (90, 61, 40, 30, 25, 7, 3)  # the longest is far beyond the sliding window


@pytest.fixture(scope="module", params=["gemma3", "qwen3", "llama"])
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Student:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    make_tiny(folder, request.param, 0)
    model = ModelConfig(name="tiny", kind="tiny", family=request.param)
    return load_student(folder, model, for_training=True, adapter=AdapterConfig(name="full"))


def rows_of(student: Student, seed: int = 0) -> list[EncodedRow]:
    draw = torch.Generator().manual_seed(seed)
    size = student.causal_lm.get_input_embeddings().weight.shape[0]
    return [
        EncodedRow(
            f"p{length}",
            torch.randint(0, size, (length,), generator=draw),
            torch.rand(length, generator=draw),
            torch.ones(length, dtype=torch.long),
        )
        for length in LENGTHS
    ]


def loss_and_gradients(
    student: Student, found: list[MicroBatch], *, by_row: bool = False
) -> tuple[float, dict[str, torch.Tensor]]:
    student.model.zero_grad()
    total = 0.0
    for micro in found:
        with rows_apart(student.causal_lm) if by_row else nullcontext():
            found = token_log_probs(
                student.causal_lm,
                micro.input_ids,
                micro.positions,
                micro.targets,
                position_ids=micro.position_ids,
                row_lengths=micro.row_lengths if by_row else None,
            )
            loss = -(found.log_probs * micro.weights).sum()
            loss.backward()
        total += float(loss.detach())
    gradients = {
        name: p.grad.clone() for name, p in student.model.named_parameters() if p.grad is not None
    }
    return total, gradients


@pytest.mark.parametrize("capacity", [None, 256])
def test_loss_and_gradients_are_those_of_padded_rows(
    student: Student, capacity: int | None
) -> None:
    rows = rows_of(student)
    padded, expected = loss_and_gradients(student, batches.micro_batches(rows, budget=1000))
    found = batches.packed_batches(rows, budget=300, capacity=capacity)
    assert sum(len(micro.problem_ids) for micro in found) == len(rows)
    assert any(len(micro.problem_ids) > micro.input_ids.shape[0] for micro in found)
    packed, gradients = loss_and_gradients(student, found)
    assert packed == pytest.approx(padded, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("recomputes", [False, True])
def test_attention_row_by_row_is_that_of_padded_rows(student: Student, recomputes: bool) -> None:
    rows = rows_of(student)
    padded, expected = loss_and_gradients(student, batches.micro_batches(rows, budget=1000))
    found = batches.packed_batches(rows, budget=192, capacity=192, multiple=32)
    assert [tuple(micro.input_ids.shape) for micro in found] == [(1, 192), (1, 96)]
    assert [sum(micro.row_lengths) for micro in found] == [192, 96]
    own = copy.deepcopy(student)
    if recomputes:
        checkpoint_activations(own)
        own.causal_lm.train()
    packed, gradients = loss_and_gradients(own, found, by_row=True)
    assert not are_apart(own.causal_lm)
    assert packed == pytest.approx(padded, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4)


def test_rows_are_attended_one_by_one_where_that_pays(student: Student) -> None:
    config = student.causal_lm.config.get_text_config()
    assert attends_by_row(student.causal_lm, torch.device("cpu"))
    assert not attends_by_row(student.causal_lm, torch.device("cuda"))
    chosen = config._attn_implementation
    try:
        config._attn_implementation = "eager"
        assert not attends_by_row(student.causal_lm, torch.device("cpu"))
    finally:
        config._attn_implementation = chosen


def test_a_row_does_not_see_its_neighbour(student: Student) -> None:
    first, second = rows_of(student)[2], rows_of(student)[3]
    other = rows_of(student, seed=1)[2]
    tables = []
    for neighbour in (first, other):
        micro = batches.collate_packed([[neighbour, second]])
        with torch.no_grad():
            found = token_log_probs(
                student.causal_lm,
                micro.input_ids,
                micro.positions,
                micro.targets,
                position_ids=micro.position_ids,
            )
        tables.append(found.log_probs[-(len(second) - 1) :])
    torch.testing.assert_close(tables[0], tables[1], rtol=0, atol=1e-6)


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        return self.function(*arguments, **named)


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_packed_training_goes_the_same_way(
    adapter: str, recomputes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(onednn, "MIN_PRODUCTS", 0)
    attended = Counted(packed_rows.sdpa_attention_forward)
    monkeypatch.setattr(packed_rows, "sdpa_attention_forward", attended)
    multiplied = Counted(onednn._product)
    monkeypatch.setattr(onednn, "_product", multiplied)
    make_tiny(tmp_path / "base", "qwen3", 0)
    rows = [
        TrainingRow(
            f"p{i}",
            ({"role": "user", "content": f"{i} + 3 = ?"},),
            (Segment(SegmentKind.SOLUTION, "So " + "and so " * i + f"{i + 3}."),),
        )
        for i in range(12)
    ]
    counts = {}
    losses = {}
    for is_packed, matmul, budget in (
        (False, "torch", 16384),
        (True, "torch", 16384),
        (True, "torch", 61),  # no multiple of any width; longer rows go alone
        (True, "onednn", 122),
    ):
        trainer = TrainerConfig(
            learning_rate=1e-3, precision="fp32", accelerator="cpu", val_fraction=0.0,
            max_steps=4, packing=is_packed, max_length=200, cpu_matmul=matmul,
            micro_batch_tokens=budget, gradient_checkpointing=recomputes,
        )  # fmt: skip
        way = f"{is_packed}-{matmul}-{budget}"
        attended.calls = multiplied.calls = 0
        facts = train_student(
            TrainingRun(tmp_path / way, tmp_path),
            SFTSettings(
                model=ModelConfig(name="tiny", kind="tiny", family="qwen3"),
                adapter=AdapterConfig(name=adapter),
                trainer=trainer,
                method=MethodConfig(name="sft"),
                seed=0,
            ),
            tmp_path / "base",
            rows,
        )
        assert facts["steps"] == 4
        losses[way] = facts["final_loss"]
        counts[way] = (attended.calls > 0, multiplied.calls > 0)
    assert counts == {
        "False-torch-16384": (False, False),
        "True-torch-16384": (True, False),
        "True-torch-61": (True, False),
        "True-onednn-122": (True, onednn._is_built()),
    }
    for loss in losses.values():
        assert loss == pytest.approx(losses["False-torch-16384"], rel=1e-4)


def test_noise_by_length_and_packing_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.neftune_alpha=0"):
        TrainerConfig(packing=True, neftune_alpha=5.0)
