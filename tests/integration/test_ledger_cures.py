"""What the ledger advises and refuses: settings that compose, cards and machines that are there."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from composition import config_of, graph

from plan_tuning.config.checks import ConfigError
from plan_tuning.job import cards, memory_report
from plan_tuning.job.cards import planned_card
from plan_tuning.job.disk import _bytes_of_student
from plan_tuning.job.ledger import job_memory
from plan_tuning.job.memory_report import memory_findings, memory_lines
from plan_tuning.job.pass_sizes import settled
from plan_tuning.job.stage_memory import DECODED, MICRO, StageMemory
from plan_tuning.students import shapes

pytestmark = pytest.mark.integration

TEACHER = ("data=gsm8k", "teacher=openai_compatible", "teacher.model=x",
           "teacher.api_base=http://127.0.0.1:1/v1")  # fmt: skip
BF16 = (*TEACHER, "trainer=gpu_bf16")
SERVER = ("evaluation.engine=server", "evaluation.server.api_base=http://127.0.0.1:1/v1",
          "evaluation.server.model=s")  # fmt: skip


def stages_of(*words: str) -> dict[str, StageMemory]:
    return {stage.name: stage for stage in job_memory(config_of(*words), graph(*words))}


def said_of(*words: str) -> list[str]:
    return [str(found) for found in memory_findings(config_of(*words), graph(*words))]


def test_a_model_in_half_precision_is_trained_by_an_adapter_and_evaluated() -> None:
    stages = stages_of(*BF16, "model=qwen3_8b", "adapter=lora", "model.dtype=bfloat16", "method=m2")
    assert stages["evaluate"].least.causes["executor"] == pytest.approx(16.4e9, rel=0.01)


REFUSED = {
    "sft": ("model=qwen3_8b", "adapter=full", "method=sft", "trainer.card=24"),
    "lora": ("model=gemma3_12b", "adapter=lora", "method=m1", "trainer.card=24"),
    "merged": ("model=gemma3_12b", "adapter=lora", "adapter.export=merged", "trainer.card=24"),
    "rewards": ("model=qwen3_4b", "adapter=full", "method=grpo", "start=m1", "trainer.card=40"),
    "adapter_start": (
        "model=qwen3_8b", "adapter=lora", "method=grpo", "start=m1", "trainer.card=24"
    ),
    "continued": (
        "model=gemma3_12b", "adapter=lora", "method=m1", "method.continued_steps=10",
        "trainer.card=24",
    ),
    "m2": ("model=qwen3_8b", "adapter=lora", "method=m2", "trainer.card=24"),
    "fsdp": ("model=gemma3_12b", "adapter=full", "trainer=fsdp_bf16", "trainer.card=24"),
    "fsdp_lora": ("model=gemma3_12b", "adapter=lora", "trainer=fsdp_bf16", "trainer.card=24"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_every_cure_is_a_command_that_is_not_refused_itself(name: str) -> None:
    words = (*BF16, *REFUSED[name])
    refused = [line for line in said_of(*words) if "does not fit" in line]
    assert refused
    for line in refused:
        for cure in line.partition("Try for example: ")[2].split(", or "):
            if "=" in cure:
                stage = re.search(r"(start|train|evaluate) \(", line)
                cured = stages_of(*words, *cure.split()).get(stage.group(1) if stage else "")
                usable = planned_card(config_of(*words).trainer)
                assert usable is not None
                assert cured is None or cured.least.total <= usable.usable, cure


def test_spread_weights_have_no_casts_and_one_gradient_on_its_way() -> None:
    words = (*TEACHER, "model=qwen3_8b", "adapter=full", "trainer=fsdp_bf16", "method=sft")
    stage = stages_of(*words)["train"]
    phases = {phase.name: phase for phase in stage.phases(stage.needed)}
    end = phases["end of a pass"].causes
    assert end["casts"] == 0
    parameters = 8.19e9
    spread = sum(end[cause] for cause in ("weights", "gradients", "optimizer"))
    assert spread == pytest.approx(16 * parameters / 2, rel=0.01)  # by hand: 65.5 GB
    tables = 2 * 151_936 * 4096
    assert end["gradients on their way"] == tables * (2 + 4)
    assert stage.least.total < 80e9
    assert "frozen casts" not in stages_of(*words, "adapter=lora")["train"].least.causes


def test_processes_with_whole_weights_have_buckets_of_gradients() -> None:
    words = (*BF16, "model=qwen3_0_6b", "adapter=full", "method=sft")
    several = stages_of(*words, "trainer.devices=2")["train"].least.causes
    assert several["buckets"] == several["gradients"]
    assert "buckets" not in stages_of(*words)["train"].least.causes


def test_a_served_student_leaves_its_executor_and_the_values_of_plans() -> None:
    m2 = (*BF16, "model=qwen3_4b", "adapter=lora", "method=m2")
    served, local = stages_of(*m2, *SERVER)["evaluate"], stages_of(*m2)["evaluate"]
    assert "weights" not in served.least.causes
    assert served.least.causes["executor"] == local.least.causes["executor"]
    swapped = stages_of(*m2, "evaluation.plan=none")["evaluate"].least.causes
    assert "weights" not in swapped  # the executor alone answers
    m1 = (*BF16, "model=qwen3_4b", "adapter=lora", "method=m1", *SERVER)
    assert "evaluate" not in stages_of(*m1)
    assert "weights" in stages_of(*m1, "evaluation.plan_value=true")["evaluate"].least.causes


def test_an_executor_has_keys_and_values_of_its_own() -> None:
    words = (*BF16, "model=gemma3_1b", "adapter=lora", "method=m2", "executor=model")
    words = (*words, "executor.model.path=Qwen/Qwen3-1.7B")
    stage = stages_of(*words)["evaluate"]
    phases = {phase.name: phase.causes for phase in stage.phases({DECODED: 65_536})}
    assert phases["executing plans"]["KV cache"] == 2 * 28 * 1024 * 2 * 65_536
    assert phases["decoding"]["KV cache"] == 2 * 26 * 256 * 2 * 65_536


def test_eager_attention_holds_scores_of_all_heads() -> None:
    words = (*BF16, "model=qwen3_0_6b", "adapter=full", "method=sft", "trainer.max_length=2048")

    def activations(*more: str) -> float:
        stage = stages_of(*words, *more)["train"]
        return max(p.causes.get("activations", 0.0) for p in stage.phases(stage.needed))

    scores = 16 * 2048 * 2048 * 8  # heads x tokens x length, in bytes, of one layer
    more = activations("model.attention=eager") - activations()
    assert scores <= more <= 1.1 * scores  # keys and values are repeated as well


def test_a_start_that_is_an_adapter_is_read_in_float32() -> None:
    words = (*BF16, "model=qwen3_4b", "adapter=lora", "method=grpo", "start=m1")
    stages = stages_of(*words)
    assert stages["train"].host == pytest.approx(2 * stages["start"].host)


def test_a_model_that_nobody_knows_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    words = (*BF16, "model=path", f"model.path={tmp_path}", "method=m1", "trainer.card=80")
    assert not stages_of(*words)
    lines = list(memory_lines(config_of(*words), graph(*words)))
    assert any("unknown" in line for line in lines)
    assert any("nobody knows the shape" in line for line in said_of(*words))


def test_a_folder_that_is_not_there_has_no_shape() -> None:
    words = (*BF16, "model=path", "model.path=./absent", "method=m1", "trainer.card=24")
    assert shapes.shape_of(config_of(*words).model) is None
    assert not stages_of(*words)


def test_an_adapter_has_the_shape_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-4B"}')
    words = (*BF16, "model=path", f"model.path={tmp_path}", "method=m1")
    found = shapes.shape_of(config_of(*words).model)
    assert found is not None
    assert found[0] == shapes.PUBLISHED["Qwen/Qwen3-4B"]


def test_a_machine_with_too_little_memory_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_report, "host_bytes", lambda: 2e9)
    words = (*TEACHER, "trainer=cpu_small", "model=qwen3_8b", "adapter=lora", "method=m1")
    assert any("of the machine's memory" in line for line in said_of(*words))
    monkeypatch.setattr(memory_report, "host_bytes", lambda: 2e12)
    assert not said_of(*words)


def test_a_driver_that_hangs_has_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    def hang(*args: object, **kwargs: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 20.0)

    monkeypatch.setattr(subprocess, "run", hang)
    assert cards._listed(None) == []


def test_a_loaded_torch_says_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: False, device_count=lambda: 2,
        mem_get_info=lambda card: ((40e9, 20e9)[card], 80e9), memory_reserved=lambda card: 0,
        memory_allocated=lambda card: 0,
        is_bf16_supported=lambda including_emulation: including_emulation,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(cards, "_listed", lambda visible: [])
    assert cards.free_bytes(1) == 40e9
    assert cards.free_bytes(2) == 20e9
    assert not cards.has_bfloat16()  # emulated only, as on a T4


def test_auto_on_a_card_never_asks_the_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*BF16, "model=qwen3_0_6b", "adapter=lora", "method=m1", f"{DECODED}=auto")
    monkeypatch.setattr(cards, "free_bytes", lambda devices: None)
    with pytest.raises(ConfigError, match=r"trainer\.card"):
        settled(config_of(*words), graph(*words), "cuda")


def test_a_size_that_is_given_is_not_found_for_the_other_training() -> None:
    words = (*BF16, "model=qwen3_0_6b", "adapter=lora", "method=grpo", "start=m1")
    words = (*words, "trainer.card=80", "trainer.micro_batch_tokens=4096")
    config = config_of(*words)
    own = dataclasses.replace(config.start.trainer, micro_batch_tokens="auto")
    config = dataclasses.replace(config, start=dataclasses.replace(config.start, trainer=own))
    found = settled(config, graph(*words), "cuda")
    assert MICRO not in found.found
    assert MICRO in found.found_of_start


def test_a_copy_for_servers_takes_room_on_the_disk() -> None:
    words = (*TEACHER, "model=qwen3_0_6b", "adapter=full", "method=m1")
    alone, _ = _bytes_of_student(config_of(*words))
    both, _ = _bytes_of_student(config_of(*words, "adapter.export_dtype=bfloat16"))
    assert both == pytest.approx(1.5 * alone)
