"""A server on loopback that speaks vLLM's protocol over a real model, and fails as a test says.

In a test: ``with Double(folder) as double: … double.fault = Fault("slow", seconds=1)``. As a
command it stands in for ``vllm`` itself::

    python tests/protocol_double.py serve FOLDER --port 8000 --enable-lora …

with the flags of ``vllm serve`` and its environment variable for run-time adapters; a fault comes
by DOUBLE_FAULT=NAME[:AFTER[:SECONDS]]. What it answers is what the weights say: tokens are drawn
from them, log-probabilities are theirs at the sampling temperature (as with
``--logprobs-mode processed_logprobs``; without that flag those of temperature 1), and adapters are
loaded by peft.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

if __package__:
    from .served_model import RefusedError, Served, flags_of
else:  # run as a command
    from served_model import RefusedError, Served, flags_of

RUNTIME_LORA = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
FAULT = "DOUBLE_FAULT"
FAULTS = (
    "slow",  # waits before every completion
    "dies",  # the connection breaks and nobody listens any more; a command exits
    "starts_not",  # a command says why and exits before it listens
    "wrong_model",  # other weights under the right name
    "wrong_log_probs",  # tokens are right, log-probabilities are not
    "stale_adapter",  # says that it loaded an adapter and answers with the one before it
    "status",  # answers 500, so many times
    "half_body",  # breaks off in the middle of an answer, so many times
    "wrong_ids",  # says that another prompt was read
    "no_log_probs",  # an answer with tokens and no figures of them
)


@dataclass
class Fault:
    """What goes wrong, after how many completion requests, for how long or how often."""

    name: str
    after: int = 0
    seconds: float = 0.0
    times: int = 1

    def __post_init__(self) -> None:
        assert self.name in FAULTS, self.name

    @staticmethod
    def read(text: str) -> Fault:
        name, after, seconds = [*text.split(":"), "0", "0"][:3]
        return Fault(name, int(after or 0), float(seconds or 0))


class Double:
    """The server; ``fault`` may be set at any time, ``asked`` is what came (path, payload)."""

    def __init__(self, folder: Path | str, *flags: str, port: int = 0, lora: bool = True) -> None:
        self.options = flags_of(["serve", str(folder), *flags])
        self.served = Served(self.options)
        self.has_runtime_lora = lora
        self.fault: Fault | None = None
        self.asked: list[tuple[str, Any]] = []
        self.is_command = False
        self._counted = 0
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                if not self._may_in():
                    return
                if self.path == "/health":
                    self._send(200, b"")
                elif self.path == "/version":
                    self._send(200, {"version": "0.0.double"})
                elif self.path == "/v1/models":
                    self._send(200, {"object": "list", "data": double.served.cards()})
                else:
                    self._send(404, {"detail": "Not Found"})

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                asked = json.loads(self.rfile.read(length) or b"{}")
                if not self._may_in():
                    return
                double.asked.append((self.path, asked))
                try:
                    answer = double.answer(self.path, asked)
                except RefusedError as refused:
                    said = {"message": str(refused), "type": "Error", "code": refused.status}
                    self._send(refused.status, {"error": said})
                    return
                except ConnectionAbortedError:
                    self.close_connection = True
                    return
                self._send(200, answer, is_half=double.is_cut(self.path))

            def _may_in(self) -> bool:
                if not double.is_alive:  # a connection that was open when it died
                    self.close_connection = True
                    return False
                key = double.options.api_key
                if not key or self.headers.get("Authorization") == f"Bearer {key[0]}":
                    return True
                self._send(401, {"error": "Unauthorized"})
                return False

            def _send(self, status: int, body: Any, *, is_half: bool = False) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if is_half else data)
                if is_half:
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                pass  # a client that has gone

        self.server = Server((self.options.host, port or self.options.port or 0), Handler)
        self.port = self.server.server_address[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.api_base = f"{self.root}/v1"
        self.is_alive = True

    def __enter__(self) -> Double:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self.is_alive:
            self.is_alive = False
            self.server.shutdown()
            self.server.server_close()

    def completions(self) -> list[dict[str, Any]]:
        return [asked for path, asked in self.asked if path == "/v1/completions"]

    def _strikes(self, name: str) -> bool:
        return self.fault is not None and self.fault.name == name and (
            self._counted > self.fault.after
        )  # fmt: skip

    def is_cut(self, path: str) -> bool:
        return path == "/v1/completions" and self._used("half_body")

    def _used(self, name: str) -> bool:
        """Whether a fault that happens so many times happens now."""
        if not self._strikes(name) or self.fault is None or self.fault.times < 1:
            return False
        self.fault.times -= 1
        return True

    def answer(self, path: str, asked: Any) -> Any:
        if path == "/v1/completions":
            self._counted += 1
            return self._completions(asked)
        if path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter") and self.has_runtime_lora:
            name = asked["lora_name"]
            if path == "/v1/unload_lora_adapter":
                self.served.unload(name)
                return f"Success: LoRA adapter '{name}' removed successfully.".encode()
            stale = self.fault is not None and self.fault.name == "stale_adapter"
            self.served.load(name, asked["lora_path"], is_stale=stale)
            return f"Success: LoRA adapter '{name}' added successfully.".encode()
        raise RefusedError(404, "Not Found")

    def _completions(self, asked: Any) -> Any:
        if self._strikes("dies"):
            if self.is_command:
                os._exit(1)
            threading.Thread(target=self.stop, daemon=True).start()
            raise ConnectionAbortedError
        if self._strikes("slow") and self.fault is not None:
            time.sleep(self.fault.seconds)
        if self._used("status"):
            raise RefusedError(500, "EngineCore encountered an issue.")
        if self._strikes("wrong_model") and self.fault is not None and self.fault.times:
            self.fault.times = 0
            self.served.wander()
        answer = self.served.complete(asked)
        if self._strikes("wrong_log_probs"):
            for choice in answer["choices"]:
                told = choice["logprobs"]
                told["token_logprobs"] = [value - 1.0 for value in told["token_logprobs"]]
                told["top_logprobs"] = [
                    {name: value - 1.0 for name, value in top.items()}
                    for top in told["top_logprobs"]
                ]
        if self._strikes("no_log_probs"):
            for choice in answer["choices"]:
                told = choice["logprobs"]
                told["token_logprobs"] = [None] * len(told["token_logprobs"])
                told["top_logprobs"] = [{} for _ in told["top_logprobs"]]
        if self._strikes("wrong_ids"):
            for choice in answer["choices"]:
                choice["prompt_token_ids"] = choice["prompt_token_ids"][1:]
        return answer


def main() -> None:
    fault = Fault.read(os.environ[FAULT]) if os.environ.get(FAULT) else None
    flags_of(sys.argv[1:])  # before anything heavy is loaded
    if fault is not None and fault.name == "starts_not":
        sys.stderr.write("INFO double: starting\n")
        raise SystemExit("ValueError: No available memory for the cache blocks.")
    folder, flags = sys.argv[2], sys.argv[3:]
    double = Double(folder, *flags, lora=os.environ.get(RUNTIME_LORA, "").lower() in ("1", "true"))
    double.fault, double.is_command = fault, True
    sys.stderr.write(f"INFO double: serving {folder} on port {double.port}\n")
    double.server.serve_forever(0.1)


if __name__ == "__main__":
    main()
