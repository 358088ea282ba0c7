"""Engines of evaluation and large executors: the same answers, whoever gives them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from plan_tuning.config.evaluation import EvaluationConfig, ServerConfig
from plan_tuning.config.microworld import MicroworldConfig
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.evaluation.predictions import solve
from plan_tuning.evaluation.text_writers import AskAll, ServedWriter, TeacherWriter
from plan_tuning.evaluation.writers import LocalWriter, SolveError
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Prediction, Problem, Reply, Request
from plan_tuning.students.generation.native_engine import generate
from plan_tuning.students.loading import Student, load_student
from plan_tuning.students.templates import prompt_ids
from plan_tuning.students.tiny import make_tiny
from plan_tuning.tasks.microworld_problems import load_microworld
from plan_tuning.teachers.factory import open_caller

pytestmark = pytest.mark.integration

PROBLEMS = [Problem(id=f"p{i}", problem=f"{i} + 3 = ?", answer=str(i + 3)) for i in range(5)]
NEW_TOKENS = 12


@pytest.fixture(scope="module", params=["qwen3", "gemma3", "llama"])
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Student:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    make_tiny(folder, request.param, 0)
    model = ModelConfig(name="tiny", kind="tiny", family=request.param)
    return load_student(folder, model)


def answers(writer: Any, evaluation: EvaluationConfig, method: str = "m1") -> list[Prediction]:
    with Grader() as grader:
        return solve(
            writer,
            PROBLEMS,
            method=method,
            prompt="matched",
            evaluation=evaluation,
            benchmark="sums",
            grader=grader,
        )


def asking(config: TeacherConfig, calls: Path, *, resamples: bool = False) -> AskAll:
    async def ask_each(requests: Any) -> list[Reply]:
        async with open_caller(config, calls, resamples=resamples) as caller:
            return await asyncio.gather(*(caller.ask(request) for request in requests))

    return lambda requests: asyncio.run(ask_each(requests))


def test_continuous_batching_says_the_same(student: Student) -> None:
    native = EvaluationConfig(max_new_tokens=NEW_TOKENS)
    batched = EvaluationConfig(max_new_tokens=NEW_TOKENS, engine="continuous_batching")
    attention = student.causal_lm.config._attn_implementation
    assert answers(student, batched) == answers(student, native)
    assert student.causal_lm.config._attn_implementation == attention
    sampled = EvaluationConfig(
        max_new_tokens=NEW_TOKENS, engine="continuous_batching", temperature=1.0, num_samples=2
    )
    found = answers(student, sampled)
    assert len(found) == 2 * len(PROBLEMS)
    assert len({p.text for p in found}) > len(PROBLEMS)


@pytest.fixture
def payloads() -> list[dict[str, Any]]:
    """What the server was asked."""
    return []


@pytest.fixture
def server(student: Student, payloads: list[dict[str, Any]]) -> Iterator[str]:
    """An OpenAI-compatible server of the student, on loopback."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            payloads.append(asked)
            with lock:
                (done,) = generate(
                    student,
                    [prompt_ids(student.tokenizer, asked["messages"])],
                    keys=[("served", 0)],
                    max_new_tokens=asked["max_tokens"],
                    temperature=asked["temperature"],
                    stop_strings=asked.get("stop", ()),
                )
            reply = {
                "model": asked["model"],
                "choices": [
                    {
                        "message": {"role": "assistant", "content": done.text},
                        "finish_reason": done.finish_reason,
                    }
                ],
                "usage": {
                    "prompt_tokens": done.prompt_tokens,
                    "completion_tokens": len(done.token_ids),
                },
            }
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Stay quiet."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}/v1"
    running.shutdown()
    running.server_close()
    thread.join()


def test_a_served_student_says_the_same(
    student: Student, server: str, payloads: list[dict[str, Any]], tmp_path: Path
) -> None:
    native = EvaluationConfig(max_new_tokens=NEW_TOKENS)
    served = EvaluationConfig(
        max_new_tokens=NEW_TOKENS,
        engine="server",
        server=ServerConfig(api_base=server, model="student"),
    )
    teacher = TeacherConfig(backend="http", model="student", label="s", api_base=server)
    writer = ServedWriter(asking(teacher, tmp_path), served)
    expected = answers(student, native)
    assert answers(writer, served) == expected
    assert {p.finish_reason for p in expected} == {"length"}, "cut answers are kept as they are"
    for asked in payloads:  # a server would think, and sample as the generation config says
        assert asked["chat_template_kwargs"] == {
            "enable_thinking": False,
            **{"date_string": writer.facts()["sent_date_string"]},
        }
        assert (asked["top_k"], asked["top_p"], asked["repetition_penalty"]) == (-1, 1.0, 1.0)
        assert "stop" not in asked


