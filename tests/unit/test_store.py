"""The store of paid calls: what addresses a reply, and what a fault leaves."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.records import Reply, Request
from plan_tuning.teachers.errors import TeacherError
from plan_tuning.teachers.failures import Transient
from plan_tuning.teachers.store import (
    FILE_NAME,
    CallStore,
    Receipt,
    call_fingerprint,
    teacher_fingerprint,
)

REQUEST = Request(
    role="plan",
    messages=({"role": "user", "content": "Plan \u202e\u0000 this."},),
    temperature=0.7,
    max_tokens=100,
    problem_id="p1",
)
RECEIPT = Receipt(
    latency_s=0.1,
    attempts=1,
    price_source="configured",
    is_usage_estimated=False,
    requested_model="m",
)
TEACHER = "teacher"


def bought(text: str = "a plan", cost: float | None = 0.25) -> Reply:
    return Reply(text, prompt_tokens=3, completion_tokens=4, cost_usd=cost, served_model="m-1")


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": ({"role": "user", "content": "Another."},)},
        {"messages": ({"role": "system", "content": REQUEST.messages[0]["content"]},)},
        {"temperature": 0.0},
        {"max_tokens": 200},
        {"top_p": 0.9},
        {"sample_index": 1},
        {"seed": 1},
        {"attempt_salt": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_changes_the_address(changes: dict[str, Any]) -> None:
    assert call_fingerprint(TEACHER, dataclasses.replace(REQUEST, **changes)) != call_fingerprint(
        TEACHER, REQUEST
    )


def test_what_does_not_change_the_address() -> None:
    same = dataclasses.replace(REQUEST, role="judge", problem_id="p2", temperature=0.70)
    assert call_fingerprint(TEACHER, same) == call_fingerprint(TEACHER, REQUEST)
    whole = dataclasses.replace(REQUEST, temperature=1)
    assert call_fingerprint(TEACHER, whole) == call_fingerprint(
        TEACHER, dataclasses.replace(REQUEST, temperature=1.0)
    )


def test_a_teachers_spec_is_its_kind_model_and_label() -> None:
    def digest(**values: Any) -> str:
        config = TeacherConfig(backend="http", model="m", api_base="http://127.0.0.1:1/v1")
        return teacher_fingerprint(dataclasses.replace(config, **values).spec())

    assert digest() == digest(api_base="http://127.0.0.1:2/v1", concurrency=3, api_key_env="KEY")
    assert digest() == digest(backend="litellm") == digest(backend="replay")
    assert digest() != digest(model="n")
    assert digest() != digest(label="other weights")


@pytest.mark.parametrize(
    "key",
    [
        "sk-abcdefgh",
        "abcdef0123456789abcdef0123456789",
        "gsk_abcdefghijkl",
        "AIzaSyAbcdefghijkl",
        "AKIAIOSFODNN7EXAMPLE",
        "0123456789ABCDEF0123456789ABCDEF",
        "F123456789ABCDEF0123456789ABCDEF",
        "openai_api_key",
        "MY KEY",
        "",
    ],
)
def test_a_key_in_place_of_its_variables_name_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError, match="NAME of an environment variable") as caught:
        TeacherConfig(api_key_env=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "K", "OPENAI_COMPATIBLE_API_KEY_2", None])
def test_a_variables_name_passes(name: str | None) -> None:
    assert TeacherConfig(api_key_env=name).api_key_env == name


@pytest.mark.parametrize(
    "address",
    [
        "http://user:pass-word@host/v1",
        "https://pass-word@host:8000/v1",
        "HTTPS://user:pass-word@host",
        "user:pass-word@host/v1",
        "//user:pass-word@host/v1",
        "https://host/v1?key=pass-word",
        "https://host/v1?a=b&api_key=pass-word",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.api_base=\(hidden\)") as caught:
        TeacherConfig(backend="http", model="m", api_base=address)
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8000/v1",
        "https://host/v1/models/m@001",
        "https://host/v1?api-version=2024-10-21",
    ],
)
def test_an_address_without_a_secret_passes(address: str) -> None:
    assert TeacherConfig(backend="http", model="m", api_base=address).api_base == address


def test_addresses_do_not_change_between_versions() -> None:
    assert call_fingerprint(TEACHER, REQUEST) == "848bf24888beac4739c95c2762b85f9ece58b89c"


def test_a_reply_comes_back_as_it_was(tmp_path: Path) -> None:
    key = call_fingerprint(TEACHER, REQUEST)
    text = "garbage \u202e \u0000 é \ud7ff \u2028"
    with CallStore(tmp_path) as store:
        assert store.get(key) is None
        store.add(key, TEACHER, REQUEST, bought(text), RECEIPT)
    with CallStore(tmp_path) as store:
        found = store.get(key)
        assert found == dataclasses.replace(bought(text), is_cached=True, key=key)
        (call,) = store.calls("p1")
    assert call["request"]["messages"] == [dict(REQUEST.messages[0])]
    assert call["requested_model"] == "m"
    assert call["price_source"] == "configured"


def test_the_first_reply_under_an_address_stands(tmp_path: Path) -> None:
    key = call_fingerprint(TEACHER, REQUEST)
    with CallStore(tmp_path) as store:
        store.add(key, TEACHER, REQUEST, bought("first"), RECEIPT)
        store.add(key, TEACHER, REQUEST, bought("second"), RECEIPT)
        found = store.get(key)
        assert found is not None
        assert found.text == "first"
        assert store.spent_usd(TEACHER) == 0.25


def test_a_paid_reply_is_committed_as_it_arrives(tmp_path: Path) -> None:
    with CallStore(tmp_path) as store, CallStore(tmp_path) as other:
        store.add("k", TEACHER, REQUEST, bought(), RECEIPT)
        assert other.get("k") is not None
        assert other.spent_usd(TEACHER) == 0.25


def test_a_batch_is_readable_at_once_and_kept_at_the_end(tmp_path: Path) -> None:
    with CallStore(tmp_path, is_batched=True) as store:
        for index in range(10):
            store.add(f"k{index}", TEACHER, REQUEST, bought(str(index), cost=0.0), RECEIPT)
        assert [store.get(f"k{index}").text for index in range(10)] == list("0123456789")
    with CallStore(tmp_path) as store:
        assert store.summary()["calls"] == {"plan": {"ok": 10}}


def test_failed_tries_and_means_are_reported(tmp_path: Path) -> None:
    with CallStore(tmp_path) as store:
        failure = Transient("timeout", "no answer; key sk-abcdefgh1234")
        store.add_attempt("k", TEACHER, REQUEST, failure, 1.0)
        store.add("k", TEACHER, REQUEST, bought(), RECEIPT)
        assert store.summary() == {
            "calls": {"plan": {"ok": 1}},
            "failed_attempts": {"timeout": 1},
            "usd": 0.25,
            "unpriced": 0,
        }
        assert store.mean_tokens(TEACHER) == {"plan": (3.0, 4.0, 0.1)}
    assert b"sk-abcdefgh1234" not in (tmp_path / FILE_NAME).read_bytes()


def test_a_newer_or_foreign_file_is_refused(tmp_path: Path) -> None:
    with CallStore(tmp_path):
        pass
    database = sqlite3.connect(tmp_path / FILE_NAME)
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(TeacherError, match="schema 99"):
        CallStore(tmp_path)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / FILE_NAME).write_text("this is no database, but a longer text " * 50)
    with pytest.raises(TeacherError, match="no usable store"):
        CallStore(foreign)


def _write(folder: Path, name: str) -> None:
    with CallStore(folder) as store:
        for index in range(100):
            key = f"shared-{index}" if index % 2 else f"{name}-{index}"
            store.add(key, TEACHER, REQUEST, bought(cost=1.0), RECEIPT)


def test_processes_share_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write, args=(tmp_path, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with CallStore(tmp_path) as store:
        assert store.summary()["calls"] == {"plan": {"ok": 200}}
        assert store.spent_usd(TEACHER) == 200.0


def _claims(folder: Path) -> dict[str, float]:
    database = sqlite3.connect(folder / FILE_NAME)
    claims = dict(database.execute("SELECT key, until FROM leases"))
    database.close()
    return claims


def test_a_living_process_of_this_machine_keeps_its_claim(tmp_path: Path) -> None:
    with CallStore(tmp_path) as store, CallStore(tmp_path) as other:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        machine = socket.gethostname()
        started = f"{machine} {psutil.Process(process.pid).create_time():.2f}"
        other.leases._owner = (started, process.pid)
        assert other.leases.claim("k", -1.0), "a claim that has lapsed already"
        assert not store.leases.claim("k", 60.0), "its owner lives"
        process.kill()
        assert _until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert store.leases.claim("k", 60.0), "its owner is dead, though nobody looked yet"
        process.communicate()


@pytest.mark.parametrize(
    ("owner", "seconds", "is_given_up"),
    [
        (("another-machine 1.0", 1), 60.0, False),
        (("another-machine 1.0", 1), -1.0, True),
        ((f"{socket.gethostname()} 1.00", os.getpid()), 60.0, True),  # the number of a dead one
    ],
)
def test_a_claim_of_others_lapses(
    owner: tuple[str, int], seconds: float, is_given_up: bool, tmp_path: Path
) -> None:
    with CallStore(tmp_path) as store, CallStore(tmp_path) as other:
        other.leases._owner = owner
        assert other.leases.claim("k", seconds)
        assert store.leases.claim("k", 60.0) is is_given_up


def test_claims_are_renewed_and_given_back_by_their_owner_alone(tmp_path: Path) -> None:
    with CallStore(tmp_path) as store, CallStore(tmp_path) as other:
        other.leases._owner = ("another-machine 1.0", 1)
        assert store.leases.claim("mine", 10.0)
        assert other.leases.claim("theirs", 10.0)
        before = _claims(tmp_path)
        store.leases.renew(1000.0)
        after = _claims(tmp_path)
        assert after["mine"] > before["mine"] + 900
        assert after["theirs"] == before["theirs"]
        store.leases.release("mine")
        store.leases.release("theirs")
        assert set(_claims(tmp_path)) == {"theirs"}


def _until(condition: Callable[[], bool]) -> bool:
    for _ in range(2000):
        if condition():
            return True
        time.sleep(0.005)
    return False
