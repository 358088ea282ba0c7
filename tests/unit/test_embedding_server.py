"""Texts to vectors over real HTTP: batches, order, retries, and whose fault an answer is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from plan_tuning.teachers.embedding_server import EmbeddingServer
from plan_tuning.teachers.errors import FatalTeacherError, TeacherError


class Server(HTTPServer):
    """Answers with the length of each text, in reverse order; first with what is in ``faults``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.faults: list[tuple[int, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, **body})
        self.server.keys.append(self.headers["Authorization"])
        rows = [
            {"index": place, "embedding": [float(len(text)), 1.0]}
            for place, text in enumerate(body["input"])
        ]
        status, text = 200, json.dumps({"data": rows[::-1]})
        if self.server.faults:
            status, text = self.server.faults.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_vectors_come_in_the_order_of_the_texts_and_are_asked_for_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret-key")
    embed = EmbeddingServer(f"{server.address}/", "mpnet", "MY_KEY")
    assert embed(["aa", "b", "aa"])[:, 0].tolist() == [2.0, 1.0, 2.0]
    assert embed(["b", "ccc"])[:, 0].tolist() == [1.0, 3.0]
    assert server.asked == [
        {"path": "/v1/embeddings", "model": "mpnet", "input": ["aa", "b"]},
        {"path": "/v1/embeddings", "model": "mpnet", "input": ["ccc"]},
    ]
    assert server.keys == ["Bearer secret-key"] * 2
    many = [f"{number:04}" for number in range(300)]
    assert embed(many).shape == (300, 2)
    assert [len(one["input"]) for one in server.asked[2:]] == [256, 44]


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = EmbeddingServer(server.address, "mpnet", wait_s=0.0)
    server.faults = [(503, "busy"), (429, "slower")]
    assert embed(["a"]).tolist() == [[1.0, 1.0]]
    assert len(server.asked) == 3
    server.faults = [(404, "no such model")]
    with pytest.raises(FatalTeacherError, match=r"refuses texts for model mpnet \(HTTP 404"):
        embed(["b"])
    assert len(server.asked) == 4
    server.faults = [(500, "")] * 5
    with pytest.raises(TeacherError, match="no embeddings in 5 tries"):
        embed(["b"])
    server.faults = [(200, '{"choices": []}')]
    with pytest.raises(TeacherError, match="answers with no embeddings"):
        embed(["b"])
    server.faults = [(200, '{"data": []}')]
    with pytest.raises(TeacherError, match="0 embeddings of 1 texts"):
        embed(["b"])
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(FatalTeacherError, match="MY_KEY"):
        EmbeddingServer(server.address, "mpnet", "MY_KEY")
