"""Plans that come with the data: the readers, what is learned of them, and known test splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plan_tuning.records import Problem
from plan_tuning.tasks.benchmarks import benchmark_named, load, read
from plan_tuning.tasks.dataset_plans import dataset_plan
from plan_tuning.tasks.json_rows import DataError
from plan_tuning.tasks.published_tests import (
    PUBLISHED_TESTS,
    known_test_problems,
    name_test_problems,
    question_digest,
)
from plan_tuning.tasks.socratic import SocraticError, read_socratic
from plan_tuning.text.formats import render_completion

ANSWER = (
    "How many eggs are left? ** 16-3 = <<16-3=13>>13 eggs.\n"
    "How much are they worth? ** 13*2=$<<13*2=26>>26.\n#### 26"
)


def socratic_file(folder: Path, *answers: str) -> Path:
    path = folder / "rows.jsonl"
    rows = [{"question": f"Question {n}?", "answer": a} for n, a in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_socratic_row_becomes_plan_execution_and_annotations(tmp_path: Path) -> None:
    path = socratic_file(tmp_path, ANSWER)
    (problem,) = load("gsm8k_socratic", split="train", path=str(path))
    found = dataset_plan(problem)
    assert found is not None
    assert (problem.answer, problem.style, problem.source) == ("26", "gsm8k", "gsm8k_socratic")
    assert found.plan == "1. How many eggs are left?\n2. How much are they worth?"
    assert problem.solution == "16-3 = 13 eggs.\n13*2=$26."
    assert found.execution == problem.solution + "\nThe answer is \\boxed{26}."
    assert found.annotated_execution == "16-3 = <<16-3=13>>13 eggs.\n13*2=$<<13*2=26>>26."


def test_the_execution_is_what_sft_learns_and_holds_no_annotation(tmp_path: Path) -> None:
    (problem,) = load("gsm8k_socratic", split="train", path=str(socratic_file(tmp_path, ANSWER)))
    found = dataset_plan(problem)
    assert found is not None
    parts = {"plan": found.plan, "execution": found.execution, "solution": problem.solution}
    texts = {
        method: "".join(s.text for s in render_completion(method, answer=problem.answer, **parts))
        for method in ("sft", "sft_teacher_cot", "m1", "m2")
    }
    assert texts["sft"] == texts["sft_teacher_cot"]
    assert texts["m1"].endswith(texts["sft"])
    assert texts["m2"] == f"<plan>\n{found.plan}\n</plan>"
    assert not any("<<" in text or "**" in text for text in texts.values())


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("How? ** 1+1=2", "no '####'"),
        ("How? ** 1+1=2\n####", "no '####'"),
        ("#### 2", "no step"),
        ("1+1=2\n#### 2", "no 'sub-question \\*\\* step'"),
    ],
)
def test_what_is_no_socratic_answer_is_named_with_its_row(
    tmp_path: Path, answer: str, complaint: str
) -> None:
    with pytest.raises(SocraticError, match=complaint):
        read_socratic(answer)
    path = socratic_file(tmp_path, ANSWER, answer)
    with pytest.raises(DataError, match=f"row 2, field 'answer': .*{complaint}"):
        read("gsm8k_socratic", split="train", path=str(path))


def test_a_question_without_its_step_stays_in_the_plan() -> None:
    found = read_socratic("How many? ** 2+2=<<2+2=4>>4\nHow much? ** \n#### 4")
    assert (len(found.steps), found.rationale) == (2, "2+2=4")
    assert found.plan.count("\n") == 1


def test_decompositions_of_strategyqa_are_plans() -> None:
    row = {
        "question": "Is it so?",
        "answer": True,
        "facts": ["It is.", "It was."],
        "decomposition": ["What is it?", "Is #1 so?"],
    }
    problem = benchmark_named("strategyqa").read_row(row, "x", "strategyqa")
    found = dataset_plan(problem)
    assert found is not None
    assert found.plan == "1. What is it?\n2. Is #1 so?"
    assert found.execution == "It is. It was.\nThe answer is \\boxed{yes}."


def test_rows_of_ones_own_may_bring_plan_and_execution() -> None:
    row = {"plan": "1. Add.", "execution": "It is \\boxed{3}."}
    given = Problem("1", "1+2?", "3", metadata=row)
    found = dataset_plan(given)
    assert found is not None
    assert (found.plan, found.execution) == ("1. Add.", "It is \\boxed{3}.")
    assert dataset_plan(Problem("1", "1+2?", "3", "1+2=3")) is None
    assert dataset_plan(Problem("1", "1+2?", "3", metadata={"plan": "  "})) is None


def test_readers_of_other_sets_are_where_they_were() -> None:
    assert read_version_of("gsm8k") == read_version_of("strategyqa") == 1


def read_version_of(name: str) -> int:
    from plan_tuning.tasks.benchmarks import source_spec

    version: int = source_spec(name, "train")["reader"]
    return version


def test_the_socratic_set_comes_from_the_hub_at_a_pinned_revision() -> None:
    source = benchmark_named("gsm8k_socratic").splits["train"]
    assert (source.repository, source.configs) == ("openai/gsm8k", ("socratic",))
    assert source.revision == benchmark_named("gsm8k").splits["train"].revision


def test_digests_do_not_see_case_signs_and_spacing() -> None:
    assert question_digest("Two  DUCKS, $3?") == question_digest("two ducks 3")
    assert question_digest("Two ducks, 3?") != question_digest("Two ducks, 4?")
    assert known_test_problems(["What is 1 + 1?"]) == {}
    assert name_test_problems({"gsm8k": 2}) == "2 GSM8K test problems"


@pytest.mark.parametrize("name", PUBLISHED_TESTS)
def test_published_test_splits_are_known_by_their_digests(shared: Path, name: str) -> None:
    problems = load(name, split="test", path=str(shared / "data" / name))
    assert known_test_problems(p.problem for p in problems) == {name: len(problems)}


def test_a_renamed_test_split_is_known_and_the_training_split_is_not(shared: Path) -> None:
    data = shared / "data"
    socratic = load(
        "gsm8k_socratic", split="train", path=str(data / "gsm8k_socratic" / "test.jsonl")
    )
    assert known_test_problems(p.problem for p in socratic) == {"gsm8k": 1319}
    train = load("gsm8k", split="train", path=str(data / "gsm8k"))
    assert known_test_problems(p.problem for p in train) == {}
