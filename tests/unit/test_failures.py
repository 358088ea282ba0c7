"""What a provider's refusal means, and what of it may be written down."""

from __future__ import annotations

import pytest

from plan_tuning.teachers.errors import (
    BreakerError,
    BudgetError,
    FatalTeacherError,
    HolesError,
    InterruptedByUserError,
    TeacherError,
)
from plan_tuning.teachers.failures import (
    Fatal,
    RateLimited,
    Rejected,
    Transient,
    classify,
    retry_after,
    scrub,
)
from plan_tuning.teachers.replies import read_response, storable


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry-After": "3"}, "", 3.0),
        ({"retry-after": "0.25"}, "", 0.25),
        ({"retry-after-ms": "250", "Retry-After": "1"}, "", 0.25),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, "", 0.0),
        ({"Retry-After": "soon"}, "", None),
        ({}, '{"error": {"details": [{"retryDelay": "26s"}]}}', 26.0),
        ({}, '{"error": {"details": [{"retryDelay": "1.5s"}]}}', 1.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}, "", 90.0),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1m30s"}, "", None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "250ms"}, "", 0.25),
        ({}, "", None),
    ],
)
def test_waits_are_understood(headers: dict[str, str], body: str, seconds: float | None) -> None:
    assert retry_after(headers, body) == seconds


GEMINI_MINUTE = (
    '{"error": {"code": 429, "message": "You exceeded your current quota, please check your plan '
    'and billing details.", "status": "RESOURCE_EXHAUSTED", "details": [{"violations": '
    '[{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}]}, {"retryDelay": "26s"}]}}'
)
GEMINI_DAY = GEMINI_MINUTE.replace("PerMinute", "PerDay").replace(', {"retryDelay": "26s"}', "")
GEMINI_NONE = GEMINI_MINUTE.replace("billing details.", "billing details. Quota, limit: 0")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, '{"error": {"message": "Rate limit reached"}}', RateLimited),
        (429, GEMINI_MINUTE, RateLimited),
        (429, GEMINI_DAY, Fatal),
        (429, GEMINI_NONE, Fatal),
        (429, '{"error": {"code": "insufficient_quota", "message": "quota"}}', Fatal),
        (401, '{"error": {"message": "Incorrect API key"}}', Fatal),
        (403, "", Fatal),
        (402, "", Fatal),
        (404, '{"error": {"message": "model not found"}}', Fatal),
        (400, '[{"error": {"message": "API key not valid. Pass a valid key."}}]', Fatal),
        (400, '{"error": {"message": "unknown parameter: seed"}}', Fatal),
        (400, '{"error": {"code": "context_length_exceeded"}}', Rejected),
        (400, '{"error": {"code": "content_filter"}}', Rejected),
        (413, "", Rejected),
        (500, "", Transient),
        (502, "<html>nginx</html>", Transient),
        (503, "", Transient),
        (529, '{"error": {"type": "overloaded_error"}}', RateLimited),
        (408, "", Transient),
    ],
)
def test_what_a_status_means(status: int, body: str, kind: type[Exception]) -> None:
    assert type(classify(status, {}, body)) is kind


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abc.def-ghi",
        "key sk-proj-abcdefgh1234 is wrong",
        "https://host/v1?key=AIzaSyAbcdefghijkl&alt=json",
        "x-api-key: secret-value",
    ],
)
def test_keys_are_scrubbed(text: str) -> None:
    said = scrub(text)
    assert "[secret]" in said
    for part in ("abc.def", "abcdefgh", "AIza", "secret-value"):
        assert part not in said
    assert scrub("my own word", ["own"]) == "my [secret] word"


def test_lone_surrogates_become_storable() -> None:
    assert storable("plain \u202e") == "plain \u202e"
    assert storable("\ud83e\udded") == "🧭"
    assert storable("a\ud800b") == "a\ufffdb"


def test_exit_codes_tell_causes_apart() -> None:
    kinds = (FatalTeacherError, BreakerError, HolesError, BudgetError, InterruptedByUserError)
    assert [kind("").exit_code for kind in kinds] == [3, 4, 4, 5, 130]
    assert all(issubclass(kind, TeacherError) and issubclass(kind, ValueError) for kind in kinds)


def test_no_part_of_a_key_is_left_on_a_cut() -> None:
    key = "my-very-own-key-without-a-prefix"
    for start in range(150, 310):
        for body in ("x" * start + key, '{"error": {"message": "' + "x" * start + key + '"}}'):
            said = classify(400, {}, body, secrets=[key]).message
            assert "my-very" not in said
    failure = Transient("connection", "Bearer sk-abcdefgh1234 \ud800")
    assert "abcdefgh" not in str(failure)
    failure.message.encode()


def test_an_error_body_may_be_anything() -> None:
    for body in ("[" * 100_000, '{"error": 1e400}', "[[]]", '{"error": {"message": ["\\ud800"]}}'):
        classify(500, {}, body).message.encode()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('{"choices": [{"message": "hi"}]}', "bad_body"),
        ('{"choices": [{"message": {"content": 7}}]}', "bad_body"),
        ('{"choices": [{"message": {"content": ["a", "b"]}}]}', "bad_body"),
        ('{"choices": [{"message": {"content": [{"type": "text"}]}}]}', "bad_body"),
        ('{"choices": [{"message": {}, "finish_reason": ["stop"]}]}', "bad_body"),
        ('{"choices": [{"message": {}}], "usage": [1]}', "bad_body"),
        ('{"choices": [{"message": {}}], "usage": {"prompt_tokens": "a"}}', "bad_body"),
        ('{"choices": [{"message": {}}], "usage": {"prompt_tokens": 1e400}}', "bad_body"),
        ('{"choices": [{"message": {}}], "usage": {"prompt_tokens": NaN}}', "bad_body"),
        ('{"choices": [{"message": {}}], "usage": {"completion_tokens": -1}}', "bad_body"),
        ('{"choices": [{"message": {}}], "usage": {"completion_tokens": true}}', "bad_body"),
        (
            '{"choices": [{"message": {}}], "usage": {"prompt_tokens": 1' + "0" * 400 + "}}",
            "bad_body",
        ),
        ("[" * 100_000, "bad_body"),
        ("<html>", "bad_body"),
        ('{"choices": ["hi"]}', "no_choice"),
        ('{"choices": {}}', "no_choice"),
        ("[]", "no_choice"),
    ],
)
def test_an_odd_body_is_a_failure_of_the_moment(body: str, kind: str) -> None:
    with pytest.raises(Transient) as caught:
        read_response(200, {}, body)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('"a plan"', "a plan"),
        ("null", ""),
        ('[{"type": "text", "text": "a "}, {"type": "text", "text": "plan"}]', "a plan"),
        ('[{"type": "reasoning", "text": 1}, {"text": "a plan"}]', "a plan"),
        ("[]", ""),
    ],
)
def test_a_content_may_come_in_parts(content: str, text: str) -> None:
    message = f'{{"content": {content}}}'
    body = f'{{"choices": [{{"message": {message}}}], "usage": {{"prompt_tokens": 3.0}}}}'
    reply = read_response(200, {}, body)
    assert (reply.text, reply.prompt_tokens, reply.finish_reason) == (text, 3, "stop")


def test_a_key_in_a_broken_body_is_not_repeated() -> None:
    with pytest.raises(Transient) as caught:
        read_response(200, {}, "x" * 70 + "my-very-own-key", "my-very-own-key")
    assert "my-very" not in caught.value.message
