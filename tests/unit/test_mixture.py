"""Mixtures: which rows, how often, in what order, and what they change in a job."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.mixture import MixingConfig, MixtureDataConfig, SourceConfig
from plan_tuning.config.run import Config, PathsConfig
from plan_tuning.config.training import MethodConfig
from plan_tuning.job.graph import job_graph
from plan_tuning.job.inputs import load_benchmark, load_problems
from plan_tuning.tasks.mixture import Item, MixtureError, count_tokens, levels, mix, tempered_counts
from plan_tuning.training.order import curriculum_rows
from plan_tuning.training.sft.data import training_rows

ITEMS = [Item("a", f"a{i}", tokens=10) for i in range(20)] + [
    Item("b", f"b{i}", tokens=25) for i in range(40)
]


def tokens_of(rows: list[int], source: str) -> int:
    return sum(ITEMS[row].tokens for row in rows if ITEMS[row].source == source)


def test_concatenation_takes_every_row_once() -> None:
    assert mix(ITEMS, ["a", "b"], MixingConfig()) == list(range(60))


def test_equal_tokens_cuts_to_the_smallest_source() -> None:
    rows = mix(ITEMS, ["a", "b"], MixingConfig(strategy="equal_tokens"))
    assert len(rows) == len(set(rows))
    assert tokens_of(rows, "a") == 200
    assert 200 - 25 < tokens_of(rows, "b") <= 200


def test_tempered_shares_and_repeats() -> None:
    rows = mix(ITEMS, ["a", "b"], MixingConfig(strategy="tempered", temperature=1e9))
    assert [sum(ITEMS[row].source == name for row in rows) for name in "ab"] == [30, 30]
    assert {rows.count(row) for row in range(20)} == {1, 2}
    as_they_are = mix(ITEMS, ["a", "b"], MixingConfig(strategy="tempered", temperature=1))
    assert as_they_are == list(range(60))
    larger = mix(ITEMS, ["a", "b"], MixingConfig(strategy="tempered", temperature=1, rows=120))
    assert larger == sorted([*range(60), *range(60)])


def test_draws_depend_on_the_seed_and_on_nothing_else() -> None:
    config = MixingConfig(strategy="equal_tokens", seed=1)
    drawn = {ITEMS[row].key for row in mix(ITEMS, ["a", "b"], config)}
    again = {ITEMS[::-1][row].key for row in mix(ITEMS[::-1], ["a", "b"], config)}
    assert drawn == again
    other = mix(ITEMS, ["a", "b"], MixingConfig(strategy="equal_tokens", seed=2))
    assert {ITEMS[row].key for row in other} != drawn


@pytest.mark.parametrize("strategy", ["concatenate", "tempered", "equal_tokens"])
def test_a_source_without_rows_is_no_mixture(strategy: str) -> None:
    with pytest.raises(MixtureError, match="no row of b"):
        mix(ITEMS[:20], ["a", "b"], MixingConfig(strategy=strategy))


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 500), min_size=1, max_size=5),
    st.integers(5, 2000),
    st.floats(1.0, 50.0),
)
def test_tempered_counts_add_up(sizes: dict[str, int], total: int, temperature: float) -> None:
    counts = tempered_counts(sizes, total=total, temperature=temperature)
    assert set(counts) == set(sizes)
    assert min(counts.values()) >= 1
    # only the guarantee of one row a source can exceed the total
    assert total <= sum(counts.values()) <= total + len(sizes)
    ordered = sorted(sizes, key=lambda name: sizes[name])
    pairs = itertools.pairwise(ordered)
    assert all(counts[small] <= counts[large] + 1 for small, large in pairs)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("shuffled", [0, 0, 0, 0]),
        ("by_source", [0, 1, 0, 1]),
        ("by_difficulty", [1, 0, 3, 2]),
        ("by_length", [3, 1, 0, 2]),
    ],
)
def test_levels_of_a_curriculum(order: str, expected: list[int]) -> None:
    items = [
        Item("x", "1", 9, "2"),
        Item("y", "2", 4, "1"),
        Item("x", "3", 1, "hard"),
        Item("y", "4", 5, "10"),
    ]
    assert levels(items, order) == expected


def test_a_curriculum_by_difficulty_needs_difficulties() -> None:
    with pytest.raises(MixtureError, match="by_length"):
        levels(ITEMS, "by_difficulty")


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_curriculum_goes_through_its_levels_in_order(epochs: int) -> None:
    numbers = [0] * 10 + [1] * 30
    total = epochs * 40
    rows = [
        row
        for step in range(total // 8)
        for row in curriculum_rows(
            seed=3, step=step, levels=numbers, batch_size=8, total_rows=total
        )
    ]
    seen = [numbers[row] for row in rows]
    assert seen == sorted(seen)
    assert all(rows.count(row) == epochs for row in range(40))
    other = curriculum_rows(seed=4, step=0, levels=numbers, batch_size=8, total_rows=total)
    assert other != rows[:8]


@pytest.mark.parametrize("replay", [0.1, 0.5])
def test_replay_brings_a_share_of_a_level_back_and_takes_nothing_from_any(replay: float) -> None:
    numbers = [0] * 40 + [1] * 20 + [2] * 40
    total = 300
    rows = [
        row
        for step in range(-(-total // 8))
        for row in curriculum_rows(
            seed=3, step=step, levels=numbers, batch_size=8, total_rows=total, replay=replay
        )
    ]
    assert all(rows.count(row) == 3 for row in range(100)), "whole epochs of every level"
    seen = [numbers[row] for row in rows]
    first = seen.index(1)
    assert first == round(120 * (1 - replay))
    assert set(seen[:first]) == {0}
    back = seen[first:].count(0)
    assert back == round(120 * replay)
    middle = seen[first : first + (total - first) // 2].count(0)
    assert abs(middle - back / 2) <= 1, "evenly among what comes later"
    plain = [
        curriculum_rows(seed=3, step=2, levels=numbers, batch_size=8, total_rows=total, **words)
        for words in ({}, {"replay": 0.0})
    ]
    assert plain[0] == plain[1]


def test_tokens_are_words_and_signs() -> None:
    assert count_tokens("") == 0
    assert count_tokens("\\boxed{ 24 }") == 5


MIXED = MixtureDataConfig(
    name="microworld_mixed",
    limit=6,
    seed=0,
    benchmarks=["microworld_a", "microworld_b"],
    sources={"microworld_a": SourceConfig(tag="a"), "microworld_b": SourceConfig(tag="b")},
)


def job(tmp_path: Path, **mixing: object) -> Config:
    data = dataclasses.replace(MIXED, mixing=MixingConfig(**mixing))  # type: ignore[arg-type]
    return Config(data=data, evaluation=EvaluationConfig(limit=2), paths=PathsConfig(str(tmp_path)))


def test_a_source_gives_the_mixture_what_it_gives_a_student_of_its_own(tmp_path: Path) -> None:
    config = job(tmp_path)
    both = load_problems(config)
    assert [problem.source for problem in both] == ["microworld_a"] * 6 + ["microworld_b"] * 6
    for source, part in MIXED.parts().items():
        alone = job(tmp_path)
        alone.data = part
        texts = [problem.problem for problem in load_problems(alone)]
        assert texts == [problem.problem for problem in both if problem.source == source]


def test_every_way_of_mixing_shares_one_corpus(tmp_path: Path) -> None:
    plans = [
        job_graph(job(tmp_path, **mixing))
        for mixing in (
            {},
            {"temperature": 5.0},  # without effect here
            {"strategy": "tempered"},
            {"strategy": "equal_tokens"},
            {"domain_tag": True},
        )
    ]
    assert len({plan.corpus.fingerprint for plan in plans if plan.corpus}) == 1
    assert len({plan.student.fingerprint for plan in plans if plan.student}) == 4
    assert plans[0].fingerprint == plans[1].fingerprint


def test_a_domain_tag_stands_before_the_test_problems_too(tmp_path: Path) -> None:
    tagged = load_benchmark("microworld_b_depth", job(tmp_path, domain_tag=True))
    plain = load_benchmark("microworld_b_depth", job(tmp_path))
    assert [p.problem for p in tagged] == [f"b : {p.problem}" for p in plain]
    untrained = job(tmp_path, domain_tag=True)
    untrained.method.name = "zero_shot"
    assert load_benchmark("microworld_b_depth", untrained) == plain


def test_a_benchmark_is_asked_with_the_tag_of_the_source_it_belongs_to() -> None:
    data = MixtureDataConfig(
        name="m",
        sources={"gsm8k": SourceConfig(), "math": SourceConfig(tag="competition")},
        mixing=MixingConfig(domain_tag=True),
    )
    assert data.tag_of("gsm8k") == "gsm8k"
    assert data.tag_of("math500") == "competition"
    assert data.tag_of("olympiadbench") == ""


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"sources": {"gsm8k": SourceConfig()}}, "at least two sources"),
        ({"path": "x"}, "data.sources.microworld_a.path"),
        ({"fraction": 0.0}, "data.fraction"),
    ],
)
def test_mixtures_that_cannot_work(values: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        dataclasses.replace(MIXED, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values", [{"strategy": "best"}, {"temperature": 0.5}, {"rows": 0}], ids=str
)
def test_mixings_that_cannot_work(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"data.mixing.{next(iter(values))}"):
        MixingConfig(**values)  # type: ignore[arg-type]


def test_ids_that_two_sources_share_are_told_apart(tmp_path: Path) -> None:
    row = '{"id": "0", "problem": "What is 1 + 1?", "answer": "2", "solution": "It is 2."}\n'
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(row)
    config = job(tmp_path)
    config.data = MixtureDataConfig(
        name="m",
        sources={
            "gsm8k": SourceConfig(path=str(tmp_path / "one")),
            "math": SourceConfig(path=str(tmp_path / "two")),
        },
    )
    assert [(p.id, p.source) for p in load_problems(config)] == [("0", "gsm8k"), ("math:0", "math")]


@pytest.mark.parametrize("order", ["shuffled", "by_source", "by_difficulty"])
def test_training_rows_carry_tag_and_level(tmp_path: Path, order: str) -> None:
    config = job(tmp_path, domain_tag=True)
    problems = load_problems(config)
    rows, selection = training_rows(
        method=MethodConfig(name="sft"),
        prompt=config.prompt,
        chosen=config.filter,
        problems=problems,
        corpus=None,
        mixture=MixtureDataConfig(**vars(config.data)),
        order=order,
    )
    assert [row.problem_id for row in rows] == [problem.id for problem in problems]
    texts = ["".join(message["content"] for message in row.messages) for row in rows]
    assert all(f"{problem.source[-1]} : {problem.problem}" in text
               for problem, text in zip(problems, texts, strict=True))  # fmt: skip
    expected = {
        "shuffled": [0] * 12,
        "by_source": [0] * 6 + [1] * 6,
        "by_difficulty": [
            sorted({int(p.difficulty) for p in problems}).index(int(problem.difficulty))
            for problem in problems
        ],
    }
    assert [row.level for row in rows] == expected[order]
    assert {name: counts["rows"] for name, counts in selection["by_source"].items()} == {
        "microworld_a": 6, "microworld_b": 6
    }  # fmt: skip
