"""A frozen base in bfloat16 beside LoRA: nothing is cast, and nothing comes out otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.students.export import export_student
from plan_tuning.students.loading import Student, load_student
from plan_tuning.students.log_probs import token_log_probs
from plan_tuning.students.tiny import make_tiny
from plan_tuning.training.grpo.fit import COMPLETIONS_FILE
from plan_tuning.training.grpo.policy import Policy
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.sft.fit import SFTSettings, train_student

from .grpo_world import metrics, weights
from .grpo_world import train as train_grpo
from .sft_world import make_rows

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

FAMILIES = ("qwen3", "gemma3", "llama")


def model_of(family: str) -> ModelConfig:
    return ModelConfig(name="tiny", kind="tiny", family=family)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every family as it is published, in bfloat16, and as a full training leaves it."""
    root = tmp_path_factory.mktemp("bases")
    found = {}
    for family in FAMILIES:
        plain = root / f"{family}_float32"
        make_tiny(plain, family, 0)
        student = load_student(plain, model_of(family))
        published = root / f"{family}_bfloat16"
        student.model.to(torch.bfloat16).save_pretrained(published)
        student.tokenizer.save_pretrained(published)
        found[family, "float32"], found[family, "bfloat16"] = plain, published
    return found


def loaded(base: Path, family: str, *, rounds_base: bool) -> Student:
    torch.manual_seed(0)
    student = load_student(
        base,
        model_of(family),
        for_training=True,
        adapter=AdapterConfig(name="lora", rank=4),
        rounds_base=rounds_base,
    )
    torch.manual_seed(1)
    for name, parameter in student.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.1)
    student.model.train()
    return student


def loss_of(student: Student) -> torch.Tensor:
    ids = torch.randint(5, 500, (2, 17), generator=torch.Generator().manual_seed(3))
    positions = torch.arange(13)  # no weight has such a side
    with torch.autocast("cpu", torch.bfloat16):
        found = token_log_probs(student.causal_lm, ids, positions, ids.flatten()[positions + 1])
    return -found.log_probs.sum()


def saved_casts(student: Student) -> tuple[int, torch.Tensor]:
    """Bytes of frozen weights that autocast copied and kept for the backward pass, and the loss."""
    frozen = [p for p in student.model.parameters() if not p.requires_grad and p.ndim == 2]
    shapes = {frozenset(p.shape) for p in frozen}
    own = {p.untyped_storage().data_ptr() for p in frozen}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.ndim == 2 and frozenset(tensor.shape) in shapes and storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(student)
    return sum(kept.values()), loss


