"""What real servers send: both backends read it alike, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.records import Reply, Request
from plan_tuning.teachers.backend import connect
from plan_tuning.teachers.factory import open_caller
from plan_tuning.teachers.failures import CallFailure, Fatal, RateLimited, Rejected, Transient
from plan_tuning.teachers.replies import settled
from plan_tuning.teachers.store import CallStore

from .answer_server import Answer, Server, answering, said

pytestmark = pytest.mark.integration

BACKENDS = ("http", "litellm")
REQUEST = Request(
    role="plan",
    messages=({"role": "user", "content": "Plan this."},),
    temperature=0.0,
    max_tokens=100,
    problem_id="p",
)


def teacher(address: str, backend: str, **values: Any) -> TeacherConfig:
    defaults: dict[str, Any] = {"provider": "openai_compatible", "model": "teacher"}
    return TeacherConfig(backend=backend, api_base=address, **(defaults | values))


def complete(address: str, backend: str, **values: Any) -> Reply | CallFailure:
    """Ask a backend once."""

    async def run() -> Reply | CallFailure:
        connected = connect(teacher(address, backend, **values))
        try:
            return await connected.complete(REQUEST)
        except CallFailure as failure:
            return failure
        finally:
            await connected.close()  # type: ignore[attr-defined]

    return asyncio.run(run())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("answer", "text", "status"),
    [
        (said("1. Add."), "1. Add.", "ok"),
        (said("<think>2 or 3?</think>\n\n1. Add."), "1. Add.", "ok"),
        (said("2 or 3?</think>1. Add."), "1. Add.", "ok"),
        (said("<think>a</think>b</think>1. Add."), "1. Add.", "ok"),
        (said("<thinking>a</thinking>1. Add."), "1. Add.", "ok"),
        (said("<thought>a</thought>1. Add."), "1. Add.", "ok"),
        (said("[THINK]a[/THINK]1. Add."), "1. Add.", "ok"),
        (said("1. Add.", reasoning_content="2 or 3?"), "1. Add.", "ok"),
        (said("1. Add.", reasoning="2 or 3?"), "1. Add.", "ok"),
        (said("<think>2 or 3?"), "", "truncated"),
        (said("<think>2 or 3?", "length"), "", "truncated"),
        (said(None, "length", reasoning_content="2 or 3?"), "", "truncated"),
        (said(None, "length"), "", "truncated"),
        (said("1. Ad", "MAX_TOKENS"), "1. Ad", "truncated"),
        (said("1. Ad", "max_tokens"), "1. Ad", "truncated"),
        (said("<think>2 or 3?</think>"), "", "empty"),
        (said(None, reasoning_content="2 or 3?"), "", "empty"),
        (said("<think>No.</think>I'm sorry, but I can't help with that."), None, "refused"),
        (said("", "SAFETY"), "", "filtered"),
        (said(None, "tool_calls", tool_calls=[]), "", "empty"),
    ],
    ids=str,
)
def test_thoughts_are_no_part_of_a_reply(
    answer: Answer, text: str | None, status: str, backend: str
) -> None:
    with answering(*answer) as server:
        sent = complete(f"{server.root}/v1", backend)
    assert isinstance(sent, Reply), sent
    reply = settled(sent)
    assert reply.status == status
    assert text is None or reply.text == text
    assert reply.thoughts + reply.text == sent.text, "the raw text is kept"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_store_keeps_the_raw_text(backend: str, tmp_path: Path) -> None:
    raw = "<think>2 or 3?</think>\n1. Add."

    async def ask(address: str) -> list[Reply]:
        async with open_caller(teacher(address, backend), tmp_path) as caller:
            return [await caller.ask(REQUEST), await caller.ask(REQUEST)]

    with answering(*said(raw)) as server:
        bought, found = asyncio.run(ask(f"{server.root}/v1"))
        assert len(server.asked) == 1
    assert bought.text == found.text == "1. Add."
    assert found.is_cached
    with CallStore(tmp_path) as store:
        assert [call["text"] for call in store.calls("p")] == [raw]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        ({"code": 402, "message": "Insufficient credits."}, Fatal, "Insufficient credits"),
        ({"code": "402", "message": "Insufficient credits."}, Fatal, "Insufficient credits"),
        ({"code": 401, "message": "No auth."}, Fatal, "No auth"),
        ({"code": 503, "message": "No provider."}, Transient, "No provider"),
        ({"code": "503", "message": "No provider."}, Transient, "No provider"),
        ({"code": 429, "message": "Slow down."}, RateLimited, "Slow down"),
        ({"code": "rate_limit_exceeded", "message": "Slow down."}, RateLimited, "Slow down"),
        ({"status": "UNAVAILABLE", "message": "Busy."}, Transient, "Busy"),
        ({"code": "insufficient_quota", "message": "You are out."}, Fatal, "You are out"),
        ({"code": "context_length_exceeded", "message": "Too long."}, Rejected, "Too long"),
        ({"code": 502, "message": "Bad.", "metadata": {"raw": "upstream"}}, Transient, "upstream"),
        ("Your credit balance is too low", Fatal, "too low"),
        ("something odd", Transient, "something odd"),
    ],
    ids=str,
)
def test_an_error_with_status_200_is_an_error(
    error: Any, kind: type[CallFailure], words: str, backend: str
) -> None:
    with answering(200, {"error": error}, {}) as server:
        failure = complete(f"{server.root}/v1", backend)
    assert type(failure) is kind, failure
    assert words in failure.message  # type: ignore[union-attr]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_error_beside_an_answer_is_none(backend: str) -> None:
    status, body, headers = said("1. Add.")
    for nothing in ({}, None, "", {"message": "", "code": None}):
        with answering(status, {**body, "error": nothing}, headers) as server:
            reply = complete(f"{server.root}/v1", backend)
        assert isinstance(reply, Reply), reply
        assert reply.text == "1. Add."


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_inside_a_choice_is_an_error(backend: str) -> None:
    choice = {"finish_reason": "error", "error": {"code": 502, "message": "Upstream died."},
              "message": {"role": "assistant", "content": ""}}  # fmt: skip
    with answering(200, {"choices": [choice]}, {}) as server:
        failure = complete(f"{server.root}/v1", backend)
    assert isinstance(failure, Transient)
    assert "Upstream died" in failure.message


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_names_the_address_that_works(status: int, backend: str) -> None:
    target: list[str] = []

    def answer(path: str, payload: Any) -> Answer:
        if path == "/v1/chat/completions":
            return said("1. Add.")
        return status, b"", {"Location": target[0]}

    with Server(answer) as server:
        for location in (f"{server.root}/v1/chat/completions", "/v1/chat/completions"):
            target[:] = [location]
            started = time.monotonic()
            failure = complete(f"{server.root}/api", backend)
            assert time.monotonic() - started < 2
            assert isinstance(failure, Fatal)
            assert failure.message.endswith(f"teacher.api_base={server.root}/v1")
        assert len(server.asked) == 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("given", ["", "/", "/api", "/v2", "/v1/engines"])
def test_a_missing_v1_names_the_address_that_works(given: str, backend: str) -> None:
    def answer(path: str, payload: Any) -> Answer:
        if path != "/v1/chat/completions":
            return 404, b'{"detail": "Not Found"}', {}
        if not payload:
            return 400, {"error": {"message": "no messages"}}, {}
        return said("1. Add.")

    with Server(answer) as server:
        started = time.monotonic()
        failure = complete(f"{server.root}{given}", backend)
        assert time.monotonic() - started < 2
        assert isinstance(failure, Fatal), failure
        assert failure.message.endswith(f"teacher.api_base={server.root}/v1")


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unknown_model_is_not_taken_for_a_wrong_address(backend: str) -> None:
    body = {"error": {"message": "The model `teacher` does not exist.", "code": 404}}
    with answering(404, body, {}) as server:
        failure = complete(f"{server.root}/v1", backend)
        assert len(server.asked) == 1
    assert isinstance(failure, Fatal)
    assert failure.kind == "unknown_model"


@pytest.mark.parametrize("backend", BACKENDS)
def test_https_to_a_server_without_it_is_said_at_once(backend: str) -> None:
    with answering(*said("1. Add.")) as server:
        failure = complete(f"{server.root.replace('http:', 'https:')}/v1", backend)
        assert isinstance(failure, Fatal), failure
        assert failure.message.endswith(f"teacher.api_base={server.root}/v1")


@pytest.mark.parametrize(
    ("address", "works"),
    [
        ("127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("localhost:8000", "http://localhost:8000/v1"),
        ("gpu-node:8000", "http://gpu-node:8000/v1"),
        ("http:/127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("api.example.com/v1", "https://api.example.com/v1"),
        ("http://127.0.0.1:8000/v1/chat/completions", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/chat/completions/", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/models", "http://127.0.0.1:8000/v1"),
        ("https://api.example.com/chat/completions", "https://api.example.com/v1"),
    ],
)
def test_an_address_that_cannot_work_is_refused(address: str, works: str) -> None:
    for backend in BACKENDS:
        with pytest.raises(ConfigError) as caught:
            teacher(address, backend)
        assert str(caught.value).endswith(f"teacher.api_base={works}")
        assert teacher(works, backend).api_base == works


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_stands_before_loopback(
    host: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    with answering(*said("1. Add.")) as server:
        reply = complete(f"{server.root.replace('127.0.0.1', host)}/v1", backend)
    assert isinstance(reply, Reply), reply
    assert reply.text == "1. Add."


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_switch_of_thinking_is_sent_where_it_is_set(backend: str) -> None:
    with answering(*said("1. Add.")) as server:
        for thinking in (None, False, True):
            complete(f"{server.root}/v1", backend, thinking=thinking)
        sent = [payload.get("chat_template_kwargs") for _, payload in server.asked]
    assert sent[0] is None
    assert [kwargs["enable_thinking"] for kwargs in sent[1:]] == [False, True]


def test_the_switch_is_part_of_the_spec_where_it_is_set() -> None:
    plain = TeacherConfig(backend="http", api_base="http://127.0.0.1:1/v1", model="m")
    assert plain.spec() == {"kind": "api", "model": "m", "label": ""}
    off = TeacherConfig(backend="http", api_base="http://127.0.0.1:1/v1", model="m", thinking=False)
    assert off.spec() == {**plain.spec(), "thinking": False}
