"""GRPO with rollouts from a server: versions, comparisons, restarts, and what is refused."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.config.grpo import RolloutServerConfig
from plan_tuning.students.generation.protocol import (
    EngineError,
    EngineLostError,
    StaleWeightsError,
)
from plan_tuning.training.grpo import rollout_server
from plan_tuning.training.grpo.served_start import adapter_folder, server_line

from ..protocol_double import Double, Fault
from .grpo_world import assert_equal_weights, metrics, train

pytestmark = pytest.mark.usefixtures("one_thread", "digits")

FLAGS = ("--enable-lora", "--max-lora-rank", "8", "--logprobs-mode", "processed_logprobs")
STEPS = 4


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_server, "_RECONNECT_S", 3.0)
    monkeypatch.setattr(rollout_server, "_LOOKS_EVERY_S", 0.05)


@pytest.fixture
def double(start: Path) -> Iterator[Double]:
    with Double(start, *FLAGS) as found:
        yield found


def trained(folder: Path, start: Path, double: Double, **method: Any) -> dict[str, Any]:
    settings = {
        "engine": "server",
        "server": RolloutServerConfig(api_base=double.api_base),
        "importance_cap": "auto",
        "checkpoint_every_n_steps": 1,
        "steps": STEPS,
    }
    return train(folder, start, adapter="lora", **{**settings, **method})


def completions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]


def again(double: Double, start: Path) -> Double:
    """The same server, started anew at the same port."""
    return Double(start, *FLAGS, port=double.port)


@pytest.fixture(scope="module")
def whole(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing interrupts; every other one has to end with its weights."""
    from plan_tuning.training.grpo import fit

    from .grpo_world import DigitRewards

    folder = tmp_path_factory.mktemp("runs") / "student"
    with pytest.MonkeyPatch.context() as patch, Double(start, *FLAGS) as double:
        patch.setattr(fit, "RewardWorker", DigitRewards)
        facts = trained(folder, start, double)
        (folder / "facts.json").write_text(json.dumps(facts))
        (folder / "asked.json").write_text(json.dumps(double.asked))
    return folder


def test_each_step_is_written_by_its_own_adapter(whole: Path, start: Path, tmp_path: Path) -> None:
    rows = completions(whole)
    assert {row["step"] for row in rows} == set(range(STEPS))
    assert all(row["weight_version"] == f"grpo-student-{row['step']:06d}" for row in rows)
    for step in metrics(whole):
        assert step["train/sync_gap"] < 1e-4
        assert step["train/sampler_gap"] <= step["train/sampler_gap_max"] < 1e-3
        assert step["train/importance"] == pytest.approx(1.0, abs=1e-3)
        assert step["train/importance_capped"] == 0.0
        assert step["time/sync"] > 0
    asked = json.loads((whole / "asked.json").read_text())
    loads = [one["lora_name"] for path, one in asked if path == "/v1/load_lora_adapter"]
    unloads = [one["lora_name"] for path, one in asked if path == "/v1/unload_lora_adapter"]
    steps = [f"grpo-student-{step:06d}" for step in range(STEPS)]
    attempts = {name.rpartition("-")[2] for name in loads}
    assert len(attempts) == 1, "one attempt, whose names no other one gives again"
    assert loads == unloads
    assert [name.rpartition("-")[0] for name in loads] == ["grpo-student-trial", *steps]
    written = [one for path, one in asked if path == "/v1/completions" and one["max_tokens"] > 1]
    assert all(isinstance(token, int) for one in written for token in one["prompt"])
    assert len({one["seed"] for one in written}) == len(written) == STEPS * 2 * 4
    facts = json.loads((whole / "facts.json").read_text())
    assert len(facts["probe"]["prompt"]) == 16
    # The same problems as this project's own engine asks, with other noise.
    train(tmp_path / "native", start, adapter="lora", steps=STEPS)
    own = completions(tmp_path / "native")
    assert [r["problem_id"] for r in own] == [r["problem_id"] for r in rows]
    assert all("weight_version" not in row for row in own)


