"""The order of problems, forward passes and the log-probabilities in them."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from plan_tuning.config.extensions import record
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import PromptConfig
from plan_tuning.records import Completion, Problem
from plan_tuning.students.generation.in_process import InProcessEngine
from plan_tuning.students.loading import Student, load_student
from plan_tuning.students.tiny import build_tokenizer, make_tiny
from plan_tuning.training.grpo import batch as batch_module
from plan_tuning.training.grpo.batch import policy_batches
from plan_tuning.training.grpo.data import PlannedProblem
from plan_tuning.training.grpo.policy import completion_log_probs
from plan_tuning.training.grpo.rollout import Rollout, plan_length, sample_groups
from plan_tuning.training.order import stream_rows

FAMILIES = ("qwen3", "gemma3", "llama")
PLANNED = PlannedProblem(Problem("p", "2 + 3?", "5"), "1. Add.")


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("students")
    for family in FAMILIES:
        make_tiny(root / family, family, 0)
    return {family: root / family for family in FAMILIES}


def student_of(folder: Path, family: str, adapter: str = "full") -> Student:
    model = ModelConfig(name="tiny", kind="tiny", family=family)
    student = load_student(
        folder, model, for_training=True, adapter=AdapterConfig(name=adapter, rank=4)
    )
    if adapter == "lora":  # an adapter that does something
        torch.manual_seed(0)
        for name, parameter in student.model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0.0, 0.1)
    return student


def rollouts_of(lengths: dict[int, list[int]], vocabulary: int = 900) -> list[Rollout]:
    """Random rollouts: prompt length to completion lengths."""
    rng = random.Random(0)
    out = []
    for prompt_length, completions in lengths.items():
        prompt = tuple(rng.randrange(8, vocabulary) for _ in range(prompt_length))
        for sample, length in enumerate(completions):
            ids = tuple(rng.randrange(8, vocabulary) for _ in range(length))
            completion = Completion("", ids, "stop", prompt_length)
            out.append(Rollout(PLANNED.problem, "1. Add.", sample, prompt, completion, "", 0))
    return out


MIXED = {5: [1, 7, 30], 23: [2, 2, 9], 40: [12, 1, 1]}


def test_the_stream_is_epoch_after_epoch_and_does_not_depend_on_where_one_starts() -> None:
    whole = stream_rows(seed=3, first=0, count=20, num_rows=5)
    assert whole == [
        row for first in range(0, 20, 4)
        for row in stream_rows(seed=3, first=first, count=4, num_rows=5)
    ]  # fmt: skip
    for epoch in range(4):
        assert sorted(whole[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]
    assert whole != stream_rows(seed=4, first=0, count=20, num_rows=5)


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("budget", [1, 60, 150, 10**6])
def test_passes_hold_every_token_once_within_the_budget(is_shared: bool, budget: int) -> None:
    rollouts = rollouts_of(MIXED)
    batches = policy_batches(rollouts, budget=budget, is_shared=is_shared)
    seen = Counter(index for batch in batches for index in batch.indices)
    assert seen == Counter(range(len(rollouts)))
    for batch in batches:
        assert batch.padded_tokens <= budget or len(batch.indices) == 1
        targets = batch.completion_ids.flatten()[batch.cells]
        parts = targets.split(batch.lengths.tolist())
        for index, part in zip(batch.indices, parts, strict=True):
            assert tuple(part.tolist()) == rollouts[index].completion.token_ids
        assert batch.rows.bincount().tolist() == batch.lengths.tolist()
    if budget == 10**6 and is_shared:
        assert len(batches[0].prompt_ids) == len(MIXED)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_shared_prompts_padding_and_splits_change_nothing(
    students: dict[str, Path], family: str, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-probabilities and gradients of four ways to compute the same thing."""
    monkeypatch.setattr(batch_module, "_BUCKET_OVERHEAD", 0)  # parts even of short texts
    student = student_of(students[family], family, adapter)
    student.model.train()
    rollouts = rollouts_of(MIXED)
    (whole,) = policy_batches(rollouts, budget=10**6, is_shared=True)
    assert len(whole.buckets) > 1
    ways = []
    for is_shared, budget in ((True, 10**6), (True, 90), (False, 10**6), (False, 60)):
        student.model.zero_grad()
        log_probs: list[torch.Tensor] = [torch.empty(0)] * len(rollouts)
        for batch in policy_batches(rollouts, budget=budget, is_shared=is_shared):
            found = completion_log_probs(student.causal_lm, batch, temperature=0.7)
            parts = found.log_probs.split(batch.lengths.tolist())
            total = torch.zeros(())
            for index, part in zip(batch.indices, parts, strict=True):
                log_probs[index] = part.detach()
                total = total + (part * torch.sin(torch.arange(len(part)) + index)).sum()
            total.backward()
        gradient = torch.cat(
            [p.grad.flatten() for p in student.model.parameters() if p.grad is not None]
        )
        ways.append((torch.cat(log_probs), gradient))
    for log_prob, gradient in ways[1:]:
        torch.testing.assert_close(log_prob, ways[0][0], atol=5e-6, rtol=1e-5)
        assert (gradient - ways[0][1]).norm() <= 2e-5 * ways[0][1].norm()


