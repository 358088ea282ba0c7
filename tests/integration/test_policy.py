"""Who writes the rollouts: copies that follow the trained weights, in the precision asked for."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from plan_tuning.config.extensions import record
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import PromptConfig, TrainerConfig
from plan_tuning.records import Completion, Problem
from plan_tuning.students.generation.in_process import InProcessEngine
from plan_tuning.students.loading import Student, load_student
from plan_tuning.students.tiny import make_tiny
from plan_tuning.training.grpo.data import PlannedProblem
from plan_tuning.training.grpo.policy import Policy, copy_of, sampler_dtype
from plan_tuning.training.grpo.rollout import Rollout, sample_groups

pytestmark = pytest.mark.integration

PLANNED = PlannedProblem(Problem("p", "2 + 3?", "5"), "1. Add.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("students") / "qwen3"
    make_tiny(made, "qwen3", 0)
    return made


def student_of(folder: Path, adapter: str) -> Student:
    model = ModelConfig(name="tiny", kind="tiny", family="qwen3")
    student = load_student(
        folder, model, for_training=True, adapter=AdapterConfig(name=adapter, rank=4)
    )
    if adapter == "lora":  # an adapter that does something
        torch.manual_seed(0)
        for name, parameter in student.model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0.0, 0.1)
    return student


def policy_of(student: Student, *, is_merged: bool, dtype: str = "auto") -> Policy:
    method = GRPOConfig(merged_sampler=is_merged, sampler_dtype=dtype, beta=0.0)
    return Policy(student, method=method, trainer=TrainerConfig(accelerator="cpu"))


def sampled(student: Student) -> list[tuple[int, ...]]:
    method = GRPOConfig(group_size=4, max_new_tokens=8)
    engine = InProcessEngine(student, record("engine", "native"), batch_tokens=16384)
    found = sample_groups(
        engine, student.tokenizer, [PLANNED], method=method, prompt=PromptConfig(), seed=1, step=0
    )
    return [rollout.completion.token_ids for rollout in found]


def test_the_merged_sampler_follows_the_adapter(folder: Path) -> None:
    student = student_of(folder, "lora")
    policy = policy_of(student, is_merged=True)
    ids = torch.tensor([[5, 6, 7, 8]])
    for _ in range(2):
        copy = policy.sampler()
        assert copy is not student
        assert not hasattr(copy.model, "peft_config")
        with torch.no_grad():
            torch.testing.assert_close(
                copy.causal_lm(input_ids=ids).logits,
                student.causal_lm(input_ids=ids).logits,
                atol=2e-5,
                rtol=1e-4,
            )
            for name, parameter in student.model.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(-3.0)
    assert policy_of(student, is_merged=False).sampler() is student


@pytest.mark.parametrize("adapter", ["full", "lora", "unmerged"])
def test_a_sampler_in_bfloat16_follows_the_float32_weights(folder: Path, adapter: str) -> None:
    student = student_of(folder, "full" if adapter == "full" else "lora")
    policy = policy_of(student, is_merged=adapter == "lora", dtype="bfloat16")
    assert policy.dtypes == {torch.float32, torch.bfloat16}
    written: list[list[tuple[int, ...]]] = []
    for _ in range(2):
        copy = policy.sampler()
        assert hasattr(copy.model, "peft_config") == (adapter == "unmerged")
        assert {p.dtype for p in copy.model.parameters()} == {torch.bfloat16}
        assert {b.dtype for b in copy.model.buffers() if b.is_floating_point()} == {torch.float32}
        assert {p.dtype for p in student.model.parameters()} == {torch.float32}
        expected = merged_weights(student)
        for name, weight in merged_weights(copy).items():
            if adapter == "unmerged":  # the sum of rounded parts
                torch.testing.assert_close(weight.float(), expected[name], atol=1e-2, rtol=2e-2)
            else:
                assert torch.equal(weight, expected[name].to(torch.bfloat16)), name
        written.append(sampled(copy))
        with torch.no_grad():
            for name, parameter in student.model.named_parameters():
                if "lora_B" in name or adapter == "full":
                    parameter.normal_(0.0, 0.1)
    assert written[0] != written[1], "tokens come from the copy"


def merged_weights(student: Student) -> dict[str, torch.Tensor]:
    model = deepcopy(student.model)
    if hasattr(model, "peft_config"):
        model = model.merge_and_unload()
    return dict(model.named_parameters())


def test_quantised_weights_are_sampled_as_they_are(folder: Path) -> None:
    student = student_of(folder, "lora")
    student.causal_lm.is_quantized = True
    assert policy_of(student, is_merged=True, dtype="bfloat16").sampler() is student


def test_the_precision_of_the_sampler() -> None:
    trainer = TrainerConfig(accelerator="cpu", precision="bf16")
    assert sampler_dtype("auto", trainer) is None
    assert sampler_dtype("bfloat16", trainer) == torch.bfloat16
    assert sampler_dtype("float32", trainer) == torch.float32


def test_copies_are_made_in_their_precision_and_share_what_stays_as_it_is(folder: Path) -> None:
    student = student_of(folder, "lora")
    model = student.model
    whole = copy_of(model, torch.float32, torch.device("cpu"))
    assert whole.get_base_model().get_input_embeddings().weight is (
        student.causal_lm.get_input_embeddings().weight
    ), "frozen, and no update is merged into it"
    own, copies = dict(model.named_parameters()), dict(whole.named_parameters())
    for name, weight in own.items():
        if "q_proj" in name:
            assert copies[name].data_ptr() != weight.data_ptr(), name
    elsewhere = copy_of(model, torch.float32, torch.device("meta")).get_base_model()
    assert elsewhere.get_input_embeddings().weight.device.type == "cpu", "it moves with the model"
    assert elsewhere.get_decoder().layers[0].mlp.up_proj.base_layer.weight.is_meta
    rounded = copy_of(model, torch.bfloat16, torch.device("cpu"))
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in rounded.parameters())


def test_no_copy_in_the_masters_precision_is_made_on_the_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deep copies double a machine's memory: none of a weight is made."""
    student = student_of(folder, "full")
    copied: list[torch.Tensor] = []
    deepcopy_of = torch.Tensor.__deepcopy__
    monkeypatch.setattr(
        torch.nn.Parameter,
        "__deepcopy__",
        lambda self, memo: copied.append(self) or deepcopy_of(self, memo),
    )
    for reference in ("float32", "bfloat16"):
        method = GRPOConfig(sampler_dtype="bfloat16", reference_dtype=reference)
        policy = Policy(student, method=method, trainer=TrainerConfig(accelerator="cpu"))
        with policy.reference() as model:
            assert {p.dtype for p in model.parameters()} == {getattr(torch, reference)}
    assert not copied


