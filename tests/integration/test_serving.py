"""What a job's own server is started for, with which memory, and for whom else it does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from composition import config_of, graph

from plan_tuning.config.checks import ConfigError
from plan_tuning.job import serving
from plan_tuning.job.ledger import job_memory
from plan_tuning.job.serving import Wanted, Weights, serving_of, weights_of
from plan_tuning.students.generation.protocol import Vocabulary

pytestmark = pytest.mark.integration

VLLM = ("data=microworld", "model=micro", "method=m2", "evaluation.engine=vllm")


def wanted(*words: str, weights: Weights | None = None, **others: Any) -> Wanted:
    config = config_of(*VLLM, *words)
    vocabulary = Vocabulary(range(8), (7,))
    known = {"device": "cpu", "tokens": 100, "log": Path("vllm.log"), **others}
    return Wanted(weights or Weights("base"), vocabulary, config, config.model, **known)


def adapter(folder: Path, base: Path | str, **settings: Any) -> Path:
    folder.mkdir(parents=True)
    told = {"base_model_name_or_path": str(base), "r": 4, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def test_an_adapter_is_served_upon_its_base(tmp_path: Path) -> None:
    first = adapter(tmp_path / "first", "org/base", revision="abc", rank_pattern={"q": 24})
    assert weights_of(first) == Weights("org/base", "abc", first, 24)
    assert weights_of("org/base") == Weights("org/base")
    with pytest.raises(ConfigError, match=r"upon an adapter.*adapter\.export=merged"):
        weights_of(adapter(tmp_path / "second", first))


def test_a_server_is_started_for_the_rows_and_adapters_of_its_job() -> None:
    plain = serving_of(wanted("adapter=full", "evaluation.vllm.options={dtype: null, x: 1}"))
    assert plain.options == {
        "max-model-len": 1024, "generation-config": "vllm", "trust-remote-code": False,
        "dtype": None, "x": 1,
    }  # fmt: skip
    assert plain.environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in plain.environment
    long = serving_of(wanted("adapter=lora", "adapter.rank=9", tokens=1025))
    assert long.options["max-model-len"] == 2048
    assert long.options["dtype"] == "float32"
    assert long.options["max-lora-rank"] == 16
    assert long.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    from_hub = wanted(weights=Weights("org/base", "abc"))
    assert serving_of(from_hub).options["revision"] == "abc"


def test_a_server_gets_what_the_ledger_says_and_no_more_than_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = 60e9
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, 80e9))
    monkeypatch.setattr("plan_tuning.job.cards.free_bytes", lambda devices: free)
    monkeypatch.setattr(serving, "inference_dtype", lambda device: torch.bfloat16)

    def share(*words: str) -> float:
        asked = wanted("model=qwen3_8b", *words, device="cuda")
        return float(serving_of(asked).options["gpu-memory-utilization"])

    assert share() == pytest.approx((16.4 + 9.66 + 4 + 2.28) / 80, abs=0.005)
    assert share("evaluation.batch_tokens=500000") == pytest.approx(0.9 * 60 / 80, abs=0.002)
    assert share("evaluation.vllm.options={gpu_memory_utilization: 0.2}") == 0.2


def test_one_model_at_a_time_is_on_the_card() -> None:
    words = ("data=gsm8k", "model=qwen3_8b", "method=m2", "trainer=gpu_bf16")
    asked = ("teacher=openai_compatible", "teacher.model=x", "teacher.api_base=http://h:1/v1")
    held = {}
    for engine in ("native", "vllm"):
        chosen = (*words, *asked, f"evaluation.engine={engine}")
        (stage,) = [s for s in job_memory(config_of(*chosen), graph(*chosen)) if "ev" in s.name]
        held[engine] = stage.widest(stage.sizes(None)).causes
    assert held["native"]["executor"] == pytest.approx(16.4e9, rel=0.01)
    assert "executor" not in held["vllm"]
    assert held["vllm"]["weights"] == held["native"]["weights"]


def test_who_may_go_on_with_a_server() -> None:
    there = wanted("adapter=lora")
    same = wanted("adapter=full", "evaluation.temperature=0.7", weights=Weights("base", None))
    assert serving._does(there, same), "other decoding, and no adapter"
    assert serving._does(there, wanted("adapter=lora", tokens=900))
    another = [
        wanted("adapter=lora", weights=Weights("elsewhere")),
        wanted("adapter=lora", tokens=1100),
        wanted("adapter=lora", "adapter.rank=64"),
        wanted("adapter=lora", "evaluation.vllm.options={quantization: fp8}"),
        wanted("adapter=lora", "evaluation.batch_tokens=100000"),
        replace(there, vocabulary=Vocabulary(range(8), (6,))),
    ]
    assert not any(serving._does(there, one) for one in another)
    commits = [wanted(f"model.revision={one}", weights=Weights("org/base")) for one in "ab"]
    assert serving._does(commits[0], commits[0])
    assert not serving._does(*commits), "a hub id is served at a commit"


def test_only_options_that_are_content_change_predictions() -> None:
    def predictions(*words: str) -> str:
        return graph(*VLLM, *words).predictions[0].fingerprint

    plain = predictions()
    same = ("evaluation.vllm.command=srun vllm", "evaluation.vllm.options={max_num_seqs: 8}",
            "evaluation.vllm.concurrency=3")  # fmt: skip
    assert {predictions(one) for one in same} == {plain}
    content = ("quantization: fp8", "load_format: dummy", "dtype: null")
    others = {predictions(f"evaluation.vllm.options={{{one}}}") for one in content}
    assert len(others | {plain, predictions("evaluation.engine=native")}) == 5


def test_secrets_are_no_options_which_command_lines_and_manifests_show() -> None:
    with pytest.raises(ConfigError, match=r"hf-token.*no secrets.*HF_TOKEN=… plan-tuning"):
        config_of(*VLLM, "evaluation.vllm.options={hf_token: x}")
