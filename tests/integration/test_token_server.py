"""The client of a server of token ids against a real model behind the protocol, and its faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.students.generation.native_engine import generate
from plan_tuning.students.generation.probe import MAX_GAP, probe_of, read_probe
from plan_tuning.students.generation.protocol import (
    EngineError,
    EngineLostError,
    Sampling,
    Vocabulary,
)
from plan_tuning.students.generation.token_server import (
    TokenProtocolError,
    TokenServer,
    row_seed,
)
from plan_tuning.students.loading import Student, load_student

from ..protocol_double import Double, Fault
from .answer_server import Server

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = ModelConfig(name="tiny", kind="tiny", family="qwen3")
PROMPTS = [[5, 6, 7], [5, 6, 7], [40, 41], [300, 301, 302, 303]]
KEYS = [("a", 0), ("a", 1), ("b", 0), ("c", 0)]
FLAGS = ("--enable-lora", "--max-lora-rank", "8", "--logprobs-mode", "processed_logprobs")


@pytest.fixture(scope="module")
def student(start: Path) -> Student:
    return load_student(start, MODEL)


@pytest.fixture(scope="module")
def vocabulary(student: Student) -> Vocabulary:
    return Vocabulary(student.tokenizer, student.end_ids)


@pytest.fixture(scope="module")
def served(start: Path) -> Iterator[Double]:
    with Double(start, *FLAGS, "--served-model-name", "student") as double:
        yield double


@pytest.fixture
def double(served: Double) -> Iterator[Double]:
    served.asked.clear()
    served._counted = 0
    yield served
    served.fault = None


def adapter(folder: Path, start: Path, scale: float) -> Student:
    """A student with an adapter that changes its words, saved into a folder."""
    found = load_student(start, MODEL, for_training=True, adapter=AdapterConfig("lora", rank=4))
    with torch.no_grad():
        for name, weight in found.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=scale, generator=torch.Generator().manual_seed(1))
    found.model.save_pretrained(folder)
    return found


def log_probs(student: Student, prompt: list[int], tokens: tuple[int, ...]) -> list[float]:
    with torch.no_grad():
        logits = student.causal_lm(torch.tensor([[*prompt, *tokens]])).logits[0].float()
    rows = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return [float(row[token]) for row, token in zip(rows, tokens, strict=True)]


def test_greedy_and_sampled_rows_are_the_models(
    double: Double, student: Student, vocabulary: Vocabulary
) -> None:
    sampling = Sampling(6, temperature=1.0, return_log_probs=True)
    with TokenServer(double.api_base, "student", vocabulary) as server:
        greedy = server.generate(PROMPTS, keys=KEYS, sampling=Sampling(6))
        ended: list[tuple[int, int]] = []
        drawn = server.generate(
            PROMPTS, keys=KEYS, sampling=sampling, progress=lambda *told: ended.append(told)
        )
        again = server.generate(PROMPTS[1:2], keys=KEYS[1:2], sampling=sampling)
        assert server.facts()["served"]["root"] == double.options.model
    native = generate(student, PROMPTS, keys=KEYS, max_new_tokens=6)
    assert [c.token_ids for c in greedy] == [c.token_ids for c in native]
    assert [c.text for c in greedy] == [c.text for c in native]
    assert drawn[0].token_ids != drawn[1].token_ids  # samples of one prompt
    assert drawn[1] == again[0]  # whatever stands beside it
    assert ended[-1] == (4, sum(len(c.token_ids) for c in drawn))
    for prompt, completion in zip(PROMPTS, drawn, strict=True):
        expected = log_probs(student, prompt, completion.token_ids)
        assert completion.log_probs == pytest.approx(expected, abs=1e-4)
    sent = double.completions()
    assert all(isinstance(one["prompt"][0], int) for one in sent)
    assert {one["seed"] for one in sent[-5:]} == {row_seed(42, key) for key in KEYS}


def test_stop_strings_and_lengths_end_rows_as_natively(
    double: Double, student: Student, vocabulary: Vocabulary
) -> None:
    first = generate(student, PROMPTS[:1], keys=KEYS[:1], max_new_tokens=6)[0]
    stop = student.tokenizer.decode(first.token_ids[1:2])
    with TokenServer(double.api_base, "student", vocabulary) as server:
        (found,) = server.generate(
            PROMPTS[:1], keys=KEYS[:1], sampling=Sampling(6, stop_strings=(stop,))
        )
    (own,) = generate(student, PROMPTS[:1], keys=KEYS[:1], max_new_tokens=6, stop_strings=(stop,))
    assert found == own
    assert found.finish_reason == "stop_string"


def test_adapters_come_and_go_under_names_of_their_own(
    double: Double, start: Path, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    first, second = (adapter(tmp_path / str(k), start, 0.2 * k) for k in (1, 2))
    sampling = Sampling(5, temperature=1.0, return_log_probs=True)
    with TokenServer(double.api_base, "", vocabulary) as server:
        assert server.served_model == "student"
        for version, found in (("run-1", first), ("run-2", second)):
            server.load_adapter(tmp_path / version[-1], version)
            assert [card["id"] for card in server.cards()] == ["student", version]
            rows = server.generate(PROMPTS, keys=KEYS, sampling=sampling)
            for prompt, row in zip(PROMPTS, rows, strict=True):
                assert row.weight_version == server.weight_version == version
                expected = log_probs(found, prompt, row.token_ids)
                assert row.log_probs == pytest.approx(expected, abs=1e-4)
        double.served.unload("run-2")  # as a server that was started anew
        with pytest.raises(EngineLostError, match="run-2"):
            server.generate(PROMPTS, keys=KEYS, sampling=sampling)
        double.served.load("run-2", str(tmp_path / "2"))
    assert [card["id"] for card in server.cards()] == ["student"]
    double.served.load("run-9", str(tmp_path / "1"))
    assert server.unload_adapters("run-") == ["run-9"]


def test_what_a_server_will_not_do_is_said_in_its_words(
    double: Double, start: Path, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    with TokenServer(double.api_base, "student", vocabulary) as server:
        with pytest.raises(EngineError, match=r"\(404\).*No adapter found"):
            server.load_adapter(tmp_path, "run-1")
        with pytest.raises(EngineError, match=r"\(400\).*maximum context length"):
            server.generate([[5]], keys=[("a", 0)], sampling=Sampling(10**6))
        assert server.weight_version == ""
    with pytest.raises(EngineError, match=r"no model other: it has student"):
        TokenServer(double.api_base, "other", vocabulary).__enter__()
    with (
        Server(lambda path, payload: (200, {"choices": [{"text": "four"}]}, {})) as chat,
        pytest.raises(EngineError, match="refused"),
    ):
        TokenServer(f"{chat.root}/v1", "student", vocabulary).__enter__()


@pytest.mark.parametrize("name", ["status", "half_body"])
def test_a_passing_failure_is_asked_again(
    double: Double, vocabulary: Vocabulary, name: str
) -> None:
    with TokenServer(double.api_base, "student", vocabulary) as server:
        whole = server.generate(PROMPTS, keys=KEYS, sampling=Sampling(4, temperature=1.0))
        double.fault = Fault(name, times=2)
        assert whole == server.generate(PROMPTS, keys=KEYS, sampling=Sampling(4, temperature=1.0))
        assert double.fault.times == 0


def test_another_prompt_or_no_token_ids_is_an_error(double: Double, vocabulary: Vocabulary) -> None:
    with TokenServer(double.api_base, "student", vocabulary) as server:
        double.fault = Fault("wrong_ids")
        with pytest.raises(EngineError, match="another prompt"):
            server.generate(PROMPTS, keys=KEYS, sampling=Sampling(4))
    with pytest.raises(TokenProtocolError, match="protocol=chat"):
        server.__enter__()


def test_an_answer_without_log_probabilities_is_an_error(
    double: Double, vocabulary: Vocabulary
) -> None:
    with TokenServer(double.api_base, "student", vocabulary) as server:
        double.fault = Fault("no_log_probs")
        with pytest.raises(EngineError, match="no log-probabilities by token id"):
            server.next_tokens([5, 6])
        with pytest.raises(EngineError, match="2 tokens came with 0 log-probs"):
            server.generate([[5, 6]], keys=KEYS[:1], sampling=Sampling(2, return_log_probs=True))


def test_a_server_that_ends_loses_the_whole_call(start: Path, vocabulary: Vocabulary) -> None:
    with Double(start, *FLAGS) as double, TokenServer(double.api_base, "", vocabulary) as server:
        double.fault = Fault("dies", after=3)
        with pytest.raises(EngineLostError, match="does not answer"):
            server.generate(PROMPTS * 2, keys=KEYS * 2, sampling=Sampling(3))
        with pytest.raises(EngineLostError):
            server.__enter__()


def test_a_probe_tells_the_student_from_another_and_from_its_base(
    double: Double, start: Path, student: Student, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    text = list(range(100, 140))
    probe = probe_of(student, text)
    assert probe.prompt == tuple(text[-16:])
    assert read_probe({"probe": probe.as_facts()}) is not None
    assert read_probe({}) is None
    trained = adapter(tmp_path, start, 0.2)
    with TokenServer(double.api_base, "student", vocabulary) as server:
        told = server.next_tokens(probe.prompt)
        assert len(told) == 20
        assert probe.gap(told) < 1e-3
        assert probe_of(trained, text).gap(told) > MAX_GAP
        server.load_adapter(tmp_path, "run-1")
        assert probe_of(trained, text).gap(server.next_tokens(probe.prompt)) < 1e-3
    assert not student.model.training
