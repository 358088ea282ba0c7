"""Learning rates by adapter; `rewards` begins from the students of other experiments."""

from __future__ import annotations

import logging

import pytest
from composition import config_of, graph

from plan_tuning.config.model import AdapterConfig
from plan_tuning.training.optim import warn_of_low_rate

from .test_earlier_fingerprints import FINGERPRINTS, described

pytestmark = pytest.mark.integration

# With these words `rewards` trains what it trained before rates depended on the adapter and the cap
# on the precision.
EARLIER = (
    *("start.trainer.learning_rate=5e-6", "method.learning_rate=5e-6"),
    "method.importance_cap=null",
)


@pytest.mark.parametrize("start", ["sft", "m1"])
@pytest.mark.parametrize("model", ["gemma3_1b", "qwen3_4b"])
def test_rewards_begins_from_the_students_of_the_other_experiments(start: str, model: str) -> None:
    job = graph("experiment=rewards", f"model={model}", f"start={start}", "reward=answer")
    plain = graph("experiment=main", f"model={model}", f"method={start}")
    assert job.start is not None
    assert plain.student is not None
    assert job.start.fingerprint == plain.student.fingerprint


@pytest.mark.parametrize("words", FINGERPRINTS["experiments"]["rewards"])
def test_what_rewards_was_is_reached_by_explicit_words(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    found = graph("experiment=rewards", *words.split(), *EARLIER)
    assert described(found) == FINGERPRINTS["experiments"]["rewards"][words]


def test_an_adapter_learns_at_ten_times_the_rate_of_all_weights() -> None:
    lora, full = config_of("experiment=rewards"), config_of("method=grpo")
    assert lora.adapter.name == "lora"
    assert full.adapter.name == "full"
    rates = [config.method.learning_rate for config in (lora, full)]
    assert rates == [5e-5, 5e-6]
    assert lora.start_trainer.learning_rate == config_of("experiment=main").trainer.learning_rate


@pytest.mark.parametrize(
    ("adapter", "rate", "is_said"),
    [("lora", 5e-6, True), ("qlora", 1e-5, True), ("lora", 5e-5, False), ("full", 5e-6, False)],
)
def test_a_rate_of_all_weights_is_named_beside_an_adapter(
    caplog: pytest.LogCaptureFixture, adapter: str, rate: float, is_said: bool
) -> None:
    caplog.set_level(logging.WARNING)
    warn_of_low_rate(AdapterConfig(name=adapter), "trainer.learning_rate", rate)
    assert ("ten to twenty times" in caplog.text) is is_said
