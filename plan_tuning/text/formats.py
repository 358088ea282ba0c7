"""Trajectories to training texts: what each student is asked and what it learns to answer.

The tags are the paper's: ``<input>x</input>`` in the prompt; ``<plan>…</plan>`` and
``<output>…</output>`` in the completion. A completion is a sequence of segments, so that the loss
and the metrics can tell plan from solution.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from plan_tuning.config.extensions import PLAIN, find, record, records, task_of
from plan_tuning.config.training import PROMPTS, PromptConfig
from plan_tuning.records import Message, Segment, SegmentKind
from plan_tuning.text.prompts import words_of

MICROWORLD = "microworld"  # begins the styles of the micro-world

_BOX = re.compile(r"\\boxed\s*\{")
_GSM8K_TAIL = re.compile(r"\n?####[^\n]*\s*\Z")
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_TAGS = re.compile(r"</?(?:input|plan|output)>")
_OUTPUT_TAGS = ("<output>\n", "\n</output>")


class FormatError(ValueError):
    """A text cannot be rendered: an unknown method or prompt, or a part that is missing."""


@functools.cache
def _prompts() -> dict[str, Any]:
    text = resources.files("plan_tuning.text").joinpath("prompts/student.yaml")
    loaded: dict[str, Any] = yaml.safe_load(text.read_text(encoding="utf-8"))
    return loaded


def is_micro(style: str) -> bool:
    """Whether problems are of the micro-world, whose students have a closed vocabulary."""
    return style.partition("_")[0] == MICROWORLD


def student_messages(
    problem_text: str, *, method: str, prompt: PromptConfig | str, style: str
) -> tuple[Message, ...]:
    r"""Ask a student for one problem.

    Args:
        problem_text: the problem.
        method: what the student learned (experiments/METHOD.md section 3); selects the suffix.
        prompt: matched or paper, or the config that names it.
        style: grading style; its task may have suffixes of its own, as the micro-world has.

    Raises:
        FormatError: the method or the prompt is unknown.

    >>> student_messages("2+3?", method="m1", prompt="matched", style="math")
    ({'role': 'user', 'content': '<input>2+3?</input>'},)
    """
    name = prompt if isinstance(prompt, str) else prompt.name
    suffixes = _prompts()["suffixes"]
    if name not in suffixes:
        raise FormatError(f"prompt={name} is unknown: choose one of {', '.join(PROMPTS)}")
    extension = find("method", method)
    words = method if extension is None else extension.asked_as or method
    if extension is not None and extension.suffix is not None:
        suffix = extension.suffix
    elif words not in suffixes[name]:
        raise FormatError(
            f"method={method} has no prompt: choose one of {', '.join(suffixes[name])}; the record "
            "of a method from outside says one of them by asked_as, or words of its own by suffix"
        )
    elif is_micro(style):
        suffix = _prompts()[MICROWORLD]["suffixes"].get(words, "")
    else:
        own = words_of(style).get("student", {}).get("suffixes", {}).get(name, {})
        suffix = own.get(words, suffixes[name][words])
    content = _prompts()["input"].replace("{problem}", problem_text.strip()) + suffix
    return ({"role": "user", "content": content},)


def executor_messages(problem_text: str, plan: str, *, style: str) -> tuple[Message, ...]:
    """Ask an executor to execute a plan: M2's second call (experiments/METHOD.md section 3)."""
    prompts = _prompts()
    own = prompts[MICROWORLD] if is_micro(style) else words_of(style).get("student", {})
    request = own.get("execution_request", prompts["execution_request"])
    before, after = prompts["execution_input"].split("{problem}")
    content = before + problem_text.strip() + after.replace("{plan}", plan.strip()) + request
    return ({"role": "user", "content": content},)


def render_completion(
    method: str, *, plan: str, execution: str, solution: str, answer: str, style: str = "math"
) -> tuple[Segment, ...]:
    r"""Write what a student of ``method`` learns to say.

    Args:
        method: one that learns from rows; its record says which parts, or which function of
            another module writes them.
        plan: the selected plan.
        execution: the teacher's execution of it.
        solution: the human rationale.
        answer: gold answer; stated at the end of a rationale that does not state it itself.
        style: grading style of the problem, which says how answers are stated.

    Raises:
        FormatError: the method is not one that is trained, or the part it learns is empty.

    >>> [s.text for s in render_completion(
    ...     "m1", plan="1. Add.", execution="2+3=5, \\boxed{5}", solution="", answer="5")]
    ['<plan>\n1. Add.\n</plan>\n', '<output>\n2+3=5, \\boxed{5}\n</output>']
    """
    extension = find("method", method)
    if extension is None or not extension.is_supervised:
        known = ", ".join(one.name for one in records("method") if one.is_supervised)
        raise FormatError(f"method={method} learns nothing from rows: choose one of {known}")
    parts = {"plan": plan, "execution": execution, "solution": solution}
    learned = {part: _require(parts[part], method, part) for part in extension.learns}
    if extension.is_outside:
        written: tuple[Segment, ...] = tuple(extension.load()(learned, answer))
        return written
    return segments(learned, answer, style)


