"""Tasks: what is said of each kind of problems, how its rows are read and its answers found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from composition import config_of

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.extensions import own_styles, records, task_of
from plan_tuning.config.grading import GradingConfig
from plan_tuning.config.job_parts import runs_programs
from plan_tuning.config.microworld import QUESTIONS, MicroworldConfig
from plan_tuning.config.teacher import DistillationConfig
from plan_tuning.distillation.teacher_requests import execute_request, plan_request
from plan_tuning.evaluation.plan_conditions import reference_execution
from plan_tuning.grading.answer_rules import problem_defect
from plan_tuning.grading.grader import Grader
from plan_tuning.grading.programs import completed, extract_program
from plan_tuning.job.graph import job_graph
from plan_tuning.records import Problem, Request, Verdict
from plan_tuning.tasks import code
from plan_tuning.tasks.benchmarks import load
from plan_tuning.tasks.json_rows import DataError
from plan_tuning.tasks.microworld_problems import benchmark_world, load_microworld
from plan_tuning.tasks.microworld_text import parse_problem, vocabulary
from plan_tuning.teachers.scripted import ScriptedTeacher
from plan_tuning.text import formats
from plan_tuning.text.prompts import PromptError, render, words_fingerprint, words_of

STYLES = [style for one in records("task") for style in one.styles or (one.name,)]
FIELDS = {
    "constraints": {"problem": "P"},
    "plan": {"problem": "P"},
    "verify": {"problem": "P", "constraints": "C", "plan": "Q"},
    "execute": {"problem": "P", "plan": "Q"},
    "solve": {"problem": "P"},
    "judge": {"problem": "P", "reference": "R", "candidate": "Q"},
}
ADD = Problem(
    "add", "def add(a, b):\n    ...\n", "def add(a, b):\n    return a + b", style="code",
    metadata={"entry_point": "add", "test": "assert add(1, 2) == 3", "setup": ""},
)  # fmt: skip


def said(name: str, style: str, *, reminded: bool = False) -> str:
    messages = render(name, style=style, is_reminded=reminded, **FIELDS[name])
    return "\n".join(message["content"] for message in messages)


@pytest.mark.parametrize("style", ["gsm8k", "aime", "microworld", "microworld_program", "new"])
def test_mathematics_and_the_micro_world_speak_in_the_files_words(style: str) -> None:
    assert not words_of(style)
    for name in FIELDS:
        assert said(name, style) == said(name, "math")
    assert words_fingerprint([task_of(style).name]) == ""


@pytest.mark.parametrize("style", ["code", "strategyqa"])
@pytest.mark.parametrize("name", FIELDS)
def test_other_tasks_have_words_of_their_own(style: str, name: str) -> None:
    text = said(name, style)
    assert "mathematics" not in text
    assert text != said(name, "math")
    for field in FIELDS[name].values():
        assert f">\n{field}\n<" in text
    if name in ("verify", "execute", "judge"):
        assert len(said(name, style, reminded=True)) > len(text)
    assert words_fingerprint([task_of(style).name, "maths"]).startswith(task_of(style).name)


def test_students_are_asked_in_the_words_of_their_task() -> None:
    def asked(method: str, style: str, prompt: str = "matched") -> str:
        (message,) = formats.student_messages("X", method=method, prompt=prompt, style=style)
        return message["content"]

    assert "```python" in asked("zero_shot", "code")
    assert "yes or no" in asked("zero_shot_cot", "strategyqa")
    assert "boxed" not in asked("m1", "code", "paper")
    assert asked("m1", "code") == asked("m1", "math") == "<input>X</input>"
    (execution,) = formats.executor_messages("X", "Q", style="code")
    assert execution["content"].endswith("in a block that begins with ```python.")
    request = execute_request(ADD, DistillationConfig(), "1. Add.")
    assert "```python" in request.messages[-1]["content"]
    assert "outline" in plan_request(ADD, DistillationConfig(), 0).messages[-1]["content"]


def test_a_request_with_other_fields_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "plan_tuning.text.prompts.words_of", lambda style: {"plan": {"user": "{{colour}}"}}
    )
    with pytest.raises(PromptError, match="colour"):
        render("plan", style="code", problem="P")


TEXTS = [  # text, whether a fence is required, program, rule
    ("<plan>\n```\nno\n```\n</plan>\n<output>\n```python\ndef f():\n    return 1\n```\n</output>",
     True, "def f():\n    return 1", "fence"),
    ("```python\ndef f():\n    return 1\n```\nUse it so:\n```\nf()\n```", True,
     "def f():\n    return 1", "fence"),
    ("```\nx = 1\n```", True, "x = 1", "fence"),
    ("```python\ndef f():\n    return", False, "", "fence"),
    ("def f():\n    return 1\n", False, "def f():\n    return 1", "bare_program"),
    ("Sure:\nimport math\n\ndef f():\n    return math.pi", False,
     "import math\n\ndef f():\n    return math.pi", "bare_program"),
    ("    return a + b", False, "    return a + b", "bare_program"),
    ("def f():\n    return 1\n", True, "", ""),
    ("The answer is 5.", False, "", ""),
    ("def f(:\n    return 1", False, "", ""),
    ("<plan> open", False, "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "require", "program", "rule"), TEXTS)
def test_a_program_is_found(text: str, require: bool, program: str, rule: str) -> None:
    found = extract_program(text, require_box=require)
    assert (found.answer, found.rule) == (program, rule)


@pytest.mark.parametrize(
    "answer",
    ["def add(a, b):\n    return a + b", "    c = a + b\n    return c", "c = a + b\n    return c",
     "return a + b", "if a:\n        return a + b\n    return b"],
)  # fmt: skip
def test_the_inside_of_a_function_is_a_program(answer: str) -> None:
    namespace: dict[str, Any] = {}
    exec(completed('def add(a, b):\n    """Add."""\n', answer, "add"), namespace)
    assert namespace["add"](1, 2) == 3


def rows(folder: Path, *found: Mapping[str, Any]) -> str:
    file = folder / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(file)


HUMANEVAL = {
    "task_id": "H/0", "prompt": 'def add(a, b):\n    """Add."""\n', "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}  # fmt: skip
MBPP = {
    "task_id": 7, "text": "Write a function to add two numbers.",
    "code": "def dd(a):\r\n    return a\r\ndef add(a, b):\r\n    return dd(a) + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, LIMIT) == 9"],
    "test_setup_code": "LIMIT = 9",
}  # fmt: skip


def test_programs_are_read_and_graded(tmp_path: Path) -> None:
    (one,) = load("humaneval", split="test", path=rows(tmp_path, HUMANEVAL))
    assert (one.id, one.style, one.difficulty) == ("H/0", "code", "up to 5 lines")
    assert reference_execution(one) == one.solution == f"```python\n{one.answer.strip()}\n```"
    (two,) = load("mbpp", split="test", path=rows(tmp_path, MBPP))
    assert two.problem.endswith("The function has to pass this test:\nassert add(1, 2) == 3")
    own = {"problem": "Add.", "answer": "def add(a, b):\n    return a + b", "entry_point": "add",
           "test": "assert add(1, 2) == 3"}  # fmt: skip
    form = config_of("data=jsonl", "data.name=mine", "data.style=code", "model=tiny_qwen3",
                     "method=zero_shot", "evaluation.grading.run_code=true").data.form  # fmt: skip
    (three,) = load("mine", split="test", path=rows(tmp_path, own), form=form)
    wrong = "```python\ndef add(a, b):\n    return a - b\n```"
    with Grader(GradingConfig(run_code=True)) as grader:
        for problem in (one, two, three):
            assert grader.grade(problem.solution, problem).verdict is Verdict.CORRECT
            assert grader.grade(wrong, problem, require_box=True).verdict is Verdict.WRONG
        untested = replace(one, metadata={})
        assert grader.grade(one.solution, untested).verdict is Verdict.BAD_GOLD
        assert grader.grade("no", one).verdict is Verdict.NO_ANSWER
        assert grader.grade("```python\ndef add", one).verdict is Verdict.TRUNCATED
        cut = grader.grade(one.solution + "\nAnd", one, finish_reason="length")
        assert cut.is_strict, "what was committed to counts"
        bare = grader.grade(one.answer, one)
        assert (bare.is_correct, bare.is_strict) == (True, False)
        before = grader.sandbox.pool.num_killed
        grader.sandbox.close()
        assert grader.grade(wrong, one).verdict is Verdict.WRONG, "remembered"
        assert grader.sandbox.pool.num_killed == before


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("humaneval", {**HUMANEVAL, "test": ""}, "field 'test': is absent"),
        ("humaneval", {"task_id": "x"}, "field 'prompt'"),
        ("mbpp", {**MBPP, "test_list": []}, "no list of tests"),
        ("mbpp", {**MBPP, "test_list": ["assert sub(1) == 1"]}, "calls no function"),
        ("mbpp", {**MBPP, "code": "def f(:"}, "is no Python"),
    ],
)
def test_a_row_without_tests_is_refused(
    tmp_path: Path, name: str, row: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(name, split="test", path=rows(tmp_path, row))


def test_what_cannot_be_graded_is_left_out() -> None:
    assert problem_defect(ADD) is None
    assert problem_defect(replace(ADD, metadata={})) == "there are no tests"
    assert problem_defect(replace(ADD, answer="def f(:")) == "the gold program is no Python"


def test_a_task_that_runs_programs_says_what_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "TASK", replace(code.TASK, tests=None))
    with pytest.raises(ConfigError, match="says what is run: its program and its tests"):
        problem_defect(ADD)


def test_no_program_is_run_unless_it_is_said() -> None:
    with Grader() as grader, pytest.raises(ConfigError, match=r"run_code=False is not allowed"):
        grader.grade(f"```python\n{ADD.answer}\n```", ADD)
    words = ("data=humaneval", "model=tiny_qwen3", "method=zero_shot")
    with pytest.raises(ConfigError, match=r"run_code=true$"):
        job_graph(config_of(*words))
    assert job_graph(config_of(*words, "evaluation.grading.run_code=true")).predictions


def test_how_programs_are_run_is_part_of_no_other_fingerprint() -> None:
    words = ("data=gsm8k", "model=tiny_qwen3", "method=zero_shot")
    run = "evaluation.grading.run_code=true"
    assert job_graph(config_of(*words)).fingerprint == job_graph(config_of(*words, run)).fingerprint
    both = (*words, "evaluation.benchmarks=[gsm8k,humaneval]", run)
    first, second = job_graph(config_of(*both)).predictions
    assert first.fingerprint == job_graph(config_of(*words)).predictions[0].fingerprint
    assert second.spec["grading"] == {"run_code": True}
    assert second.spec["task_prompts"].startswith("code:")
    other = job_graph(config_of(*both, "evaluation.grading.sandbox.time_s=9")).predictions
    assert [first.fingerprint == other[0].fingerprint, second == other[1]] == [True, False]


def test_which_jobs_run_programs() -> None:
    base = ("model=tiny_qwen3", "teacher=openai_compatible", "teacher.api_base=http://x/v1",
            "evaluation.grading.run_code=true")  # fmt: skip

    def runs(*words: str) -> bool:
        return runs_programs(config_of(*base, *words))

    assert runs("data=mbpp", "method=m1")
    assert runs("data=mbpp", "method=m1", "stages=[distill]")
    assert runs("data=gsm8k", "method=sft", "evaluation.benchmarks=[humaneval]")
    assert not runs("data=gsm8k", "method=m1")
    assert not runs("data=mbpp", "method=sft", "stages=[train]", "trainer.val_problems=0")


def test_the_own_styles_are_those_of_the_tasks() -> None:
    assert own_styles() == ("math", "gsm8k", "olympiadbench", "aime", "strategyqa", "code")
    assert task_of("unheard of").name == "maths"


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_micro_world_asks_three_questions(question: str) -> None:
    world, split = benchmark_world(
        "microworld" if question == "number" else f"microworld_{question}_depth",
        MicroworldConfig(question="yes_no", test_size=40),
    )
    assert world.question == question
    problems = load_microworld(world, split)
    known = set(vocabulary(num_names=16, max_value=40, max_operand=5, domains=True))
    teacher = ScriptedTeacher()
    for problem in problems:
        story = parse_problem(problem.problem)
        assert story.question == question
        texts = (problem.problem, problem.solution, problem.true_plan, reference_execution(problem))
        assert {word for text in texts for word in text.split()} <= known
        messages = render("execute", style=problem.style, problem=problem.problem,
                          plan=problem.true_plan)  # fmt: skip
        told = teacher.answer(Request("execute", messages, 0.0, 99))
        assert "\\boxed{" in told
    plain = load_microworld(replace(world, question="number"), split)
    assert [p.true_plan for p in problems] == [p.true_plan for p in plain], "the same stories"


def test_the_micro_worlds_answers_are_graded_by_their_question() -> None:
    world = MicroworldConfig(question="yes_no", test_size=200)
    problems = load_microworld(world, "test")
    assert 0.4 < sum(p.answer == "yes" for p in problems) / len(problems) < 0.6
    programs = load_microworld(replace(world, question="program", test_size=12), "test")
    with Grader(GradingConfig(run_code=True)) as grader:
        for problem in problems:
            assert grader.grade(problem.solution, problem, require_box=True).is_correct
            other = "no" if problem.answer == "yes" else "yes"
            assert not grader.grade(f"\\boxed{{ {other} }}", problem).is_correct
        for problem in programs:
            assert grader.grade(reference_execution(problem), problem).is_strict
            number = load_microworld(MicroworldConfig(test_size=12), "test")
            value = {p.problem.split(" Program")[0]: p.answer for p in number}
            told = next(iter(value.values()))
            target = problem.metadata["target"]
            assert not grader.grade(f"\\boxed{{ {target} = {told} }}", problem).is_correct


def test_another_question_needs_the_words_for_it() -> None:
    words = ("data=microworld_yes_no", "method=m1")
    with pytest.raises(ConfigError, match=r"lacks the words.*model=micro_domains"):
        config_of(*words)
    graph = job_graph(config_of(*words, "model=micro_domains"))
    assert graph.base is not None
    assert graph.base.spec["domains"] is True
    plain = job_graph(config_of("model=micro")).base
    assert plain is not None
    assert "domains" not in plain.spec
