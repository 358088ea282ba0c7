"""A provider in trouble: limits, waits, refusals, hangs, wrong keys, budgets."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.grading import GradingConfig
from plan_tuning.config.teacher import DistillationConfig
from plan_tuning.distillation.corpus import read_trajectories
from plan_tuning.distillation.synthesis import distil
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Request
from plan_tuning.teachers.errors import (
    BreakerError,
    BudgetError,
    FatalTeacherError,
    HolesError,
)
from plan_tuning.teachers.factory import open_caller

from .teacher_server import distil_corpus, gsm8k, known_to, load_server, teacher_config

pytestmark = pytest.mark.integration


def test_concurrency_and_rate_are_never_exceeded(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 10)
    with load_server(shared).FaultyTeacher(
        known_to(problems), latency=0.05, limit_rpm=105, limit_concurrency=6, rpm_window=5.0
    ) as server:
        config = teacher_config(server.base_url, concurrency=6, requests_per_minute=1200)
        distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
        stats = server.stats()
    assert stats["max_in_flight"] <= 6
    assert stats["peak_per_window"] <= 105
    assert stats["limit_violations"] == 0
    assert stats["requests"] == 160


@pytest.mark.parametrize("form", ["seconds", "date", "ms", "mixed"])
def test_no_request_is_repeated_before_its_wait_is_over(
    form: str, shared: Path, tmp_path: Path
) -> None:
    problems = gsm8k(shared, 3)
    with load_server(shared).FaultyTeacher(
        known_to(problems),
        faults={"429": 0.2, "503": 0.05},
        retry_after=(0.2, 0.6),
        retry_after_form=form,
        seed=1,
    ) as server:
        config = teacher_config(server.base_url)
        facts = distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
        stats = server.stats()
    assert stats["by_status"]["429"] > 3
    assert stats["early_retries"] == 0
    assert stats["repeat_after_ok"] == 0
    assert facts["funnel"]["executed"] == 15


def test_a_wrong_key_costs_one_request(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = gsm8k(shared, 4)
    monkeypatch.setenv("TEACHER_KEY", "sk-wrong-and-secret")
    for backend in ("http", "litellm"):
        with load_server(shared).FaultyTeacher(known_to(problems), api_key="sk-right") as server:
            config = teacher_config(server.base_url, backend=backend, api_key_env="TEACHER_KEY")
            with pytest.raises(FatalTeacherError, match="refuses the key") as caught:
                distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
            assert server.stats()["requests"] == 1
        assert caught.value.exit_code == 3
        assert "wrong-and-secret" not in str(caught.value)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"wrong-and-secret" not in path.read_bytes(), path


@pytest.mark.parametrize("fault", ["401", "quota"])
def test_a_key_that_expires_stops_the_run(fault: str, shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 12)
    module = load_server(shared)
    with module.FaultyTeacher(
        known_to(problems), faults={fault: 0.03}, seed=3, latency=0.02
    ) as server:
        config = teacher_config(server.base_url)
        with pytest.raises(FatalTeacherError):
            distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
        stats = server.stats()
        assert 1 < stats["requests"] < 192
        assert stats["fatal_repeats"] <= config.concurrency
        server.teacher.cfg.faults = {}
        distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
        assert server.stats()["repeat_after_ok"] == 0


def test_a_missing_key_is_one_clear_line(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    config = teacher_config("http://127.0.0.1:9/v1", api_key_env="TEACHER_KEY", requires_key=True)
    with pytest.raises(FatalTeacherError, match="export TEACHER_KEY=YOUR_KEY"):
        distil_corpus(tmp_path / "corpus", gsm8k(shared, 2), config, tmp_path / "calls")


def test_the_budget_is_never_overshot(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 8)
    price = {"input": 1000.0, "output": 1000.0}
    limit = 30.0
    rooms = {f"max_{role}_tokens": 400 for role in ("constraints", "plan", "verify", "execute")}
    with load_server(shared).FaultyTeacher(known_to(problems), latency=0.01) as server:
        config = teacher_config(server.base_url, price=price, budget_usd=limit)
        with pytest.raises(BudgetError, match=r"teacher\.budget_usd=") as caught:
            distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls", **rooms)
        assert caught.value.exit_code == 5
        stats = server.stats()
        billed = (stats["prompt_tokens"] + stats["completion_tokens"]) / 1000
        assert 0.8 * limit < billed <= limit
        with pytest.raises(BudgetError):  # what is spent is remembered
            distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls", **rooms)
        assert server.stats()["requests"] == stats["requests"]
        config = teacher_config(server.base_url, price=price, budget_usd=10 * limit)
        distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls", **rooms)
        assert server.stats()["repeat_after_ok"] == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"price": {"input": 1, "output": 1}}, "teacher.confirm_paid"),
        ({"price": "auto", "model": "no-such-model", "budget_usd": 1}, "price of no-such-model"),
    ],
)
def test_nothing_is_spent_unasked(
    settings: dict[str, object], said: str, shared: Path, tmp_path: Path
) -> None:
    problems = gsm8k(shared, 2)
    with load_server(shared).FaultyTeacher(known_to(problems)) as server:
        config = teacher_config(server.base_url, **settings)
        with pytest.raises(ConfigError, match=said):
            distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
        assert server.stats()["requests"] == 0


def test_a_broken_provider_trips_the_breaker(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 30)
    with load_server(shared).FaultyTeacher(known_to(problems), faults={"500": 0.8}) as server:
        config = teacher_config(server.base_url, concurrency=32)
        with pytest.raises(BreakerError, match="of the last 50 calls") as caught:
            distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
        assert server.stats()["requests"] < 200
    assert caught.value.exit_code == 4


def test_a_closed_port_is_reported(shared: Path, tmp_path: Path) -> None:
    config = teacher_config("http://127.0.0.1:9/v1", max_attempts=2)
    with pytest.raises(BreakerError, match=r"no answer from http://127\.0\.0\.1:9/v1"):
        distil_corpus(tmp_path / "corpus", gsm8k(shared, 3), config, tmp_path / "calls")


def test_a_refused_request_leaves_the_rest_alone(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 6)
    faults = {"400_context@plan": 0.2, "400_filter@execute": 0.1}
    with load_server(shared).FaultyTeacher(known_to(problems), faults=faults, seed=1) as server:
        config = teacher_config(server.base_url)
        distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
        asked = server.stats()["requests"]
        distil_corpus(tmp_path / "corpus", problems, config, tmp_path / "calls")
        assert server.stats()["requests"] == asked, "a final refusal is remembered"
    rows = read_trajectories(tmp_path / "corpus")
    assert {row.plan_status for row in rows} == {"ok", "rejected"}
    assert {row.execution_status for row in rows if row.plan} == {"ok", "rejected"}


def test_hanging_requests_time_out_and_leave_no_task(shared: Path, tmp_path: Path) -> None:
    problems = gsm8k(shared, 4)

    async def run(base_url: str) -> tuple[int, int]:
        config = teacher_config(base_url, timeout_s=2.0)
        count = 0
        with Grader(GradingConfig()) as grader:
            async with open_caller(config, tmp_path / "calls") as caller:
                async for rows in distil(
                    problems, caller.ask, grader, DistillationConfig(), window=4
                ):
                    count += len(rows)
        return count, len(asyncio.all_tasks())

    with load_server(shared).FaultyTeacher(
        known_to(problems), faults={"hang": 0.1, "reset_before": 0.05, "reset_mid": 0.05}, hang=20.0
    ) as server:
        assert asyncio.run(run(server.base_url)) == (20, 1)
        assert server.stats()["repeat_after_ok"] == 0


def test_a_poisoned_call_is_tried_in_two_passes_and_left_out_where_allowed(
    shared: Path, tmp_path: Path
) -> None:
    problems = gsm8k(shared, 6)
    corpus, calls = tmp_path / "corpus", tmp_path / "calls"
    with load_server(shared).FaultyTeacher(
        known_to(problems), faults={"500@execute": 0.1}, sticky={"500"}, seed=2
    ) as server:
        config = teacher_config(server.base_url, max_attempts=2)
        facts = distil_corpus(corpus, problems, config, calls, allow_holes=True)
        poisoned = server.stats()["by_status"]["500"]
        asked = server.stats()["requests"]
        with pytest.raises(HolesError, match=r"distillation\.allow_holes=true") as caught:
            distil_corpus(tmp_path / "whole", problems, config, calls)
        assert server.stats()["requests"] - asked == poisoned, "the missing ones alone"
        assert server.stats()["repeat_after_ok"] == 0
        server.teacher.cfg.faults = {}
        whole = distil_corpus(tmp_path / "whole", problems, config, calls)
    assert caught.value.exit_code == 4
    assert str(caught.value).startswith(f"{facts['calls']['left_out']} calls to teacher")
    assert whole["calls"]["left_out"] == 0
    assert "left out: 0" not in (corpus / "README.md").read_text()
    rows = read_trajectories(tmp_path / "corpus")
    failed = [row for row in rows if row.execution_status == "failed"]
    assert 0 < len(failed) == facts["calls"]["left_out"] < len(rows) / 2
    assert poisoned == 4 * len(failed), "two tries in each of two passes"
    assert not any(row.is_correct for row in failed)


@pytest.mark.parametrize("price", ["known", "unknown"])
def test_what_was_bought_is_told_though_the_run_fails(
    price: str, shared: Path, tmp_path: Path
) -> None:
    problems = gsm8k(shared, 12)
    paid = {"known": {"input": 1.0, "output": 1.0}, "unknown": "auto"}[price]
    told: list[tuple[int, float | None]] = []
    with load_server(shared).FaultyTeacher(
        known_to(problems), faults={"401": 0.03}, seed=3, latency=0.02
    ) as server:
        config = teacher_config(
            server.base_url, price=paid, model="no-such-model", confirm_paid=True
        )

        def distil_once() -> dict[str, Any]:
            return distil_corpus(
                tmp_path / "corpus",
                problems,
                config,
                tmp_path / "calls",
                on_usage=lambda calls, usd: told.append((calls, usd)),
            )

        with pytest.raises(FatalTeacherError):
            distil_once()
        stats = server.stats()
        server.teacher.cfg.faults = {}
        facts = distil_once()
        billed = server.stats()
    (first, usd), (second, rest) = told
    assert 0 < first == stats["delivered_ok"]
    assert second == facts["calls"]["bought"] == 12 * 16 - first
    assert facts["tokens"] == {
        side: billed[f"{side}_tokens"] - stats[f"{side}_tokens"]
        for side in ("prompt", "completion")
    }
    card = (tmp_path / "corpus" / "README.md").read_text()
    if price == "unknown":
        assert usd is rest is None
        assert facts["cost_usd"] == {"corpus": None, "this_run": None}
        assert "unknown" in card
        assert all(row.cost_usd is None for row in read_trajectories(tmp_path / "corpus"))
    else:
        assert usd == pytest.approx((stats["prompt_tokens"] + stats["completion_tokens"]) / 1e6)
        assert facts["cost_usd"]["this_run"] == pytest.approx(rest, abs=1e-6)
        assert "unknown" not in card


def test_an_absent_key_tells_that_nothing_was_bought(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    config = teacher_config("http://127.0.0.1:9/v1", api_key_env="TEACHER_KEY", requires_key=True)
    told: list[tuple[int, float | None]] = []
    with pytest.raises(FatalTeacherError):
        distil_corpus(
            tmp_path / "corpus",
            gsm8k(shared, 2),
            config,
            tmp_path / "calls",
            on_usage=lambda calls, usd: told.append((calls, usd)),
        )
    assert told == [(0, 0.0)]


@pytest.mark.parametrize("backend", ["http", "litellm"])
def test_odd_bodies_end_no_run_in_a_traceback(backend: str, tmp_path: Path) -> None:
    bodies = [
        '{"choices": [{"message": "hi"}]}',
        '{"choices": [{"message": {"content": "x"}}], "usage": [1]}',
        '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "a"}}',
        '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1e400}}',
    ]
    request = Request(
        role="plan",
        messages=({"role": "user", "content": "Plan this."},),
        temperature=0.0,
        max_tokens=10,
    )

    async def ask(base_url: str) -> None:
        config = teacher_config(base_url, backend=backend, max_attempts=1)
        async with open_caller(config, tmp_path / "calls") as caller:
            await caller.ask(request)

    for body in bodies:
        with _answering(body) as base_url, pytest.raises(BreakerError, match="no answer from"):
            asyncio.run(ask(base_url))


@contextlib.contextmanager
def _answering(body: str) -> Iterator[str]:
    """A server that gives one body to everybody."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