def test_log_probs_equal_the_models_own_logits(students: dict[str, Path]) -> None:
    student = student_of(students["gemma3"], "gemma3")
    rollouts = rollouts_of({7: [5, 1]})
    (batch,) = policy_batches(rollouts, budget=10**6, is_shared=True)
    found = completion_log_probs(student.causal_lm, batch, temperature=0.5, with_entropy=True)
    parts = found.log_probs.split(batch.lengths.tolist())
    assert found.entropy is not None
    entropies = found.entropy.split(batch.lengths.tolist())
    for index, part, entropy in zip(batch.indices, parts, entropies, strict=True):
        ids = [*rollouts[index].prompt, *rollouts[index].completion.token_ids]
        with torch.no_grad():
            logits = student.causal_lm(input_ids=torch.tensor([ids])).logits[0].double() / 0.5
        expected = logits.log_softmax(-1)[6:-1]
        targets = torch.tensor(rollouts[index].completion.token_ids)
        torch.testing.assert_close(
            part.double(), expected.gather(-1, targets[:, None])[:, 0], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            entropy.double(), -(expected.exp() * expected).sum(-1), atol=1e-5, rtol=1e-5
        )


def test_chunks_change_nothing_but_memory(students: dict[str, Path]) -> None:
    student = student_of(students["qwen3"], "qwen3")
    (batch,) = policy_batches(rollouts_of({9: [6, 11]}), budget=10**6, is_shared=True)
    gradients = []
    for logits in (1 << 24, 5 * 1024):
        student.model.zero_grad()
        found = completion_log_probs(
            student.causal_lm,
            batch,
            temperature=1.0,
            with_entropy=True,
            entropy_has_gradient=True,
            logits_at_once=logits,
        )
        assert found.entropy is not None
        (found.log_probs.sum() - 0.3 * found.entropy.sum()).backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in student.model.parameters() if p.grad is not None])
        )
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<plan>1. Add both.</plan><output>5</output>", "<plan>1. Add both.</plan>"),
        ("<plan>1. Add both.", "<plan>1. Add both."),
        ("It is 5.", ""),
    ],
)
def test_plan_tokens_end_with_the_tag(text: str, expected: str) -> None:
    tokenizer = build_tokenizer("qwen3")
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    count = plan_length(tokenizer, Completion(text, ids, "stop", 1))
    assert tokenizer.decode(ids[:count]).startswith(expected)
    if "</plan>" in text:
        assert "</plan>" not in tokenizer.decode(ids[: count - 1])


def sampled(
    student: Student, problems: list[PlannedProblem], **changes: int
) -> list[tuple[int, ...]]:
    method = GRPOConfig(group_size=2, max_new_tokens=6)
    settings = {"seed": 1, "step": 0} | changes
    stream = list(range(len(problems)))
    found = sample_groups(
        InProcessEngine(student, record("engine", "native"), batch_tokens=16384),
        student.tokenizer,
        problems,
        method=method,
        prompt=PromptConfig(),
        stream=stream,
        **settings,
    )
    return [rollout.completion.token_ids for rollout in found]


def test_samples_depend_on_seed_step_problem_and_sample_alone(students: dict[str, Path]) -> None:
    student = student_of(students["qwen3"], "qwen3")
    other = PlannedProblem(Problem("q", "7 - 4 = ? Say more.", "3"), "1. Subtract.")
    base = sampled(student, [PLANNED, other])
    assert base == sampled(student, [PLANNED, other])
    assert base[:2] == sampled(student, [PLANNED])
    assert base[0] != base[1]
    assert base != sampled(student, [PLANNED, other], step=1)
    assert base != sampled(student, [PLANNED, other], seed=2)
    twice = sampled(student, [PLANNED, PLANNED])
    assert twice[:2] != twice[2:]
