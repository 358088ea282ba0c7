"""Artifacts: addresses, atomic appearance, one builder at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from plan_tuning.artifacts import (
    ArtifactError,
    build,
    fingerprint_of,
    folder_of,
    hashed_values,
    is_complete,
    read_manifest,
    write_atomic,
)


@dataclass
class Spec:
    name: str
    rate: float = 0.5
    steps: int = 10
    threads: int = field(default=1, metadata={"runtime": True})
    changed: int = field(default=7, metadata={"hash_default": 3})


def test_defaults_and_runtime_fields_are_left_out() -> None:
    assert hashed_values(Spec("a")) == {"name": "a", "changed": 7}
    assert hashed_values(Spec("a", changed=3, threads=8)) == {"name": "a"}
    assert hashed_values(Spec("a", rate=1.0, changed=3)) == {"name": "a", "rate": 1}


@pytest.mark.parametrize("other", [Spec("b"), Spec("a", rate=0.25), Spec("a", changed=3)])
def test_content_changes_the_fingerprint(other: Spec) -> None:
    first = fingerprint_of(Spec("a"), stage="corpora", version=1)
    assert first != fingerprint_of(other, stage="corpora", version=1)
    assert first != fingerprint_of(Spec("a"), stage="students", version=1)
    assert first != fingerprint_of(Spec("a"), stage="corpora", version=2)
    assert first == fingerprint_of(Spec("a", threads=4), stage="corpora", version=1)


def test_a_pinned_fingerprint() -> None:
    """The address of stored artifacts: a change here orphans everything that users built."""
    spec = {"b": [1, 2.0, None, True], "a": {"text": "größer", "rate": 0.1}}
    assert fingerprint_of(spec, stage="corpora", version=1) == "046dcfbf8d758cde"


def test_what_has_no_canonical_form_is_refused() -> None:
    with pytest.raises(TypeError, match="can be hashed"):
        fingerprint_of({"path": Path("x")}, stage="corpora", version=1)
    with pytest.raises(ValueError, match="JSON"):
        fingerprint_of({"rate": float("nan")}, stage="corpora", version=1)


def test_build_once_and_read_the_manifest(tmp_path: Path) -> None:
    calls = []

    def make(folder: Path) -> dict[str, int]:
        calls.append(folder)
        (folder / "data.txt").write_text("rows")
        return {"rows": 3}

    made = [
        build(tmp_path, "corpora", "abc", make, spec={"n": 1}, upstream={"base": "def"})
        for _ in range(2)
    ]
    assert made == [True, False]
    assert len(calls) == 1
    folder = folder_of(tmp_path, "corpora", "abc")
    assert (folder / "data.txt").read_text() == "rows"
    manifest = read_manifest(folder)
    assert manifest["facts"] == {"rows": 3}
    assert manifest["upstream"] == {"base": "def"}
    assert "torch" in manifest["provenance"]["versions"]


def test_a_failed_build_leaves_no_artifact_but_its_work(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, int]:
        (folder / "checkpoint").write_text("half")
        raise RuntimeError("died")

    with pytest.raises(RuntimeError, match="died"):
        build(tmp_path, "students", "abc", fail, spec={})
    folder = folder_of(tmp_path, "students", "abc")
    assert not is_complete(folder)
    with pytest.raises(ArtifactError, match="no finished artifact"):
        read_manifest(folder)

    def resume(partial: Path) -> dict[str, bool]:
        return {"resumed": (partial / "checkpoint").exists()}

    assert build(tmp_path, "students", "abc", resume, spec={})
    assert read_manifest(folder)["facts"]["resumed"]


def _slow_make(folder: Path) -> dict[str, int]:
    with (folder.parent.parent.parent / "builders.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    (folder / "data.txt").write_text("done")
    return {}


def _worker(root: Path) -> None:
    build(root, "corpora", "shared", _slow_make, spec={})


def test_two_processes_one_builder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_worker, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len((tmp_path / "builders.txt").read_text().splitlines()) == 1
    assert (folder_of(tmp_path, "corpora", "shared") / "data.txt").read_text() == "done"


def test_a_killed_builder_does_not_block_the_next(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=_worker, args=(tmp_path,))
    worker.start()
    while not (tmp_path / "builders.txt").exists():
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert not is_complete(folder_of(tmp_path, "corpora", "shared"))
    _worker(tmp_path)
    assert is_complete(folder_of(tmp_path, "corpora", "shared"))


def test_write_atomic_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    write_atomic(path, json.dumps({"a": 1}))
    write_atomic(path, json.dumps({"a": 2}))
    assert json.loads(path.read_text()) == {"a": 2}
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_an_unwritable_root_is_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(ArtifactError, match=r"paths\.outputs"):
        build(blocker, "corpora", "abc", _slow_make, spec={})
