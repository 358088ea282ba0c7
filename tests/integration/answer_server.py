"""A server on loopback that answers every request as a test says, byte for byte."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any, dict[str, str]]  # status, body, headers


class Server:
    """Answers every POST by one function of its path and its payload; a GET by 404."""

    def __init__(self, answer: Callable[[str, Any], Answer]) -> None:
        self.asked: list[tuple[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                payload = json.loads(self.rfile.read(length) or b"{}")
                outer.asked.append((self.path, payload))
                self._send(*answer(self.path, payload))

            def do_GET(self) -> None:
                self._send(404, b"404 page not found", {})

            def _send(self, status: int, body: Any, headers: dict[str, str]) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Server:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def said(content: Any, finish_reason: str = "stop", **message: Any) -> Answer:
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "teacher",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content, **message},
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }
    return 200, body, {}


@contextmanager
def answering(*answer: Any) -> Iterator[Server]:
    with Server(lambda path, payload: answer) as server:  # type: ignore[arg-type,return-value]
        yield server
