"""What nothing reads moves no fingerprint, and what is read moves one: every key of every group."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from composition import config_of, graph, jobs_of

from plan_tuning.config.conditions import CONDITIONS
from plan_tuning.config.effects import failed_condition, idle_words
from plan_tuning.config.run import Config
from plan_tuning.config.training import TrainerConfig
from plan_tuning.job.graph import job_graph

pytestmark = pytest.mark.integration

JOBS = [
    "method=m1",
    "method=zero_shot",
    "method=sft trainer.max_steps=-1 filter=none adapter=lora",
    "method=m2 filter.selection=random evaluation.temperature=1 trainer.scheduler=constant",
    "method=m2 executor=teacher trainer.val_fraction=0.1 trainer.val_problems=4"
    " trainer.select_best=true",
    "method=grpo start=m1 reward=plan_and_answer start.trainer.max_steps=9",
    "method=grpo start=sft method.beta=0 method.scaling=none method.mini_batches=2"
    " method.loss=cispo filter=answer_only",
    "method=grpo start=base reward=plan reward.plan.kind=judge method.credit=plan_amplified",
    "method=grpo start=m1 reward=plan_and_answer reward.plan.kind=uplift method.scheduler=constant",
    "method=grpo start=sft reward=plan reward.plan.kind=roscoe reward.plan.encoder=hashed",
    "method=m1 data=microworld_mixed data.mixing.strategy=tempered distillation.execution=retained",
    "method=m1 data=microworld_mixed merge=dare_ties adapter=lora",
    "method=m1 stages=[distill]",
    "method=m1 data=gsm8k model=qwen3_4b teacher=replay adapter=lora data.limit=9",
    "method=zero_shot data=math model=tiny_llama",
]
# Says how a job is done, where its results lie, or what a choice is called.
NOT_CONTENT = (
    *("logger", "debug", "paths", "tags", "sweep_name", "dry_run", "stages"),
    *("comparison", "registration"),
    *("data.name", "model.name", "filter.name", "start.filter.name", "reward.name"),
    *("model.attention", "model.trust_remote_code", "method.name", "start.name", "executor.name"),
    "model.family",  # of pretrained weights it follows from the weights
    "teacher.backend",  # several ways to one teacher
)
# Content of which another valid value needs more than another value: files, or other choices.
PATHS = ("path", "plan_corpus", "decontaminate", "encoder", "revision", "sources", "benchmarks")
VALUES = (
    *("cosine", "constant", "by_length", "fp32", "bf16", "error", "drop", "loss", "accuracy"),
    *("steps", "judge", "rouge_l", "token_f1", "k1", "k3", "ratio", "plain", "none", "group"),
    *("leave_one_out", "mean", "segment", "uniform", "mask", "keep", "dapo", "grpo"),
    *("normalise_then_sum", "sum_then_normalise", "released_code", "retained", "all", "same"),
    *("required", "paper", "matched", "merged", "server", "equal_tokens", "llama", "bfloat16"),
    *("parlai", "base", "likelihood", "verifier"),
    *("float32", "test", "first", "random", "kept", "b", "a", "other", "static", "eager"),
    *("module", "global", "oracle", "nearest", "linear", "ties"),
)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", f, value


def with_value(node: Any, key: str, value: Any) -> Any:
    """A checked copy with one key set."""
    head, _, rest = key.partition(".")
    inner = with_value(getattr(node, head), rest, value) if rest else value
    return dataclasses.replace(node, **{head: inner})


def others(f: dataclasses.Field[Any], value: Any) -> Iterator[Any]:
    """Values that the key may take instead."""
    kind = str(f.type)
    if isinstance(value, dict):
        return
    if isinstance(value, bool):
        yield not value
    elif "list[int]" in kind:
        yield from ([1], [2, 3])
    elif "list[float]" in kind:
        yield from ([0.7, 0.3], [1.0, 3.0])
    elif "int" in kind:
        yield from ((value or 0) + 1, (value or 0) + 513, max((value or 0) - 1, 0))
    elif "float" in kind:
        yield from ((value or 0.0) / 2 + 0.01, (value or 0.0) + 0.25, (value or 0.0) + 1)
    elif "list" in kind:
        yield from (["x"], ["echo"])
    elif "str" in kind:
        yield from VALUES


def addresses(job: Config) -> list[str]:
    return [stage.fingerprint for stage in job_graph(job).stages]


def moved(job: Config, f: dataclasses.Field[Any], key: str, value: Any) -> list[tuple[Any, bool]]:
    """Up to two other values that can be, and whether each moves a fingerprint."""
    before, found = addresses(job), []
    for other in others(f, value):
        if other == value or len(found) == 2:
            continue
        try:
            changed = with_value(job, key, other)
            if key == "seed" and job.data.is_microworld:
                changed = with_value(changed, "data.seed", other)
            found.append((changed, addresses(changed) != before))
        except ValueError:  # the two do not go together, or there is no such file
            continue
    return found


@pytest.mark.parametrize("words", JOBS)
def test_a_key_moves_a_fingerprint_where_it_is_read(words: str) -> None:
    job = config_of(*words.split())
    machine = {f.name for f in dataclasses.fields(TrainerConfig) if f.metadata.get("runtime")}
    walked, wrong = 0, []
    for key, f, value in leaves(job):
        found = moved(job, f, key, value)
        walked += bool(found)
        failed = failed_condition(job, key)
        for changed, has_moved in found:
            if failed is not None and failed_condition(changed, key) is not None:
                wrong += [f"{key} is not read ({failed.reason})"] if has_moved else []
        is_content = not (
            f.metadata.get("runtime")
            or key.startswith(NOT_CONTENT)
            or key.rpartition(".")[2] in PATHS
            or (key.startswith("start.trainer.") and f.name in machine)
        )
        if failed is None and is_content and found and not any(move for _, move in found):
            wrong.append(f"{key} is read")
    assert wrong == []
    assert walked > 150


def test_every_condition_is_of_keys_that_exist() -> None:
    known = {
        key
        for words in [*JOBS, "method=m2 executor=model"]
        for key, _, _ in leaves(config_of(*words.split()))
    }
    known |= {"data.sources", "reward.judge", "executor.teacher"}
    for condition in CONDITIONS:
        for key in condition.keys:
            assert any(f"{one}.".startswith(f"{key}.") for one in known), key


def test_epochs_under_fixed_steps_make_one_student(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (job,) = jobs_of(tmp_path, "method=m1", "trainer.epochs=1,5")
    assert "trainer.epochs=5 = trainer.epochs=1 (trainer.epochs: " in caplog.text
    assert "trainer.max_steps=200" in caplog.text
    assert "trainer.max_steps=-1" in caplog.text
    assert len(jobs_of(tmp_path, "trainer.max_steps=-1", "trainer.epochs=1,5")) == 2
    assert job.graph.student is not None


@pytest.mark.parametrize(
    ("words", "idle", "cure"),
    [
        ("adapter=full adapter.rank=4", "adapter.rank=4", "adapter=lora"),
        ("adapter=qlora adapter.base_dtype=float32", "adapter.base_dtype=float32", "adapter=lora"),
        ("adapter=lora trainer.precision=fp32 adapter.base_dtype=float32",
         "adapter.base_dtype=float32", "trainer.precision=bf16"),
        ("adapter=lora model.dtype=bfloat16 trainer.precision=bf16 adapter.base_dtype=bfloat16",
         "adapter.base_dtype=bfloat16", "model.dtype=float32"),
        ("adapter=lora trainer.precision=bf16 trainer.devices=2 trainer.strategy=fsdp"
         " adapter.base_dtype=bfloat16", "adapter.base_dtype=bfloat16", "trainer.strategy=auto"),
        ("trainer.accelerator=cpu trainer.card=80", "trainer.card=80",
         "trainer.accelerator=auto"),
        ("trainer.precision=bf16 trainer.cpu_matmul=onednn", "trainer.cpu_matmul=onednn",
         "trainer.precision=fp32"),
        ("filter=none filter.plan_score_threshold=60", "filter.plan_score_threshold=60",
         "filter=two_stage"),
        ("method=m1 reward=plan", "reward=plan", "method=grpo"),
        ("method=m1 start=sft", "start=sft", "method=grpo"),
        ("method=m1 filter@start.filter=none", "filter@start.filter=none", "method=grpo"),
        ("method=sft executor=self", "executor=self", "method=m2"),
        ("method=sft method.plan_weight=2", "method.plan_weight=2", "method=m1"),
        ("evaluation.top_p=0.5", "evaluation.top_p=0.5", "evaluation.temperature=0.7"),
        ("evaluation.server.model=x", "evaluation.server.model=x", "evaluation.engine=server"),
        ("evaluation.vllm.timeout_s=9", "evaluation.vllm.timeout_s=9", "evaluation.engine=vllm"),
        ("evaluation.max_probe_gap=1", "evaluation.max_probe_gap=1", "evaluation.engine=vllm"),
        ("method=grpo method.sync_dir=x", "method.sync_dir=x", "method.engine=vllm"),
        ("method=grpo method.server.model=x", "method.server.model=x", "method.engine=server"),
        ("method=grpo adapter=lora method.engine=vllm method.decoding=static",
         "method.decoding=static", "method.engine=native"),
        ("distillation.execute_threshold=1", "distillation.execute_threshold=1",
         "distillation.execution=retained"),
        ("trainer.val_problems=8", "trainer.val_problems=8", "trainer.val_fraction=0.05"),
        ("method=grpo reward.plan.votes=1", "reward.plan.votes=1", "reward=plan_and_answer"),
        ("method=grpo start=base trainer.max_steps=5", "trainer.max_steps=5", "method=m1"),
        ("method=zero_shot trainer.learning_rate=1", "trainer.learning_rate=1", "method=m1"),
    ],
)  # fmt: skip
def test_an_idle_word_is_named_with_its_cure(words: str, idle: str, cure: str) -> None:
    job = config_of(*words.split())
    (found,) = [word for word in idle_words(job, words.split()) if word.word == idle]
    assert cure in found.cure
    assert "{" not in str(found)


def test_words_that_do_something_are_not_named() -> None:
    words = ["trainer.accelerator=auto", "trainer.card=80", "trainer.precision=bf16",
             "adapter.base_dtype=float32", "method=m1", "filter=none", "seed=3",
             "trainer.max_steps=9", "adapter=lora", "adapter.rank=4", "evaluation.limit=2",
             "logger=csv", "data.limit=9"]  # fmt: skip
    assert idle_words(config_of(*words), words) == []


def test_a_start_has_the_fingerprint_of_its_plain_job_whatever_is_idle() -> None:
    plain = graph("method=m1", "trainer.epochs=7").student
    start = graph("method=grpo", "start.trainer.epochs=3").start
    assert plain is not None
    assert start is not None
    assert plain.fingerprint == start.fingerprint