def stated(rationale: str, answer: str, style: str) -> str:
    """End a rationale in its answer, in the way of its task: in a box, unless it has its own way.

    Args:
        rationale: kept as it is where it states its answer itself.
        answer: gold answer.
        style: grading style of the problem.
    """
    own = task_of(style).load().stated
    text: str = boxed(rationale, answer) if own is None else own(rationale, answer)
    return text


def segments(learned: Mapping[str, str], answer: str, style: str = "math") -> tuple[Segment, ...]:
    """Write the parts of a training row in the paper's tags, in their order.

    Args:
        learned: plan, execution or solution: the text of each part that the method learns.
        answer: gold answer, for a solution that does not state its own.
        style: grading style of the problem.
    """
    found = []
    for place, (part, text) in enumerate(learned.items(), start=1):
        if part == "plan":
            found.append(_plan(text, tail="\n" if place < len(learned) else ""))
        else:
            found.append(_output(stated(text, answer, style) if part == "solution" else text))
    return tuple(found)


def boxed(rationale: str, answer: str) -> str:
    r"""End a rationale in a box; GSM8K's calculator marks and ``####`` line are not for students.

    Args:
        rationale: kept as it is where it has a box of its own.
        answer: gold answer.

    >>> boxed("2+2=<<2+2=4>>4\n#### 4", "4")
    '2+2=4\nThe answer is \\boxed{4}.'
    """
    if _BOX.search(rationale):
        return rationale
    text = _GSM8K_TAIL.sub("", _CALCULATOR.sub("", rationale)).strip()
    return f"{text}\nThe answer is \\boxed{{{answer}}}."


def parse_plan(text: str) -> str:
    """Read the plan out of a student's completion.

    Text before the tag is dropped. Without tags the whole text counts as the plan up to an output
    tag, so that an untuned model's plan can be executed too.

    >>> parse_plan("<plan> a ; b </plan> <output> 3 </output>")
    'a ; b'
    >>> parse_plan("<plan> a ; b")
    'a ; b'
    >>> parse_plan("1. Add.")
    '1. Add.'
    """
    _, opened, rest = text.partition("<plan>")
    body = rest if opened else text
    for end in ("</plan>", "<output>"):
        body = body.partition(end)[0]
    return _TAGS.sub("", body).strip()


def parse_output(text: str) -> str:
    """Read what stands between the output tags; without them, everything behind the plan.

    >>> parse_output("<plan> a </plan> <output> 3 </output>")
    '3'
    >>> parse_output("no tags")
    'no tags'
    """
    _, opened, rest = text.rpartition("<output>")
    body = rest if opened else text.rpartition("</plan>")[2]
    return body.partition("</output>")[0].strip()


@dataclass(frozen=True, slots=True)
class Conditioned:
    """A text whose log-probability is asked for, and what stands in front of it."""

    messages: tuple[Message, ...]  # what the student is asked
    before: str  # of its completion: its plan and the tag that opens the output
    target: str
    after: str  # what closes the output; not asked for, but the last token may reach into it


def conditioned(
    problem_text: str,
    plan: str,
    target: str,
    *,
    method: str,
    prompt: PromptConfig | str,
    style: str,
) -> Conditioned:
    r"""Put a plan where the method puts plans, and an execution where the student writes it.

    A student that writes its plan in the same call has it in front of its output. Of two calls, and
    of a model that no method has trained, the plan stands in the request to carry it out; without
    a plan it is asked for an answer as a model is that is given none.

    Args:
        problem_text: the problem.
        plan: empty: no plan.
        target: the execution.
        method: how the student is asked.
        prompt: matched or paper.
        style: grading style; the micro-world's models write every output in its tags.

    >>> conditioned("2+3?", "Add.", "5", method="m1", prompt="matched", style="math").before
    '<plan>\nAdd.\n</plan>\n<output>\n'
    >>> conditioned("2+3?", "", "5", method="zero_shot", prompt="matched", style="math").before
    ''
    """
    plan, asked = _TAGS.sub("", plan).strip(), record("method", method)
    is_requested = asked.calls == 2 or not asked.is_trained
    # Nobody taught an untrained model to write the tags.
    tags = ("", "") if is_requested and not is_micro(style) else _OUTPUT_TAGS
    if is_requested and plan:
        messages = executor_messages(problem_text, plan, style=style)
    else:
        name = PLAIN if asked.calls == 2 else method
        messages = student_messages(problem_text, method=name, prompt=prompt, style=style)
    written = _plan(plan, tail="\n").text if plan and not is_requested else ""
    return Conditioned(messages, f"{written}{tags[0]}", target, tags[1])


def has_plan(text: str) -> bool:
    """Whether a completion holds a complete, non-empty plan."""
    before, closed, _ = text.partition("</plan>")
    _, opened, plan = before.partition("<plan>")
    return bool(opened and closed and plan.strip())


def _require(text: str, method: str, part: str) -> str:
    """Refuse an empty part, and tags that would end the segment too early."""
    text = _TAGS.sub("", text).strip()
    if not text:
        raise FormatError(f"method={method} learns the {part}, which is empty")
    return text


def _plan(plan: str, tail: str = "") -> Segment:
    return Segment(kind=SegmentKind.PLAN, text=f"<plan>\n{plan}\n</plan>{tail}")


def _output(text: str) -> Segment:
    opened, closed = _OUTPUT_TAGS
    return Segment(kind=SegmentKind.SOLUTION, text=f"{opened}{text}{closed}")
