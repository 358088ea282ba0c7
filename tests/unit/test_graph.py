"""Fingerprints: what changes the content changes the address, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from composition import graph

from plan_tuning.config.checks import ConfigError
from plan_tuning.job.graph import JobGraph


def keys(job: JobGraph) -> dict[str, str]:
    named = {stage.kind: stage.fingerprint for stage in job.stages if stage.kind != "predictions"}
    return named | {stage.label: stage.fingerprint for stage in job.predictions}


def test_pinned_fingerprints() -> None:
    """Addresses of what users have on disk: a change orphans it, so bump a version on purpose."""
    assert keys(graph("seed=0")) == PINNED


PINNED = {
    "bases": "4f07f288adc86d09",
    "corpora": "dae9556fcb443a20",
    "students": "c6f0c02464b4d314",
    "microworld": "ee353afbecdf63c7",
    "microworld_distractors": "152e4e33677a5d5e",
    "microworld_templates": "5c3642af15fa2bf7",
    "microworld_depth": "a606be5d8e41f3dc",
}


@pytest.mark.parametrize(
    "override",
    [
        "trainer.threads=2",
        "trainer.devices=2",
        "trainer.strategy=ddp",
        "trainer.accelerator=auto",
        "trainer.micro_batch_tokens=512",
        "trainer.gradient_checkpointing=true",
        "trainer.checkpoint_every_n_steps=7",
        "trainer.log_every_n_steps=1",
        "teacher.concurrency=2",
        "teacher.timeout_s=5",
        "distillation.window=3",
        "evaluation.batch_tokens=512",
        "evaluation.decoding=static",
        "evaluation.grading.num_workers=1",
        "logger=csv",
        "paths.outputs=elsewhere",
        "sweep_name=other",
        "tags=[a]",
        "filter.name=mine",
        "trainer=micro",
        "evaluation.top_p=0.5",  # greedy
    ],
)
def test_how_it_runs_is_not_hashed(override: str) -> None:
    assert keys(graph(override)) == keys(graph())


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("seed=1", {"corpora", "students"}),
        ("data.limit=100", {"corpora", "students"}),
        ("data.max_depth=3", {"corpora", "students"}),
        ("teacher.label=other", {"corpora", "students"}),
        ("teacher.scripted.slip_rate=0.2", {"corpora", "students"}),
        ("distillation.num_candidates=4", {"corpora", "students"}),
        ("filter=none", {"students"}),
        ("filter.plan_score_threshold=70", {"students"}),
        ("trainer.learning_rate=1e-4", {"students"}),
        ("trainer.max_steps=7", {"students"}),
        ("method=m2", {"students"}),
        ("method.plan_weight=2", {"students"}),
        ("adapter=lora", {"students"}),
        ("model.seed=1", {"bases", "students"}),
        ("model.base.mixture_steps=10", {"bases", "students"}),
        ("evaluation.limit=5", set()),
        ("evaluation.max_new_tokens=5", set()),
        ("evaluation.stop=[x]", set()),
    ],
)
def test_what_determines_content_is_hashed(override: str, changed: set[str]) -> None:
    before, after = keys(graph()), keys(graph(override))
    stages = {"bases", "corpora", "students"}
    assert {name for name in stages if before[name] != after[name]} == changed
    assert all(before[name] != after[name] for name in before if name.startswith("microworld"))


def test_the_form_of_an_export_is_hashed_where_it_is_chosen() -> None:
    plain = keys(graph("adapter=lora"))
    assert keys(graph("adapter=lora", "adapter.export=auto")) == plain
    assert keys(graph("adapter=lora", "adapter.export=merged"))["students"] != plain["students"]


def test_only_m2s_plans_depend_on_what_ends_them() -> None:
    override = "evaluation.plan_stop=['</plan>']"
    assert keys(graph(override)) == keys(graph())
    changed, plain = keys(graph("method=m2", override)), keys(graph("method=m2"))
    assert changed["students"] == plain["students"]
    assert changed != plain


def test_a_filter_changes_nothing_for_those_who_do_not_use_it() -> None:
    for method in ("zero_shot", "sft"):
        assert (
            graph(f"method={method}", "filter=none").fingerprint
            == graph(f"method={method}", "filter=two_stage").fingerprint
        )


def test_a_threshold_without_a_plan_verifier_means_nothing() -> None:
    loose = graph("filter=answer_only", "filter.plan_score_threshold=0")
    assert keys(loose) == keys(graph("filter=answer_only"))


def test_another_port_buys_nothing_again(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    (tmp_path / "test.jsonl").write_text("{}")
    common = ["data=gsm8k", f"data.path={tmp_path}", "model=tiny_qwen3", "method=m1",
              "teacher=openai_compatible", "teacher.model=any"]  # fmt: skip
    first = graph(*common, "teacher.api_base=http://127.0.0.1:1/v1")
    second = graph(*common, "teacher.api_base=http://127.0.0.1:2/v1", "teacher.backend=litellm")
    assert keys(first) == keys(second)
    (tmp_path / "train.jsonl").write_text("{} ")
    other = graph(*common, "teacher.api_base=http://127.0.0.1:1/v1")
    assert keys(other)["corpora"] != keys(first)["corpora"], "the file's content counts"
    assert keys(other)["gsm8k"] != keys(first)["gsm8k"]


def test_jobs_of_one_stage(tmp_path: Path) -> None:
    only = graph("stages=[distill]")
    assert [stage.kind for stage in only.stages] == ["corpora"]
    assert [stage.kind for stage in graph("stages=[distill,train]").stages] == [
        "bases",
        "corpora",
        "students",
    ]
    assert not graph("method=zero_shot").student


def test_a_test_set_is_never_the_training_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}")
    words = ["data=gsm8k", f"data.path={file}", "model=tiny_qwen3", "method=sft"]
    with pytest.raises(ConfigError, match="one file, the training problems"):
        graph(*words)
    assert graph(*words, f'evaluation.benchmarks=["gsm8k={file}"]').predictions


def test_a_given_student_is_asked_as_it_was_trained(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    words = ["stages=[evaluate]", f"student.path={tmp_path}"]
    first = graph(*words, "method=zero_shot")
    assert first.fingerprint != graph(*words, "method=m1").fingerprint, "their prompts may differ"
    (tmp_path / "config.json").write_text("{ }")
    assert first.fingerprint != graph(*words, "method=zero_shot").fingerprint, (
        "the content counts, not the path"
    )
    manifest = {"schema": 1, "fingerprint": "ab", "spec": {"method": {"name": "m2"}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="was trained with m2"):
        graph(*words, "method=m1")
    assert graph(*words, "method=m2").predictions


def test_the_micro_student_takes_its_own_words_only(tmp_path: Path) -> None:
    manifest = {"schema": 1, "fingerprint": "ab", "spec": {"problems": {"name": "gsm8k"}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="micro-world's words only"):
        graph(f"corpus.path={tmp_path}")
    before, after = keys(graph()), keys(graph("data.max_value=60"))
    assert before["bases"] != after["bases"], "another vocabulary is another base"


def test_distillation_alone_needs_no_student(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    job = graph("stages=[distill]", "data=gsm8k", f"data.path={tmp_path}",
               "teacher=openai_compatible", "teacher.api_base=http://127.0.0.1:1/v1",
               "teacher.model=any")  # fmt: skip
    assert [stage.kind for stage in job.stages] == ["corpora"]
