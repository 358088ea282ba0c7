"""Decoding: equal to plain forward passes, independent of the batch, exact in distribution."""

import numpy as np
import pytest
import torch
from scipy import stats

from plan_tuning.students.generation import decoders, sampling
from plan_tuning.students.generation.native_engine import generate
from plan_tuning.students.generation.sequences import GenerationError
from plan_tuning.students.loading import Student
from plan_tuning.students.tiny import build_tiny

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

FAMILIES = ("qwen3", "gemma3", "llama")


@pytest.fixture(scope="module")
def students() -> dict[str, Student]:
    made = {}
    for family in FAMILIES:
        model, tokenizer = build_tiny(family, 0)
        ends = model.generation_config.eos_token_id
        made[family] = Student(model.eval(), tokenizer, tuple(ends), (ends[0],))
    return made


def make_prompts(count: int, longest: int = 40) -> list[list[int]]:
    draw = np.random.default_rng(0)
    return [draw.integers(10, 1000, draw.integers(3, longest)).tolist() for _ in range(count)]


def make_keys(count: int) -> list[tuple[str, int]]:
    return [(f"p{index}", 0) for index in range(count)]


def greedy_reference(student: Student, prompt: list[int], steps: int) -> list[int]:
    """Decode without a cache."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            token = int(student.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)
            if token in student.end_ids:
                break
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_forward_passes_without_a_cache(students, family: str):
    student = students[family]
    prompts = make_prompts(6)  # some longer than Gemma-3's window of 16
    found = generate(student, prompts, keys=make_keys(6), max_new_tokens=20)
    for prompt, completion in zip(prompts, found, strict=True):
        assert list(completion.token_ids) == greedy_reference(student, prompt, 20)
        assert completion.prompt_tokens == len(prompt)


SAMPLED = {"temperature": 1.0, "seed": 5, "max_new_tokens": 24}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("knobs", [{}, {"top_k": 20}, {"top_p": 0.7}])
def test_a_rows_tokens_do_not_depend_on_its_batch(students, family: str, knobs: dict[str, float]):
    student = students[family]
    prompts = make_prompts(7)
    prompts = [prompt for prompt in prompts for _ in range(2)]
    keys = [(f"p{index // 2}", index % 2) for index in range(14)]
    together = generate(student, prompts, keys=keys, **SAMPLED, **knobs)
    for order in (range(13, -1, -1), (3, 8, 5)):
        some = generate(
            student,
            [prompts[index] for index in order],
            keys=[keys[index] for index in order],
            batch_tokens=150,
            **SAMPLED,
            **knobs,
        )
        assert [c.token_ids for c in some] == [together[index].token_ids for index in order]
    for one, two in zip(together[::2], together[1::2], strict=True):
        assert one.token_ids != two.token_ids  # the samples of a prompt differ


@pytest.mark.parametrize("family", FAMILIES)
def test_copied_and_shared_prompts_give_the_same_tokens(
    students, family: str, monkeypatch: pytest.MonkeyPatch
):
    prompts = [prompt for prompt in make_prompts(4) for _ in range(3)]
    keys = [(f"p{index // 3}", index % 3) for index in range(12)]
    ends = tuple(range(0, 1024, 12))  # rows leave one after another
    student = Student(students[family].model, students[family].tokenizer, ends, ends[:1])
    knobs = {**SAMPLED, "max_new_tokens": 40}
    shared = generate(student, prompts, keys=keys, return_log_probs=True, **knobs)
    monkeypatch.setattr(decoders, "FAMILIES", ())
    copied = generate(student, prompts, keys=keys, return_log_probs=True, **knobs)
    assert [c.token_ids for c in shared] == [c.token_ids for c in copied]
    assert len({len(c.token_ids) for c in shared}) > 3
    for one, two in zip(shared, copied, strict=True):
        np.testing.assert_allclose(one.log_probs, two.log_probs, atol=2e-5)


def test_noise_is_addressed_by_seed_problem_and_sample(students):
    prompts = make_prompts(1) * 4
    keys = [("a", 0), ("a", 1), ("b", 0), ("a", 0)]
    found = generate(students["qwen3"], prompts, keys=keys, **SAMPLED)
    other = generate(students["qwen3"], prompts[:1], keys=keys[:1], **{**SAMPLED, "seed": 6})
    assert found[0] == found[3]
    assert len({c.token_ids for c in [*found, *other]}) == 4


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_log_probs_are_those_of_a_forward_pass(students, temperature: float):
    student = students["gemma3"]
    prompts = make_prompts(3)
    found = generate(
        student,
        prompts,
        keys=make_keys(3),
        max_new_tokens=12,
        temperature=temperature,
        return_log_probs=True,
    )
    for prompt, completion in zip(prompts, found, strict=True):
        ids = torch.tensor([[*prompt, *completion.token_ids]])
        with torch.no_grad():
            logits = student.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        expected = (logits / (temperature or 1.0)).log_softmax(-1)
        chosen = expected.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.log_probs), chosen, atol=2e-5, rtol=0)


CASES = [
    pytest.param({"temperature": 1.0}, id="plain"),
    pytest.param({"temperature": 0.5}, id="cold"),
    pytest.param({"temperature": 1.0, "top_k": 4}, id="top_k"),
    pytest.param({"temperature": 1.0, "top_p": 0.8}, id="top_p"),
    pytest.param({"temperature": 1.3, "top_k": 6, "top_p": 0.6}, id="both"),
]


def exact(logits: np.ndarray, temperature: float, top_k: int = 0, top_p: float = 1.0) -> np.ndarray:
    """The distribution by the definitions, one token after another."""
    weights = np.exp(logits / temperature - (logits / temperature).max())
    order = np.argsort(-weights)
    if top_k:
        weights[order[top_k:]] = 0.0
    weights /= weights.sum()
    mass = 0.0
    for token in order:
        if mass >= top_p:
            weights[token] = 0.0
        mass += weights[token]
    return weights / weights.sum()


@pytest.mark.parametrize("knobs", CASES)
def test_samples_follow_the_exact_distribution(knobs: dict[str, float]):
    logits = np.array([2.0, 0.1, 1.4, -1.0, 0.9, 0.3, -3.0, 1.1])
    count = 20_000
    uniforms = torch.tensor(
        [sampling.row_generator(0, f"p{index}", 0).random() for index in range(count)]
    )
    rows = torch.tensor(logits, dtype=torch.float32).expand(count, -1)
    tokens = sampling.choose(rows, uniforms, **knobs).numpy()
    expected = exact(logits, **knobs) * count
    observed = np.bincount(tokens, minlength=len(logits))
    possible = expected > 0
    assert observed[~possible].sum() == 0
    assert stats.chisquare(observed[possible], expected[possible]).pvalue > 1e-3


@pytest.mark.parametrize("knobs", CASES)
@pytest.mark.parametrize("point", [0.0, np.nextafter(1.0, 0.0)])
def test_the_ends_of_the_noise_choose_possible_tokens(knobs: dict[str, float], point: float):
    logits = np.array([2.0, 0.1, -200.0, 1.4, -200.0])
    rows = torch.tensor(logits, dtype=torch.float32)[None]
    token = int(sampling.choose(rows, torch.tensor([point], dtype=torch.float64), **knobs))
    assert exact(logits, **knobs)[token] > 1e-30


def test_sampling_without_noise_is_refused():
    with pytest.raises(ValueError, match="uniform"):
        sampling.choose(torch.zeros(1, 3), None, temperature=1.0)


def test_rows_end_with_an_end_token_a_stop_string_or_the_limit(students):
    student = students["qwen3"]
    prompts = make_prompts(12)
    # which tokens this random model writes decides what may end its texts
    endless = Student(student.model, student.tokenizer, (), ())
    plain = generate(endless, prompts, keys=make_keys(12), **SAMPLED)
    ending = plain[0].token_ids[5]
    stop = student.tokenizer.decode(plain[1].token_ids[6:8])
    ended = Student(student.model, student.tokenizer, (ending,), (ending,))
    found = generate(ended, prompts, keys=make_keys(12), stop_strings=[stop], **SAMPLED)
    assert {c.finish_reason for c in found} == {"stop", "stop_string", "length"}
    for before, after in zip(plain, found, strict=True):
        assert before.token_ids[: len(after.token_ids)] == after.token_ids
        assert (after.finish_reason == "stop") == (after.token_ids[-1] == ending)
        if after.finish_reason == "stop_string":
            assert stop in student.tokenizer.decode(after.token_ids)
        if after.finish_reason == "length":
            assert len(after.token_ids) == SAMPLED["max_new_tokens"]


def test_equal_prompts_are_read_once(students, monkeypatch: pytest.MonkeyPatch):
    student = students["llama"]
    reads = []
    forward = student.model.forward

    def counted(*args, **kwargs):
        reads.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(student.model, "forward", counted)
    prompts = [[5, 6, 7, 8]] * 5 + [[9, 10]] * 3
    generate(student, prompts, keys=[("p", i) for i in range(8)], **SAMPLED)
    assert reads[0] == (2, 4)
    assert reads[1] == (8, 1)


def test_modes_are_restored_and_progress_is_told(students):
    student = students["qwen3"]
    student.model.train()
    student.model.model.layers[0].eval()
    told: list[tuple[int, int]] = []
    generate(
        student,
        make_prompts(5),
        keys=make_keys(5),
        max_new_tokens=4,
        batch_tokens=90,
        progress=lambda rows, tokens: told.append((rows, tokens)),
    )
    assert student.model.training
    assert not student.model.model.layers[0].training
    student.model.eval()
    assert len(told) > 1
    assert told[-1] == (5, 20)


@pytest.mark.parametrize(
    ("prompts", "keys", "message"),
    [([[1], []], make_keys(2), "empty prompt"), ([[1], [2]], make_keys(1), "as many keys")],
)
def test_what_cannot_be_continued_is_refused(students, prompts, keys, message: str):
    with pytest.raises(GenerationError, match=message):
        generate(students["qwen3"], prompts, keys=keys, max_new_tokens=2)


def test_nothing_asked_is_nothing_answered(students):
    assert generate(students["qwen3"], [], keys=[], max_new_tokens=2) == []
