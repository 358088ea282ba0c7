"""Plain text of the micro-world: what the base model reads before any student is made of it.

A document is a list of pieces (text, whether it is learnt); what cannot be foreseen, such as the
facts of a story, is read but not learnt. Some documents use the wordings of the test set with
unseen templates, so that the base knows their words; no training problem uses them. Planning is in
no document: plans are given, never asked for. Pure functions of a random generator.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from plan_tuning.config.microworld import QUESTIONS, MicroworldConfig
from plan_tuning.tasks.microworld_problems import draw_relation, draw_story
from plan_tuning.tasks.microworld_questions import asked, execution_of
from plan_tuning.tasks.microworld_text import (
    EXECUTE_REQUEST,
    ITEMS,
    PLAN_END,
    STANDARD_TEMPLATE,
    UNSEEN_TEMPLATES,
    Step,
    Story,
    Template,
    equation_text,
    facts_text,
    needed_chain,
    plan_text,
    problem_text,
    steps_of,
)

Document = list[tuple[str, bool]]
"""Pieces of text in order; True marks what is learnt."""

DocumentMaker = Callable[[random.Random, MicroworldConfig], Document]

_ALL_ITEMS = tuple(item for items in ITEMS.values() for item in items)
_UNSEEN_WORDING_RATE = 0.2
_EQUATIONS = 6
_MAX_DEPTH = 3


def _story(
    rng: random.Random,
    world: MicroworldConfig,
    *,
    max_depth: int,
    distractors: tuple[int, int],
    items: tuple[str, ...] = ITEMS["a"],
) -> Story:
    return draw_story(
        rng,
        depth=rng.randint(1, max_depth),
        distractors=rng.randint(*distractors),
        items=items,
        num_names=world.num_names,
        max_value=world.max_value,
        max_operand=world.max_operand,
    )


def _template(rng: random.Random) -> Template:
    if rng.random() < _UNSEEN_WORDING_RATE:
        return rng.choice(UNSEEN_TEMPLATES)
    return STANDARD_TEMPLATE


def lookup_document(rng: random.Random, world: MicroworldConfig) -> Document:
    """Pose a problem, then say who is asked about and, twice, whom each one's number depends on."""
    story = _story(rng, world, max_depth=_MAX_DEPTH, distractors=(1, 3), items=_ALL_ITEMS)
    facts = list(story.facts)
    document: Document = [
        (f"<bos> {problem_text(story, _template(rng))} Asked :", False),
        (f"{story.target}'s .", True),
        ("Facts :", False),
    ]
    for fact in rng.sample(facts, len(facts)) + rng.sample(facts, len(facts)):
        document.append((f"{fact.owner}'s", False))
        document.append((f"{fact.parent}'s ." if fact.parent else PLAN_END, True))
    return [*document, ("<eos>", True)]


def number_document(rng: random.Random, world: MicroworldConfig) -> Document:
    """Tell a story, then say for each person, twice, the number or the operation told of them."""
    story = _story(rng, world, max_depth=_MAX_DEPTH, distractors=(1, 3))
    facts = list(story.facts)
    document: Document = [(f"<bos> {facts_text(story, _template(rng))} Numbers :", False)]
    for fact in rng.sample(facts, len(facts)) + rng.sample(facts, len(facts)):
        step = Step(fact.owner, fact.operation, fact.operand, 0, fact.operand)
        document += [(f"{fact.owner}'s", False), (f"{equation_text(step).split()[0]} .", True)]
    return [*document, ("<eos>", True)]


def arithmetic_document(rng: random.Random, world: MicroworldConfig) -> Document:
    """Write unrelated equations, of which the results are learnt."""
    document: Document = [("<bos>", False)]
    for _ in range(_EQUATIONS):
        base = rng.randint(1, world.max_value)
        operation, operand, value = draw_relation(
            rng, base, max_value=world.max_value, max_operand=world.max_operand
        )
        question, result = equation_text(Step("", operation, operand, base, value)).split(" = ")
        document += [(f"{question} =", False), (f"{result} .", True)]
    return [*document, ("<eos>", True)]


def story_document(rng: random.Random, world: MicroworldConfig) -> Document:
    """Tell a story, then compute along given names up to somebody."""
    story = _story(rng, world, max_depth=_MAX_DEPTH, distractors=(0, 3))
    document: Document = [(f"<bos> {facts_text(story, _template(rng))} So :", False)]
    for step in steps_of(story, needed_chain(story, rng.choice(story.facts).owner)):
        document += [(f"{step.owner}'s", False), (f"{equation_text(step)} .", True)]
    return [*document, ("<eos>", True)]


def guided_document(
    rng: random.Random, world: MicroworldConfig, *, max_depth: int, question: str = "number"
) -> Document:
    """Give a problem and its plan, and show the execution: in plain text or as a chat."""
    story = _story(rng, world, max_depth=max_depth, distractors=(0, 2))
    story = asked(story, question, max_value=world.max_value)
    chain = needed_chain(story)
    template = _template(rng)
    plan = f"<plan> {plan_text(chain)} </plan>"
    # What is asked for stands in the question alone, which plain text leaves out.
    if rng.random() < 0.5 or question != "number":
        given = (
            f"<bos> <user> <input> {problem_text(story, template)} </input> {plan} "
            f"{EXECUTE_REQUEST} <assistant>"
        )
    else:
        given = f"<bos> {facts_text(story, template)} {plan}"
    execution = execution_of(story, steps_of(story, chain))
    return [(given, False), (f"<output> {execution} </output> <eos>", True)]


def document_makers(*, guided_max_depth: int, domains: bool = False) -> Mapping[str, DocumentMaker]:
    """Name the kinds of documents; each is a probe of the finished base as well.

    Args:
        guided_max_depth: of the deepest given plan.
        domains: executions of all questions, not of that for a number alone.
    """

    def guided(question: str) -> DocumentMaker:
        return lambda rng, world: guided_document(
            rng, world, max_depth=guided_max_depth, question=question
        )

    others = QUESTIONS[1:] if domains else ()
    return {
        "lookup": lookup_document,
        "number": number_document,
        "arithmetic": arithmetic_document,
        "story": story_document,
        "guided": guided("number"),
        **{f"guided_{question}": guided(question) for question in others},
    }


LOOKUP_SHARES: Mapping[str, float] = {"lookup": 1.0}
MIXTURE_SHARES: Mapping[str, float] = {
    "arithmetic": 0.20,
    "lookup": 0.15,
    "number": 0.20,
    "guided": 0.40,
    "story": 0.05,
}
"""What the two phases of the base's training read."""
DOMAIN_SHARES: Mapping[str, float] = {
    **MIXTURE_SHARES,
    "guided": 0.20,
    "guided_yes_no": 0.10,
    "guided_program": 0.10,
}
"""The second phase of a base that knows all questions."""


def draw_document(
    rng: random.Random,
    world: MicroworldConfig,
    shares: Mapping[str, float],
    makers: Mapping[str, DocumentMaker],
) -> Document:
    """Draw one document of a mixture."""
    kind = rng.choices(list(shares), list(shares.values()))[0]
    return makers[kind](rng, world)
