"""Problems of the micro-world: the offline start of the flow, with golden plans.

Problems come from a grammar: a chain of operations from a known number to the asked one, among
people whom the question does not need, told in shuffled order. Depth and distractors are knobs; the
test sets are in domain (``test``) or differ in one of them (``test_distractors``, ``test_depth``)
or in their wording (``test_templates``).

Test sets depend on EVALUATION_SEED alone, so every run of every seed answers the same problems. A
training problem that some test set holds, whatever the order of its sentences, is left out.

The micro-world is an engineered demonstrator: a backward plan asks for one look-up per token, a
forward rationale must name the end of the chain first, and the base model has been taught to look
up. It shows that the pipeline works; it is no evidence about real students.
"""

from __future__ import annotations

import copy
import functools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from plan_tuning.config.microworld import FAMILIES, MICRO_STYLES, QUESTIONS, MicroworldConfig
from plan_tuning.records import Problem
from plan_tuning.tasks.microworld_questions import (
    answer_of,
    asked,
    rationale_of,
    tests_text,
)
from plan_tuning.tasks.microworld_text import (
    ITEMS,
    NAMES,
    OPERATIONS,
    STANDARD_TEMPLATE,
    TIMES_OPERANDS,
    UNSEEN_TEMPLATES,
    Fact,
    Story,
    apply,
    items_of,
    needed_chain,
    needs_cue,
    plan_text,
    problem_text,
    steps_of,
)

EVALUATION_SEED = 250_707_495
TRAIN_SPLIT = "train"
TEST_SPLITS = ("test", "test_distractors", "test_templates", "test_depth")
SPLITS = (TRAIN_SPLIT, *TEST_SPLITS)
MICRO_PREFIX = "microworld"  # of its benchmarks' names

_MAX_LEAF = 30
_OPERATION_WEIGHTS = (4, 4, 2)
_FREE_DISTRACTOR_RATE = 0.3
_MAX_REPEATS = 2000


class MicroworldSplitError(ValueError):
    """The micro-world has no such split, or cannot fill it."""


def benchmark_world(name: str, world: MicroworldConfig) -> tuple[MicroworldConfig, str]:
    """Find world and split of a benchmark called ``microworld[_QUESTION][_FAMILY][_KIND]``.

    >>> benchmark_world("microworld_b_depth", MicroworldConfig())[1]
    'test_depth'

    Raises:
        MicroworldSplitError: there is no such test set.
    """
    kind = name.removeprefix(MICRO_PREFIX)
    for question in QUESTIONS[1:]:  # the first one is asked where none is named
        if f"{kind}_".startswith(f"_{question}_"):
            world, kind = replace(world, question=question), kind.removeprefix(f"_{question}")
            break
    else:
        world = replace(world, question=QUESTIONS[0])
    for family in FAMILIES:
        if f"{kind}_".startswith(f"_{family}_"):
            world, kind = replace(world, family=family), kind.removeprefix(f"_{family}")
    if f"test{kind}" not in TEST_SPLITS:
        known = ", ".join(MICRO_PREFIX + split.removeprefix("test") for split in TEST_SPLITS)
        raise MicroworldSplitError(
            f"evaluation.benchmarks: {name!r} is none of the micro-world's test sets {known} "
            f"(of one family: {MICRO_PREFIX}_{FAMILIES[0]}_depth; of another question: "
            f"{', '.join(f'{MICRO_PREFIX}_{question}' for question in QUESTIONS[1:])}). "
            f"Try for example: 'evaluation.benchmarks=[{MICRO_PREFIX}]'"
        )
    return world, f"test{kind}"


def draw_relation(
    rng: random.Random, value: int, *, max_value: int, max_operand: int
) -> tuple[str, int, int]:
    """Draw an operation whose result on ``value`` stays in the world.

    Returns:
        operation, operand and result.
    """
    while True:
        operation = rng.choices(OPERATIONS, _OPERATION_WEIGHTS)[0]
        operand = (
            rng.choice(TIMES_OPERANDS) if operation == "times" else rng.randint(1, max_operand)
        )
        result = apply(operation, operand, value)
        if 1 <= result <= max_value:
            return operation, operand, result


def draw_story(
    rng: random.Random,
    *,
    depth: int,
    distractors: int,
    items: Sequence[str] = ITEMS["a"],
    num_names: int = 16,
    max_value: int = 40,
    max_operand: int = 5,
) -> Story:
    """Draw a story of ``depth`` operations among ``distractors`` other people, shuffled."""
    people = rng.sample(NAMES[:num_names], depth + 1 + distractors)
    values: dict[str, int] = {}
    facts: list[Fact] = []
    for position, owner in enumerate(people):
        is_distractor = position > depth
        if position == 0 or (is_distractor and rng.random() < _FREE_DISTRACTOR_RATE):
            values[owner] = rng.randint(2, min(_MAX_LEAF, max_value))
            facts.append(Fact(owner, values[owner]))
            continue
        parent = rng.choice(people[:position]) if is_distractor else people[position - 1]
        operation, operand, values[owner] = draw_relation(
            rng, values[parent], max_value=max_value, max_operand=max_operand
        )
        facts.append(Fact(owner, operand, operation, parent))
    rng.shuffle(facts)
    return Story(tuple(facts), rng.choice(items), people[depth])


