"""The life of a job's own server: started, awaited, ended, and what is said where it is not."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.evaluation import VLLMConfig
from plan_tuning.students.generation import vllm_server
from plan_tuning.students.generation.protocol import EngineError
from plan_tuning.students.generation.vllm_server import Serving, VLLMServer, lora_options

pytestmark = pytest.mark.integration

# A program that takes the words of `vllm serve` and answers at its pages, behind its key.
PROGRAM = r"""
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
words = sys.argv[1:]
value = lambda name: words[words.index(name) + 1]
mood = os.environ.get("MOOD", "")
mark = "(APIServer pid=7) INFO 11-26 05:00:00 [api.py:1] "
print(mark + "\x1b[32mloading %s\x1b[0m" % words[1], flush=True)
if mood == "short of memory":
    print("(Engine pid=8) ERROR 11-26 05:00:00 [core.py:9] ValueError: No available memory for the "
          "cache blocks.\nRuntimeError: Engine core initialization failed. See root cause above.\n")
    sys.exit(3)
if mood == "sleeps":
    time.sleep(60)
class Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        name = {"stranger": "somebody"}.get(mood, value("--served-model-name"))
        said = {"/health": None, "/v1/models": {"data": [{"id": name}]},
                "/version": {"version": "1"}}
        is_known = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        self.send_response(200 if self.path == "/health" or is_known else 401)
        self.end_headers()
        self.wfile.write(b"" if said[self.path] is None else json.dumps(said[self.path]).encode())
    def log_message(self, *told): pass
HTTPServer((value("--host"), int(value("--port"))), Pages).serve_forever()
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "_LOOKS_EVERY_S", 0.02)


def server(folder: Path, mood: str = "", **settings: object) -> VLLMServer:
    program = folder / "vllm.py"
    program.write_text(PROGRAM, encoding="utf-8")
    command = (sys.executable, "-S", "-I", str(program))
    serving = Serving("weights", command, environment={"MOOD": mood}, **settings)  # type: ignore[arg-type]
    return VLLMServer(serving, folder / "job" / "vllm.log")


def test_a_server_answers_to_its_job_alone_and_ends_with_it(tmp_path: Path) -> None:
    started = server(tmp_path, options={"max_model_len": 9, "enforce-eager": True})
    with started as running:
        assert running.is_alive
        assert running.version == "1"
        assert started.api_key not in started.log.read_text()
        first = started.log.read_text().splitlines()[0]
        assert first.endswith("--max-model-len 9 --enforce-eager")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{started.api_base}/models", timeout=5)
        (guard,) = [c for c in psutil.Process().children() if "guardian" in " ".join(c.cmdline())]
        processes = [guard, *guard.children()]
    assert not any(one.is_running() for one in processes)
    assert not started.is_alive
    with started:  # again
        assert started.is_alive


def test_why_a_server_does_not_start_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as raised, server(tmp_path, "short of memory"):
        pass
    said = str(raised.value)
    assert "exit code 3" in said
    assert "ValueError: No available memory for the cache blocks." in said
    assert "gpu_memory_utilization" in said
    assert str(tmp_path / "job" / "vllm.log") in said
    assert "\n" not in said
    absent = VLLMServer(Serving("weights", ("/no/vllm",)), tmp_path / "vllm.log")
    with (
        pytest.raises(EngineError, match=r"evaluation\.vllm\.command=/no/vllm: there is no"),
        absent,
    ):
        pass


def test_one_that_is_slow_is_spoken_of_and_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(vllm_server, "_SPEAKS_EVERY_S", 0.2)
    slow = server(tmp_path, "sleeps", start_timeout_s=0.6)
    with (
        pytest.raises(EngineError, match=r"not ready .*start_timeout_s=0\.6: loading weights"),
        slow,
    ):
        pass
    assert "vLLM is starting (0 s): loading weights" in caplog.text
    assert not slow.is_alive


def test_another_port_is_taken_where_somebody_was_quicker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with socket.socket() as quicker:
        quicker.bind(("127.0.0.1", 0))
        quicker.listen()
        free = vllm_server._free_port
        ports = iter([quicker.getsockname()[1], quicker.getsockname()[1]])
        monkeypatch.setattr(vllm_server, "_free_port", lambda: next(ports, None) or free())
        monkeypatch.setattr(vllm_server, "_ANSWERS_S", 0.1)
        with server(tmp_path) as running:
            assert running.is_alive
    assert caplog.text.count("was taken meanwhile") == 2


def test_a_stranger_on_the_port_is_not_asked(tmp_path: Path) -> None:
    strange = server(tmp_path, "stranger", start_timeout_s=0.6)
    with pytest.raises(EngineError, match="not ready"), strange:
        pass


JOB = r"""
import sys, time
from pathlib import Path
from plan_tuning.students.generation.vllm_server import Serving, VLLMServer
with VLLMServer(Serving("weights", tuple(sys.argv[2:])), Path(sys.argv[1])):
    print("it answers", flush=True)
    time.sleep(60)
"""


def test_nothing_of_a_server_outlives_a_job_that_is_killed(tmp_path: Path) -> None:
    command = server(tmp_path).serving.command
    words = [sys.executable, "-c", JOB, str(tmp_path / "vllm.log"), *command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "it answers\n"
        started = psutil.Process(job.pid).children(recursive=True)
        assert len(started) == 2, "a guardian and the server"
        job.kill()
    _, left = psutil.wait_procs(started, timeout=15)
    assert not left


def test_options_are_words() -> None:
    options = {"max_num_seqs": 8, "enable-lora": True, "x": None, "y": False, "z": {"a": 1}}
    assert list(Serving("w", options=options).words()) == [
        "--max-num-seqs", "8", "--enable-lora", "--z", json.dumps({"a": 1}),
    ]  # fmt: skip
    assert lora_options(9)["max-lora-rank"] == 16
    with pytest.raises(EngineError, match="rank 512 at the most"):
        lora_options(513)


def test_a_command_is_words_and_options_are_hashed_where_they_are_content() -> None:
    config = VLLMConfig("srun --overlap '/my env/vllm'", {"max_num_seqs": 4, "quantization": "fp8"})
    assert config.command == ["srun", "--overlap", "/my env/vllm"]
    assert config.spec() == {"quantization": "fp8"}
    assert VLLMConfig().spec() == {}
    for wrong in ({"command": ""}, {"options": ["x"]}, {"options": {"served_model_name": "x"}}):
        with pytest.raises(ConfigError, match=r"evaluation\.vllm\."):
            VLLMConfig(**wrong)  # type: ignore[arg-type]
