"""Static steps: the same completions as the growing loop's, by steps that are all alike.

Masked places change the order of sums. In float32 that moves a probability by some 1e-7, and one
sampled token in some ten thousand falls to its neighbour; float64 shows that this is all there is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from plan_tuning.config.microworld import MicroBaseConfig, MicroworldConfig
from plan_tuning.records import Completion
from plan_tuning.students import micro
from plan_tuning.students.generation import cuda_graphs as graphs
from plan_tuning.students.generation import decoders, static_decoding
from plan_tuning.students.generation.native_engine import generate
from plan_tuning.students.generation.sequences import GenerationError
from plan_tuning.students.loading import Student
from plan_tuning.students.tiny import build_tiny, build_tokenizer

pytestmark = pytest.mark.integration

SHAPE: dict[str, Any] = {
    "vocab_size": 1024, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = ("qwen3", "gemma3", "llama", "micro", "gemma2", "mistral", "qwen2")


def build(family: str) -> tuple[Any, Any]:
    """Make a random model of a family, with sliding windows of 16 tokens where it has any."""
    if family in ("qwen3", "gemma3", "llama"):
        return build_tiny(family, 0)
    if family == "micro":
        tokenizer = micro.build_tokenizer(micro.world_vocabulary(MicroworldConfig()))
        return micro.build_model(MicroBaseConfig(), tokenizer, seed=0), tokenizer
    torch.manual_seed(0)
    made: Any
    if family == "gemma2":  # a cap so low that it bends every score
        made = Gemma2ForCausalLM(
            Gemma2Config(**SHAPE, sliding_window=16, attn_logit_softcapping=0.02)
        )
    elif family == "mistral":
        made = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=16))
    else:
        del (shape := dict(SHAPE))["head_dim"]
        made = Qwen2ForCausalLM(Qwen2Config(**shape))
    return made, build_tokenizer("qwen3")


@pytest.fixture(scope="module", params=FAMILIES)
def student(request: pytest.FixtureRequest) -> Student:
    torch.set_num_threads(1)
    model, tokenizer = build(request.param)
    if request.param != "gemma2":  # its eager attention makes padding NaN in float64
        model.double()
    return Student(model.eval(), tokenizer, (2,), (2,))


@pytest.fixture(scope="module")
def qwen3() -> Student:
    torch.set_num_threads(1)
    model, tokenizer = build("qwen3")
    return Student(model.double().eval(), tokenizer, (2,), (2,))


def ending(student: Student, share: int) -> Student:
    """Let about one token in ``share`` end a completion, so rows leave one after another."""
    ends = tuple(range(3, student.causal_lm.config.vocab_size, share))
    return Student(student.model, student.tokenizer, ends, ends[:1])


def asked(student: Student, samples: int = 3) -> tuple[list[list[int]], list[tuple[str, int]]]:
    """Four prompts of different lengths, some beyond a window of 16 tokens."""
    draw = np.random.default_rng(0)
    high = student.causal_lm.config.vocab_size
    prompts = [draw.integers(3, high, size).tolist() for size in (5, 30, 17, 11)]
    rows = [(index, sample) for index in range(4) for sample in range(samples)]
    return [prompts[index] for index, _ in rows], [(f"p{i}", sample) for i, sample in rows]


def compare(student: Student, **knobs: Any) -> list[Completion]:
    """Decode by both loops in float64; returns the completions, which are the same."""
    prompts, keys = asked(student)
    common: dict[str, Any] = {"keys": keys, "return_log_probs": True, "max_new_tokens": 40, **knobs}
    grown = generate(student, prompts, decoding="dynamic", **common)
    fixed = generate(student, prompts, decoding="static", **common)
    for one, two in zip(grown, fixed, strict=True):
        assert (one.token_ids, one.finish_reason, one.text, one.prompt_tokens) == (
            two.token_ids, two.finish_reason, two.text, two.prompt_tokens,
        )  # fmt: skip
        np.testing.assert_allclose(one.log_probs, two.log_probs, atol=5e-6, rtol=0)
    return fixed


@pytest.mark.parametrize(
    "knobs",
    [
        pytest.param({}, id="greedy"),
        pytest.param({"temperature": 1.0}, id="sampled"),
        pytest.param({"temperature": 0.7, "top_k": 20}, id="top_k"),
        pytest.param({"temperature": 1.2, "top_p": 0.7}, id="top_p"),
        pytest.param({"temperature": 1.0, "max_new_tokens": 1}, id="one token"),
        pytest.param({"temperature": 1.0, "max_new_tokens": 17}, id="one look"),
        pytest.param({"temperature": 1.0, "batch_tokens": 150}, id="batches"),
    ],
)
def test_static_steps_write_what_the_growing_loop_writes(
    student: Student, knobs: dict[str, Any]
) -> None:
    compare(student, **knobs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("knobs", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}])
def test_in_float32_rounding_is_the_only_difference(family: str, knobs: dict[str, Any]) -> None:
    model, tokenizer = build(family)
    student = Student(model.eval(), tokenizer, (2,), (2,))
    prompts, keys = asked(student)
    common: dict[str, Any] = {"keys": keys, "return_log_probs": True, "max_new_tokens": 40, **knobs}
    grown = generate(student, prompts, decoding="dynamic", **common)
    fixed = generate(student, prompts, decoding="static", **common)
    for one, two in zip(grown, fixed, strict=True):
        alike = common_length(one, two)
        np.testing.assert_allclose(one.log_probs[:alike], two.log_probs[:alike], atol=5e-6, rtol=0)
    assert sum(one.token_ids != two.token_ids for one, two in zip(grown, fixed, strict=True)) <= 1


def common_length(one: Completion, two: Completion) -> int:
    """Count the tokens up to the first that differs."""
    pairs = list(zip(one.token_ids, two.token_ids, strict=False))
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(pairs))


@pytest.mark.parametrize("every", [1, 5, 16])
def test_rows_leave_and_attention_reaches_further(
    student: Student, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(static_decoding, "CHECK_EVERY", every)
    monkeypatch.setattr(static_decoding, "FIRST_ROOM", 8)
    found = compare(ending(student, 20), temperature=1.0)
    assert len({len(c.token_ids) for c in found}) > 4
    assert "stop" in {c.finish_reason for c in found}


def test_the_loop_ends_with_its_rows(qwen3: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    forward = qwen3.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        steps.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(qwen3.model, "forward", counted)
    prompts, keys = asked(qwen3)
    found = generate(
        ending(qwen3, 2), prompts, keys=keys, max_new_tokens=500, temperature=1.0, decoding="static"
    )
    assert {c.finish_reason for c in found} == {"stop"}
    assert len(steps) <= 1 + 2 * static_decoding.CHECK_EVERY
    assert steps[0] == 4  # equal prompts are read once
    assert steps[1] < 12  # who ended with the first token is gone at the first look
    whole = generate(
        ending(qwen3, 1), prompts, keys=keys, max_new_tokens=500, temperature=1.0, decoding="static"
    )
    assert {len(c.token_ids) for c in whole} == {1}


@pytest.mark.parametrize("every", [1, 7, 16])
def test_stop_strings_cut_where_a_check_of_every_token_does(
    qwen3: Student, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(static_decoding, "CHECK_EVERY", every)
    endless = Student(qwen3.model, qwen3.tokenizer, (), ())
    plain = compare(endless, temperature=1.0)
    stops = [qwen3.tokenizer.decode(plain[place].token_ids[at : at + 2])
             for place, at in ((0, 0), (3, 14), (5, 15), (8, 20))]  # fmt: skip
    end = plain[1].token_ids[9]
    ended = Student(qwen3.model, qwen3.tokenizer, (end,), (end,))
    found = compare(ended, temperature=1.0, stop_strings=stops)
    assert {c.finish_reason for c in found} == {"stop", "stop_string", "length"}
    assert all(len(c.log_probs) == len(c.token_ids) for c in found)


def test_a_row_does_not_depend_on_its_batch(student: Student) -> None:
    writer = ending(student, 30)
    prompts, keys = asked(writer)
    common: dict[str, Any] = {"max_new_tokens": 30, "temperature": 1.0, "decoding": "static"}
    together = generate(writer, prompts, keys=keys, **common)
    for order in (range(11, -1, -1), (3, 8, 5)):
        some = generate(
            writer, [prompts[i] for i in order], keys=[keys[i] for i in order], batch_tokens=150,
            **common,
        )  # fmt: skip
        assert [c.token_ids for c in some] == [together[i].token_ids for i in order]


class _Trace(TorchDispatchMode):
    """Records every operation, the shapes of its tensors, its numbers, and what was there before.

    A replay reads and writes memory at fixed addresses, so ``outer`` must never change.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.outer: set[int] = set()
        self._made: dict[int, torch.Tensor] = {}  # kept, or an address could come again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs or {}))
        plain = [(p.shape, p.stride(), p.dtype) if isinstance(p, torch.Tensor) else p
                 for p in given]  # fmt: skip
        self.calls.append((str(func), plain))
        addresses = {p.untyped_storage().data_ptr() for p in given if isinstance(p, torch.Tensor)}
        self.outer |= addresses - self._made.keys()
        found = func(*args, **(kwargs or {}))
        for part in tree_leaves(found):
            if isinstance(part, torch.Tensor):
                address = part.untyped_storage().data_ptr()
                if address not in self.outer:
                    self._made[address] = part
        return found