def canonical_problem(story: Story) -> str:
    """Name a problem whatever the order and the wording of its sentences."""
    facts = sorted((f.owner, f.operand, f.operation, f.parent) for f in story.facts)
    return json.dumps([facts, story.item, story.target])


def _ranges(config: MicroworldConfig, split: str) -> tuple[tuple[int, int], tuple[int, int]]:
    depth = (config.min_depth, config.max_depth)
    distractors = (config.min_distractors, config.max_distractors)
    if split == "test_depth":
        depth = (config.ood_min_depth, config.ood_max_depth)
    if split == "test_distractors":
        depth = (max(config.min_depth, config.max_depth - 1), config.max_depth)
        distractors = (config.ood_min_distractors, config.ood_max_distractors)
    return depth, distractors


def _stories(config: MicroworldConfig, split: str, seed: int) -> Iterator[Story]:
    """Draw a split's distinct stories, without an end; shorter prefixes are nested."""
    rng = random.Random(f"microworld/{config.family}/{split}/{seed}")
    depths, distractors = _ranges(config, split)
    while True:
        story = draw_story(
            rng,
            depth=rng.randint(*depths),
            distractors=rng.randint(*distractors),
            items=items_of(config.family),
            num_names=config.num_names,
            max_value=config.max_value,
            max_operand=config.max_operand,
        )
        yield replace(story, has_cue=needs_cue(story.item, config.family))


def generate_problems(
    config: MicroworldConfig,
    split: str,
    *,
    count: int,
    seed: int,
    exclude: frozenset[str] = frozenset(),
) -> list[Problem]:
    """Make ``count`` distinct problems of a split.

    Args:
        config: the world.
        split: one of SPLITS.
        count: number of problems; the first ones are the same for every count.
        seed: of the draws.
        exclude: canonical problems that may not come out.

    Raises:
        MicroworldSplitError: the split is unknown, or the world is too small for ``count``.
    """
    if split not in SPLITS:
        raise MicroworldSplitError(
            f"data.split={split} is no split of the micro-world; it has {', '.join(SPLITS)}"
        )
    seen = set(exclude)
    problems: list[Problem] = []
    wordings = random.Random(f"microworld/wording/{split}/{seed}")
    repeats = 0  # in a row
    for story in _stories(config, split, seed):
        if len(problems) == count:
            break
        if repeats > _MAX_REPEATS:
            raise MicroworldSplitError(
                f"the micro-world holds no {count} distinct {split} problems with these knobs; "
                "ask for fewer, for example data.limit=100, or raise data.max_depth"
            )
        key = canonical_problem(story)
        if key in seen:
            repeats += 1
            continue
        repeats = 0
        seen.add(key)
        template = STANDARD_TEMPLATE
        if split == "test_templates":
            template = wordings.choice(UNSEEN_TEMPLATES)
        story = asked(story, config.question, max_value=config.max_value)
        chain = needed_chain(story)
        steps = steps_of(story, chain)
        style = MICRO_STYLES[config.question]
        problems.append(
            Problem(
                id=f"{style}-{config.family}-{split}-{seed}-{len(problems)}",
                problem=problem_text(story, template),
                answer=answer_of(story, steps),
                solution=rationale_of(story, steps),
                source=style,
                style=style,
                difficulty=str(len(chain) - 1),
                true_plan=plan_text(chain),
                metadata={
                    "family": config.family,
                    "distractors": len(story.facts) - len(chain),
                    "canonical": key,
                    **(tests_text(story, key) if config.question == "program" else {}),
                },
            )
        )
    return problems


# A job reads each of its test sets twice, and a sweep's jobs of one process read the same ones.
@functools.lru_cache(maxsize=8)
def _test_set(world: str, split: str, count: int) -> tuple[Problem, ...]:
    config = MicroworldConfig(**json.loads(world))
    return tuple(generate_problems(config, split, count=count, seed=EVALUATION_SEED))


@functools.lru_cache(maxsize=8)
def _test_problems(world: str, size: int) -> frozenset[str]:
    return frozenset(
        str(problem.metadata["canonical"])
        for split in TEST_SPLITS
        for problem in _test_set(world, split, size)
    )


def load_microworld(
    config: MicroworldConfig, split: str, *, limit: int | None = None, seed: int = 0
) -> list[Problem]:
    """Load a split of the micro-world.

    Args:
        config: the world.
        split: ``train`` or one of TEST_SPLITS.
        limit: the first so many problems; None for the split's whole size.
        seed: of the training problems; the test sets do not depend on it.

    Raises:
        MicroworldSplitError: the split is unknown or cannot be filled.
    """
    world = json.dumps(asdict(config), sort_keys=True)
    if split == TRAIN_SPLIT:
        size = config.train_size if limit is None else min(limit, config.train_size)
        held_out = _test_problems(world, config.test_size)
        return generate_problems(config, split, count=size, seed=seed, exclude=held_out)
    size = config.test_size if limit is None else min(limit, config.test_size)
    # Metadata can be changed, and what is kept may not be.
    return [
        replace(problem, metadata=copy.deepcopy(problem.metadata))
        for problem in _test_set(world, split, size)
    ]
