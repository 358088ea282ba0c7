"""What trainings, evaluations and jobs say that they computed, against what they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from composition import config_of, graph

from plan_tuning.artifacts import build
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, PromptConfig, TrainerConfig
from plan_tuning.evaluation.predictions import solve
from plan_tuning.evaluation.writers import LocalWriter
from plan_tuning.grading.grader import Grader
from plan_tuning.job.compute import facts_of_start, job_compute
from plan_tuning.job.graph import resolved
from plan_tuning.job_record import Compute, parse_compute
from plan_tuning.records import to_json
from plan_tuning.students.loading import load_student
from plan_tuning.students.templates import prompt_ids
from plan_tuning.text.formats import student_messages
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.sft.fit import SFTSettings, train_student

from . import grpo_world
from .sft_world import make_rows

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

MODEL = ModelConfig(name="tiny_qwen3", kind="tiny", family="qwen3")


def supervised(folder: Path, base: Path, *, adapter: str = "full", **knobs: Any) -> dict[str, Any]:
    settings = {
        **{"learning_rate": 1e-3, "precision": "fp32", "accelerator": "cpu", "max_length": 300},
        **{"val_fraction": 0.0, "micro_batch_tokens": 256, "progress": False},
    }
    return train_student(
        TrainingRun(folder, folder.parent / "run", []),
        SFTSettings(
            model=MODEL,
            adapter=AdapterConfig(name=adapter, rank=1),
            trainer=TrainerConfig(**{**settings, **knobs}),
            method=MethodConfig(name="m1"),
            seed=3,
        ),
        base,
        make_rows(20),
    )


def computed(facts: dict[str, Any]) -> Compute:
    found = parse_compute(facts["compute"])
    assert found is not None
    assert found.flops is not None
    return found


def test_a_supervised_training_counts_the_tokens_of_its_batches(base: Path, tmp_path: Path) -> None:
    """Two epochs of 20 rows, eight a step: the last step has fewer, and padding does not count."""
    facts = supervised(tmp_path / "full", base, epochs=2)
    found = computed(facts)
    assert found.trained_tokens == facts["tokens"]
    assert found.seconds == facts["train_s"]
    assert (found.generated_tokens, found.read_tokens) == (0, 0)
    adapted = computed(supervised(tmp_path / "lora", base, epochs=2, adapter="lora"))
    assert adapted.trained_tokens == found.trained_tokens
    assert 0.6 < adapted.flops / found.flops < 0.9  # 4 N and a little, instead of 6 N
    longer = computed(supervised(tmp_path / "steps", base, epochs=4, order="by_length"))
    assert longer.flops == pytest.approx(2 * found.flops, rel=1e-9)


def test_grpo_counts_its_rollouts_its_reference_and_its_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo_world.grpo_fit, "RewardWorker", grpo_world.DigitRewards)
    start = grpo_world.make_start(tmp_path / "start")
    plain = grpo_world.train(tmp_path / "plain", start, beta=0.0)
    lines = (tmp_path / "plain" / "completions.jsonl").read_text(encoding="utf-8").splitlines()
    found = computed(plain)
    assert found.generated_tokens == sum(json.loads(line)["tokens"] for line in lines)
    assert found.generated_tokens == plain["completion_tokens"]
    steps = grpo_world.metrics(tmp_path / "plain")
    assert found.trained_tokens == sum(row.get("tokens/train", 0) for row in steps)
    with_reference = computed(grpo_world.train(tmp_path / "reference", start, beta=0.04))
    steps = grpo_world.metrics(tmp_path / "reference")
    scored = sum(row.get("tokens/scoring", 0) for row in steps)
    assert scored > 0
    # The first step's rollouts are the same, and a prompt is read once for its group.
    prompts = with_reference.read_tokens - scored
    assert prompts == found.read_tokens


def test_an_evaluation_counts_what_it_read_and_wrote(base: Path, tmp_path: Path) -> None:
    student = load_student(base, MODEL)
    evaluation = EvaluationConfig(max_new_tokens=9, num_samples=2, temperature=1.0, progress=False)
    writer = LocalWriter(student, evaluation)
    problems = [planned.problem for planned in grpo_world.PROBLEMS[:3]]
    with Grader() as grader:
        found = solve(
            writer, problems, method="m1", prompt=PromptConfig(), evaluation=evaluation,
            benchmark="b", grader=grader,
        )  # fmt: skip
    assert writer.computed.generated_tokens == sum(row.completion_tokens for row in found)
    prompts = [
        prompt_ids(
            student.tokenizer,
            student_messages(p.problem, method="m1", prompt=PromptConfig(), style=p.style),
        )
        for p in problems
    ]
    assert writer.computed.read_tokens == sum(map(len, prompts))
    assert writer.computed.flops


def make_student(artifacts: Path, name: str, facts: dict[str, Any], model: str = "one") -> Path:
    spec = {"model": {"base": model}, "name": name}
    build(artifacts, "students", name, lambda _: facts, spec=spec)
    return artifacts / "students" / name


def test_a_job_counts_its_start_in_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    own = to_json(Compute(100, flops=600.0, seconds=2.0))
    first = make_student(tmp_path, "first", {"compute": own})
    second = make_student(tmp_path, "second", {"compute": own, **facts_of_start(first)})
    third = make_student(tmp_path, "third", {"compute": own, **facts_of_start(second)})
    found = job_compute([third], None, [])
    assert found.training == Compute(300, flops=1800.0, seconds=6.0)
    assert found.start == Compute(200, flops=1200.0, seconds=4.0)
    assert found.evaluation == Compute()
    assert found.base is None
    assert job_compute([], None, []).training == Compute()
    earlier = make_student(tmp_path, "earlier", {"tokens": 100})
    assert job_compute([earlier], None, []).training is None
    onward = make_student(tmp_path, "onward", {"compute": own, **facts_of_start(earlier)})
    assert job_compute([onward], None, []).training is None
    assert job_compute([], None, [earlier]).evaluation is None


def test_continued_steps_cost_what_the_matched_student_did(tmp_path: Path) -> None:
    outputs = f"paths.outputs={tmp_path}"
    words = ["method=m1", outputs]
    matched = [*words, 'method.continued_steps="match=other"']
    artifacts = tmp_path / "artifacts"
    model = graph(*words).student.spec["model"]  # type: ignore[union-attr]

    def refused(text: str) -> None:
        with pytest.raises(ConfigError, match=text):
            graph(*matched)

    def make(name: str, flops: float | None, of: Any = model) -> None:
        facts: dict[str, Any] = {"steps": 50}
        if flops is not None:
            facts["compute"] = to_json(Compute(flops=flops))
        build(artifacts, "students", name, lambda _: facts, spec={"model": of})

    refused("no finished student of that fingerprint")
    make("other", 3333.0)
    refused("has to be finished first")
    plain = graph(*words).student.fingerprint  # type: ignore[union-attr]
    make(plain, 5000.0)
    longer = graph(*matched)
    assert longer.student.spec["method"]["continued_steps"] == 33  # type: ignore[union-attr]
    by_hand = graph(*words, "method.continued_steps=33")
    assert longer.fingerprint == by_hand.fingerprint
    assert resolved(config_of(*matched)).method.num_continued == 33
    assert graph(*matched, "debug=fast").student is not None  # capped, and not looked up
    for name, flops, of, text in [
        ("unmeasured", None, model, "does not say what its training cost"),
        ("foreign", 10.0, {"path": "x"}, "of another model"),
    ]:
        make(name, flops, of)
        with pytest.raises(ConfigError, match=text):
            graph(*words, f'method.continued_steps="match={name}"')
    with pytest.raises(ConfigError, match="a number of optimizer steps, or match="):
        graph(*words, "method.continued_steps=many")
    with pytest.raises(ConfigError, match="0 for grpo"):
        graph("method=grpo", outputs, 'method.continued_steps="match=other"')
