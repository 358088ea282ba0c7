"""What a plan is worth: log-probabilities against an oracle, exact zeros, resume, fingerprints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from composition import calls_of, config_of, graph, jobs_of
from sweep_builder import predictions

from plan_tuning.artifacts import fingerprint_of
from plan_tuning.config.effects import idle_words
from plan_tuning.config.microworld import MicroworldConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.evaluation.edit_following import MIN_EDITABLE, followed_edits
from plan_tuning.evaluation.plan_conditions import conditions, own_plans, reference_execution
from plan_tuning.evaluation.plan_value import (
    Measurement,
    passes,
    read_rows,
    summarize_values,
    target_tokens,
)
from plan_tuning.grading.grader import Grader
from plan_tuning.job.costs import value_line
from plan_tuning.job.graph import job_graph
from plan_tuning.job.result import check_overwritten, read_result
from plan_tuning.job_record import FollowedFigures, JobResult, PlanValue
from plan_tuning.records import Completion, Problem, to_json
from plan_tuning.students.loading import Student, load_student, merge_for_inference
from plan_tuning.students.log_probs import last_token_log_probs
from plan_tuning.students.micro import build_tokenizer, world_vocabulary
from plan_tuning.tasks.microworld_problems import load_microworld
from plan_tuning.tasks.microworld_text import (
    execution_text,
    needed_chain,
    parse_plan,
    parse_problem,
    steps_of,
)
from plan_tuning.text.formats import conditioned

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

MODEL = ModelConfig(name="tiny_qwen3", kind="tiny", family="qwen3")
PROBLEMS = [
    Problem(
        id=f"p{i}",
        problem=f"Ann has {i} apples and buys {i + 3} more. How many has she?",
        answer=str(2 * i + 3),
        solution=f"She has {i} + {i + 3} = {2 * i + 3} apples.",
        metadata={"plan": f"1. Take Ann's {i} apples.\n2. Add those that she buys."},
    )
    for i in range(6)
]
OWN = {f"p{i}": f"1. Find the {i} apples.\n2. Add.\n3. Check." for i in range(5)}


@pytest.fixture(scope="module")
def student(base: Path) -> Student:
    return load_student(base, MODEL)


def references(problems: Sequence[Problem] = PROBLEMS) -> dict[str, tuple[Problem, str]]:
    return {problem.id: (problem, reference_execution(problem)) for problem in problems}


def measured(
    student: Student, path: Path, method: str, own=OWN, teacher=None, log_probs=None, budget=400
):
    chosen = conditions(PROBLEMS, method, own, teacher)
    log_probs = log_probs or partial(last_token_log_probs, student.causal_lm)
    measurement = Measurement(
        path, student.tokenizer, log_probs, method=method, prompt="matched", batch_tokens=budget
    )
    return measurement.rows(references(), chosen), chosen


def reference_log_probs(student: Student, ids: Sequence[int], first: int) -> list[float]:
    """The plain forward of transformers, one text at a time, and a softmax in float64."""
    with torch.no_grad():
        logits = student.causal_lm(input_ids=torch.tensor([list(ids)])).logits[0]
    scores = logits.numpy().astype(np.float64)
    found = []
    for place in range(first, len(ids)):
        line = scores[place - 1]
        found.append(float(line[ids[place]] - line.max() - np.log(np.exp(line - line.max()).sum())))
    return found


@pytest.mark.parametrize("method", ["m1", "m2", "zero_shot", "sft"])
def test_each_row_is_the_plain_models_log_probability(
    student: Student, tmp_path: Path, method: str
) -> None:
    rows, chosen = measured(student, tmp_path / "rows", method)
    assert {row.condition for row in rows} == set(chosen.plans)
    for row in rows:
        problem, execution = references()[row.problem_id]
        text = conditioned(
            problem.problem, row.plan, execution, method=method, prompt="matched", style="math"
        )
        ids, first = target_tokens(student.tokenizer, text)
        assert execution in student.tokenizer.decode(ids[first:])
        expected = reference_log_probs(student, ids, first)
        assert row.tokens == len(expected)
        assert row.log_prob == pytest.approx(sum(expected), abs=2e-4)


def test_the_same_target_has_the_same_tokens_however_it_is_asked(student: Student) -> None:
    problem, execution = references()["p3"]
    targets = set()
    for method in ("sft", "m1", "m2", "zero_shot", "zero_shot_cot"):
        for plan in ("", OWN["p3"]):
            text = conditioned(
                problem.problem, plan, execution, method=method, prompt="matched", style="math"
            )
            ids, first = target_tokens(student.tokenizer, text)
            targets.add(student.tokenizer.decode(ids[first:]).strip())
    assert targets == {execution}


def test_equal_plans_differ_by_exactly_zero(student: Student, tmp_path: Path) -> None:
    rows, chosen = measured(student, tmp_path / "rows", "m1", teacher=OWN)
    figures = summarize_values(rows, chosen.subject, {})
    same = figures.contrasts["teacher - own"]
    assert (same.value, same.low, same.high, same.n) == (0.0, 0.0, 0.0, 5)
    assert figures.contrasts["own - none"].value != 0.0


def test_two_students_of_equal_weights_agree_to_the_bit(
    student: Student, base: Path, tmp_path: Path
) -> None:
    twin = load_student(base, MODEL)
    first, _ = measured(student, tmp_path / "one", "m1")
    other = {name: f"1. Do.\n2. Something else {name}." for name in OWN}
    second, _ = measured(twin, tmp_path / "two", "m1", own=other)
    for condition in ("none", "dataset"):
        one, two = (
            {row.problem_id: row.log_prob for row in rows if row.condition == condition}
            for rows in (first, second)
        )
        assert one == two


def test_an_adapter_counts_as_its_merged_weights_do(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    adapter = AdapterConfig(name="lora", rank=4)
    wrapped = load_student(base, MODEL, for_training=True, adapter=adapter)
    with torch.no_grad():
        for name, weight in wrapped.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, 0.05)
    wrapped.model.eval()
    rows, _ = measured(wrapped, tmp_path / "adapter", "m1")
    plain, _ = measured(load_student(base, MODEL), tmp_path / "plain", "m1")
    merged, _ = measured(merge_for_inference(wrapped), tmp_path / "merged", "m1")
    for row, same in zip(rows, merged, strict=True):
        assert row.log_prob == pytest.approx(same.log_prob, abs=2e-3)
    assert any(
        abs(row.log_prob - bare.log_prob) > 0.1 for row, bare in zip(rows, plain, strict=True)
    )


def test_an_interrupted_measurement_goes_on_with_the_same_bits(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plan_tuning.evaluation.plan_value._KEEP_EVERY_S", 0.0)
    whole, _ = measured(student, tmp_path / "whole", "m1")
    compute = partial(last_token_log_probs, student.causal_lm)
    calls: list[int] = []

    def dies(texts):
        if len(calls) == 7:
            raise KeyboardInterrupt
        calls.append(len(texts))
        return compute(texts)

    with pytest.raises(KeyboardInterrupt):
        measured(student, tmp_path / "rows", "m1", log_probs=dies)
    kept = len(read_rows(tmp_path / "rows"))
    assert kept == sum(calls)
    more: list[int] = []

    def goes_on(texts):
        more.append(len(texts))
        return compute(texts)

    again, _ = measured(student, tmp_path / "rows", "m1", log_probs=goes_on)
    assert again == whole == read_rows(tmp_path / "rows")
    assert (tmp_path / "rows").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sum(more) + kept == len({(row.problem_id, row.plan) for row in whole})


def test_passes_stay_under_the_budget_and_hold_every_text() -> None:
    lengths = {f"t{i}": 3 + i * 7 % 11 for i in range(30)}
    groups = passes(lengths, 40)
    assert sorted(name for group in groups for name in group) == sorted(lengths)
    for group in groups:
        assert len(group) * max(lengths[name] for name in group) <= 40
    assert passes({"long": 99}, 40) == [["long"]]


def test_which_plans_a_method_is_asked_about() -> None:
    names = {m: list(conditions(PROBLEMS, m, OWN, None).plans) for m in ("sft", "m1", "zero_shot")}
    assert names["sft"] == ["none"]
    edits = ["other", "shuffled", "number_swapped", "step_dropped"]
    assert names["m1"] == ["none", "own", "dataset", *edits]
    assert names["zero_shot"] == ["none", "dataset", *edits]
    chosen = conditions(PROBLEMS, "m1", OWN, None)
    assert chosen.subject == "own"
    assert conditions(PROBLEMS, "zero_shot", OWN, {"p1": "Add."}).subject == "teacher"
    assert conditions(PROBLEMS, "m1", {}, None).subject == "dataset"  # it never wrote a plan
    others = chosen.plans["other"]
    assert others.keys() == OWN.keys()
    assert sorted(others.values()) == sorted(OWN.values())
    assert all(others[name] != plan for name, plan in OWN.items())
    assert set(chosen.plans["dataset"]) == {problem.id for problem in PROBLEMS}


def test_the_reference_grades_right_in_every_world() -> None:
    micro = load_microworld(MicroworldConfig(), "test", limit=20)
    with Grader() as grader:
        for problem in [*PROBLEMS, *micro]:
            grade = grader.grade(reference_execution(problem), problem)
            assert grade.is_correct
            assert grade.is_strict
    assert reference_execution(Problem("x", "1+1?", "2")) == ""


class Scripted:
    """Completions by what stands in the prompt: every case of following, which no student has."""

    def __init__(self, tokenizer, answer) -> None:
        self.tokenizer, self.answer = tokenizer, answer

    def __call__(self, prompts):
        texts = [self.answer(self.tokenizer.decode(prompt)) for prompt in prompts]
        return [Completion(text, (), "stop", 0) for text in texts]


def following(student: Student, problems: Sequence[Problem], plans, answer):
    with Grader() as grader:
        return followed_edits(
            problems,
            plans,
            tokenizer=student.tokenizer,
            generate=Scripted(student.tokenizer, answer),
            grader=grader,
            method="m1",
            prompt="matched",
        )


def test_following_needs_a_hundred_editable_plans(student: Student) -> None:
    found = following(student, PROBLEMS, OWN, lambda text: pytest.fail("nothing is generated"))
    assert (found.edit, found.n, found.rate) == ("number_swapped", 5, None)


def test_an_execution_that_takes_the_new_number_up_follows(student: Student) -> None:
    many = [
        Problem(id=f"q{i}", problem="Ann has some apples.", answer="7") for i in range(MIN_EDITABLE)
    ]
    plans = {problem.id: "1. Take 42 apples." for problem in many}

    def said(text: str) -> str:
        number = text.rpartition("1. Take ")[2].split()[0]
        return f"She takes {number}. \\boxed{{{number}}}"

    assert following(student, many, plans, said).rate == 1.0
    assert following(student, many, plans, lambda _: "She takes 42. \\boxed{42}").rate == 0.0
    fixed = following(student, many, plans, lambda t: said(t).split(" \\")[0] + " \\boxed{7}")
    assert (fixed.rate, fixed.n) == (0.0, 100)  # the number is named and changes nothing


def test_following_is_exact_in_the_micro_world() -> None:
    world = MicroworldConfig()
    problems = {p.problem: p for p in load_microworld(world, "test", limit=60)}
    tokenizer = build_tokenizer(world_vocabulary(world))

    def rate(follows: bool) -> FollowedFigures:
        def execute(prompt: str) -> str:
            asked = prompt.partition("<input>")[2].partition("</input>")[0].strip()
            story = parse_problem(asked)
            chain = parse_plan(prompt.partition("<plan>")[2]) if follows else needed_chain(story)
            return execution_text(steps_of(story, chain))

        with Grader() as grader:
            return followed_edits(
                [*problems.values()],
                {},
                tokenizer=tokenizer,
                generate=Scripted(tokenizer, execute),
                grader=grader,
                method="m1",
                prompt="matched",
            )

    followed, ignored = rate(True), rate(False)
    assert (followed.edit, followed.rate, ignored.rate) == ("step_dropped", 1.0, 0.0)
    assert followed.n == ignored.n > 50


VALUED = ("evaluation.plan_value=true",)


@pytest.mark.parametrize("method", ["zero_shot", "sft", "m1", "m2", "grpo"])
def test_switching_it_on_adds_stages_and_moves_no_fingerprint(method: str) -> None:
    plain = graph(f"method={method}")
    valued = graph(f"method={method}", *VALUED)
    assert valued.fingerprint == plain.fingerprint
    assert valued.stages[: len(plain.stages)] == plain.stages
    more = valued.stages[len(plain.stages) :]
    assert {stage.kind for stage in more} == {"plan_values"}
    assert [stage.label for stage in more] == [stage.label for stage in plain.predictions]
    for stage, answered in zip(more, plain.predictions, strict=True):
        assert stage.upstream == {"predictions": answered.fingerprint}
        assert stage.fingerprint == fingerprint_of(stage.spec, stage="plan_values", version=1)


def test_the_teachers_plans_are_part_of_the_spec() -> None:
    plain = graph("method=m1", *VALUED)
    distilled = graph("method=m1", *VALUED, "evaluation.plan_value_corpus=distil")
    swapped = graph("method=m2", "evaluation.plan=teacher")
    assert [stage.fingerprint for stage in distilled.value_corpora] == [
        stage.fingerprint for stage in swapped.plan_corpora
    ]
    assert {s.fingerprint for s in plain.plan_values}.isdisjoint(
        s.fingerprint for s in distilled.plan_values
    )
    assert plain.predictions == distilled.predictions
    assert not graph("method=sft", *VALUED, "evaluation.plan_value_corpus=distil").value_corpora


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["method=m2", "executor=teacher"], "tells no log-probabilities"),
        (["method=m2", "evaluation.plan=true"], "evaluation.plan=own"),
        (["method=m1", "stages=[distill,train]"], "nothing is evaluated"),
    ],
)
def test_where_there_is_nothing_to_value_the_word_has_no_effect(
    overrides: list[str], reason: str
) -> None:
    assert not graph(*overrides, *VALUED).plan_values
    idle = idle_words(config_of(*overrides, *VALUED), VALUED)
    assert len(idle) == 1
    assert reason in str(idle[0])


def test_a_dry_run_counts_the_texts_and_what_is_generated(tmp_path: Path) -> None:
    where = f"paths.outputs={tmp_path}"
    words = (*VALUED, "evaluation.limit=10", "evaluation.benchmarks=[microworld]", where)
    jobs = [
        (config, job_graph(config))
        for method in ("sft", "m1", "zero_shot")
        for config in [config_of(f"method={method}", *words)]
    ]
    assert value_line(jobs) == (
        "Plan values: at most 190 texts in forward passes, and 40 executions of edited plans; "
        "no answer is generated again."
    )
    plain = config_of("method=m1", where)
    assert value_line([(plain, job_graph(plain))]) == ""
    assert "plans of test sets" in calls_of(
        jobs_of(tmp_path, "method=m1", *words, "evaluation.plan_value_corpus=distil")
    )


def test_an_earlier_result_without_plan_values_is_not_the_whole_job(tmp_path: Path) -> None:
    plain, valued = graph("method=m1"), graph("method=m1", *VALUED)

    def write(result: JobResult) -> None:
        (tmp_path / "result.json").write_text(json.dumps(to_json(result)))

    write(JobResult(status="completed", key=plain.fingerprint))
    assert read_result(tmp_path, plain) is not None
    assert read_result(tmp_path, valued) is None
    check_overwritten(tmp_path, valued.fingerprint)  # the same job: it may be written again
    values = {stage.label: PlanValue(subject="own") for stage in valued.plan_values}
    write(JobResult(status="completed", key=plain.fingerprint, plan_value=values))
    again = read_result(tmp_path, valued)
    assert again is not None
    assert again.plan_value == values


def test_own_plans_are_those_of_the_first_sample() -> None:
    rows = predictions("b", 0.5, n=3, seed=0, plan="Plan:")
    assert own_plans(rows).keys() == {"b-0", "b-1", "b-2"}
    assert own_plans(predictions("b", 0.5, n=3, seed=0)) == {}