FROM_THE_DEVICE = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "item", "equal")
TO_THE_DEVICE = ("lift_fresh",)  # torch.tensor(numbers)


@pytest.mark.parametrize("knobs", [{"temperature": 0.0}, {"temperature": 1.0, "top_p": 0.9}])
def test_all_steps_are_alike_and_none_waits_for_the_device(
    student: Student, monkeypatch: pytest.MonkeyPatch, knobs: dict[str, Any]
) -> None:
    traces = []
    step = static_decoding.StaticDecoder._step

    def traced(decoder: static_decoding.StaticDecoder) -> None:
        with _Trace() as trace:
            step(decoder)
        traces.append((trace.calls, trace.outer))

    monkeypatch.setattr(static_decoding.StaticDecoder, "_step", traced)
    prompts, keys = asked(student)
    generate(student, prompts, keys=keys, max_new_tokens=24, return_log_probs=True,
             decoding="static", **knobs)  # fmt: skip
    assert len(traces) == 23
    assert all(trace == traces[0] for trace in traces)
    calls, _ = traces[0]
    names = {name.split(".")[1] for name, _ in calls}
    assert not names & {*FROM_THE_DEVICE, *TO_THE_DEVICE}
    indices = [part for name, given in calls if name.startswith("aten.index.") for part in given]
    has_boolean = any(isinstance(part, tuple) and part[2] is torch.bool for part in indices)
    assert not has_boolean, "a boolean index has as many results as the device says"


