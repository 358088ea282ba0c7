"""One call, two calls, several samples: from a student to graded predictions."""

from pathlib import Path

import pytest
import torch

from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.evaluation.predictions import SolveError, solve
from plan_tuning.evaluation.writers import LocalWriter
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Message, Problem, Segment, SegmentKind, Verdict
from plan_tuning.students.loading import Student, load_student
from plan_tuning.students.tiny import make_tiny
from plan_tuning.text.formats import executor_messages, render_completion, student_messages
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.sft.batches import TrainingRow
from plan_tuning.training.sft.fit import SFTSettings, train_student

pytestmark = pytest.mark.integration

MODEL = ModelConfig(name="tiny_qwen3", kind="tiny", family="qwen3")
PLAN = "Add both numbers."
PROBLEMS = [
    Problem(id=f"p{i}", problem=f"{i} + 3 = ?", answer=str(i + 3), difficulty=str(i % 2))
    for i in range(4)
]
SHORT = EvaluationConfig(max_new_tokens=60, max_plan_tokens=40, batch_tokens=400)


def row(problem: Problem, messages: tuple[Message, ...], segments: tuple[Segment, ...]):
    return TrainingRow(problem.id, messages, segments)


def teach(folder: Path, base: Path, rows: list[TrainingRow]) -> Student:
    """Train until the rows are known by heart."""
    train_student(
        TrainingRun(folder, folder.parent),
        SFTSettings(
            model=MODEL,
            adapter=AdapterConfig(name="full"),
            trainer=TrainerConfig(
                learning_rate=1e-2,
                precision="fp32",
                accelerator="cpu",
                val_fraction=0.0,
                max_steps=250,
                max_length=300,
            ),
            method=MethodConfig(name="m1"),
            seed=0,
        ),
        base,
        rows,
    )
    return load_student(folder, MODEL)


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Student]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("students")
    base = root / "base"
    make_tiny(base, "qwen3", 0)

    def asked(problem: Problem, method: str) -> tuple[Message, ...]:
        return student_messages(problem.problem, method=method, prompt="matched", style="math")

    def learned(problem: Problem, method: str) -> tuple[Segment, ...]:
        execution = f"So \\boxed{{{problem.answer}}}."
        return render_completion(method, plan=PLAN, execution=execution, solution="", answer="")

    made = {
        method: teach(
            root / method, base, [row(p, asked(p, method), learned(p, method)) for p in PROBLEMS]
        )
        for method in ("m1", "m2")
    }
    made["executor"] = teach(
        root / "executor",
        base,
        [
            row(
                p,
                executor_messages(p.problem, PLAN, style="math"),
                (Segment(SegmentKind.SOLUTION, f"So \\boxed{{{p.answer}}}."),),
            )
            for p in PROBLEMS
        ],
    )
    yield made
    torch.set_num_threads(before)


def ask(students, method: str, evaluation: EvaluationConfig = SHORT, **more):
    with Grader() as grader:
        return solve(
            students[method],
            PROBLEMS,
            method=method,
            prompt="matched",
            evaluation=evaluation,
            benchmark="sums",
            grader=grader,
            **more,
        )


def test_one_call_answers_with_a_plan(students):
    predictions = ask(students, "m1")
    assert [p.problem_id for p in predictions] == [p.id for p in PROBLEMS]
    for prediction, problem in zip(predictions, PROBLEMS, strict=True):
        assert prediction.is_correct
        assert prediction.is_correct_strict
        assert prediction.verdict is Verdict.CORRECT
        assert prediction.plan == PLAN
        assert prediction.answer == problem.answer == prediction.gold
        assert prediction.prompt == f"<input>{problem.problem}</input>"
        assert (prediction.benchmark, prediction.difficulty) == ("sums", problem.difficulty)
        assert prediction.finish_reason == "stop"


def test_two_calls_hand_the_plan_to_the_executor(students):
    told = []
    predictions = ask(
        students, "m2", executor=students["executor"], progress=lambda *news: told.append(news)
    )
    assert all(p.is_correct and p.plan == PLAN for p in predictions)
    assert all(f"<plan>{PLAN}</plan>" in p.prompt for p in predictions)
    assert {news[0] for news in told} == {"planning", "executing"}
    alone = ask(students, "m2")  # executor=self: a planner that only ever plans
    assert not any(p.is_correct for p in alone)
    one_call = len(students["executor"].tokenizer("So \\boxed{3}.")["input_ids"]) + 1
    assert all(p.completion_tokens > one_call for p in predictions)


def test_a_plan_swap_executes_the_given_plans(students):
    plans = {problem.id: PLAN for problem in PROBLEMS}
    told = []
    predictions = ask(
        students,
        "m2",
        executor=students["executor"],
        plans=plans,
        progress=lambda *news: told.append(news),
    )
    assert all(p.is_correct and p.plan == PLAN for p in predictions)
    assert {news[0] for news in told} == {"executing"}
    other = ask(
        students, "m2", executor=students["executor"], plans=dict.fromkeys(plans, "Do nothing.")
    )
    assert {p.plan for p in other} == {"Do nothing."}
    assert all("<plan>Do nothing.</plan>" in p.prompt for p in other)


@pytest.mark.parametrize(
    ("method", "plans", "message"),
    [("m1", {"p0": PLAN}, "method=m2"), ("m2", {"p0": PLAN}, "3 of 4 problems")],
)
def test_plans_that_cannot_be_swapped_in(students, method: str, plans, message: str):
    with pytest.raises(SolveError, match=message):
        ask(students, method, plans=plans)


def test_a_cut_completion_is_truncated_and_not_wrong(students):
    predictions = ask(students, "m1", EvaluationConfig(max_new_tokens=5))
    assert {p.verdict for p in predictions} == {Verdict.TRUNCATED}
    assert {p.finish_reason for p in predictions} == {"length"}


def test_samples_stand_side_by_side_and_repeat_with_the_seed(students):
    many = EvaluationConfig(max_new_tokens=30, num_samples=3, temperature=1.5, seed=7)
    first = ask(students, "m1", many)
    assert [(p.problem_id, p.sample) for p in first] == [
        (p.id, sample) for p in PROBLEMS for sample in range(3)
    ]
    assert first == ask(students, "m1", many)
    assert len({p.text for p in first}) > len(PROBLEMS)
    other = ask(students, "m1", EvaluationConfig(**{**vars(many), "seed": 8}))
    assert [p.text for p in other] != [p.text for p in first]


@pytest.mark.parametrize("decoding", ["auto", "static"])
def test_what_rounded_predictions_hang_on_is_recorded(base: Path, decoding: str) -> None:
    """The kernels of half precision depend on the batch: other batches may choose other tokens."""
    student = load_student(base, MODEL)
    evaluation = EvaluationConfig(batch_tokens=512, decoding=decoding)
    writer = LocalWriter(student, evaluation)
    assert writer.facts() == {}, "float32 is not said anything about, nor a template without date"
    student.model.to(torch.bfloat16)
    kind = "static" if decoding == "static" else "dynamic"  # auto: no card here
    assert writer.facts() == {
        "decoding": {"precision": "bfloat16", "batch_tokens": 512, "decoding": kind}
    }
    student.tokenizer.chat_template += "{# #}{% if false %}{{ date_string }}{% endif %}"
    assert writer.facts()["template_date"] == "2024-07-26"
