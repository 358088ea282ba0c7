"""Answers requests with hostile and random bodies and checks what must hold for every one of them.

Run: python experiments/benchmarks/fuzz_replies.py 600 [--seed 1]

A server on loopback answers the http and the litellm backend alike: bodies of the protocol with odd
fields, thoughts, finish reasons, errors with any status, and bytes that are no body. Checked:
nothing but a CallFailure is raised; both backends end in the same reply or the same failure, and no
failure shows the key; a reply holds no thought, and what it holds and its thoughts are what was
sent; an answer that was sent whole behind its thoughts is found whole, and is usable where its
finish reason does not say otherwise; the store gives back what was bought; asking again ends; plan
and score can be read or not, but never raise. A finding is printed with what reproduces it, and
ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import logging
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.records import Reply, Request
from plan_tuning.teachers.backend import Backend, connect
from plan_tuning.teachers.failures import CallFailure
from plan_tuning.teachers.replies import finish_word, settled, storable
from plan_tuning.teachers.resampling import MAX_RESAMPLES, next_sample
from plan_tuning.teachers.store import CallStore, Receipt
from plan_tuning.text.parsing import parse_plan, parse_score, parse_score_released
from plan_tuning.text.thoughts import holds_thoughts

KEY = "sk-fuzzed-key-0123456789"
NAMES = ("think", "thinking", "thought", "THINK", "Think", "seed:think", "budget:thinking")
WORDS = (
    "1. Add.", "2. Halve it.", "Score: 85", "**Score:** -3/100", "\\boxed{5}", "I can't help.",
    "I'm sorry, but I cannot assist with that.", " ", "\n", "\n\n", "</plan>", "<plan>", "é中🙂",
    "\ud800", "\x00", "\u202e", "```", "<", ">", "</", "think", "[", "]", "{", "5 < 6", "<b>x</b>",
    "null", '"', "\\", "<answer>5</answer>",
)  # fmt: skip
TAGS = tuple(f"<{name}>" for name in NAMES) + tuple(f"</{name}>" for name in NAMES)
HOSTILE_TAGS = ("<think", "think>", "</think", "< think>", "<think >", "</think >", '<think a="b">',
                "[THINK]", "[/THINK]", "<thinker>", "</thinks>")  # fmt: skip
FINISH = (
    "stop", "length", "content_filter", "tool_calls", "MAX_TOKENS", "max_tokens", "SAFETY", "eos",
    "end_turn", "error", "function_call", "model_length", "", None, "FinishReason.MAX_TOKENS",
    "\ud800", "STOP", 7, ["stop"], {}, True,
)  # fmt: skip
CODES = (
    400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 502, 503, 529, 200, 0, -1, 40303, 1e400, None,
    True, "402", "503 Service Unavailable", "rate_limit_exceeded", "insufficient_quota",
    "context_length_exceeded", "RESOURCE_EXHAUSTED", "", "x", [], {},
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 3.5, 1e400, 10**30, "", "x", [], [1], {}, {"a": 1}, [[]], "\ud800",
)  # fmt: skip
STATUSES = (200,) * 30 + (201, 204, 301, 308, 400, 401, 402, 404, 422, 429, 500, 502, 503)


@dataclasses.dataclass
class Case:
    """What the server sends, and what of it must be found."""

    status: int
    body: bytes
    answer: str | None = None  # whole, behind closed thoughts, in a body without a fault


def text(r: random.Random, most: int = 6) -> str:
    """Write a text without any tag of a thought."""
    return "".join(r.choice(WORDS) for _ in range(r.randint(0, most)))


def raw(r: random.Random) -> tuple[str, str | None]:
    """Write a message's content, and the answer in it where it is clear which one it is."""
    kind = r.random()
    answer = text(r).replace("<", "(").replace("[", "(")
    if kind < 0.3:
        return answer, answer
    name = r.choice(NAMES)
    if kind < 0.65:
        opening = r.choice((f"<{name}>", "", f"\n<{name}>"))
        return f"{opening}{text(r)}</{name}>{answer}", answer
    if kind < 0.75:
        return f"<{name}>{text(r)}", None
    pieces = (*WORDS, *TAGS, *HOSTILE_TAGS)
    return "".join(r.choice(pieces) for _ in range(r.randint(0, 12))), None


def case(r: random.Random) -> Case:
    """Make what the server sends."""
    kind = r.random()
    status = r.choice(STATUSES)
    if kind < 0.05:
        return Case(status, r.randbytes(r.randint(0, 200)))
    if kind < 0.2:
        error: Any = {
            "code": r.choice(CODES),
            "message": r.choice(("No credit left.", f"bad key {KEY}", "", None, "rate limit", [])),
        }
        if r.random() < 0.3:
            error = r.choice((*ODD, "overloaded", f"bad key {KEY}"))
        if r.random() < 0.2 and isinstance(error, dict):
            error["type"] = r.choice(CODES)
        body: Any = {"error": error}
        if r.random() < 0.2:
            body = r.choice((error, [body], {"detail": error}, {"object": "error", **body}))
        return Case(status, json.dumps(body).encode("utf-8", "surrogatepass"))
    content, answer = raw(r)
    message: dict[str, Any] = {"role": "assistant", "content": content}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
    usage: dict[str, Any] = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    body = {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
        "usage": usage,
    }  # fmt: skip
    if r.random() < 0.3:
        message[r.choice(("reasoning_content", "reasoning"))] = r.choice((text(r), None, [], 7))
    if r.random() < 0.15:
        message["content"] = r.choice(([{"type": "text", "text": content}], content))
    is_faulty = r.random() < 0.4
    if is_faulty:
        answer = None
        for _ in range(r.randint(1, 3)):
            target = r.choice((body, choice, message, usage))
            name = r.choice((*target, "error", "refusal", "tool_calls", "text", "reasoning"))
            if r.random() < 0.3:
                target.pop(name, None)
            else:
                target[name] = r.choice(FINISH if name == "finish_reason" else ODD)
    elif r.random() < 0.4:
        choice["finish_reason"] = r.choice(FINISH[:17])
    data = json.dumps(body).encode("utf-8", "surrogatepass")
    if r.random() < 0.03:
        data, answer = data[: r.randint(0, len(data))], None
    return Case(status, data, answer if status == 200 else None)


