"""Rows that join, leave, are put together and set aside write what full batches write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from plan_tuning.config.microworld import MicroBaseConfig, MicroworldConfig
from plan_tuning.records import Completion
from plan_tuning.students import micro
from plan_tuning.students.generation import (
    admission,
    cohorts,
    decoders,
    native_engine,
    static_decoding,
)
from plan_tuning.students.generation.native_engine import generate
from plan_tuning.students.loading import Student
from plan_tuning.students.tiny import build_tiny, build_tokenizer

pytestmark = pytest.mark.integration

SHAPE: dict[str, Any] = {
    "vocab_size": 1024, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WINDOW = 16
FAMILIES = ("qwen3", "gemma3", "micro", "gemma2")
WAYS = ("dynamic", "static", "copying")
LONGEST = 60


@pytest.fixture(scope="module", params=FAMILIES)
def student(request: pytest.FixtureRequest) -> Student:
    """A random model in float64, in which sums of another order do not move a token."""
    torch.set_num_threads(1)
    family = request.param
    model: Any
    if family in ("qwen3", "gemma3"):
        model, tokenizer = build_tiny(family, 0)
    elif family == "micro":
        tokenizer = micro.build_tokenizer(micro.world_vocabulary(MicroworldConfig()))
        model = micro.build_model(MicroBaseConfig(), tokenizer, seed=0)
    else:
        torch.manual_seed(0)
        tokenizer = build_tokenizer("qwen3")
        config = Gemma2Config(**SHAPE, sliding_window=WINDOW, attn_logit_softcapping=0.5)
        model = Gemma2ForCausalLM(config)
    if family != "gemma2":  # its eager attention makes padding NaN in float64
        model.double()
    # About one token in 25 ends a text, so lengths are mixed and some reach the limit.
    ends = tuple(range(3, model.config.vocab_size, 25))
    return Student(model.eval(), tokenizer, ends, ends[:1])


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How rows are decoded; small steps of everything, so that all of it happens."""
    monkeypatch.setattr(cohorts, "ROOM", 8)
    monkeypatch.setattr(decoders, "ROOM", 8)
    monkeypatch.setattr(cohorts, "WORTH_TRIMMING", 4)
    monkeypatch.setattr(decoders, "WORTH_TRIMMING", 4)
    monkeypatch.setattr(decoders.CohortDecoder, "most_cohorts", 2)
    monkeypatch.setattr(static_decoding, "FIRST_ROOM", 16)
    monkeypatch.setattr(static_decoding, "CHECK_EVERY", 5)
    monkeypatch.setattr(admission, "PASS_TOKENS", 200)
    monkeypatch.setattr(admission, "_GUESS", 12)
    if request.param == "copying":
        monkeypatch.setattr(decoders, "FAMILIES", ())
        return "dynamic"
    return str(request.param)


def asked(student: Student) -> tuple[list[list[int]], list[tuple[str, int]]]:
    """Thirty prompts of 3 to 40 tokens; every third has three samples."""
    draw = np.random.default_rng(0)
    high = student.causal_lm.config.vocab_size
    prompts, keys = [], []
    for index in range(30):
        prompt = draw.integers(3, high, draw.integers(3, 40)).tolist()
        for sample in range(3 if index % 3 == 0 else 1):
            prompts.append(prompt)
            keys.append((f"p{index}", sample))
    return prompts, keys


def in_batches(student: Student, **knobs: Any) -> list[Completion]:
    """Write a dozen rows a call, with room for all of their longest completions."""
    prompts, keys = asked(student)
    return [
        completion
        for first in range(0, len(prompts), 12)
        for completion in generate(
            student, prompts[first : first + 12], keys=keys[first : first + 12],
            batch_tokens=10**6, decoding="dynamic", **knobs,
        )
    ]  # fmt: skip


def check_equal(found: list[Completion], expected: list[Completion], atol: float = 1e-6) -> None:
    for one, two in zip(found, expected, strict=True):
        assert (one.token_ids, one.finish_reason, one.text, one.prompt_tokens) == (
            two.token_ids, two.finish_reason, two.text, two.prompt_tokens,
        )  # fmt: skip
        np.testing.assert_allclose(one.log_probs, two.log_probs, atol=atol, rtol=0)


