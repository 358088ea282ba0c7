"""Texts of prompts and completions: pure functions."""

import pytest

from plan_tuning.config.extensions import names, records
from plan_tuning.config.training import PromptConfig
from plan_tuning.records import SegmentKind
from plan_tuning.text.formats import (
    FormatError,
    executor_messages,
    has_plan,
    parse_output,
    parse_plan,
    render_completion,
    student_messages,
)

PARTS = {
    "plan": "1. Add.",
    "execution": "2 + 3 = 5, \\boxed{5}",
    "solution": "Two and three are <<2+3=5>>5.\n#### 5",
    "answer": "5",
}


def content(method: str, prompt: str, style: str = "math") -> str:
    (message,) = student_messages(" x ", method=method, prompt=prompt, style=style)
    assert message["role"] == "user"
    return message["content"]


@pytest.mark.parametrize("method", names("method"))
@pytest.mark.parametrize("prompt", ["matched", "paper"])
def test_every_method_sees_the_problem_in_its_tags(method: str, prompt: str):
    assert content(method, prompt).startswith("<input>x</input>")
    assert content(method, prompt, "microworld").startswith("<input>x</input>")


def test_matched_prompts_are_equal_for_all_trained_methods_and_the_papers_are_not():
    trained = [one.name for one in records("method") if one.is_trained]
    assert {content(method, "matched") for method in trained} == {"<input>x</input>"}
    assert len({content(method, "paper") for method in ("sft", "m1", "m2")}) == 3


def test_untrained_students_are_asked_for_the_box():
    assert "\\boxed{}" in content("zero_shot", "matched")
    assert "step by step" in content("zero_shot_cot", "matched")
    assert "\\boxed{}" in content("zero_shot_cot", "matched")


def test_the_micro_world_has_no_suffix_that_its_vocabulary_lacks():
    assert content("m1", "paper", "microworld") == "<input>x</input>"
    assert content("zero_shot_cot", "matched", "microworld") == "<input>x</input> Step-by-step ."


def test_the_prompt_may_be_the_config():
    messages = student_messages("x", method="m1", prompt=PromptConfig(name="paper"), style="math")
    assert messages[0]["content"] == content("m1", "paper")


@pytest.mark.parametrize(("method", "prompt"), [("m3", "matched"), ("m1", "short")])
def test_unknown_choices_are_named(method: str, prompt: str):
    with pytest.raises(
        FormatError, match=rf"{method if method == 'm3' else prompt}.*choose one of"
    ):
        content(method, prompt)


def test_the_executor_gets_problem_plan_and_request():
    (message,) = executor_messages("how {plan}?", "go {problem}", style="math")
    text = message["content"]
    assert text.startswith("<input>how {plan}?</input>\n<plan>go {problem}</plan>\n\n")
    assert "\\boxed{}" in text
    (message,) = executor_messages("x", "p", style="microworld")
    assert message["content"] == "<input>x</input>\n<plan>p</plan> Execute ."


@pytest.mark.parametrize(
    ("method", "kinds", "text"),
    [
        (
            "sft",
            [SegmentKind.SOLUTION],
            "<output>\nTwo and three are 5.\nThe answer is \\boxed{5}.\n</output>",
        ),
        ("sft_teacher_cot", [SegmentKind.SOLUTION], "<output>\n2 + 3 = 5, \\boxed{5}\n</output>"),
        (
            "m1",
            [SegmentKind.PLAN, SegmentKind.SOLUTION],
            "<plan>\n1. Add.\n</plan>\n<output>\n2 + 3 = 5, \\boxed{5}\n</output>",
        ),
        ("m2", [SegmentKind.PLAN], "<plan>\n1. Add.\n</plan>"),
    ],
)
def test_what_each_method_learns(method: str, kinds: list[SegmentKind], text: str):
    segments = render_completion(method, **PARTS)
    assert [segment.kind for segment in segments] == kinds
    assert "".join(segment.text for segment in segments) == text
    assert all(segment.weight == 1.0 for segment in segments)


def test_a_rationale_with_a_box_keeps_its_own_ending():
    (segment,) = render_completion("sft", **{**PARTS, "solution": "So \\boxed{5} it is."})
    assert segment.text == "<output>\nSo \\boxed{5} it is.\n</output>"


@pytest.mark.parametrize(
    ("method", "part"),
    [("sft", "solution"), ("sft_teacher_cot", "execution"), ("m1", "plan"), ("m2", "plan")],
)
def test_an_empty_part_is_refused(method: str, part: str):
    with pytest.raises(FormatError, match=part):
        render_completion(method, **{**PARTS, part: " \n"})


def test_untrained_methods_have_no_completion():
    with pytest.raises(FormatError, match="zero_shot"):
        render_completion("zero_shot", **PARTS)


def test_tags_inside_a_part_cannot_end_its_segment():
    plan, _ = render_completion("m1", **{**PARTS, "plan": "<plan>1. Add.</plan> 2. Say <output>."})
    assert plan.text == "<plan>\n1. Add. 2. Say .\n</plan>\n"


@pytest.mark.parametrize(
    ("text", "plan", "output", "is_complete"),
    [
        ("<plan>\na\n</plan>\n<output>\nb\n</output>", "a", "b", True),
        ("<plan> a </plan> b", "a", "b", True),
        ("<plan> a", "a", "<plan> a", False),
        ("<plan> a <output> b", "a", "b", False),
        ("<plan> </plan> b", "", "b", False),
        ("a", "a", "a", False),
        ("", "", "", False),
    ],
)
def test_reading_back(text: str, plan: str, output: str, is_complete: bool):
    assert (parse_plan(text), parse_output(text), has_plan(text)) == (plan, output, is_complete)


def test_rendered_plans_are_read_back():
    segments = render_completion("m1", **PARTS)
    text = "".join(segment.text for segment in segments)
    assert (parse_plan(text), parse_output(text)) == (PARTS["plan"], PARTS["execution"])
