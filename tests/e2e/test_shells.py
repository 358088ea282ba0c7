"""What shells and disks do to the command: Ctrl-C, encodings, full disks, options anywhere."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Run, command, results
from .test_earlier_outputs import archive, outputs, words_of

pytestmark = pytest.mark.e2e

__all__ = ["archive", "outputs"]  # fixtures: an outputs folder with a half-trained student
STOPPED = "stopped by the user; the same command goes on where it stopped\n"
# Sends Ctrl-C to itself in the third step of a training, in a destructor, which drops it.
STOP = """
import os, signal, sys
from plan_tuning.training import lightning

class Dropping:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10):
            pass

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this test was started by
asked, calls = lightning.Stopping.on_train_batch_start, []

def on_train_batch_start(*arguments):
    calls.append(1)
    if len(calls) == 3:
        Dropping()
    asked(*arguments)

lightning.Stopping.on_train_batch_start = on_train_batch_start
from plan_tuning.main import main
main()
"""


@pytest.fixture
def limited(tmp_path: Path, environment: dict[str, str]) -> Callable[..., object]:
    """Run a command none of whose files may grow above a number of bytes."""

    def run(limit: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), cwd=tmp_path, capture_output=True, text=True,
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},  # which would be cut off too
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            timeout=120, check=False,
        )  # fmt: skip

    return run


def said_in_one_line(ran: subprocess.CompletedProcess[str], *words: str) -> None:
    assert "Traceback" not in ran.stderr + ran.stdout, ran.stderr
    lines = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ran.stderr
    for word in words:
        assert word in lines[0]


def test_ctrl_c_in_a_training_is_one_line_and_the_same_command_goes_on(
    plan_tuning: Run,
    archive: Path,
    outputs: Path,
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    words = [*words_of(archive, "sft"), "-m", "sweep_name=s", "seed=0,1"]
    words.remove("seed=0")
    ran = subprocess.run(
        [sys.executable, "-c", STOP, *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (130, STOPPED), ran.stdout
    assert "Traceback" not in ran.stdout
    (row,) = results(outputs / "s")  # the other job was not begun
    assert row["status"] == "failed"
    assert row["error"] == {"type": "Interrupted", "message": STOPPED.strip()}
    again = plan_tuning(*words[:-1], "seed=0")
    assert again.returncode == 0, again.stderr
    assert "completed" in [row["status"] for row in results(outputs / "s")]


def test_an_output_that_is_not_utf8(
    plan_tuning: Run, outputs: Path, environment: dict[str, str]
) -> None:
    environment["PYTHONIOENCODING"] = "ascii"
    ran = plan_tuning("compare", "outputs/done")
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "†" in (outputs / "done" / "comparison.md").read_text(encoding="utf-8")


def test_a_sweep_in_a_locale_without_utf8(
    plan_tuning: Run, archive: Path, outputs: Path, environment: dict[str, str]
) -> None:
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = plan_tuning(*words_of(archive, "done"))
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr + ran.stdout
    named = plan_tuning(
        *words_of(archive, "done"), "stages=[distill]", "sweep_name=a", "tags=['\u00e9']"
    )
    assert named.returncode == 0, named.stderr
    assert results(outputs / "a")[0]["status"] == "completed"


def test_options_behind_overrides(plan_tuning: Run) -> None:
    ran = plan_tuning("seed=0,1", "-m", "dry_run=true", "paths.outputs=o", "logger=csv")
    assert ran.returncode == 0, ran.stderr
    assert "2 jobs" in ran.stdout
    refused = plan_tuning("seed=0,1", "dry_run=true", "paths.outputs=o")
    assert refused.returncode == 2
    said_in_one_line(refused, "-m seed=0,1")


def test_a_comparison_on_a_full_disk_leaves_the_old_one(
    plan_tuning: Run, limited: Run, outputs: Path
) -> None:
    assert plan_tuning("compare", "outputs/done").returncode == 0
    names = ("comparison.md", "comparison.csv", "comparison.json", "report.html")
    before = {name: (outputs / "done" / name).read_bytes() for name in names}
    ran = limited(20_000, "compare", "outputs/done")  # only the page is larger
    assert ran.returncode == 1
    said_in_one_line(ran, "outputs/done/report.html", "File too large", "--out FOLDER")
    assert before == {name: (outputs / "done" / name).read_bytes() for name in names}
    assert not list((outputs / "done").glob(".*.tmp"))


def test_a_job_on_a_full_disk_goes_on_when_there_is_room(
    limited: Run, plan_tuning: Run, tmp_path: Path
) -> None:
    words = ["debug=fast", "logger=csv", "stages=[distill]", "paths.outputs=o", "data.limit=30"]
    ran = limited(120_000, *words)
    assert ran.returncode == 1
    said_in_one_line(ran, "error: o", "the same command")
    assert not list(tmp_path.glob("o/artifacts/corpora/[!.]*"))
    again = plan_tuning(*words)
    assert again.returncode == 0, again.stderr
    assert list(tmp_path.glob("o/artifacts/corpora/[!.]*/manifest.json"))


def test_other_commands_on_a_full_disk(limited: Run, outputs: Path, tmp_path: Path) -> None:
    rows = [{"prediction": "5", "gold": "5"}] * 40
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = limited(100, "grade", "rows.jsonl", "--out", "out.jsonl")
    assert ran.returncode == 1
    said_in_one_line(ran, "out.jsonl", "--out FILE")
    exported = limited(100, "corpus", "export", "out.parquet", "--outputs", "outputs")
    assert exported.returncode == 1
    said_in_one_line(exported, "out.parquet", "another file")
    assert [path.name for path in tmp_path.glob("*out.*")] == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where nobody may")
def test_a_read_only_folder(plan_tuning: Run, outputs: Path) -> None:
    (outputs / "done").chmod(0o500)
    try:
        ran = plan_tuning("compare", "outputs/done")
    finally:
        (outputs / "done").chmod(0o700)
    assert ran.returncode == 1
    said_in_one_line(ran, "outputs/done", "Permission denied", "--out FOLDER")
