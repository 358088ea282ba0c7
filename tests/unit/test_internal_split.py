"""An internal split: disjoint from whatever is trained on, and no published test set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from composition import config_of, graph
from hypothesis import given
from hypothesis import strategies as st

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import Config
from plan_tuning.job.inputs import count_benchmark, count_problems, load_benchmark, load_problems
from plan_tuning.records import Problem
from plan_tuning.tasks.contamination import tokens
from plan_tuning.tasks.internal_split import cut
from plan_tuning.tasks.json_rows import DataError

NAME = "gsm8k_socratic_internal_split"


def problem(number: int, question: int) -> Problem:
    return Problem(f"id-{number}", f"Question {question}?", str(number))


@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=60),
    st.integers(1, 29),
    st.integers(0, 5),
)
def test_no_question_is_on_both_sides(questions: list[int], count: int, seed: int) -> None:
    problems = [problem(number, question) for number, question in enumerate(questions)]
    if count >= len(set(questions)):
        with pytest.raises(DataError, match=f"data.holdout={count}"):
            cut(problems, count=count, seed=seed)
        return
    train, held = cut(problems, count=count, seed=seed)
    assert len(held) == len({p.problem for p in held}) == count
    assert not {p.problem for p in train} & {p.problem for p in held}
    assert {p.problem for p in (*train, *held)} == {p.problem for p in problems}
    assert [p for p in problems if p in train] == train


def test_smaller_splits_are_parts_of_larger_ones_and_seeds_differ() -> None:
    problems = [problem(number, number) for number in range(40)]

    def held(count: int, seed: int = 0) -> set[str]:
        return {p.id for p in cut(problems, count=count, seed=seed)[1]}

    assert held(5) < held(10)
    assert held(10) != held(10, seed=1)
    backwards = {p.id for p in cut(problems[::-1], count=10, seed=0)[1]}
    assert backwards == held(10)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [
        {"question": f"How many are {n} and 1?", "answer": f"How? ** {n}+1=<<{n}+1={n + 1}>>{n + 1}"
         f"\n#### {n + 1}"}
        for n in (*range(30), *range(5))  # five questions stand twice, in other words of the gold
    ]  # fmt: skip
    for row in rows[30:]:
        row["question"] = row["question"].upper()
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def words(file: Path, *more: str) -> tuple[str, ...]:
    return (
        "data=gsm8k_socratic", f"data.path={file}", "teacher=dataset", "filter=recompute",
        "model=tiny_qwen3", "method=m1", f"paths.outputs={file.parent / 'out'}", *more,
    )  # fmt: skip


def questions(config: Config, benchmark: str | None = None) -> set[tuple[str, ...]]:
    found = load_problems(config) if benchmark is None else load_benchmark(benchmark, config)
    return {tuple(tokens(p.problem)) for p in found}


@pytest.mark.parametrize("share", [(), ("data.limit=4",), ("data.fraction=0.5",), ("seed=7",)])
def test_the_split_is_the_same_whatever_is_trained_on(file: Path, share: tuple[str, ...]) -> None:
    config = config_of(*words(file, "data.holdout=8", *share))
    assert config.benchmarks == [NAME]
    held = questions(config, NAME)
    assert len(held) == count_benchmark(NAME, config) == 8
    assert not held & questions(config)
    assert held == questions(config_of(*words(file, "data.holdout=8")), NAME)
    assert count_problems(config.data) == len(load_problems(config))


def test_fingerprints_move_with_the_split_and_only_with_it(file: Path) -> None:
    plain, cut_8, cut_9, other, limited = (
        graph(*words(file, "evaluation.benchmarks=[gsm8k]"))
        if not more
        else graph(*words(file, *more))
        for more in (
            (),
            ("data.holdout=8",),
            ("data.holdout=9",),
            ("data.holdout=8", "data.holdout_seed=1"),
            ("data.holdout=8", "data.limit=4"),
        )
    )
    corpora = [job.corpus.fingerprint for job in (plain, cut_8, cut_9, other) if job.corpus]
    assert len(set(corpora)) == 4
    assert cut_8.predictions[0].label == NAME
    assert cut_8.predictions[0].spec["source"]["holdout"] == {"questions": 8, "seed": 42}
    assert limited.predictions[0].spec["source"] == cut_8.predictions[0].spec["source"]
    assert "holdout" not in json.dumps(plain.predictions[0].spec)


def test_an_idle_seed_moves_nothing(file: Path) -> None:
    on_gsm8k = words(file, "evaluation.benchmarks=[gsm8k]")
    assert graph(*on_gsm8k) == graph(*on_gsm8k, "data.holdout_seed=9")


@pytest.mark.parametrize("data", ["microworld", "gsm8k_math"])
def test_what_has_test_sets_of_its_own_is_not_cut(data: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.holdout=3 is not allowed"):
        config_of(f"data={data}", "model=tiny_qwen3", "method=sft", "data.holdout=3")
