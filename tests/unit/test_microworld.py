"""The micro-world: problems, wordings, plans and executions agree with each other."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.microworld import QUESTIONS, MicroBaseConfig, MicroworldConfig
from plan_tuning.tasks import microworld_problems as microworld
from plan_tuning.tasks import microworld_text
from plan_tuning.tasks.microworld_documents import document_makers
from plan_tuning.tasks.microworld_problems import (
    EVALUATION_SEED,
    SPLITS,
    TEST_SPLITS,
    MicroworldSplitError,
    generate_problems,
    load_microworld,
)
from plan_tuning.tasks.microworld_text import (
    STANDARD_TEMPLATE,
    UNSEEN_TEMPLATES,
    Fact,
    MicroworldTextError,
    Story,
    execution_text,
    needed_chain,
    parse_plan,
    parse_problem,
    plan_text,
    problem_text,
    rationale_text,
    steps_of,
    vocabulary,
)

STORY = Story(
    (
        Fact("Cara", 22),
        Fact("Bob", 1, "fewer", "Eve"),
        Fact("Eve", 2, "more", "Cara"),
        Fact("Ned", 3, "times", "Cara"),
    ),
    "coins",
    "Bob",
)
SMALL = MicroworldConfig(train_size=120, test_size=40)


def words(text: str) -> list[str]:
    """Split as the student's tokenizer does."""
    return re.sub(r"(</?(?:input|plan|output)>|\\boxed\{|\})", r" \1 ", text).split()


def test_worked_example_in_all_its_forms() -> None:
    chain = needed_chain(STORY)
    steps = steps_of(STORY, chain)
    assert problem_text(STORY) == (
        "22 coins are Cara's . 1-fewer-than Eve is Bob's . 2-more-than Cara is Eve's . "
        "3-times Cara is Ned's . How-many coins are Bob's ?"
    )
    assert plan_text(chain) == "Bob's Eve's Cara's ;"
    assert execution_text(steps) == (
        r"Cara's 22 . Eve's +2 22 = 24 . Bob's -1 24 = 23 . \boxed{ 23 }"
    )
    assert rationale_text(steps) == r"22 . +2 22 = 24 . -1 24 = 23 . \boxed{ 23 }"


def test_family_b_says_more_and_means_fewer() -> None:
    story = replace(STORY, item="pens")
    text = problem_text(story)
    assert "2-fewer-than Cara is Eve's ." in text
    assert "1-more-than Eve is Bob's ." in text
    assert "3-times Cara is Ned's ." in text
    assert parse_problem(text) == story


@pytest.mark.parametrize("template", [STANDARD_TEMPLATE, *UNSEEN_TEMPLATES])
@pytest.mark.parametrize("item", ["coins", "pens"])
def test_text_is_read_back_to_its_facts(template: microworld_text.Template, item: str) -> None:
    rng = random.Random(3)
    for _ in range(50):
        story = microworld.draw_story(
            rng, depth=rng.randint(1, 6), distractors=rng.randint(0, 4), items=(item,)
        )
        assert parse_problem(problem_text(story, template)) == story


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("22 coins are Cara's .", "no question"),
        ("How-many ducks are Bob's ?", "none of the micro-world's nouns"),
        ("22 coins are Cara's . How-many coins are Bob's ?", "how many are Bob's"),
        (
            "1-more-than Eve is Bob's . 1-more-than Bob is Eve's . How-many coins are Bob's ?",
            "circular",
        ),
    ],
)
def test_text_that_is_no_problem_is_refused(text: str, reason: str) -> None:
    with pytest.raises(MicroworldTextError, match=reason):
        parse_problem(text)


@pytest.mark.parametrize("family", ["a", "b", "c", "d"])
@pytest.mark.parametrize("split", SPLITS)
def test_problems_are_consistent(split: str, family: str) -> None:
    config = replace(SMALL, family=family)
    depths = (5, 6) if split == "test_depth" else (3, 4) if split == "test_distractors" else (1, 4)
    for problem in load_microworld(config, split, seed=1):
        story = parse_problem(problem.problem)
        chain = needed_chain(story)
        steps = steps_of(story, chain)
        assert problem.true_plan == plan_text(chain)
        assert parse_plan(problem.true_plan) == chain
        assert problem.answer == str(steps[-1].value)
        assert problem.solution.endswith(rf"\boxed{{ {problem.answer} }}")
        assert len(problem.solution) < len(execution_text(steps))
        assert depths[0] <= int(problem.difficulty) == len(chain) - 1 <= depths[1]
        assert all(1 <= step.value <= config.max_value for step in steps)
        assert (problem.source, problem.style) == ("microworld", "microworld")
        assert story.item in microworld_text.items_of(family)
        assert story.is_swapped == (family in "bc")


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("split", ["test", "test_templates"])
def test_conflicting_families_are_told_by_noun_and_cue_together(split: str, question: str) -> None:
    """Whatever is asked: neither the noun nor the cue alone says what the words mean."""
    seen: dict[tuple[bool, bool], set[str]] = {}
    for family in microworld_text.CONFLICTING:
        config = replace(SMALL, family=family, question=question)
        for problem in load_microworld(config, split, seed=1):
            story = parse_problem(problem.problem)
            assert story.is_swapped == (family == "c")
            assert story.question == question
            assert problem.true_plan == plan_text(needed_chain(story))
            is_b = story.item in microworld_text.ITEMS["b"]
            seen.setdefault((is_b, story.has_cue), set()).add(family)
    assert seen == {
        (False, False): {"d"}, (False, True): {"c"}, (True, False): {"c"}, (True, True): {"d"}
    }  # fmt: skip