def test_who_is_decoded_how(qwen3: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    assert static_decoding.is_static(qwen3, "static")
    assert not static_decoding.is_static(qwen3, "dynamic")
    assert not static_decoding.is_static(qwen3, "auto"), "a CPU's cheapest path is the growing loop"
    monkeypatch.setattr(Student, "device", torch.device("cuda"))
    assert static_decoding.is_static(qwen3, "auto")
    monkeypatch.setattr(qwen3.model, "is_quantized", True, raising=False)
    assert not static_decoding.is_static(qwen3, "auto")
    monkeypatch.setattr(static_decoding, "FAMILIES", ())
    assert not static_decoding.is_static(qwen3, "auto")
    with pytest.raises(GenerationError, match=r"evaluation\.decoding=dynamic"):
        static_decoding.is_static(qwen3, "static")


def test_a_rotary_embedding_of_the_host_is_not_static(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = student.causal_lm.config
    assert static_decoding.is_static(student, "static")
    one = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    nested = config.model_type == "gemma3_text"
    parameters = {"full_attention": one} if nested else one
    monkeypatch.setattr(config, "rope_parameters", parameters)
    with pytest.raises(GenerationError, match="rope_type=dynamic"):
        static_decoding.is_static(student, "static")


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_padding_is_hidden_also_where_logits_are_bounded(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = build(family)
    student = Student(model.eval(), tokenizer, (), ())
    prompts, keys = asked(student, samples=1)
    common: dict[str, Any] = {"keys": keys, "max_new_tokens": 12, "return_log_probs": True}
    shared = generate(student, prompts, decoding="dynamic", **common)
    monkeypatch.setattr(decoders, "FAMILIES", ())
    model.config._attn_implementation = "eager"
    copied = generate(student, prompts, decoding="dynamic", **common)
    for one, two in zip(shared, copied, strict=True):
        assert one.token_ids == two.token_ids
        np.testing.assert_allclose(one.log_probs, two.log_probs, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("knobs", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}])
def test_a_replayed_graph_writes_what_its_steps_write(
    student: Student, dtype: torch.dtype, knobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = build_copy(student)
    model.to("cuda", dtype)
    writer = ending(Student(model, student.tokenizer, (2,), (2,)), 30)
    prompts, keys = asked(writer)
    common: dict[str, Any] = {
        "keys": keys, "max_new_tokens": 120, "return_log_probs": True, **knobs,
    }  # fmt: skip
    replayed = generate(writer, prompts, decoding="static", **common)
    grown = generate(writer, prompts, decoding="dynamic", **common)
    monkeypatch.setattr(graphs, "_WORTH_IT", 10**9)  # nothing is captured
    stepped = generate(writer, prompts, decoding="static", **common)
    assert replayed == stepped
    if dtype == torch.float32:
        assert sum(a.token_ids != b.token_ids for a, b in zip(replayed, grown, strict=True)) <= 1
    for one, two in zip(replayed, grown, strict=True):
        alike = common_length(one, two)
        tolerance = 1e-4 if dtype == torch.float32 else 0.1
        np.testing.assert_allclose(
            one.log_probs[:alike], two.log_probs[:alike], atol=tolerance, rtol=0
        )


def build_copy(student: Student) -> tuple[Any, Any]:
    """Copy a student's model: the CPU's tests go on with theirs."""
    made = type(student.model)(student.model.config).eval()
    made.load_state_dict(student.model.state_dict())
    return made, student.tokenizer
