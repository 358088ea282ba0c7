"""A teacher that thinks aloud, and one that never answers usably: over real HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plan_tuning.artifacts import build, folder_of
from plan_tuning.distillation.corpus import (
    PROBLEMS,
    TRAJECTORIES,
    read_problems,
    read_trajectories,
    write_records,
)
from plan_tuning.distillation.corpus_command import app
from plan_tuning.records import Problem, Trajectory
from plan_tuning.teachers.errors import UnusableError

from .teacher_server import distil_corpus, gsm8k, known_to, load_server, teacher_config

pytestmark = pytest.mark.integration

Spoil = Callable[[str, dict[str, Any]], None]
THOUGHT = "<think>\nFirst I try \\boxed{1}. Score: 3\n</think>\n\n"


@contextmanager
def spoilt(shared: Path, problems: list[Problem], spoil: Spoil, **settings: Any) -> Iterator[Any]:
    """A teacher whose every choice goes through ``spoil``, which is told the role."""
    with load_server(shared).FaultyTeacher(known_to(problems), **settings) as server:
        answer = server.teacher.answer

        def spoiling(request: Any, headers: Any) -> Any:
            act = answer(request, headers)
            for choice in act.get("json", {}).get("choices", ()):
                spoil(act["rec"]["stage"], choice)
            return act

        server.teacher.answer = spoiling
        yield server


def thinking(role: str, choice: dict[str, Any]) -> None:
    choice["message"]["content"] = THOUGHT + choice["message"]["content"]


def thinking_apart(role: str, choice: dict[str, Any]) -> None:
    choice["message"]["reasoning_content"] = THOUGHT


def no_opening(role: str, choice: dict[str, Any]) -> None:
    thought = THOUGHT.removeprefix("<think>")
    choice["message"]["content"] = thought + choice["message"]["content"]


def texts(row: Trajectory) -> tuple[Any, ...]:
    """What is compared of two corpora: all but the addresses of the calls and their cost."""
    return (
        row.problem_id, row.candidate, row.constraints, row.plan, row.plan_status, row.plan_score,
        row.score_text, row.execution, row.execution_answer, row.verdict,
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["http", "litellm"])
@pytest.mark.parametrize("spoil", [thinking, no_opening, thinking_apart])
def test_thoughts_change_no_corpus(
    spoil: Spoil, backend: str, shared: Path, tmp_path: Path
) -> None:
    problems = gsm8k(shared, 2)
    found = []
    for folder, how in (("clean", lambda role, choice: None), ("thinking", spoil)):
        with spoilt(shared, problems, how, seed=5) as server:
            config = teacher_config(server.base_url, backend=backend)
            distil_corpus(tmp_path / folder, problems, config, tmp_path / f"calls {folder}")
        found.append([texts(row) for row in read_trajectories(tmp_path / folder)])
    assert found[0] == found[1]


def null_length(role: str, choice: dict[str, Any]) -> None:
    choice["message"]["content"] = None
    choice["finish_reason"] = "length"


def null_max_tokens(role: str, choice: dict[str, Any]) -> None:
    null_length(role, choice)
    choice["finish_reason"] = "MAX_TOKENS"


def open_thought(role: str, choice: dict[str, Any]) -> None:
    choice["message"]["content"] = "<think>" + choice["message"]["content"]


def only_thoughts(role: str, choice: dict[str, Any]) -> None:
    choice["message"] = {"role": "assistant", "content": None, "reasoning_content": "2 or 3?"}


def empty(role: str, choice: dict[str, Any]) -> None:
    choice["message"]["content"] = " \n"


def filtered(role: str, choice: dict[str, Any]) -> None:
    choice["message"]["content"] = None
    choice["finish_reason"] = "content_filter"


def tools(role: str, choice: dict[str, Any]) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    choice["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice["finish_reason"] = "tool_calls"


def no_plan(role: str, choice: dict[str, Any]) -> None:
    if role == "plan":
        null_length(role, choice)


def no_score(role: str, choice: dict[str, Any]) -> None:
    if role == "verify":
        choice["message"]["content"] = "A fine plan."


def no_execution(role: str, choice: dict[str, Any]) -> None:
    if role == "execute":
        empty(role, choice)


@pytest.mark.parametrize("backend", ["http", "litellm"])
@pytest.mark.parametrize(
    ("spoil", "kind", "cure"),
    [
        (null_length, "constraints", "distillation.max_constraints_tokens=4096"),
        (null_max_tokens, "constraints", "distillation.max_constraints_tokens=4096"),
        (open_thought, "constraints", "teacher.thinking=false"),
        (only_thoughts, "constraints", "teacher.thinking=false"),
        (empty, "constraints", "chat template"),
        (filtered, "constraints", "safety setting"),
        (tools, "constraints", "turn tools off"),
        (no_plan, "plan", "distillation.max_plan_tokens=8192"),
        (no_score, "verify", "does not write its score"),
        (no_execution, "execute", "chat template"),
    ],
)
def test_a_teacher_that_never_answers_usably_is_not_paid_to_the_end(
    spoil: Spoil, kind: str, cure: str, backend: str, shared: Path, tmp_path: Path
) -> None:
    problems = gsm8k(shared, 12)
    with spoilt(shared, problems, spoil) as server:
        config = teacher_config(server.base_url, backend=backend, concurrency=4)
        for _ in range(2):
            with pytest.raises(UnusableError) as caught:
                distil_corpus(tmp_path / "c", problems, config, tmp_path / "calls", window=3)
        pids = {entry["pid"] for entry in server.log}
        assert len(pids) <= 3, "only the first window is asked"
        assert server.stats()["repeat_after_ok"] == 0, "what was paid is kept"
    assert caught.value.exit_code == 6
    message = str(caught.value)
    assert f"not one usable {kind} reply" in message
    assert cure in message
    assert "\n" not in message


def test_fewer_problems_than_a_window_are_enough(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 2)
    with spoilt(shared, problems, empty) as server:
        config = teacher_config(server.base_url)
        with pytest.raises(UnusableError, match="to 2 problems"):
            distil_corpus(tmp_path / "c", problems, config, tmp_path / "calls", window=50)


def test_one_usable_reply_of_each_kind_is_enough(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 8)
    seen: dict[str, int] = {}

    def mostly_empty(role: str, choice: dict[str, Any]) -> None:
        seen[role] = seen.get(role, 0) + 1
        if seen[role] % 4:
            empty(role, choice)

    with spoilt(shared, problems, mostly_empty) as server:
        config = teacher_config(server.base_url, concurrency=1)
        facts = distil_corpus(tmp_path / "c", problems, config, tmp_path / "calls", window=2)
    assert facts["problems"] == 8


def test_a_corpus_with_thoughts_is_named_and_rebuilt_for_nothing(
    shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    problems = gsm8k(shared, 2)
    with spoilt(shared, problems, thinking, seed=5) as server:
        config = teacher_config(server.base_url)

        def make(folder: Path) -> dict[str, Any]:
            facts = distil_corpus(folder, problems, config, tmp_path / "calls")
            rows = [
                replace(row, plan=THOUGHT + row.plan, execution=THOUGHT + row.execution)
                for row in read_trajectories(folder)
            ]
            write_records(folder / TRAJECTORIES, Trajectory, rows)
            return facts

        root = tmp_path / "artifacts"
        build(root, "corpora", "f" * 16, make, spec={})
        source = folder_of(root, "corpora", "f" * 16)
        asked = server.stats()["requests"]
        clean = tmp_path / "clean"
        distil_corpus(clean, problems, config, tmp_path / "calls")
        with caplog.at_level(logging.WARNING):
            read_trajectories(source)
        (said,) = [r.getMessage() for r in caplog.records if "thoughts" in r.getMessage()]
        assert str(source) in said
        command = said.partition("plan-tuning corpus ")[2].split()
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert server.stats()["requests"] == asked, "nobody is asked"
    rebuilt = Path(result.output.partition("corpus.path=")[2].strip())
    caplog.clear()
    rows = read_trajectories(rebuilt)
    assert not caplog.records
    assert rows == read_trajectories(clean)
    assert read_problems(rebuilt) == read_problems(clean)
    assert (rebuilt / PROBLEMS).is_file()
