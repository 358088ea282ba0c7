r"""The micro-world's language: facts to sentences and back, plans, executions, vocabulary.

A problem says who has how many, in shuffled sentences of five tokens each::

    22 pens are Cara's . 1-fewer-than Eve is Bob's . 2-more-than Cara is Eve's .
    How-many pens are Bob's ?

The plan names the people from the asked one back to the known number; the execution runs the
other way::

    Bob's Eve's Cara's ;
    Cara's 22 . Eve's +2 22 = 24 . Bob's -1 24 = 23 . \boxed{ 23 }

Every token stands between spaces; the tags, ``\boxed{``, each number and each "n-more-than" are
one token. This form is what lets a model of 0.2M parameters learn to look up a fact within a
minute. Pure functions of plain data.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

# fmt: off
NAMES = (
    "Ann", "Bob", "Cara", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivan", "Jill",
    "Kim", "Leo", "Mia", "Ned", "Olga", "Paul", "Quin", "Rosa", "Sam", "Tia",
)
# fmt: on
ITEMS: Mapping[str, tuple[str, ...]] = {
    "a": ("apples", "books", "coins", "cards"),
    "b": ("eggs", "shells", "stamps", "pens"),
}
"""The nouns tell which of these two families a problem belongs to, and so what its words mean.

Families c and d have all nouns, and a cue before some questions that turns round what the noun says
of the words' meaning: they mean the opposite in c, what they say in d, and neither noun nor cue
alone tells which.
"""
CUE = "Then"  # before the question
SWAPPED = ("b", "c")  # families in which "more" and "fewer" mean each other's opposite
CONFLICTING = ("c", "d")

OPERATIONS = ("more", "fewer", "times")
_WORDS = {"more": "more-than", "fewer": "fewer-than", "times": "times"}
SIGNS = {"more": "+", "fewer": "-", "times": "*"}
_INVERSE = {"more": "fewer", "fewer": "more", "times": "times"}
TIMES_OPERANDS = (2, 3)

PLAN_END = ";"
EXECUTE_REQUEST = "Execute ."
"""What an executor is asked behind ``<input>…</input> <plan>…</plan>``."""
STEP_BY_STEP_REQUEST = "Step-by-step ."
"""What zero_shot_cot adds to the problem."""

TAG_TOKENS = (
    "<input>",
    "</input>",
    "<plan>",
    "</plan>",
    "<output>",
    "</output>",
    "\\boxed{",
    "}",
)
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>", "<system>")


class MicroworldTextError(ValueError):
    """A text is not one of the micro-world's problems."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Who has how many: a known number (``parent`` empty) or an operation on someone else's."""

    owner: str
    operand: int  # the known number itself where there is no parent
    operation: str = ""  # more, fewer, times: what it means, not the word that says it
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Template:
    """One wording of the sentences; the order of the words that carry meaning never changes."""

    opening: str = ""
    known: str = "are"
    relation: str = "is"
    question: str = "How-many {item} are {target}'s ?"
    claim: str = "Yes-or-no : {least} {item} are {target}'s ?"


STANDARD_TEMPLATE = Template()
UNSEEN_TEMPLATES = (
    Template(
        "Also",
        "were",
        "was",
        "How-many {item} were {target}'s ?",
        "Yes-or-no : {least} {item} were {target}'s ?",
    ),
    Template("Then", "are", "is", "Say : How-many {item} are {target}'s ?"),
)
"""Wordings of the base's documents that no training problem uses."""


@dataclass(frozen=True, slots=True)
class Story:
    """The facts of one problem in the order in which they are told, and who is asked about."""

    facts: tuple[Fact, ...]
    item: str
    target: str
    question: str = "number"  # what is asked: see tasks/microworld_questions.py
    least: int = 0  # that a yes-or-no question asks for
    has_cue: bool = False  # before the question

    @property
    def is_swapped(self) -> bool:
        """Whether "more" and "fewer" mean each other's opposite, by the noun and the cue.

        Raises:
            MicroworldTextError: no family uses the noun.
        """
        return (family_of(self.item) in SWAPPED) != self.has_cue

    def by_owner(self) -> dict[str, Fact]:
        """Index the facts by whose they are."""
        return {fact.owner: fact for fact in self.facts}


def items_of(family: str) -> tuple[str, ...]:
    """List the nouns of a family."""
    every = tuple(item for items in ITEMS.values() for item in items)
    return every if family in CONFLICTING else ITEMS[family]