def test_a_served_student_gets_the_settings_of_its_decoding(
    student: Student, server: str, payloads: list[dict[str, Any]], tmp_path: Path
) -> None:
    served = EvaluationConfig(
        max_new_tokens=4, max_plan_tokens=4, temperature=0.7, top_k=20, top_p=0.9, stop=["</o>"],
        plan_stop=["</plan>"], engine="server",
        server=ServerConfig(api_base=server, model="student"),
    )  # fmt: skip
    teacher = TeacherConfig(backend="http", model="student", label="s", api_base=server)
    answers(ServedWriter(asking(teacher, tmp_path), served), served, "m2")
    plans = [asked for asked in payloads if asked["stop"] == ["</plan>"]]
    assert len(plans) == len(PROBLEMS)
    assert [asked["stop"] for asked in payloads if asked not in plans] == [["</o>"]] * len(plans)
    for asked in payloads:
        assert (asked["top_k"], asked["top_p"], asked["temperature"]) == (20, 0.9, 0.7)
        assert asked["include_stop_str_in_output"] is True


def test_a_teacher_is_sent_nothing_that_only_servers_know(
    server: str, payloads: list[dict[str, Any]], tmp_path: Path
) -> None:
    evaluation = EvaluationConfig(max_new_tokens=4, stop=["x"])
    teacher = TeacherConfig(backend="http", model="large", api_base=server)
    answers(TeacherWriter(asking(teacher, tmp_path), evaluation), evaluation)
    known = {"model", "messages", "temperature", "max_tokens", "top_p", "seed"}
    assert payloads
    assert all(set(asked) <= known for asked in payloads)


def test_stop_strings_end_answers_and_plans_apart(student: Student) -> None:
    plain = answers(student, EvaluationConfig(max_new_tokens=NEW_TOKENS))
    stop = plain[0].text[2:4]
    cut = answers(student, EvaluationConfig(max_new_tokens=NEW_TOKENS, stop=[stop]))
    assert cut[0].finish_reason == "stop_string"
    assert stop in cut[0].text
    assert len(cut[0].text) < len(plain[0].text)
    other = answers(student, EvaluationConfig(max_new_tokens=NEW_TOKENS, plan_stop=[stop]))
    assert other == plain
    sizes = {"max_new_tokens": NEW_TOKENS, "max_plan_tokens": NEW_TOKENS}
    planned = answers(student, EvaluationConfig(**sizes), "m2")
    letters = list("abcdefghijklmnopqrstuvwxyz \n")  # any of them comes soon
    stopped = answers(student, EvaluationConfig(**sizes, plan_stop=letters), "m2")
    for one, two in zip(stopped, planned, strict=True):
        assert one.completion_tokens < two.completion_tokens
        assert one.finish_reason == "length", "the answer itself goes on"


def test_an_answer_that_never_came_is_no_wrong_answer() -> None:
    lost = Reply(text="", status="failed")

    def ask_all(requests: Any) -> list[Reply]:
        return [lost if r.problem_id == "p1" else Reply(text="4") for r in requests]

    with pytest.raises(SolveError, match="1 of 5 calls failed"):
        answers(ServedWriter(ask_all, EvaluationConfig()), EvaluationConfig())
    with pytest.raises(SolveError, match="got 0 replies"):
        answers(ServedWriter(lambda requests: [], EvaluationConfig()), EvaluationConfig())


def test_a_teacher_executes_plans_and_solves_without_them(tmp_path: Path) -> None:
    problems = load_microworld(MicroworldConfig(), "test", limit=12)
    teacher = TeacherConfig()
    teacher.scripted.slip_rate = teacher.scripted.misread_rate = 0.0
    teacher.scripted.repair_rate = 0.0
    ask_all = asking(teacher, tmp_path, resamples=True)
    seen: list[Request] = []

    def watched(requests: Any) -> list[Reply]:
        seen.extend(requests)
        return ask_all(requests)

    evaluation = EvaluationConfig(plan="true", max_new_tokens=200)
    writer = TeacherWriter(watched, evaluation)
    common: dict[str, Any] = {
        "prompt": "matched", "evaluation": evaluation, "benchmark": "microworld",
    }  # fmt: skip
    plans = {problem.id: problem.true_plan for problem in problems}
    with Grader() as grader:
        true = solve(writer, problems, method="m2", grader=grader, plans=plans, **common)
        none = solve(
            writer, problems, method="m2", grader=grader, plans=dict.fromkeys(plans, ""), **common
        )
        alone = solve(writer, problems, method="zero_shot", grader=grader, **common)
    assert all(p.is_correct for p in true), "true plans, carried out without a mistake"
    assert [(p.plan, p.completion_tokens > 0) for p in true] == [
        (plans[p.problem_id], True) for p in true
    ]
    assert [p.text for p in none] == [p.text for p in alone]
    assert {request.role for request in seen} == {"execute", "solve"}


def test_a_student_may_get_another_problems_plan(student: Student) -> None:
    own = EvaluationConfig(max_new_tokens=4, max_plan_tokens=6, temperature=1.0, num_samples=2)
    other = EvaluationConfig(**{**vars(own), "plan": "other"})
    mine, theirs = (answers(LocalWriter(student, e), e, "m2") for e in (own, other))
    assert sorted(p.plan for p in mine) == sorted(p.plan for p in theirs)
    written = {(p.problem_id, p.sample): p.plan for p in mine}
    taken = {(p.problem_id, p.sample): p.plan for p in theirs}
    assert any(written[key] != taken[key] for key in written)