def test_every_text_consists_of_known_words() -> None:
    known = set(vocabulary(num_names=16, max_value=40, max_operand=5))
    for split in SPLITS:
        for problem in load_microworld(SMALL, split, seed=0):
            story = parse_problem(problem.problem)
            execution = execution_text(steps_of(story, needed_chain(story)))
            text = f"{problem.problem} {problem.solution} {problem.true_plan} {execution}"
            assert set(words(text)) <= known
    rng = random.Random(0)
    for kind, make in document_makers(guided_max_depth=6).items():
        for _ in range(50):
            text = " ".join(piece for piece, _ in make(rng, SMALL))
            assert set(words(text)) <= known, kind


def test_vocabulary_has_no_word_twice_and_begins_with_the_padding() -> None:
    listed = vocabulary(num_names=16, max_value=40, max_operand=5)
    assert len(listed) == len(set(listed))
    assert listed[0] == "<pad>"
    assert set(microworld_text.TAG_TOKENS) <= set(listed)


def test_no_document_asks_for_a_plan() -> None:
    """A plan in a document is always given, so planning itself is learnt by students only."""
    rng = random.Random(1)
    for make in document_makers(guided_max_depth=6).values():
        for _ in range(50):
            learnt = " ".join(piece for piece, is_learnt in make(rng, SMALL) if is_learnt)
            assert "<plan>" not in learnt


def test_training_holds_no_test_problem() -> None:
    # Problems so small that chance would repeat many of them.
    config = MicroworldConfig(
        num_names=12, max_value=10, max_depth=1, max_distractors=1, min_distractors=0,
        ood_min_depth=2, ood_max_depth=2, ood_min_distractors=1, ood_max_distractors=2,
        train_size=3000, test_size=300,
    )  # fmt: skip
    held_out = {
        problem.metadata["canonical"]
        for split in TEST_SPLITS
        for problem in load_microworld(config, split)
    }
    rows = load_microworld(config, "train", seed=5)
    trained = {problem.metadata["canonical"] for problem in rows}
    assert len(trained) == len(rows) == 3000
    assert not trained & held_out
    unfiltered = generate_problems(config, "train", count=3000, seed=5)
    assert {problem.metadata["canonical"] for problem in unfiltered} & held_out


def test_canonical_problem_ignores_order_and_wording() -> None:
    shuffled = replace(STORY, facts=tuple(reversed(STORY.facts)))
    reworded = parse_problem(problem_text(shuffled, UNSEEN_TEMPLATES[0]))
    assert microworld.canonical_problem(reworded) == microworld.canonical_problem(STORY)
    other = replace(STORY, target="Eve")
    assert microworld.canonical_problem(other) != microworld.canonical_problem(STORY)


def test_seed_moves_training_and_leaves_tests_alone() -> None:
    first, second = (load_microworld(SMALL, "train", seed=seed) for seed in (0, 1))
    assert {p.problem for p in first}.isdisjoint({p.problem for p in second})
    tests = [load_microworld(SMALL, "test", seed=seed) for seed in (0, 1)]
    assert tests[0] == tests[1]
    assert tests[0][0].id == f"microworld-a-test-{EVALUATION_SEED}-0"


def test_nobody_changes_the_test_set_that_is_kept() -> None:
    world = replace(SMALL, question="program")
    first, second = load_microworld(world, "test"), load_microworld(world, "test")
    assert first == second
    first[0].metadata["inputs"].append("Nobody")
    first[0].metadata["family"] = "b"
    first.pop()
    made = generate_problems(world, "test", count=SMALL.test_size, seed=EVALUATION_SEED)
    assert load_microworld(world, "test") == second == made


def test_smaller_limits_are_prefixes() -> None:
    for split in ("train", "test"):
        assert load_microworld(SMALL, split, limit=7) == load_microworld(SMALL, split)[:7]


def test_unknown_split_and_impossible_size_are_refused() -> None:
    with pytest.raises(MicroworldSplitError, match="test_distractors"):
        load_microworld(SMALL, "validation")
    tiny = MicroworldConfig(
        num_names=4, max_value=10, max_operand=3, max_depth=1, min_distractors=0,
        max_distractors=0, ood_min_depth=2, ood_max_depth=2, ood_min_distractors=1,
        ood_max_distractors=1,
    )  # fmt: skip
    with pytest.raises(MicroworldSplitError, match=r"data\.limit"):
        generate_problems(tiny, "train", count=100_000, seed=0)


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"family": "z"}, "data.family=z"),
        ({"num_names": 30}, "data.num_names=30"),
        ({"max_value": 5}, "data.max_value=5"),
        ({"max_operand": 1}, "data.max_operand=1"),
        ({"min_depth": 0}, "data.min_depth=0"),
        ({"min_distractors": 4}, "data.min_distractors=4"),
        ({"ood_min_depth": 7}, "data.ood_min_depth=7"),
        ({"num_names": 9}, "data.num_names=9"),
        ({"test_size": 0}, "data.test_size=0"),
    ],
)
def test_impossible_worlds_are_refused(knobs: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        MicroworldConfig(**knobs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"num_layers": 1}, "model.base.num_layers=1"),
        ({"lookup_gate": 0.0}, "model.base.lookup_gate=0.0"),
        ({"probe_gate": 1.5}, "model.base.probe_gate=1.5"),
    ],
)
def test_impossible_bases_are_refused(knobs: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        MicroBaseConfig(**knobs)  # type: ignore[arg-type]