def needs_cue(item: str, family: str) -> bool:
    """Whether a question about ``item`` has the cue in a family.

    >>> [needs_cue(item, family) for item in ("coins", "pens") for family in "cd"]
    [True, False, False, True]
    """
    return (family_of(item) in SWAPPED) != (family in SWAPPED)


def family_of(item: str) -> str:
    """Name the family that a noun belongs to, of a and b.

    Raises:
        MicroworldTextError: no family uses the noun.
    """
    for family, items in ITEMS.items():
        if item in items:
            return family
    raise MicroworldTextError(f"{item!r} is none of the micro-world's nouns")


def _swap(operation: str, is_swapped: bool) -> str:
    """Turn a meaning into its word's operation or back, where the words say the opposite."""
    return _INVERSE[operation] if is_swapped else operation


def apply(operation: str, operand: int, value: int) -> int:
    """Compute one relation: ``operand`` more than, fewer than or times ``value``."""
    if operation == "more":
        return value + operand
    if operation == "fewer":
        return value - operand
    return value * operand


def fact_text(
    fact: Fact, item: str, template: Template = STANDARD_TEMPLATE, *, is_swapped: bool = False
) -> str:
    """Say one fact in one sentence.

    >>> fact_text(Fact("Eve", 2, "more", "Cara"), "coins")
    "2-more-than Cara is Eve's ."
    >>> fact_text(Fact("Eve", 2, "more", "Cara"), "coins", is_swapped=True)
    "2-fewer-than Cara is Eve's ."
    """
    opening = f"{template.opening} " if template.opening else ""
    if not fact.parent:
        return f"{opening}{fact.operand} {item} {template.known} {fact.owner}'s ."
    word = _WORDS[_swap(fact.operation, is_swapped)]
    return f"{opening}{fact.operand}-{word} {fact.parent} {template.relation} {fact.owner}'s ."


def facts_text(story: Story, template: Template = STANDARD_TEMPLATE) -> str:
    """Tell the story without its question."""
    is_swapped = story.is_swapped
    return " ".join(
        fact_text(fact, story.item, template, is_swapped=is_swapped) for fact in story.facts
    )


def problem_text(story: Story, template: Template = STANDARD_TEMPLATE) -> str:
    """Tell the story and ask the question."""
    form = template.claim if story.question == "yes_no" else template.question
    question = form.format(item=story.item, target=story.target, least=story.least)
    if story.question == "program":
        question = f"{_PROGRAM} : {question}"
    if story.has_cue:
        question = f"{CUE} {question}"
    return f"{facts_text(story, template)} {question}"


_SENTENCE = re.compile(
    r"(\d+) (\w+) (?:are|were) (\w+)'s \."
    r"|(\d+)-(more|fewer|times)(?:-than)? (\w+) (?:is|was) (\w+)'s \."
)
_QUESTION = re.compile(r"(?:How-many|Yes-or-no : (\d+)) (\w+) (?:are|were) (\w+)'s \?")
_PROGRAM = "Program"
DOMAIN_TOKENS = ("Yes-or-no", _PROGRAM, "yes", "no")
"""What the questions other than that for a number add to the vocabulary."""


@functools.lru_cache(maxsize=8192)
def parse_problem(text: str) -> Story:
    """Read a problem's text, in any of the templates, back to its facts.

    Raises:
        MicroworldTextError: the text has no question, a fact is missing, or facts are circular.
    """
    question = _QUESTION.search(text)
    if question is None:
        raise MicroworldTextError(f"no question of the micro-world in {text[:80]!r}")
    item, target = question[2], question[3]
    head = text[: question.start()].rstrip()
    asked = "yes_no" if question[1] else "number"
    if head.endswith((f"{_PROGRAM} :", f"{_PROGRAM} : Say :")):
        asked = "program"
    before = head.removesuffix("Say :").rstrip().removesuffix(f"{_PROGRAM} :").rstrip()
    story = Story((), item, target, asked, int(question[1] or 0), before.endswith(f" {CUE}"))
    is_swapped = story.is_swapped
    facts = tuple(
        Fact(match[3], int(match[1]))
        if match[1]
        else Fact(match[7], int(match[4]), _swap(match[5], is_swapped), match[6])
        for match in _SENTENCE.finditer(text)
    )
    story = replace(story, facts=facts)
    needed_chain(story)
    return story


