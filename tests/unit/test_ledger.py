"""The memory ledger: what it says of jobs, what it refuses, and the numbers that auto becomes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from composition import config_of, graph

from plan_tuning.config.checks import ConfigError, Finding
from plan_tuning.job import cards
from plan_tuning.job.cards import planned_card, sold_card
from plan_tuning.job.ledger import job_memory
from plan_tuning.job.memory_report import check_memory, memory_findings, memory_lines
from plan_tuning.job.pass_sizes import PLAIN_SIZES, remembered, settled, sizes_of
from plan_tuning.job.stage_memory import DECODED, MICRO, ROLLOUTS, StageMemory
from plan_tuning.training.checkpoints import pass_sizes_in

TEACHER = ("data=gsm8k", "teacher=openai_compatible", "teacher.model=x",
           "teacher.api_base=http://127.0.0.1:1/v1")  # fmt: skip
LORA = (*TEACHER, "model=qwen3_8b", "adapter=lora", "trainer=gpu_bf16", "method=m2")
FULL = (*TEACHER, "model=qwen3_8b", "adapter=full", "trainer=paper", "method=sft")
GRPO = (*TEACHER, "model=gemma3_1b", "adapter=full", "trainer=gpu_bf16", "method=grpo", "start=m1")


def stages_of(*words: str) -> dict[str, StageMemory]:
    return {stage.name: stage for stage in job_memory(config_of(*words), graph(*words))}


def findings_of(*words: str) -> list[Finding]:
    return list(memory_findings(config_of(*words), graph(*words)))


def test_causes_are_named_and_add_up() -> None:
    stages = stages_of(*GRPO)
    assert list(stages) == ["start", "train", "evaluate"]
    phase = stages["train"].least
    named = {"weights", "optimizer", "gradients", "casts", "reference", "copy for rollouts"}
    assert named <= phase.causes.keys()
    parameters = phase.causes["weights"] / 4
    assert phase.causes["optimizer"] == 8 * parameters
    assert phase.causes["reference"] == 4 * parameters
    assert phase.causes["copy for rollouts"] == 2 * parameters
    assert phase.total == sum(phase.causes.values())
    assert "reference" not in stages["start"].least.causes
    rounded = stages_of(*GRPO, "method.reference_dtype=bfloat16")["train"]
    assert rounded.least.causes["reference"] == 2 * parameters


def test_a_reward_s_frozen_executor_lies_beside_the_policy() -> None:
    words = ("reward=plan_and_answer", "reward.plan.kind=uplift")
    plain, frozen = stages_of(*GRPO)["train"], stages_of(*GRPO, *words)["train"]
    assert "frozen executor" not in plain.least.causes
    parameters = plain.least.causes["weights"] / 4
    width = frozen.least.causes["frozen executor"] / parameters
    assert width in (2, 4), "in half precision where the card computes in it"
    assert frozen.host == plain.host + width * parameters
    phases = {phase.name: phase for phase in frozen.phases(frozen.needed)}
    carried = phases["plans carried out"]
    assert carried.causes["KV cache"] == phases["rollouts"].causes["KV cache"]
    assert "plans carried out" not in {phase.name for phase in plain.phases(plain.needed)}
    assert stages_of(*GRPO, "reward=plan_and_answer")["train"].least.causes == plain.least.causes


def test_a_base_beside_lora_in_float32_keeps_casts_until_the_backward_pass() -> None:
    kept = "trainer.gradient_checkpointing=false"
    rounded = stages_of(*LORA, kept)["train"].least
    plain = stages_of(*LORA, kept, "adapter.base_dtype=float32")["train"].least
    assert "frozen casts" not in rounded.causes
    parameters = 8.19e9
    assert plain.causes["weights"] - rounded.causes["weights"] == pytest.approx(
        2 * parameters, rel=0.02
    )
    assert plain.causes["frozen casts"] == pytest.approx(15.1e9, rel=0.02)


def test_the_largest_sizes_fit_and_a_little_more_does_not() -> None:
    for words in (LORA, GRPO):
        for stage in stages_of(*words).values():
            for key in stage.needed:
                usable = sold_card(80).usable
                tokens = stage.largest(key, usable)
                assert tokens is not None
                assert stage.widest({**stage.needed, key: tokens}).total <= usable
                if tokens < min(stage.ceilings[key], 2**19):
                    more = {**stage.needed, key: tokens + 512}
                    assert stage.widest(more).total > usable


def test_a_job_that_cannot_fit_is_refused_with_settings_that_can() -> None:
    words = (*FULL, "trainer.card=80")
    with pytest.raises(ConfigError, match="does not fit on a card of 80 GB") as refused:
        check_memory(config_of(*words), graph(*words))
    assert "adapter=lora" in str(refused.value)
    check_memory(config_of(*words, "adapter=lora"), graph(*words, "adapter=lora"))
    small = (*LORA, "method=m1", "trainer.card=24", "trainer.gradient_checkpointing=false")
    (note,) = (one for one in findings_of(*small) if "train (" in one.text)
    assert note.kind == "note"  # the rows may all be shorter than trainer.max_length
    assert "rows of up to " in note.text
    assert "trainer.gradient_checkpointing=true" in note.text
    cured = findings_of(*small, "trainer.gradient_checkpointing=true")
    assert not any("rows of up to " in one.text for one in cured)


def test_sizes_that_do_not_fit_are_noted_with_those_that_do() -> None:
    words = (*LORA, "trainer.card=40", "evaluation.batch_tokens=524288", "executor=self")
    *_, note = memory_findings(config_of(*words), graph(*words))
    assert note.kind == "note"
    assert "passes of 524288 tokens (evaluation.batch_tokens) do not fit" in note.text
    words = (*LORA, "trainer.card=40", f"{DECODED}=auto", f"{MICRO}=auto", "executor=self")
    assert not list(memory_findings(config_of(*words), graph(*words)))


def test_no_card_is_planned_for_a_cpu_and_a_job_starts_with_the_smaller_of_two(monkeypatch) -> None:
    trainer = config_of(*LORA).trainer
    cards._listed_bytes.cache_clear()
    monkeypatch.setattr(cards, "free_bytes", lambda devices: None)
    assert planned_card(trainer) is None
    named = dataclasses.replace(trainer, card=80)
    card = planned_card(named)
    assert card is not None
    assert card.usable == pytest.approx(72e9)
    assert planned_card(dataclasses.replace(named, accelerator="cpu")) is None
    monkeypatch.setattr(cards, "free_bytes", lambda devices: 50e9)
    card = planned_card(named)
    assert card is not None
    assert card.usable == pytest.approx(72e9)  # a list plans for another card than the one at hand
    card = planned_card(named, starts=True)
    assert card is not None
    assert card.usable == pytest.approx(45e9)
    assert "at hand" in card.name


def test_the_drivers_tool_is_asked_for_the_visible_cards(tmp_path: Path, monkeypatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/asked"\necho 40000\necho 20000\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert cards.free_bytes(1) == 40_000 * 2**20
    assert cards.free_bytes(2) == 20_000 * 2**20
    assert "--id=2,3" in (tmp_path / "asked").read_text()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cards.free_bytes(1) is None


@pytest.mark.parametrize("value", ["0", "-1", "true", "many", "1.5"])
@pytest.mark.parametrize("key", [MICRO, DECODED, ROLLOUTS])
def test_a_size_is_a_number_of_tokens_or_auto(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}=.*auto"):
        config_of(*GRPO, f"{key}={value}")
    with pytest.raises(ConfigError, match="one of 24, 40, 48, 80, 141"):
        config_of(*GRPO, "trainer.card=32")


def test_auto_is_what_fits_and_moves_no_fingerprint() -> None:
    auto = [f"{key}=auto" for key in (MICRO, ROLLOUTS, DECODED)]
    words = (*GRPO, "trainer.card=80", "start.trainer.micro_batch_tokens=null")
    config, stages = config_of(*words, *auto), stages_of(*words)
    assert graph(*words, *auto).fingerprint == graph(*words).fingerprint
    found = settled(config, graph(*words, *auto), "cuda")
    usable = sold_card(80).usable
    assert found.config.trainer.micro_batch_tokens == stages["train"].largest(MICRO, usable)
    own = found.config.start.trainer
    assert own is not None
    assert own.micro_batch_tokens == stages["start"].largest(MICRO, usable)
    assert sizes_of(found.config, found.found).keys() == {MICRO, ROLLOUTS, DECODED}
    assert found.config.evaluation.batch_tokens == stages["evaluate"].largest(DECODED, usable)
    given = config_of(*words)
    assert settled(given, graph(*words), "cuda").config is given


def test_on_a_cpu_auto_stays_modest() -> None:
    words = ("method=m1", f"{MICRO}=auto", f"{DECODED}=auto")
    found = settled(config_of(*words), graph(*words), "cpu").config
    assert 0 < found.trainer.micro_batch_tokens <= PLAIN_SIZES[MICRO]
    assert 0 < found.evaluation.batch_tokens <= PLAIN_SIZES[DECODED]


def test_a_resumed_training_goes_on_with_the_sizes_of_its_checkpoint(tmp_path: Path) -> None:
    config = config_of("method=m1", f"{MICRO}=4321", f"{DECODED}=99")
    keys = frozenset({MICRO})
    assert remembered(config, keys, tmp_path) is config
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    saved = {"callbacks": {"PassSizes": {MICRO: 1234, DECODED: 5}}, "weights": torch.zeros(3)}
    torch.save(saved, folder / "step-000000002.ckpt")
    assert pass_sizes_in(folder / "step-000000002.ckpt") == {MICRO: 1234, DECODED: 5}
    found = remembered(config, keys, tmp_path)
    assert found.trainer.micro_batch_tokens == 1234
    assert found.evaluation.batch_tokens == 99  # was given, and given again
    assert remembered(config, frozenset(), tmp_path) is config


def test_a_dry_run_says_where_the_shape_is_from_and_what_fits() -> None:
    words = (*LORA, "trainer.card=80")
    lines = list(memory_lines(config_of(*words), graph(*words)))
    assert len(lines) == 4
    assert "train (qwen3_8b, shape from table)" in lines[0]
    assert "weights 16.6" in lines[0]
    assert (
        "on a card of 80 GB (72 GB for tensors) fit at most: trainer.micro_batch_tokens="
        in lines[1]
    )
    bare = list(memory_lines(config_of(*LORA), graph(*LORA)))
    assert "cards from" in bare[1]
