"""A model's thoughts and what it says after them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plan_tuning.config.filter import FilterConfig
from plan_tuning.config.training import MethodConfig
from plan_tuning.records import Problem
from plan_tuning.text.thoughts import Said, holds_thoughts, join_thoughts, split_thoughts
from plan_tuning.training.sft.batches import RowError
from plan_tuning.training.sft.data import training_rows

PIECES = st.sampled_from(
    ["<think>", "</think>", "<thinking>", "</THINK >", "[THINK]", "[/THINK]", "<think", "</", ">",
     " ", "\n", "1. Add.", "\\boxed{5}", "<b>", "5 < 6", "<thinker>"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("1. Add.", "1. Add."),
        ("  1. Add.\n", "  1. Add.\n"),
        ("<think></think>\n\n1. Add.", "1. Add."),
        ("<THINK>a</THINK>1. Add.", "1. Add."),
        ("\n<think>a</think>1. Add.", "1. Add."),
        ("a</think>b</think> 1. Add. ", "1. Add. "),
        ("<think>a<think>b</think>c</think>1. Add.", "1. Add."),
        ('<think lang="en">a</think>1. Add.', "1. Add."),
        ("Is 5 < 6 > 4? <b>yes</b>", "Is 5 < 6 > 4? <b>yes</b>"),
        ("<thinker>a</thinker>", "<thinker>a</thinker>"),
        ("<plan>I think</plan>", "<plan>I think</plan>"),
        ("", ""),
    ],
)
def test_what_follows_the_last_thought_is_said(raw: str, text: str) -> None:
    said = split_thoughts(raw)
    assert said.text == text
    assert not said.is_open


@pytest.mark.parametrize("raw", ["<think>a", "<think>", "a</think><think>b", "[THINK]a"])
def test_a_thought_that_is_not_closed_leaves_nothing(raw: str) -> None:
    assert split_thoughts(raw) == Said(raw, "", is_open=True)


@given(TEXTS)
def test_both_parts_are_the_text_and_no_thought_is_left(raw: str) -> None:
    said = split_thoughts(raw)
    assert said.thoughts + said.text == raw
    assert not holds_thoughts(said.text)
    assert split_thoughts(said.text).text == said.text


@given(TEXTS, st.sampled_from(["1. Add.", "", "\\boxed{5}"]))
def test_thoughts_that_came_apart_are_split_again(thoughts: str, text: str) -> None:
    assert split_thoughts(join_thoughts(thoughts, text, is_open=False)).text.strip() == text


def test_problems_without_rationales_are_not_blamed_on_a_filter() -> None:
    with pytest.raises(RowError) as caught:
        training_rows(
            method=MethodConfig(name="sft"),
            prompt="matched",  # type: ignore[arg-type]
            chosen=FilterConfig(),
            problems=[Problem("p", "What is 2 + 3?", "5")],
            corpus=None,
        )
    assert "method=sft needs a `solution` in each row" in str(caught.value)
    assert "oosen" not in str(caught.value)
