"""Prompts: what they carry, and that a text in a field stays what it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plan_tuning.text.prompts import REQUESTS, PromptError, prompt_fingerprint, render

FIELDS = {
    "constraints": {"problem": "PROBLEM"},
    "plan": {"problem": "PROBLEM"},
    "verify": {"problem": "PROBLEM", "constraints": "CONSTRAINTS", "plan": "PLAN"},
    "execute": {"problem": "PROBLEM", "plan": "PLAN"},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_each_field_stands_once_inside_its_tags(name: str) -> None:
    text = "\n".join(message["content"] for message in render(name, **FIELDS[name]))
    for field, value in FIELDS[name].items():
        assert re.findall(rf"<{field}>\n{value}\n</{field}>", text) == [
            f"<{field}>\n{value}\n</{field}>"
        ]
        assert text.count(f"<{field}>") == 1
    assert "{{" not in text


def test_a_plan_request_neither_shows_tags_of_later_stages_nor_asks_for_an_answer() -> None:
    text = "\n".join(message["content"] for message in render("plan", problem="x"))
    assert "<plan>" not in text
    assert "boxed" not in text
    assert "constraint" not in text.lower()


def test_the_verifier_is_asked_for_the_papers_scale() -> None:
    text = render("verify", **FIELDS["verify"])[-1]["content"]
    assert "from -100" in text
    assert "never give more than 95" in text
    assert text.rstrip().endswith("Score: N")


@pytest.mark.parametrize("name", ["verify", "execute"])
def test_a_reminder_makes_another_request(name: str) -> None:
    plain = render(name, **FIELDS[name])
    reminded = render(name, is_reminded=True, **FIELDS[name])
    assert reminded[-1]["content"].startswith(plain[-1]["content"])
    assert len(reminded[-1]["content"]) > len(plain[-1]["content"])


@given(st.text(), st.text())
def test_any_text_stays_what_it_is(problem: str, plan: str) -> None:
    content = render("execute", problem=problem, plan=plan)[-1]["content"]
    assert f"<problem>\n{problem}\n</problem>\n\n<plan>\n{plan}\n</plan>" in content


def test_fields_inside_fields_are_not_filled() -> None:
    content = render("execute", problem="What is {{plan}} {0} %s?", plan="{{problem}}")[-1]
    assert "What is {{plan}} {0} %s?" in content["content"]
    assert "<plan>\n{{problem}}\n</plan>" in content["content"]


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("nonsense", {}, "unknown"),
        ("plan", {}, "takes the fields problem"),
        ("plan", {"problem": "x", "plan": "y"}, "given: plan, problem"),
    ],
)
def test_mistakes_are_named(name: str, fields: dict[str, str], said: str) -> None:
    with pytest.raises(PromptError, match=said):
        render(name, **fields)


def test_fingerprints_tell_prompts_apart() -> None:
    assert len({prompt_fingerprint(name) for name in REQUESTS}) == len(REQUESTS)
    assert all(re.fullmatch(r"[0-9a-f]{16}", prompt_fingerprint(name)) for name in REQUESTS)