async def outcome(backend: Backend, request: Request) -> Reply | CallFailure:
    """Ask once; whatever is no CallFailure is a finding, and is raised."""
    try:
        return await backend.complete(request)
    except CallFailure as failure:
        return failure


def check_reply(reply: Reply, made: Case, store: CallStore, request: Request) -> str | None:
    """Say what does not hold for a reply as a backend returned it."""
    sent = dataclasses.replace(  # as the caller keeps it
        reply,
        text=storable(reply.text),
        finish_reason=storable(reply.finish_reason),
        served_model=storable(reply.served_model),
    )
    found = settled(sent)
    if holds_thoughts(found.text):
        return f"a thought is left: {found.text!r}"
    if found.thoughts + found.text != sent.text:
        return f"{found.thoughts!r} and {found.text!r} are not {sent.text!r}"
    if settled(found).text != found.text:
        return "settling twice is not settling once"
    if made.answer is not None:
        wanted = storable(made.answer)
        if found.text.strip() != wanted.strip():
            return f"the answer {wanted!r} is lost: {found.text!r}"
        is_stopped = finish_word(reply.finish_reason) not in ("length", "content_filter")
        if is_stopped and wanted.strip() and found.status not in ("ok", "refused"):
            return f"a usable answer is called {found.status}"
    key = f"{request.problem_id}"
    kept = dataclasses.replace(sent, status=found.status)
    store.add(key, "t", request, kept, Receipt(0.0, 1, "free", False, "m"))
    again = store.get(key)
    if again is None or (again.text, again.thoughts, again.status) != (
        found.text,
        found.thoughts,
        found.status,
    ):
        return f"the store gives back {again!r} for {found!r}"
    asked: Request | None = request
    for _ in range(MAX_RESAMPLES + 1):
        asked = next_sample(request, asked, found, is_seeded=True) if asked else None
    if asked is not None:
        return "asking again does not end"
    parse_plan(found.text)
    parse_score(found.text)
    parse_score_released(found.text)
    return None


def differ(first: Reply | CallFailure, second: Reply | CallFailure) -> bool:
    """Whether two backends came to other ends."""
    if isinstance(first, Reply) or isinstance(second, Reply):
        return first != second
    ends = [
        (type(failure), failure.kind, failure.status, failure.message)
        for failure in (first, second)
    ]
    return ends[0] != ends[1]


async def fuzz(seconds: float, seed: int, folder: Path) -> int:
    """Run until the time is over or something is found; return the exit code."""
    current = Case(200, b"")

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(
            status=current.status, body=current.body, content_type="application/json"
        )

    application = web.Application()
    application.router.add_route("POST", "/v1/chat/completions", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    backends = [
        connect(
            TeacherConfig(
                backend=name,
                provider="openai_compatible",
                model="m",
                api_key_env="FUZZ_KEY",
                api_base=f"http://127.0.0.1:{port}/v1",
                concurrency=1,
            )
        )
        for name in ("http", "litellm")
    ]
    ends = {"reply": 0, "failure": 0}
    started, number = time.monotonic(), 0
    with CallStore(folder, is_batched=True) as store:
        while time.monotonic() - started < seconds:
            number += 1
            r = random.Random(f"{seed}/{number}")
            current = case(r)
            request = Request(
                role="plan", messages=({"role": "user", "content": "x"},), temperature=0.7,
                max_tokens=10, seed=1, problem_id=str(number),
            )  # fmt: skip
            try:
                first, second = [await outcome(backend, request) for backend in backends]
                if isinstance(first, Reply):
                    finding = check_reply(first, current, store, request)
                else:
                    finding = "the key is shown" if KEY in first.message else None
                if differ(first, second):
                    finding = f"http: {first!r}\nlitellm: {second!r}"
                ends["reply" if isinstance(first, Reply) else "failure"] += 1
            except Exception as error:  # whatever is raised is the finding
                finding = f"{type(error).__name__}: {error}"
            if finding is not None:
                print(f"FINDING in case {number} of seed {seed}, status {current.status}:")
                print(current.body.decode("utf-8", "replace"))
                print(finding)
                return 1
    for backend in backends:
        await backend.close()  # type: ignore[attr-defined]
    await runner.cleanup()
    print(f"{number} cases ({ends['reply']} replies, {ends['failure']} failures), no finding")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    import os

    os.environ["FUZZ_KEY"] = KEY
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(fuzz(arguments.seconds, arguments.seed, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
