"""The worker pool: kills, threads, asyncio, forks, signals, orphans; and the commands around it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import typer
from typer.testing import CliRunner

from plan_tuning.config.grading import GradingConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.grading.pool import WorkerError
from plan_tuning.records import Problem, Verdict
from plan_tuning.tasks.benchmarks import load
from plan_tuning.tasks.contamination_command import contamination
from plan_tuning.tasks.grade_command import grade
from plan_tuning.tasks.json_rows import DataError

pytestmark = pytest.mark.integration

ROOTS = Problem("roots", "", r"2\sqrt{2}")
RIGHT, WRONG = r"\boxed{\sqrt{8}}", r"\boxed{\sqrt{7}}"
NO_TIME = GradingConfig(wall_s=1e-6, num_workers=1)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_until_gone(pids: list[int], seconds: float = 30.0) -> list[int]:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not all(map(is_gone, pids)):
        time.sleep(0.05)
    return [pid for pid in pids if not is_gone(pid)]


def test_the_wall_limit_kills_and_the_next_request_is_served() -> None:
    with Grader(NO_TIME) as grader:
        assert grader.grade(RIGHT, ROOTS).verdict is Verdict.TIMEOUT
        assert grader.pool.num_killed == 1
        assert grader.pool.pids == []
        grader.pool.wall_s = 60.0
        assert grader.grade(r"\boxed{\sqrt{2}\cdot2}", ROOTS).verdict is Verdict.CORRECT


def test_a_worker_that_dies_is_replaced() -> None:
    with Grader(GradingConfig(num_workers=1)) as grader:
        assert grader.grade(RIGHT, ROOTS).is_correct
        (pid,) = grader.pool.pids
        os.kill(pid, signal.SIGKILL)
        assert grader.grade(WRONG, ROOTS).verdict is Verdict.ERROR
        assert grader.grade(r"\boxed{\sqrt{6}}", ROOTS).verdict is Verdict.WRONG
        assert grader.pool.pids != [pid]


def test_comparisons_are_remembered() -> None:
    with Grader(GradingConfig(num_workers=1)) as grader:
        assert grader.grade(RIGHT, ROOTS).is_correct
        grader.pool.close()  # nobody is left to ask
        assert grader.grade(RIGHT, ROOTS).is_correct
        with pytest.raises(WorkerError, match="closed"):
            grader.grade(WRONG, ROOTS)


def test_many_threads_share_two_workers() -> None:
    items = [(rf"\boxed{{\sqrt{{{n}}}}}", ROOTS) for n in range(2, 30)]
    with Grader(GradingConfig(wall_s=60.0)) as grader:
        with ThreadPoolExecutor(8) as threads:
            grades = list(threads.map(lambda item: grader.grade(*item), items))
        assert len(grader.pool.pids) <= 2
    assert [n for n, g in zip(range(2, 30), grades, strict=True) if g.is_correct] == [8]


def test_batches_keep_their_order() -> None:
    items = [(RIGHT, ROOTS), (r"\boxed{1}", Problem("one", "", "1")), (WRONG, ROOTS), ("", ROOTS)]
    with Grader(GradingConfig(wall_s=60.0)) as grader:
        verdicts = [grade.verdict for grade in grader.grade_many(items * 5)]
    assert verdicts == [Verdict.CORRECT, Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER] * 5


def test_asyncio_is_not_blocked() -> None:
    async def work(grader: Grader) -> tuple[list[Verdict], int]:
        ticks = 0
        tasks = [asyncio.create_task(grader.grade_async(RIGHT, ROOTS))]
        tasks += [asyncio.create_task(grader.grade_async(WRONG, ROOTS))]
        while not all(task.done() for task in tasks):
            ticks += 1
            await asyncio.sleep(0.001)
        return [task.result().verdict for task in tasks], ticks

    with Grader(GradingConfig(wall_s=60.0)) as grader:
        verdicts, ticks = asyncio.run(work(grader))
    assert verdicts == [Verdict.CORRECT, Verdict.WRONG]
    assert ticks > 2  # the loop went on while workers were started and asked


def test_closing_ends_the_workers_and_may_be_repeated() -> None:
    grader = Grader(GradingConfig(num_workers=1))
    assert grader.grade(RIGHT, ROOTS).is_correct
    pids = grader.pool.pids
    assert len(pids) == 1
    grader.close()
    grader.close()
    assert wait_until_gone(pids) == []


def test_the_caller_s_alarm_is_left_alone() -> None:
    handler = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1000.0)
        ours = signal.getsignal(signal.SIGALRM)
        with Grader(NO_TIME) as grader:
            grader.grade(RIGHT, ROOTS)
        assert signal.getsignal(signal.SIGALRM) is ours
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 900
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def test_a_forked_child_gets_its_own_workers() -> None:
    script = (
        "import os, sys\n"
        "from plan_tuning.records import Problem\n"
        "from plan_tuning.grading.grader import Grader\n"
        "problem = Problem('p', '', r'2\\sqrt{2}')\n"
        "with Grader() as grader:\n"
        "    assert grader.grade_many([(r'\\boxed{\\sqrt{8}}', problem)])[0].is_correct\n"
        "    pids = grader.pool.pids\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        fine = not grader.grade(r'\\boxed{\\sqrt{7}}', problem).is_correct\n"
        "        grades = grader.grade_many([(r'\\boxed{\\sqrt{6}}', problem)] * 3)\n"
        "        fine = fine and [g.verdict for g in grades] == ['wrong'] * 3\n"
        "        fine = fine and not set(pids) & set(grader.pool.pids)\n"
        "        grader.close()\n"
        "        os._exit(0 if fine else 3)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    assert grader.grade(r'\\boxed{\\sqrt{5}}', problem).verdict == 'wrong'\n"
        "    assert grader.pool.pids == pids\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


PARENT = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from plan_tuning.records import Problem\n"
    "from plan_tuning.grading.grader import Grader\n"
    "with Grader() as grader:\n"
    "    grader.grade(r'\\boxed{\\sqrt{8}}', Problem('p', '', r'2\\sqrt{2}'))\n"
    "    print(*grader.pool.pids, flush=True)\n"
    "    time.sleep(600)\n"
)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_orphan_survives_its_parent(number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert pids
        assert not any(map(is_gone, pids))
        parent.send_signal(number)
        parent.wait(30)
    assert wait_until_gone(pids) == []


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="needs Linux's /proc")
def test_workers_live_under_a_memory_limit() -> None:
    with Grader(GradingConfig(num_workers=1, memory_mb=1024)) as grader:
        assert grader.grade(RIGHT, ROOTS).is_correct
        (pid,) = grader.pool.pids
        limits = Path(f"/proc/{pid}/limits").read_text(encoding="utf-8")
    line = next(line for line in limits.splitlines() if line.startswith("Max address space"))
    assert line.split()[3] == str(1024 * 2**20)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_leaves_no_half_read_answer() -> None:
    with Grader(GradingConfig(num_workers=1, wall_s=60.0)) as grader:
        assert grader.grade(RIGHT, ROOTS).is_correct
        (pid,) = grader.pool.pids
        os.kill(pid, signal.SIGSTOP)  # the worker will not answer
        main = threading.main_thread().ident
        timer = threading.Timer(0.5, signal.pthread_kill, [main, signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            grader.grade(WRONG, ROOTS)
        timer.join()
        assert wait_until_gone([pid]) == []
        assert grader.grade(WRONG, ROOTS).verdict is Verdict.WRONG


def test_the_hub_out_of_reach_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"cannot be read from the Hub[\s\S]*data\.path=FOLDER"):
        load("math500", split="test")


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(grade)
    app.command()(contamination)
    return app


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_grade_command(app: typer.Typer, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": "a", "text": RIGHT, "answer": r"2\sqrt{2}", "kind": "math"},
        {"text": "so it is 7", "answer": 8, "kind": "gsm8k"},
        {"id": 3, "text": None, "answer": "1", "kind": "math"},
        {"id": "s", "text": "\\boxed{\ud800}", "answer": ["1", "2"], "kind": "olympiadbench"},
        {"id": "bad", "text": "1", "answer": "", "kind": "math"},
    ]
    file, out = write(tmp_path / "in.jsonl", rows), tmp_path / "v.jsonl"
    keys = ["--prediction-key", "text", "--gold-key", "answer", "--style-key", "kind"]
    result = CliRunner().invoke(app, ["grade", str(file), *keys, "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line.get("id") for line in lines] == ["a", None, 3, "s", "bad"]
    verdicts = [line["verdict"] for line in lines]
    assert verdicts == ["correct", "wrong", "no_answer", "wrong", "bad_gold"]
    assert lines[1] == {"verdict": "wrong", "answer": "7", "rule": "last_number"}
    figures = json.loads(result.stdout)
    assert figures["by_verdict"]["wrong"] == 2
    assert figures["bad_gold_ids"] == ["bad"]
    assert (figures["num_rows"], figures["num_correct"], figures["accuracy"]) == (5, 1, 0.2)
    shown = CliRunner().invoke(app, ["grade", str(file), *keys, "--out", str(out)])
    assert shown.exit_code == 0
    assert "1 of 5 correct" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gold-key", "x"], "row 1, field 'x': is absent"),
        (["--style", "physics"], "there is no style 'physics'"),
        (["--workers", "0"], "num_workers=0 is not allowed"),
    ],
)
def test_mistakes_on_the_command_line(
    app: typer.Typer, tmp_path: Path, arguments: list[str], message: str
) -> None:
    file = write(tmp_path / "in.jsonl", [{"prediction": "1", "gold": "1"}])
    result = CliRunner().invoke(
        app, ["grade", str(file), "--out", str(tmp_path / "v.jsonl"), *arguments]
    )
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "v.jsonl").exists()


def test_the_contamination_command(app: typer.Typer, tmp_path: Path) -> None:
    row: dict[str, object] = {"id": "a", "problem": "What is two and two?", "answer": "4"}
    train = write(tmp_path / "train.jsonl", [row])
    test = write(
        tmp_path / "test.jsonl", [row, {"id": "b", "problem": "And three?", "answer": "3"}]
    )
    out = tmp_path / "report.json"
    sets = ["--train", f"gsm8k={train}", "--test", f"gsm8k={test}", "--test", f"math500={test}"]
    result = CliRunner().invoke(app, ["contamination", *sets, "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["test"]["gsm8k"]["ids"] == found["test"]["math500"]["ids"] == ["a"]
    missing = CliRunner().invoke(
        app, ["contamination", "--train", "gsm8k=nowhere", "--test", "gsm8k", "--out", str(out)]
    )
    assert missing.exit_code == 2
    assert "nowhere does not exist" in " ".join(missing.output.split())
