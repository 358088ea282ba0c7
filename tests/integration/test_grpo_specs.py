"""GRPO in the graph of a job: what its fingerprint holds, and starts that equal plain jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from composition import config_of, graph

from plan_tuning.config.checks import ConfigError
from plan_tuning.job.costs import reward_line, teacher_line
from plan_tuning.job.graph import job_graph

pytestmark = pytest.mark.integration


def key(*overrides: str) -> str:
    student = graph("method=grpo", *overrides).student
    assert student is not None
    return student.fingerprint


@pytest.mark.parametrize(
    ("grpo", "plain"),
    [
        (["start=m1"], ["method=m1"]),
        (["start=m1", "filter@start.filter=none", "filter=plan_only"],
         ["method=m1", "filter=none"]),
        (["start=sft", "trainer.max_steps=9"], ["method=sft", "trainer.max_steps=9"]),
        (["start=m1", "adapter=lora", "seed=3"], ["method=m1", "adapter=lora", "seed=3"]),
    ],
)  # fmt: skip
def test_the_start_is_the_plain_jobs_artifact(grpo: list[str], plain: list[str]) -> None:
    start, student = graph("method=grpo", *grpo).start, graph(*plain).student
    assert start is not None
    assert student is not None
    assert start.fingerprint == student.fingerprint


def test_a_continued_training_begins_from_the_plain_jobs_artifact() -> None:
    words = ["method=m1", "filter=none", "trainer.max_steps=9"]
    plain, longer = graph(*words), graph(*words, "method.continued_steps=5")
    assert plain.start is None
    assert plain.student is not None
    assert longer.student is not None
    assert longer.start is not None
    assert longer.start.fingerprint == plain.student.fingerprint
    assert longer.student.upstream["start"] == plain.student.fingerprint
    keys = {graph(*words, f"method.continued_steps={n}").student.fingerprint for n in (0, 5, 6)}  # type: ignore[union-attr]
    assert len(keys) == 3
    with pytest.raises(ConfigError, match=r"method\.continued_steps"):
        graph("method=grpo", "method.continued_steps=5")


def test_grpo_from_the_base_has_no_start() -> None:
    assert graph("method=grpo", "start=base").start is None


@pytest.mark.parametrize(
    "change",
    [
        "method.off_policy_bound=0.5", "method.credit=plan_amplified",
        "method.learning_rate=1e-4", "method.loss=dapo", "reward=plan_and_answer", "start=sft",
        "filter=none", "filter@start.filter=none", "reward.answer_weight=1", "seed=1",
    ],
)  # fmt: skip
def test_what_changes_the_student_changes_its_address(change: str) -> None:
    assert key(change) != key()


@pytest.mark.parametrize(
    "change",
    [
        "method.shared_prompt=false", "method.merged_sampler=false", "method.max_log_prob_gap=1",
        "method.decoding=static", "method.checkpoint_every_n_steps=3",
        "trainer.micro_batch_tokens=64", "reward.plan.kind=judge", "reward.plan.wait_s=5",
        "evaluation.max_new_tokens=99",
    ],
)  # fmt: skip
def test_hardware_and_parts_that_are_off_do_not(change: str) -> None:
    assert key(change) == key()


@pytest.mark.parametrize("kind", ["executability", "uplift", "steps"])
def test_grading_counts_where_the_plan_reward_alone_asks_for_it(kind: str) -> None:
    words = ("reward=plan_and_answer", "reward.answer_weight=0", f"reward.plan.kind={kind}")
    specs = []
    for units in ("optional", "required"):
        student = graph("method=grpo", *words, f"evaluation.grading.units={units}").student
        assert student is not None
        specs.append(student.spec)
    assert "grading" not in specs[0], "what was trained with the defaults is found again"
    assert specs[1].get("grading") == (None if kind == "steps" else {"units": "required"})


JUDGED = ("reward=plan_and_answer", "reward.plan.kind=judge")


def judgements(*overrides: str, priced: bool = False) -> str:
    """What the list of these jobs says about the judge."""
    price = ["teacher.price={input: 1.0, output: 2.0}"] if priced else []
    words = ["method=grpo", *overrides, *price, "paths.outputs=nowhere"]
    configs = [config_of(*words, f"seed={seed}") for seed in (0, 0, 1)]
    return teacher_line((config, job_graph(config)) for config in configs)


def test_the_list_of_jobs_counts_what_the_judge_may_be_asked() -> None:
    steps = ["method.steps=5", "method.prompts_per_step=4", "method.group_size=6"]
    assert "judgements" not in judgements(*steps, "reward=plan_and_answer")
    assert "judgements" not in judgements(*steps, "reward=answer", "reward.plan.kind=judge")
    once = 5 * 4 * 6
    # two seeds are two students; the same student is trained once
    assert f"{2 * once:,} for judgements of plans" in judgements(*steps, *JUDGED)
    often = ["reward.plan.votes=3", "reward.plan.temperature=1", "reward.plan.swap=true"]
    assert f"{2 * 6 * once:,} for judgements" in judgements(*steps, *JUDGED, *often)
    redrawn = judgements(*steps, *JUDGED, "method.max_redraws=2")
    assert f"{2 * 3 * once:,} for judgements" in redrawn
    epoch = judgements("data.train_size=100", *JUDGED, "method.prompts_per_step=32")
    assert f"{2 * 4 * 32 * 8:,} for judgements" in epoch


def test_the_verifier_is_asked_for_constraints_once_a_problem() -> None:
    steps = ["method.steps=5", "method.prompts_per_step=4", "method.group_size=6"]
    verified = judgements(*steps, "reward=plan_and_answer", "reward.plan.kind=verifier")
    assert f"{2 * (5 * 4 * 6 + 5 * 4):,} for judgements of plans" in verified


def test_the_list_of_jobs_counts_what_frozen_models_do() -> None:
    def line(*overrides: str) -> str:
        words = ["method=grpo", "method.steps=5", "method.prompts_per_step=4",
                 "method.group_size=6", "reward=plan_and_answer", *overrides]  # fmt: skip
        configs = [config_of(*words, "paths.outputs=nowhere", f"seed={seed}") for seed in (0, 1)]
        return reward_line((config, job_graph(config)) for config in configs)

    assert line() == ""
    assert line("reward.plan.kind=judge") == ""
    found = line("reward.plan.kind=uplift", "reward.plan.samples=3")
    assert "72 executions of up to 512 tokens a step by start" in found
    assert "420 in all, 60 of them once a problem without a plan" in found
    assert "(2 students)" in found
    assert "operations" in found
    found = line("reward.plan.kind=executability", "reward.plan.executor=base")
    assert "96 executions of up to 512 tokens a step by base, 480 in all, at most" in found
    found = line("reward.plan.kind=likelihood")
    assert "24 forward passes of a plan and an execution a step by start, 140 in all" in found
    found = line("reward.plan.kind=roscoe", "reward.plan.encoder=hashed")
    assert "roscoe encodes the steps of 24 plans a step (hashed n-grams, no model)" in found


def test_a_server_of_embeddings_counts_by_the_name_it_serves_the_encoder_by() -> None:
    words = ["reward=plan_and_answer", "reward.plan.kind=roscoe"]
    served = [
        key(*words, f"reward.plan.encoder=http://127.0.0.1:{port}/v1",
            f"reward.plan.encoder_model={name}", *further)
        for port, name, further in (
            (1, "mpnet", []), (2, "mpnet", ["reward.plan.encoder_key_env=KEY"]), (1, "minilm", []),
        )
    ]  # fmt: skip
    assert served[0] == served[1] != served[2]
    assert key(*words, "reward.plan.encoder=hashed") not in served


def test_the_judges_price_is_in_the_sum_of_the_list() -> None:
    real = ["data=gsm8k", "data.limit=8", "model=tiny_qwen3", "teacher=openai_compatible"]
    real += ["teacher.api_base=http://127.0.0.1:1", "method.steps=50"]
    sums = [judgements(*real, *extra, priced=True) for extra in ([], JUDGED)]
    low = [float(text.split("(")[1].split(" ")[0]) for text in sums]
    assert 0 < low[0] < low[1]


def test_the_judge_is_the_teacher_unless_another_one_is_chosen() -> None:
    judged = ["reward=plan_and_answer", "reward.plan.kind=judge"]
    other = ["+teacher@reward.judge=openai_compatible", "reward.judge.api_base=http://127.0.0.1:1"]
    moved = [*other[:1], "reward.judge.api_base=http://127.0.0.1:2"]
    assert key(*judged) != key(*judged, *other)
    assert key(*judged, *other) == key(*judged, *moved)
    real = ["data=gsm8k", "model=tiny_qwen3", f"data.path={Path(__file__).parent}"]
    with pytest.raises(ConfigError, match=r"teacher|reward\.judge"):
        graph("method=grpo", *judged, *real)


def test_a_folder_of_an_encoder_counts_by_its_content(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    words = ("method=grpo", "start=base", "reward=plan", "reward.plan.kind=embedding")

    def of(name: str) -> str:
        return key(*words, f"reward.plan.encoder={tmp_path / name}")

    before = of("here")
    assert of("there") == before
    (tmp_path / "here" / "config.json").write_text('{"hidden_size": 8}')
    assert of("here") != before