@pytest.mark.parametrize("is_merged", [True, False])
def test_rollouts_beside_a_rounded_base(folder: Path, is_merged: bool) -> None:
    """Merged copies are in one precision; the student itself is read under autocast only."""
    model = ModelConfig(name="tiny", kind="tiny", family="qwen3")
    student = load_student(
        folder,
        model,
        for_training=True,
        adapter=AdapterConfig(name="lora", rank=4),
        rounds_base=True,
    )
    policy = policy_of(student, is_merged=is_merged)
    assert policy.samples_in_autocast is not is_merged
    with torch.autocast("cpu", torch.bfloat16, enabled=policy.samples_in_autocast):
        assert len(sampled(policy.sampler())) == 4
    if is_merged:
        assert {p.dtype for p in policy.sampler().model.parameters()} == {torch.float32}


def test_autocast_keeps_nothing_of_a_pass_without_gradients(folder: Path) -> None:
    """Casts that it kept would have no gradient in the update, before torch 2.11."""
    student = student_of(folder, "full")
    policy = policy_of(student, is_merged=False)
    layer = student.causal_lm.get_decoder().layers[0].mlp.up_proj
    states = torch.ones(1, layer.in_features)
    completion = Completion("ab", (5, 6), "stop", 2, (0.0, 0.0))
    rollout = Rollout(PLANNED.problem, "1.", 0, (4, 5), completion, "", 0)
    with torch.autocast("cpu", torch.bfloat16):
        policy.log_probs(student.causal_lm, [rollout])
        with torch.no_grad():
            before = (layer.weight.to(torch.bfloat16) @ states[0].to(torch.bfloat16)).float()
            layer.weight.neg_()
            found = layer(states)[0].float()
    torch.testing.assert_close(found, -before, atol=1e-2, rtol=2e-2)
