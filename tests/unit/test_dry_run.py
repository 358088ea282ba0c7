"""A dry run: what it reads and asks, what it finds, and that it leaves nothing behind."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from composition import config_of

from plan_tuning.config.checks import Finding
from plan_tuning.job.dry_run import check_data, findings, print_findings, print_job
from plan_tuning.job.graph import job_graph
from plan_tuning.job.inputs import count_problems
from plan_tuning.tasks.benchmarks import DataError
from plan_tuning.teachers.health import check_server

ROWS = [
    {"problem": "What is 1 + 1?", "answer": "2", "solution": "1 + 1 = 2"},
    {"problem": "What is 1 + 2?", "answer": "3", "solution": ""},
]
TEACHER = ("teacher=openai_compatible", "teacher.model=large")


class Handler(BaseHTTPRequestHandler):
    """A server that lists its models at /v1/models, to whom the key lets in."""

    asked: list[str]  # paths, shared by the requests of one server
    key: str | None = None

    def do_GET(self) -> None:
        self.asked.append(self.path)
        is_known = self.key is None or self.headers["Authorization"] == f"Bearer {self.key}"
        status = 404 if self.path != "/v1/models" else 200 if is_known else 401
        body = json.dumps({"data": [{"id": "large"}]}).encode() if status == 200 else b"no"
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@pytest.fixture
def handler() -> type[Handler]:
    return type("OneHandler", (Handler,), {"asked": []})


@pytest.fixture
def server(handler: type[Handler]) -> Iterator[str]:
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_address[1]}"
    listening.shutdown()
    listening.server_close()
    thread.join()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for split, rows in (("train", ROWS), ("test", ROWS[:1])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def found(folder: Path, *words: str) -> list[Finding]:
    config = config_of(
        "data=jsonl", "data.name=mine", f"data.path={folder}", "model=tiny_qwen3",
        f"paths.outputs={folder / 'out'}", *words,
    )  # fmt: skip
    return findings([(config, job_graph(config))])


def texts(listed: list[Finding], kind: str) -> list[str]:
    return [finding.text for finding in listed if finding.kind == kind]


def test_data_that_are_there_are_read_and_counted(data: Path) -> None:
    listed = found(data, "method=sft", "data.limit=1")
    assert not texts(listed, "error")
    assert f"{data}/train.jsonl: 2 train problems of mine, 1 of them used" in texts(listed, "ok")
    assert f"{data}/test.jsonl: 1 test problems of mine" in texts(listed, "ok")
    (note,) = texts(listed, "note")
    assert "1 of 2 problems have no solution; method=sft needs a `solution`" in note


def test_a_bad_row_is_named_by_file_number_and_key(data: Path) -> None:
    (data / "test.jsonl").write_text('{"problem": "p", "gold": 1}\n', encoding="utf-8")
    (error,) = texts(found(data, "method=zero_shot"), "error")
    assert f"{data}/test.jsonl, row 1, field 'answer': is absent" in error


def test_a_job_reads_its_test_files_before_it_computes(data: Path) -> None:
    (data / "test.jsonl").write_text('{"problem": "p", "gold": 1}\n', encoding="utf-8")
    config = config_of(
        "data=jsonl", "data.name=mine", f"data.path={data}", "model=tiny_qwen3", "method=sft"
    )
    with pytest.raises(DataError, match="row 1, field 'answer': is absent"):
        check_data(config, job_graph(config))


def test_no_rationale_at_all_is_an_error_only_where_it_is_learned(data: Path) -> None:
    (data / "train.jsonl").write_text(json.dumps(ROWS[1]) + "\n", encoding="utf-8")
    (error,) = texts(found(data, "method=sft"), "error")
    assert "1 of 1 problems have no solution" in error
    assert not texts(found(data, "method=zero_shot"), "error")


def test_the_server_is_asked_once_and_only_where_it_is_needed(
    data: Path, server: str, handler: type[Handler]
) -> None:
    address = f"teacher.api_base={server}/v1"
    listed = found(data, "method=m1", *TEACHER, address)
    assert f"{address} answers and serves large" in texts(listed, "ok")
    assert handler.asked == ["/v1/models"]
    found(data, "method=sft", *TEACHER, address)
    assert handler.asked == ["/v1/models"]


def test_what_a_server_says_instead(server: str, handler: type[Handler]) -> None:
    def ask(address: str, model: str = "large", secret: str | None = None) -> Finding:
        return check_server("teacher.api_base", address, model, secret)

    assert ask(f"{server}/v1", "small") == Finding(
        "note", f"teacher.api_base={server}/v1 answers and lists large, not small"
    )
    assert "It may lack /v1" in ask(server).text
    handler.key = "open"
    assert ask(f"{server}/v1", secret="open").kind == "ok"
    refused = ask(f"{server}/v1", secret="shut")
    assert refused.kind == "error"
    assert "refuses the key" in refused.text
    assert "shut" not in refused.text


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:8000/v1", "begins with neither http:// nor https://"),
        ("http:///v1", "names no host"),
        ("http://127.0.0.1:port/v1", "is no address"),
        ("http://127.0.0.1:9/v1", "nobody answers there"),
    ],
)
def test_an_address_that_cannot_work(address: str, words: str) -> None:
    finding = check_server("teacher.api_base", address, "large", None)
    assert finding.kind == "error"
    assert finding.text.startswith(f"teacher.api_base={address}")
    assert words in finding.text


def test_a_missing_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = check_server("teacher.api_base", "http://127.0.0.1/v1", "large", None, timeout_s=2)
    assert "names no port, as http://127.0.0.1:8000/v1 does" in finding.text


def test_a_missing_key_and_an_unconfirmed_price(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    paid = ("method=m1", "teacher=gemini_2_5_flash")
    key, price = texts(found(data, *paid), "error")
    assert "export GEMINI_API_KEY=" in key
    assert "teacher.budget_usd" in price
    monkeypatch.setenv("GEMINI_API_KEY", "secret-of-nobody")
    listed = found(data, *paid, "teacher.budget_usd=1")
    assert not texts(listed, "error")
    assert "secret-of-nobody" not in " ".join(map(str, listed))


def test_too_little_space_is_an_error(data: Path) -> None:
    large = ("model=path", "model.path=somebody/Large-9000B", "method=sft")
    (error,) = texts(found(data, *large), "error")
    assert "TB to write below" in error
    assert "paths.outputs=DIR" in error


def test_a_model_of_a_folder_that_is_not_there(data: Path) -> None:
    (error,) = texts(found(data, "model=path", "model.path=./absent", "method=zero_shot"), "error")
    assert error == "model.path=./absent: there is no such folder"


def test_the_exit_code_and_one_line_a_finding(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(
        "data=jsonl", "data.name=mine", f"data.path={data}", "model=tiny_qwen3", "method=m1",
        *TEACHER, "teacher.api_base=http://127.0.0.1:9/v1", f"paths.outputs={data / 'out'}",
    )  # fmt: skip
    before = sorted(data.rglob("*"))
    assert print_findings([(config, job_graph(config))] * 2) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["ok", "ok", "error", "ok"]
    assert print_job(config, job_graph(config)) == 2
    assert sorted(data.rglob("*")) == before


def test_a_set_of_the_hub_is_counted_without_being_fetched() -> None:
    config = config_of("data=strategyqa", "model=tiny_qwen3", "method=sft")
    found = findings([(config, job_graph(config))])
    assert [str(one) for one in found if one.kind == "error"] == []
    assert count_problems(config.data) == 1603