class Watch:
    """Counts what happens while a call runs, and measures its buffers after every block."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
        self.counts = {"passes": 0, "merged": 0, "aside": 0, "trimmed": 0}
        self.fullest = 0
        self.budget = budget
        self._count(monkeypatch, native_engine, "_prefill", "passes")
        self._count(monkeypatch, cohorts.Cohort, "absorb", "merged")
        for decoder in (decoders.CohortDecoder, decoders.CopyingDecoder):
            self._count(monkeypatch, decoder, "set_aside", "aside")
        for decoder in (
            decoders.SharedDecoder, static_decoding.StaticDecoder, decoders.CopyingDecoder,
        ):  # fmt: skip
            self._measure(monkeypatch, decoder)

    def _count(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, key: str) -> None:
        real = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.counts[key] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    def _measure(self, monkeypatch: pytest.MonkeyPatch, owner: Any) -> None:
        real = owner.write

        def measured(decoder: Any) -> Any:
            many = len(decoder.rows) > 1
            ended = real(decoder)
            held = max(cells_of_layers(decoder))
            self.fullest = max(self.fullest, held)
            assert held <= self.budget or not many
            return ended

        monkeypatch.setattr(owner, "write", measured)


def cells_of_layers(decoder: Any) -> Iterator[int]:
    """Tokens that each layer's tensors have room for, read off the tensors themselves."""
    if isinstance(decoder, decoders.CopyingDecoder):
        for layer in decoder._cache.layers if decoder._cache is not None else ():
            yield layer.keys.shape[0] * layer.keys.shape[2]
        yield 0
        return
    for index in range(len(decoder.cohorts[0].layers)):
        tensors = [
            tensor
            for cohort in decoder.cohorts
            for tensor in (cohort.layers[index].prompt[0], cohort.layers[index]._buffers[0])
        ]
        yield sum(tensor.numel() // (tensor.shape[1] * tensor.shape[3]) for tensor in tensors)


@pytest.mark.parametrize(
    ("budget", "knobs"),
    [(130, {"temperature": 1.0}), (900, {"temperature": 0.8, "top_p": 0.9})],
)
def test_rows_write_what_full_batches_write_within_their_memory(
    student: Student, way: str, knobs: dict[str, Any], budget: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    common: dict[str, Any] = {"max_new_tokens": LONGEST, "return_log_probs": True, **knobs}
    expected = in_batches(student, **common)
    lengths = [len(one.token_ids) for one in expected]
    assert min(lengths) < 10
    assert max(lengths) == LONGEST
    prompts, keys = asked(student)
    watch = Watch(monkeypatch, budget)
    found = generate(student, prompts, keys=keys, batch_tokens=budget, decoding=way, **common)
    in_float32 = student.causal_lm.dtype == torch.float32
    check_equal(found, expected, atol=2e-5 if in_float32 else 1e-6)
    assert watch.counts["passes"] > 2
    assert budget // 2 < watch.fullest
    if budget == 130:
        assert watch.counts["aside"], "memory was never short"
    if budget == 900 and decoders.FAMILIES:
        assert watch.counts["merged"], "no cohorts were put together"


def test_greedy_rows_are_those_of_forward_passes(student: Student, way: str) -> None:
    prompts, keys = asked(student)
    endless = Student(student.model, student.tokenizer, (0,), (0,))
    found = generate(
        endless, prompts, keys=keys, batch_tokens=500, decoding=way, max_new_tokens=24
    )  # fmt: skip
    for prompt, one in list(zip(prompts, found, strict=True))[::7]:
        ids = torch.tensor([[*prompt, *one.token_ids]])
        with torch.no_grad():
            logits = student.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == list(one.token_ids)


def test_stop_strings_cut_where_they_do_in_full_batches(student: Student, way: str) -> None:
    knobs: dict[str, Any] = {"max_new_tokens": LONGEST, "temperature": 1.0,
                             "return_log_probs": True}  # fmt: skip
    plain = in_batches(student, **knobs)
    long = [one for one in plain if len(one.token_ids) > 12]
    stops = [student.tokenizer.decode(one.token_ids[at : at + 2])
             for one, at in zip(long, (0, 7, 10), strict=False)]  # fmt: skip
    expected = in_batches(student, stop_strings=stops, **knobs)
    assert {one.finish_reason for one in expected} >= {"stop", "stop_string"}
    prompts, keys = asked(student)
    found = generate(
        student, prompts, keys=keys, batch_tokens=300, decoding=way, stop_strings=stops, **knobs
    )  # fmt: skip
    check_equal(found, expected, atol=2e-5)


def test_a_text_that_loops_holds_nobody_up(
    student: Student, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one row goes on to the limit, the others come and go."""
    prompts, keys = asked(student)
    limit, budget, loop = 200, 330, 3
    endless = Student(student.model, student.tokenizer, (), ())
    looping = generate(endless, [prompts[loop]], keys=[keys[loop]], max_new_tokens=limit)[0]
    words = range(student.causal_lm.config.vocab_size)
    ends = tuple(set(words) - set(looping.token_ids))  # any other word ends a text
    writer = Student(student.model, student.tokenizer, ends, ends[:1])
    free = generate(writer, prompts, keys=keys, max_new_tokens=12, batch_tokens=10**6)
    short = [index for index, one in enumerate(free) if one.finish_reason == "stop"]
    prompts, keys = zip(*[(prompts[i], keys[i]) for i in [loop, *short]], strict=True)
    assert len(short) > 20
    calls = []
    forward = student.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(student.model, "forward", counted)
    found = generate(
        writer, prompts, keys=keys, max_new_tokens=limit, batch_tokens=budget, decoding=way
    )  # fmt: skip
    assert [len(one.token_ids) for one in found] == [
        limit,
        *(len(free[i].token_ids) for i in short),
    ]
    assert len(calls) < limit + 60, "a row at a time, where the longest completions had room"
