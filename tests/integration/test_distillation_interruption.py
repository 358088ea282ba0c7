"""Ctrl-C and kill -9 in the middle of a distillation: what is asked again afterwards."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.distillation.corpus import read_trajectories
from plan_tuning.teachers.store import FILE_NAME

from .teacher_server import gsm8k, known_to, load_server, start_process

pytestmark = pytest.mark.integration

CONCURRENCY = 8
PROBLEMS = 40
CALLS = PROBLEMS * 16


def _wait_for(condition: Callable[[], bool], process: Any) -> None:
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def test_ctrl_c_drains_and_the_same_command_resumes(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, PROBLEMS)
    with load_server(shared).FaultyTeacher(known_to(problems), latency=0.05) as server:
        for number, asked in ((signal.SIGINT, 100), (signal.SIGTERM, 250)):
            process = start_process(shared, tmp_path, server.base_url, PROBLEMS, CONCURRENCY)
            _wait_for(lambda asked=asked: server.stats()["requests"] >= asked, process)
            process.send_signal(number)
            said = process.communicate(timeout=30)[1]
            assert process.returncode == 130, said
            assert "same command" in said
            assert "Traceback" not in said
            assert server.stats()["requests"] < CALLS
        process = start_process(shared, tmp_path, server.base_url, PROBLEMS, CONCURRENCY)
        assert process.wait(timeout=60) == 0
        process.communicate()
        stats = server.stats()
    assert stats["repeat_after_ok"] == 0
    assert stats["requests"] == CALLS
    assert len(read_trajectories(tmp_path / "corpus")) == PROBLEMS * 5


def test_a_second_ctrl_c_cancels(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, PROBLEMS)
    with load_server(shared).FaultyTeacher(known_to(problems), latency=60.0) as server:
        process = start_process(shared, tmp_path, server.base_url, PROBLEMS, CONCURRENCY)
        _wait_for(lambda: server.stats()["requests"] > 0, process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None, "the first one waits for what is in flight"
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=10)[1]
        assert process.returncode == 130, said
        assert "Traceback" not in said


def test_what_a_shell_told_to_ignore_stays_ignored(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, PROBLEMS)
    with load_server(shared).FaultyTeacher(known_to(problems), latency=0.05) as server:
        process = start_process(
            shared, tmp_path, server.base_url, PROBLEMS, CONCURRENCY, sigint="ignored"
        )
        _wait_for(lambda: server.stats()["requests"] >= 50, process)
        process.send_signal(signal.SIGINT)
        _wait_for(lambda: server.stats()["requests"] >= 150, process)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 130, said
        assert 150 <= server.stats()["requests"] < CALLS


def test_kill_at_ten_moments_loses_only_what_was_in_flight(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, PROBLEMS)
    rng = random.Random(0)
    moments = sorted(rng.sample(range(20, CALLS - 40), 10))
    with load_server(shared).FaultyTeacher(known_to(problems), latency=0.03) as server:
        repeated = 0
        for moment in moments:
            process = start_process(shared, tmp_path, server.base_url, PROBLEMS, CONCURRENCY)
            _wait_for(lambda m=moment: server.stats()["delivered_ok"] >= m, process)
            process.kill()
            process.communicate()
            repeats = server.stats()["repeat_after_ok"]
            assert repeats - repeated <= CONCURRENCY
            repeated = repeats
            database = sqlite3.connect(tmp_path / "calls" / FILE_NAME)
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            database.close()
        process = start_process(shared, tmp_path, server.base_url, PROBLEMS, CONCURRENCY)
        assert process.wait(timeout=60) == 0
        process.communicate()
        stats = server.stats()
    assert stats["repeat_after_ok"] <= 10 * CONCURRENCY
    assert stats["unknown_stage"] == 0
    assert len(read_trajectories(tmp_path / "corpus")) == PROBLEMS * 5
