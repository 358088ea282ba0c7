"""Problems to corpus over real HTTP: what is asked, stored, and never asked again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.config.teacher import DistillationConfig
from plan_tuning.distillation.corpus import (
    read_problems,
    read_trajectories,
    write_trajectories,
)
from plan_tuning.distillation.estimate import dry_run
from plan_tuning.distillation.filters import (
    STANDARD_FILTERS,
    FilterError,
    filter_trajectories,
)
from plan_tuning.records import Trajectory, from_json
from plan_tuning.teachers.errors import MissingReplyError
from plan_tuning.text import prompts

from .teacher_server import distil_corpus, gsm8k, known_to, load_server, teacher_config

pytestmark = pytest.mark.integration


def test_every_request_is_recognised_and_rows_are_complete(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 6)
    with load_server(shared).FaultyTeacher(known_to(problems)) as server:
        config = teacher_config(server.base_url)
        facts = distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
        stats = server.stats()
    assert stats["unknown_stage"] == stats["unknown_problem"] == 0
    assert stats["by_stage"] == {"constraints": 6, "plan": 30, "verify": 30, "execute": 30}
    rows = read_trajectories(tmp_path / "corpus")
    assert [(row.problem_id, row.candidate) for row in rows] == [
        (problem.id, index) for problem in problems for index in range(5)
    ]
    assert all(row.constraints and row.plan and row.execution for row in rows)
    assert all(len(row.call_keys) == 4 and all(row.call_keys) for row in rows)
    assert read_problems(tmp_path / "corpus") == problems
    assert facts["calls"] == {
        "bought": 96,
        "cached": 0,
        "failed_attempts": 0,
        "left_out": 0,
    }
    assert facts["served_models"] == ["teacher"]


def test_a_second_run_and_every_filter_ask_nothing(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 8)
    faults = {"empty": 0.05, "length": 0.05, "refusal": 0.05, "malformed_score": 0.2}
    with load_server(shared).FaultyTeacher(known_to(problems), faults=faults) as server:
        config = teacher_config(server.base_url)
        distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
        asked = server.stats()["requests"]
        estimate = dry_run(problems, config, DistillationConfig(), tmp_path / "calls")
        first = read_trajectories(tmp_path / "corpus")
        reordered = list(reversed(problems))
        distil_corpus(tmp_path / "again", reordered, config, tmp_path / "calls")
        assert server.stats()["requests"] == asked
    assert estimate.calls == 0
    again = read_trajectories(tmp_path / "again")
    assert sorted(again, key=_address) == sorted(first, key=_address)
    kept = {
        config.name: len(filter_trajectories(first, config).kept) for config in STANDARD_FILTERS
    }
    assert kept["none"] == 8
    assert kept["two_stage"] <= min(kept["plan_only"], kept["answer_only"])


def _address(row: Trajectory) -> tuple[str, int]:
    return row.problem_id, row.candidate


def test_another_threshold_and_another_port_buy_nothing(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 4)
    module = load_server(shared)
    with module.FaultyTeacher(known_to(problems)) as server:
        config = teacher_config(server.base_url)
        distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
    with module.FaultyTeacher(known_to(problems)) as server:
        config = teacher_config(server.base_url, concurrency=3)
        distil_corpus(
            tmp_path / "corpus", problems, config, tmp_path / "calls", execute_threshold=10
        )
        assert server.stats()["requests"] == 0


def test_another_verifier_prompt_buys_verifications_only(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = gsm8k(shared, 4)
    with load_server(shared).FaultyTeacher(known_to(problems)) as server:
        config = teacher_config(server.base_url)
        distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
        server.reset()
        before = prompts.prompt_fingerprint("verify")
        read = prompts._read
        monkeypatch.setattr(
            prompts, "_read", lambda name: read(name).replace("Be critical", "Be very critical")
        )
        for cached in (prompts._load, prompts._field_names, prompts.prompt_fingerprint):
            cached.cache_clear()
        try:
            assert prompts.prompt_fingerprint("verify") != before
            distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
        finally:
            for cached in (prompts._load, prompts._field_names, prompts.prompt_fingerprint):
                cached.cache_clear()
        assert server.stats()["by_stage"] == {"verify": 20}


def test_garbage_passes_store_and_export_unchanged(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 6)
    module = load_server(shared)
    with module.FaultyTeacher(known_to(problems), faults={"garbage": 0.4}, seed=2) as server:
        delivered = _record(server.teacher)
        config = teacher_config(server.base_url)
        distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
    rows = read_trajectories(tmp_path / "corpus")
    executions = {row.execution for row in rows if row.execution}
    assert executions <= {text for _, text in delivered}
    assert any("\u202e" in text or "\u0000" in text for text in executions)
    for name in ("rows.jsonl", "rows.parquet"):
        write_trajectories(tmp_path / name, rows)
    with (tmp_path / "rows.jsonl").open(encoding="utf-8", newline="\n") as file:
        assert [from_json(Trajectory, json.loads(line)) for line in file] == rows
    assert read_trajectories(tmp_path / "rows.parquet") == rows


def _record(teacher: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """What the server meant by each text, by problem and text."""
    delivered: dict[tuple[str, str], dict[str, Any]] = {}
    compose = teacher.compose

    def recorded(role: str, problem: Any, *rest: Any) -> Any:
        text, finish, truth = compose(role, problem, *rest)
        if problem is not None and text is not None:
            delivered[problem.id, text] = truth
        return text, finish, truth

    teacher.compose = recorded
    return delivered


@pytest.mark.parametrize(
    "faults",
    [
        {"malformed_score": 0.5},
        {"two_scores": 0.5},
        {"two_boxes": 0.3, "no_box": 0.3, "nested_box": 0.2, "wrong_answer": 0.3},
        {"duplicate_plan": 0.4, "leaky_plan": 0.2, "malformed_score": 0.3, "wrong_answer": 0.2},
    ],
    ids="+".join,
)
def test_the_corpus_says_what_the_teacher_meant(
    faults: dict[str, float], shared: Path, tmp_path: Path
) -> None:
    problems = gsm8k(shared, 12)
    module = load_server(shared)
    with module.FaultyTeacher(known_to(problems), faults=faults, seed=5) as server:
        delivered = _record(server.teacher)
        config = teacher_config(server.base_url)
        distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
        assert server.stats()["repeat_after_ok"] == 0, "equal plans share their calls"
    rows = read_trajectories(tmp_path / "corpus")
    expected: dict[str, tuple[int, int]] = {}
    for row in rows:
        verified = delivered[row.problem_id, row.score_text]
        meant = verified.get("parse_as", verified["score"])
        assert row.plan_score == meant, row.score_text
        is_right = delivered[row.problem_id, row.execution]["right"]
        assert row.is_correct == is_right, row.execution
        if meant is not None and meant >= 80 and is_right:
            best = expected.get(row.problem_id, (-101, 0))
            if meant > best[0]:
                expected[row.problem_id] = (meant, row.candidate)
    two_stage = STANDARD_FILTERS[-1]
    kept = {
        row.problem_id: (row.plan_score, row.candidate)
        for row in filter_trajectories(rows, two_stage).kept
    }
    assert kept == expected
    duplicates = [row for row in rows if row.duplicate_of is not None]
    assert bool(duplicates) == ("duplicate_plan" in faults)
    by_address = {_address(row): row for row in rows}
    for row in duplicates:
        original = by_address[row.problem_id, row.duplicate_of or 0]
        assert (row.plan_score, row.execution) == (original.plan_score, original.execution)


def test_both_backends_make_the_same_corpus(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 4)
    faults = {"malformed_score": 0.2, "length": 0.1, "500": 0.05, "wrong_answer": 0.2}
    corpora = {}
    for backend in ("http", "litellm"):
        with load_server(shared).FaultyTeacher(known_to(problems), faults=faults, seed=4) as server:
            config = teacher_config(server.base_url, backend=backend)
            folder = tmp_path / backend
            distil_corpus(folder, problems, config, folder / "calls")
        corpora[backend] = read_trajectories(folder)
    assert corpora["http"] == corpora["litellm"]


def test_retained_execution_is_completed_by_all(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 6)
    answer_only = STANDARD_FILTERS[2]
    with load_server(shared).FaultyTeacher(known_to(problems)) as server:
        config = teacher_config(server.base_url)
        calls = tmp_path / "calls"
        distil_corpus(tmp_path / "retained", problems, config, calls, execution="retained")
        rows = read_trajectories(tmp_path / "retained")
        retained = [row for row in rows if (row.plan_score or -100) >= 80]
        assert server.stats()["by_stage"]["execute"] == len(retained) < len(rows)
        assert len(filter_trajectories(rows, STANDARD_FILTERS[-1]).kept) > 0
        with pytest.raises(FilterError, match=r"distillation\.execution=all"):
            filter_trajectories(rows, answer_only)
        distil_corpus(tmp_path / "all", problems, config, calls)
        assert server.stats()["by_stage"]["execute"] == len(rows)
        assert server.stats()["repeat_after_ok"] == 0
    assert filter_trajectories(read_trajectories(tmp_path / "all"), answer_only).kept


def test_replay_never_asks(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 2)
    with load_server(shared).FaultyTeacher(known_to(problems)) as server:
        config = teacher_config(server.base_url)
        distil_corpus(tmp_path / "bought", problems, config, tmp_path / "calls")
        replay = dataclasses.replace(config, backend="replay")
        distil_corpus(tmp_path / "replayed", problems, replay, tmp_path / "calls")
        with pytest.raises(MissingReplyError, match="teacher=replay"):
            distil_corpus(tmp_path / "more", gsm8k(shared, 3), replay, tmp_path / "calls")
        assert server.stats()["requests"] == 32
    assert read_trajectories(tmp_path / "replayed") == read_trajectories(tmp_path / "bought")


def test_datasets_load_the_folder(shared: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    problems = gsm8k(shared, 2)
    with load_server(shared).FaultyTeacher(known_to(problems)) as server:
        config = teacher_config(server.base_url)
        distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
    cache = str(tmp_path / "cache")
    folder = str(tmp_path / "corpus")
    rows = load_dataset(folder, "trajectories", split="train", cache_dir=cache)
    assert rows.num_rows == 10
    assert rows[0]["plan"].startswith("1.")
    assert load_dataset(folder, "problems", split="train", cache_dir=cache).num_rows == 2