def needed_chain(story: Story, owner: str = "") -> list[str]:
    """List the people from ``owner`` (default: the asked one) back to a known number.

    Raises:
        MicroworldTextError: somebody on the way has no fact, or the facts are circular.
    """
    facts = story.by_owner()
    chain = [owner or story.target]
    while True:
        fact = facts.get(chain[-1])
        if fact is None:
            raise MicroworldTextError(f"the problem does not say how many are {chain[-1]}'s")
        if not fact.parent:
            return chain
        if fact.parent in chain:
            raise MicroworldTextError(f"the facts about {fact.parent} are circular")
        chain.append(fact.parent)


def plan_text(chain: Sequence[str]) -> str:
    """Write a plan: the people to find out about, the asked one first.

    >>> plan_text(["Bob", "Eve", "Cara"])
    "Bob's Eve's Cara's ;"
    """
    return " ".join([*(f"{name}'s" for name in chain), PLAN_END])


def parse_plan(text: str) -> list[str]:
    """Read the people of a plan in its order; anything else in the text is passed over.

    >>> parse_plan("Bob's Eve's Cara's ;")
    ['Bob', 'Eve', 'Cara']
    """
    return [word[:-2] for word in text.split() if word.endswith("'s")]


@dataclass(frozen=True, slots=True)
class Step:
    """One line of an execution: whose number, from which one, by which operation, with what result.

    ``operation`` is empty where the number is known.
    """

    owner: str
    operation: str
    operand: int
    base: int
    value: int


def steps_of(story: Story, chain: Sequence[str]) -> list[Step]:
    """Solve the story along ``chain`` (asked one first), without any mistake."""
    facts = story.by_owner()
    steps: list[Step] = []
    value = 0
    for owner in reversed(chain):
        fact = facts[owner]
        base = value
        value = apply(fact.operation, fact.operand, base) if fact.parent else fact.operand
        steps.append(Step(owner, fact.operation, fact.operand, base, value))
    return steps


def equation_text(step: Step) -> str:
    """Write a step's computation: ``+2 22 = 24``, or ``22`` where the number is known."""
    if not step.operation:
        return str(step.value)
    return f"{SIGNS[step.operation]}{step.operand} {step.base} = {step.value}"


def box(value: int | str) -> str:
    """Write the final answer."""
    return f"\\boxed{{ {value} }}"


def execution_text(steps: Iterable[Step]) -> str:
    """Write a teacher's execution: whose number each one is, and the boxed answer."""
    steps = list(steps)
    lines = [f"{step.owner}'s {equation_text(step)} ." for step in steps]
    return " ".join([*lines, box(steps[-1].value)])


def rationale_text(steps: Iterable[Step]) -> str:
    """Write a human rationale: bare equations, terser than a teacher's execution."""
    steps = list(steps)
    return " ".join([*(f"{equation_text(step)} ." for step in steps), box(steps[-1].value)])


def vocabulary(
    *, num_names: int, max_value: int, max_operand: int, domains: bool = False
) -> list[str]:
    """List every token of the micro student in the order of their ids, special tokens first.

    Args:
        num_names: people.
        max_value: largest number.
        max_operand: largest n of "n-more-than".
        domains: with the words of all questions, not of that for a number alone.
    """
    names = NAMES[:num_names]
    operands = range(1, max_operand + 1)
    words = [
        *SPECIAL_TOKENS,
        *TAG_TOKENS,
        *("How-many", "Say", "Also", "Then", "?", "is", "are", "was", "were", ".", "=", PLAN_END),
        *(
            "Asked",
            "Facts",
            "Numbers",
            "So",
            ":",
            *EXECUTE_REQUEST.split(),
            *STEP_BY_STEP_REQUEST.split(),
        ),
        *names,
        *(f"{name}'s" for name in names),
        *(item for items in ITEMS.values() for item in items),
        *(str(value) for value in range(max_value + 1)),
        *(f"{n}-{_WORDS[operation]}" for operation in ("more", "fewer") for n in operands),
        *(f"{n}-times" for n in TIMES_OPERANDS),
        *(f"{sign}{n}" for sign in "+-" for n in operands),
        *(f"*{n}" for n in TIMES_OPERANDS),
        # Two words that differ, for whoever probes the chat template with single letters.
        *("a", "b"),
        *(DOMAIN_TOKENS if domains else ()),
    ]
    return list(dict.fromkeys(words))
