"""Where a completion commits itself to an answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plan_tuning.grading.answers import MAX_CHARACTERS, extract

FOUND = [
    # text, style, answer, rule
    (r"so \boxed{42}.", "math", "42", "boxed"),
    (r"\fbox{7} then \framebox{8}", "math", "8", "boxed"),
    (r"\boxed {3}", "math", "3", "boxed"),
    (r"\boxed 5 is it", "math", "5", "boxed"),
    (r"\boxed{\frac{1}{\sqrt{2}}}", "math", r"\frac{1}{\sqrt{2}}", "boxed"),
    (r"\boxed{\{1,2\}}", "math", r"\{1,2\}", "boxed"),
    (r"\boxed{\boxed{9}}", "math", r"\boxed{9}", "boxed"),
    (r"stray } brace { and \boxed{4}", "math", "4", "boxed"),
    (r"first \boxed{1}, no: \boxed{2}", "math", "2", "boxed"),
    (r"\boxed{2}. Check: 1 + 1 = 2, and 3 is too much.", "gsm8k", "2", "boxed"),
    ("<think>maybe \\boxed{1}</think> it is \\boxed{2}", "math", "2", "boxed"),
    ("<plan>\nget \\boxed{1}\n</plan>\n<output>so \\boxed{2}</output>", "math", "2", "boxed"),
    ("<output>\\boxed{2}</output><input>next</input><output>\\boxed{3}", "math", "2", "boxed"),
    ("<output> so it is \\boxed{ 23 } </output>", "microworld", "23", "boxed"),
    ("\\boxed{2}</s>\\boxed{3}", "math", "2", "boxed"),
    ("The answer is \\boxed{2}.\n\nQuestion: what of \\boxed{3}?", "math", "2", "boxed"),
    ("<answer> 12 </answer> because 13 is odd", "gsm8k", "12", "answer_tag"),
    ("<answer>1</answer> no <answer>2</answer>", "gsm8k", "2", "answer_tag"),
    ("2 + 2 = 4\n#### 4", "gsm8k", "4", "hashes"),
    ("#### Step 1\nAdd 2 and 2.\nThe answer is 4.", "gsm8k", "4", "answer_is"),
    ("#### $1,250", "gsm8k", "$1,250", "hashes"),
    ("**Final Answer:** 4", "gsm8k", "4", "answer_is"),
    ("### Final Answer\n\n4", "gsm8k", "4", "answer_is"),
    ("the answer is 10 - 6 = 4 apples.", "gsm8k", "4", "answer_is"),
    ("The answer is 3. Wait. The answer is 4.", "gsm8k", "4", "answer_is"),
    ("The final answer is $x^2$. I hope it is correct.", "math", "x^2", "answer_is"),
    ("The answers: Answer: $3$ and $5$.", "math", "3, 5", "answer_is"),
    ("So the answer is 1/2.", "math", "1/2", "answer_is"),
    ("Yes, plausible, but the final answer is no.", "strategyqa", "no", "answer_is"),
    ("No, they never met.", "strategyqa", "No", "last_word"),
    ("There is no doubt. Yes.", "strategyqa", "Yes", "last_word"),
    ("She pays $1,042.50", "gsm8k", "$1,042.50", "last_number"),
    ("of 1,2,3 the last", "gsm8k", "3", "last_number"),
    ("Hence $AB = 2$.", "math", "AB = 2", "last_formula"),
    ("It costs $5 a piece.\nHence \\(n=3\\).", "math", "n=3", "last_formula"),
]


@pytest.mark.parametrize(("text", "style", "answer", "rule"), FOUND)
def test_answer_is_found(text: str, style: str, answer: str, rule: str) -> None:
    found = extract(text, style=style)
    assert (found.answer, found.rule, found.status) == (answer, rule, "found")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", "none"),
        ("   \n ", "none"),
        ("nothing here", "none"),
        (r"\boxed{}", "none"),
        (r"earlier \boxed{3}, now \boxed{ }", "none"),
        ("<answer></answer>", "none"),
        (r"\boxed{42", "truncated"),
        (r"\boxed{42} and then \boxed{4", "truncated"),
        (r"so it is \boxed", "truncated"),
        ("<answer>42", "truncated"),
        ("Answer:", "truncated"),
        ("<think>still at it: \\boxed{42}", "truncated"),
        ("<plan>\n1. get 42\n2. sub", "truncated"),
        ("We compute 6*7 = 42. Then we must subtract the", "truncated"),
    ],
)
def test_absent_or_cut_off_answers(text: str, status: str) -> None:
    found = extract(text, style="gsm8k")
    assert (found.answer, found.status) == ("", status)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"$\boxed{3}$ and $\boxed{5}$", "3, 5"),
        (r"\boxed{3}, \boxed{5} or \boxed{7}", "3, 5, 7"),
    ],
)
def test_boxes_joined_by_words_are_one_answer(text: str, answer: str) -> None:
    found = extract(text)
    assert (found.answer, found.status) == (answer, "several")


def test_equal_boxes_are_one_answer() -> None:
    assert extract(r"\boxed{3} and \boxed{3}").status == "found"


@pytest.mark.parametrize(
    "text",
    [r"\boxed{72}\boxed{}", r"\boxed{}\boxed{72}", r"\boxed{}, \boxed{72}, \boxed{ }"],
)
def test_empty_boxes_beside_a_full_one_say_nothing(text: str) -> None:
    found = extract(text, style="gsm8k")
    assert (found.answer, found.status) == ("72", "found")


def test_an_empty_box_between_two_full_ones() -> None:
    assert extract(r"\boxed{3}, \boxed{}, \boxed{5}").answer == "3, 5"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is not no, it is yes.", "yes"),
        ("The answer is not yes.", "no"),
        ("The answer isn't true.", "no"),
        ("The answer is yes, there is no doubt.", "yes"),
        ("The answer is yes, although no one knows.", "yes"),
        ("The answer is no they never met.", "no"),
        ("The answer is no, it is not true.", "no"),
        ("The answer is yes, but actually no.", "no"),
        ("He said no, but he did; so yes.", "yes"),
        ("The answer is yes or no. After all, the answer is yes.", "yes"),
        (r"\boxed{\text{No, because it rained}}", r"\text{No, because it rained}"),
    ],
)
def test_yes_or_no_is_committed_to(text: str, answer: str) -> None:
    assert extract(text, style="strategyqa").answer == answer


@pytest.mark.parametrize(
    "text",
    [
        "The answer is yes or no.", "It is neither yes nor no.", "The answer is neither yes nor no",
        "The answer is either yes or no.", "The answer is yes/no.", "The answer is yes, no.",
        "So it could be yes or no.", r"\boxed{yes or no}", r"\boxed{yes}\boxed{no}",
        r"\boxed{\text{yes}} or \boxed{\text{no}}", "<answer>yes and no</answer>",
        "#### true or false", "The answer is **yes** or **no**.",
    ],
)  # fmt: skip
def test_yes_and_no_is_no_answer(text: str) -> None:
    found = extract(text, style="strategyqa")
    assert (found.answer, found.status) == ("", "none")


@pytest.mark.parametrize("text", ["#### 42", "The answer is 42.", "<answer>42</answer>", "42"])
def test_a_required_box_has_no_substitute(text: str) -> None:
    assert extract(text, style="gsm8k", require_box=True).status == "none"


def test_only_the_end_of_a_long_text_is_read() -> None:
    early = r"\boxed{1}" + "x" * MAX_CHARACTERS
    assert extract(early, style="gsm8k").status == "none"
    assert extract(early + r"\boxed{2}").answer == "2"


MARKUP = st.sampled_from(
    ["\\boxed{", "}", "{", "$", "\\[", "\\]", "####", "<think>", "</think>", "<plan>", "<output>",
     "<answer>", "</answer>", "the answer is ", "\n", " ", "42", "3.", "\\", "</s>", "yes", "é½"]
)  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.one_of(st.text(max_size=300), st.lists(MARKUP, max_size=60).map("".join)),
    st.sampled_from(["gsm8k", "math", "strategyqa", "aime", "microworld", "unheard of"]),
    st.booleans(),
)
def test_no_text_is_too_strange(text: str, style: str, require_box: bool) -> None:
    found = extract(text, style=style, require_box=require_box)
    assert found.status in ("found", "none", "truncated", "several")
    assert bool(found.answer.strip()) == (found.status in ("found", "several"))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.text(alphabet="abc123+-/^_ .,", min_size=1, max_size=40).filter(lambda s: s.strip(" .")))
def test_a_box_gives_back_its_content(content: str) -> None:
    assert extract(f"Work.\n\\boxed{{{content}}}").answer == content.strip()
