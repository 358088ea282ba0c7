"""Precision: what is refused before a card would, what auto stands for, what is hashed of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from composition import config_of, graph

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import AdapterConfig
from plan_tuning.config.training import TrainerConfig
from plan_tuning.job.graph import job_graph
from plan_tuning.job.machine import check_machine
from plan_tuning.students.loading import has_bfloat16, inference_dtype
from plan_tuning.training import lightning
from plan_tuning.training.grpo.policy import sampler_dtype

GSM8K = ("data=gsm8k", "model=qwen3_0_6b", "teacher=gemini_2_5_flash")
CARD = (*GSM8K, "trainer=gpu_bf16")


def student(*words: str) -> str:
    found = graph(*words).student
    assert found is not None
    return found.fingerprint


def spec(*words: str) -> Any:
    found = graph(*words).student
    assert found is not None
    return found.spec


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["adapter=lora", "adapter.base_dtype=bfloat16"],
            r"adapter\.base_dtype=bfloat16.*trainer\.precision=fp32.*base_dtype=auto",
        ),
        (["adapter=lora", "adapter.base_dtype=int8"], r"adapter\.base_dtype=int8"),
        (["adapter.export_dtype=int8"], r"adapter\.export_dtype=int8"),
        (
            [*CARD, "method=grpo", "start=m1", "adapter=qlora"],
            r"start=m1 adapter=qlora.*4 bits.*adapter\.export=merged.*start=path",
        ),
        (
            [*CARD, "method=m1", "method.continued_steps=9", "adapter=qlora"],
            r"continued_steps with adapter=qlora.*4 bits",
        ),
        (
            [*GSM8K, "trainer=cpu_small", "model.attention=flash_attention_2"],
            r"model\.attention=flash_attention_2.*trainer\.precision=bf16",
        ),
        (
            [*CARD, "method=grpo", "model.attention=flash_attention_2",
             "method.sampler_dtype=float32"],
            r"method\.sampler_dtype=float32.*flash.*sampler_dtype=bfloat16",
        ),
        (["method=grpo", "method.importance_cap=0.5"], r"importance_cap=0\.5.*auto, null"),
        (["method=grpo", "method.importance_cap=none"], r"importance_cap=none.*auto, null"),
        (["method=grpo", "method.reference_dtype=int8"], r"reference_dtype=int8"),
    ],
)  # fmt: skip
def test_what_a_card_would_refuse_is_refused_before(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(*words)


@pytest.mark.parametrize(
    "words",
    [
        [*CARD, "method=grpo", "start=base", "adapter=qlora"],
        [*CARD, "method=grpo", "model.attention=flash_attention_2"],
        [*CARD, "method=m1", "adapter=qlora"],
        [*CARD, "method=zero_shot", "adapter=qlora", "trainer.precision=fp32"],
    ],
)
def test_what_a_card_can_do_composes(words: list[str]) -> None:
    assert config_of(*words)


def test_a_start_that_is_an_adapter_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    words = (*CARD, "method=grpo", "start=path", f"start.path={tmp_path}", "adapter=qlora")
    config = config_of(*words, f"paths.outputs={tmp_path / 'outputs'}")
    with pytest.raises(ValueError, match=r"is an adapter.*merged weights.*adapter=lora"):
        check_machine(config, job_graph(config))


def test_where_a_base_is_rounded() -> None:
    lora = AdapterConfig(name="lora")
    assert lora.rounds_base("bf16")
    assert not lora.rounds_base("fp32")
    assert not lora.rounds_base("bf16", "fsdp"), "its shards are gathered in bfloat16 anyway"
    assert not AdapterConfig(name="lora", base_dtype="float32").rounds_base("bf16")
    assert not AdapterConfig(name="full").rounds_base("bf16")
    assert not AdapterConfig(name="qlora").rounds_base("bf16")


def test_rollouts_read_rounded_weights_however_they_are_stored() -> None:
    for kind in ("auto", "float32", "bfloat16"):
        assert AdapterConfig(name="lora", base_dtype=kind).samples_rounded("bf16")
    assert not AdapterConfig(name="lora", base_dtype="float32").samples_rounded("fp32")
    assert not AdapterConfig(name="full").samples_rounded("bf16")


def test_how_a_frozen_base_is_stored_is_not_hashed() -> None:
    lora = student(*CARD, "adapter=lora")
    for kind in ("auto", "float32", "bfloat16"):
        assert student(*CARD, "adapter=lora", f"adapter.base_dtype={kind}") == lora


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_copy_for_servers_is_hashed_where_it_is_asked_for(adapter: str) -> None:
    plain = student(*CARD, f"adapter={adapter}")
    assert student(*CARD, f"adapter={adapter}", "adapter.export_dtype=null") == plain
    assert student(*CARD, f"adapter={adapter}", "adapter.export_dtype=bfloat16") != plain


def test_the_cap_hangs_on_the_precision_of_the_spec() -> None:
    grpo = ("method=grpo", "start=base", "reward=answer")
    assert "importance_cap" not in spec(*grpo)["method"], "off in fp32, and absent from the hash"
    assert student(*grpo) == student(*grpo, "method.importance_cap=null")
    card = (*CARD, *grpo)
    assert spec(*card)["method"]["importance_cap"] == 2
    assert student(*card) == student(*card, "method.importance_cap=2")
    assert student(*card) != student(*card, "method.importance_cap=null")
    assert student(*card) == student(*card, "method.importance_cap=2.0", "trainer.devices=2")
    assert GRPOConfig(importance_cap="auto").resolved("bf16").importance_cap == 2.0
    assert GRPOConfig(importance_cap="auto").resolved("fp32").importance_cap is None
    assert GRPOConfig(importance_cap=3).resolved("fp32").importance_cap == 3


def test_a_rounded_reference_is_hashed_where_it_is_chosen() -> None:
    grpo = (*CARD, "method=grpo", "start=base", "reward=answer")
    plain = student(*grpo)
    assert student(*grpo, "method.reference_dtype=float32") == plain
    assert student(*grpo, "method.reference_dtype=bfloat16") != plain
    lora = student(*grpo, "adapter=lora")
    assert student(*grpo, "adapter=lora", "method.reference_dtype=bfloat16") == lora, "no copy"


class Card:
    """A card as far as torch is asked about it."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str, *, is_real: bool) -> None:
        self.calls: list[str] = []
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "get_device_name", lambda *_: name)
        patch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True: is_real or including_emulation,
        )
        for call in ("empty_cache", "reset_peak_memory_stats"):
            patch.setattr(torch.cuda, call, lambda *_, call=call: self.calls.append(call))


def test_an_emulated_bfloat16_is_not_taken_for_a_real_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Card(monkeypatch, "Tesla T4", is_real=False)
    assert not has_bfloat16()
    assert inference_dtype("cuda:0") is None
    trainer = TrainerConfig(precision="bf16")
    assert sampler_dtype("auto", trainer) is None
    lightning.check_hardware(trainer)
    assert "Tesla T4 only emulates bfloat16" in caplog.text


def test_a_card_that_has_bfloat16_uses_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Card(monkeypatch, "NVIDIA L4", is_real=True)
    assert inference_dtype("cuda:0") == torch.bfloat16
    assert inference_dtype("cpu") is None
    assert sampler_dtype("auto", TrainerConfig(precision="bf16")) == torch.bfloat16
    lightning.check_hardware(TrainerConfig(precision="bf16"))
    assert not caplog.text


def test_a_training_counts_its_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, "NVIDIA L4", is_real=True)
    monkeypatch.setattr(lightning.pl, "seed_everything", lambda *_, **__: None)
    lightning.prepare(TrainerConfig(precision="bf16", threads=1), 0)
    assert card.calls == ["empty_cache", "reset_peak_memory_stats"]