@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_equal_to_the_bit(
    bases: dict[tuple[str, str], Path], family: str, stored: str
) -> None:
    found = []
    for rounds_base in (False, True):
        student = loaded(bases[family, stored], family, rounds_base=rounds_base)
        trained = {n: p for n, p in student.model.named_parameters() if p.requires_grad}
        assert {p.dtype for p in trained.values()} == {torch.float32}
        begun = {name: p.detach().clone() for name, p in trained.items()}
        loss = loss_of(student)
        loss.backward()
        found.append((loss.detach(), begun, {n: p.grad for n, p in trained.items()}))
    (plain, plain_weights, plain_grads), (rounded, weights, grads) = found
    assert torch.equal(plain, rounded)
    for name in weights:
        assert torch.equal(plain_weights[name], weights[name]), name
        assert torch.equal(plain_grads[name], grads[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_base_is_never_cast(bases: dict[tuple[str, str], Path], family: str) -> None:
    base = bases[family, "bfloat16"]
    before, _ = saved_casts(loaded(base, family, rounds_base=False))
    student = loaded(base, family, rounds_base=True)
    after, _ = saved_casts(student)
    frozen = [p for p in student.model.parameters() if not p.requires_grad and p.ndim == 2]
    assert before >= 2 * sum(p.numel() for p in frozen if p.shape[0] != 1024)
    assert after == 0
    assert {p.dtype for p in frozen} == {torch.bfloat16}


@pytest.mark.parametrize("export", ["auto", "merged"])
@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
def test_a_whole_training_writes_the_same_student(
    bases: dict[tuple[str, str], Path], tmp_path: Path, stored: str, export: str
) -> None:
    written = []
    for base_dtype in ("float32", "auto"):
        folder = tmp_path / base_dtype
        train_student(
            TrainingRun(folder, tmp_path),
            SFTSettings(
                model=model_of("gemma3"),
                adapter=AdapterConfig(name="lora", rank=4, base_dtype=base_dtype, export=export),
                trainer=TrainerConfig(
                    learning_rate=1e-2, accelerator="cpu", max_steps=3, val_fraction=0.25
                ),
                method=MethodConfig(name="m1"),
                seed=0,
            ),
            bases["gemma3", stored],
            make_rows(8),
        )
        (file,) = folder.glob("*.safetensors")
        written.append(load_file(file))
    assert written[0].keys() == written[1].keys()
    for name, weight in written[0].items():
        assert weight.dtype == written[1][name].dtype == torch.float32, name
        assert torch.equal(weight, written[1][name]), name


@pytest.fixture(scope="module")
def adapted(bases: dict[tuple[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter upon a published base: merged, it has digits that bfloat16 drops."""
    folder = tmp_path_factory.mktemp("adapted")
    base = bases["qwen3", "bfloat16"]
    student = loaded(base, "qwen3", rounds_base=False)
    adapter = AdapterConfig(name="lora", rank=4)
    export_student(student, folder, base=base, model=model_of("qwen3"), adapter=adapter, facts={})
    return folder


@pytest.mark.parametrize("stored", ["bfloat16", "float32", "adapter"])
@pytest.mark.parametrize("is_merged", [True, False])
@pytest.mark.usefixtures("digits")
def test_reinforcement_does_not_depend_on_how_a_base_is_stored(
    bases: dict[tuple[str, str], Path], adapted: Path, tmp_path: Path, stored: str, is_merged: bool
) -> None:
    """Rollouts, the reference beneath the adapter, the update: all with the cap that auto means."""
    start = adapted if stored == "adapter" else bases["qwen3", stored]
    written, completions = [], []
    for base_dtype in ("auto", "float32"):
        folder = tmp_path / base_dtype
        train_grpo(
            folder,
            start,
            adapter="lora",
            precision="bf16",
            base_dtype=base_dtype,
            export="merged",
            merged_sampler=is_merged,
            steps=2,
            beta=0.04,
            learning_rate=1e-2,
            importance_cap="auto",
        )
        assert all(row["train/importance"] <= 2.0 for row in metrics(folder))
        assert all(row["train/sampler_gap"] < 0.2 for row in metrics(folder))
        written.append(weights(folder))
        completions.append((folder / COMPLETIONS_FILE).read_bytes())
    assert completions[0] == completions[1]
    for key, weight in written[0].items():
        assert torch.equal(weight, written[1][key]), key


@pytest.mark.parametrize("stored", ["bfloat16", "float32", "adapter"])
def test_the_copy_for_rollouts_does_not_depend_on_how_a_base_is_stored(
    bases: dict[tuple[str, str], Path], adapted: Path, stored: str
) -> None:
    """Weight by weight: the tokens of two steps may hide a difference."""
    start = adapted if stored == "adapter" else bases["qwen3", stored]
    rounded, wide = copies_of(start, "auto"), copies_of(start, "float32")
    for name, weight in rounded.items():
        assert torch.equal(weight, wide[name]), name


def copies_of(start: Path, base_dtype: str) -> dict[str, torch.Tensor]:
    """What the copy for rollouts holds once the adapter is no longer nothing."""
    adapter = AdapterConfig(name="lora", rank=4, base_dtype=base_dtype)
    torch.manual_seed(0)
    student = load_student(
        start,
        model_of("qwen3"),
        for_training=True,
        adapter=adapter,
        rounds_base=adapter.samples_rounded("bf16"),
    )
    for name, parameter in student.model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.05)
    trainer = TrainerConfig(accelerator="cpu", precision="bf16")
    policy = Policy(student, method=GRPOConfig(), trainer=trainer)
    return dict(policy.sampler().model.state_dict())