def test_a_server_that_dies_costs_time_and_nothing_else(
    start: Path, double: Double, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of a group; it comes back without any adapter."""
    double.fault = Fault("dies", after=4 + 8 + 5)
    second: list[Double] = []

    def restart() -> None:
        while double.is_alive:
            time.sleep(0.02)
        time.sleep(0.2)
        second.append(again(double, start).__enter__())

    waiting = threading.Thread(target=restart)
    waiting.start()
    folder = tmp_path / "student"
    trained(folder, start, double)
    waiting.join()
    assert second[0].served.adapters == {}, "nothing is left on it"
    second[0].stop()
    assert "asked anew (1 of 3 times)" in caplog.text
    assert [row["text"] for row in completions(folder)] == [
        row["text"] for row in completions(whole)
    ]
    assert_equal_weights(folder, whole)


def test_a_training_goes_on_with_another_server(
    start: Path, double: Double, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first one stays away; a version that an attempt left behind is removed."""
    caplog.set_level(logging.INFO)
    double.fault = Fault("dies", after=4 + 9 + 9 + 3)
    folder = tmp_path / "student"
    with pytest.raises(EngineLostError, match="does not answer"):
        trained(folder, start, double)
    with Double(start, *FLAGS) as other:
        other.served.load("other-000001", str(whole))
        other.served.load("grpo-student-000007", str(whole))
        facts = trained(folder, start, other)
        assert list(other.served.adapters) == ["other-000001"]
    assert facts["resumed_from_step"] == 2
    assert "problems and versions those of a training" in caplog.text
    assert [row["weight_version"] for row in completions(folder)] == [
        row["weight_version"] for row in completions(whole)
    ]
    assert_equal_weights(folder, whole)
    assert not adapter_folder(None, "grpo-student", 1, run=folder).exists(), (
        "adapters lie in memory"
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("stale_adapter"), "answers with other weights"),
        (Fault("wrong_model", after=20), "answers with other weights"),
        (Fault("wrong_log_probs", after=4), "the sampler's log-probabilities differ"),
    ],
)
def test_what_the_policy_did_not_write_is_not_learned_from(
    start: Path, double: Double, tmp_path: Path, fault: Fault, words: str
) -> None:
    double.fault = fault
    with pytest.raises((StaleWeightsError, ValueError), match=words):
        trained(tmp_path / "student", start, double)


@pytest.mark.parametrize(
    ("flags", "is_lora", "words"),
    [
        (FLAGS, False, r"refused \(404\)"),
        (FLAGS[1:], True, "LoRA is not enabled"),
        (("--enable-lora", "--max-lora-rank", "1"), True, "LoRA rank 4 is greater"),
        (FLAGS[:3], True, "are those of temperature 1"),
    ],
)
def test_a_server_that_does_not_do_is_refused_with_the_line_of_one_that_does(
    start: Path, tmp_path: Path, flags: tuple[str, ...], is_lora: bool, words: str
) -> None:
    line = server_line(str(start), 4)
    assert line.endswith(
        f"vllm serve {start} --enable-lora --max-loras 2 --max-lora-rank 8 "
        "--logprobs-mode processed_logprobs"
    )
    with (
        Double(start, *flags, lora=is_lora) as double,
        pytest.raises(EngineError, match=words) as refused,
    ):
        trained(tmp_path / "student", start, double, temperature=0.7)
    assert line in str(refused.value)
    assert all(one["max_tokens"] == 1 for one in double.completions()), "before any rollout"


def test_another_start_is_refused(start: Path, base: Path, tmp_path: Path) -> None:
    with Double(base, *FLAGS) as double, pytest.raises(EngineError, match="other weights") as found:
        trained(tmp_path / "student", start, double)
    assert server_line(str(start), 4) in str(found.value)
