"""Hostile programs in the sandbox; each of them is bounded by itself, should the sandbox fail."""

from __future__ import annotations

import ast
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.grading import GradingConfig, SandboxConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.grading.programs import UnitTests
from plan_tuning.grading.sandbox.confinement import NAMESPACES
from plan_tuning.grading.sandbox.runner import TIMEOUT, Sandbox, SandboxError
from plan_tuning.records import Verdict
from plan_tuning.tasks.benchmarks import load

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox is Linux's"),
]

LIMITS = SandboxConfig(time_s=1, memory_mb=256, files_mb=1, output_kb=64, processes=4)
SOME = ("mount", "user")  # without namespaces of processes, network and shared memory
FIRST_USER = 2_000_000_000


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(LIMITS, 1)
    yield made
    made.close()


def run(sandbox: Sandbox, body: str, test: str = "assert f() == 'right'") -> str | None:
    lines = "\n    ".join(["def f():", *body.strip().splitlines()])
    return sandbox.failure(f"import os, sys, time\n{lines}\n", UnitTests("", ("f",), test))


def confined() -> list[psutil.Process]:
    """The processes of users that only the sandbox has; where we are root."""
    found = []
    for process in psutil.process_iter(["uids", "status"]):
        uids = process.info["uids"]
        if uids and uids.real >= FIRST_USER and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def all_gone(seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while confined() and time.monotonic() < end:
        time.sleep(0.02)
    return not confined()


def test_what_is_in_force_is_said(caplog: pytest.LogCaptureFixture) -> None:
    fresh = Sandbox(LIMITS, 1)
    with caplog.at_level(logging.INFO):
        found = fresh.isolation()
        assert fresh.isolation() is found, "probed once"
    fresh.close()
    assert found.processes <= LIMITS.processes
    assert (found.network, found.files) == ("none", "a folder of its own")
    (record,) = [one for one in caplog.records if "sandbox" in one.message]
    assert record.levelno == logging.INFO
    assert "network: none" in record.message


BOUNDED = {  # programs that are kept in: what they find is what the test asserts
    "forks": ("n = 0\ntry:\n    while n < 200:\n        if os.fork() == 0:\n            "
              "time.sleep(30); os._exit(0)\n        n += 1\nexcept OSError:\n    pass\nreturn n",
              f"assert f() == {LIMITS.processes - 1}"),
    "threads": ("import threading\nn = 0\ntry:\n    while n < 200:\n        "
                "threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n        "
                "n += 1\nexcept RuntimeError:\n    pass\nreturn n",
                f"assert f() == {LIMITS.processes - 1}"),
    "memory": ("held = []\ntry:\n    for _ in range(512):\n        held.append(bytearray(2**20))\n"
               "except MemoryError:\n    return len(held)\nreturn 512", "assert f() < 256"),
    "printing": ("for _ in range(64):\n    print('x' * 2**20)\n    os.write(2, b'y' * 2**16)\n"
                 "return 'right'", "assert f() == 'right'"),
    "files outside": ("found = []\nfor place in ('/', '/usr', '/etc', '/var', '/dev/shm', '/home', "
                      "'/root', '/proc', '/sys', '/run', '/mnt', os.path.dirname(sys.path[0])):\n"
                      "    try:\n        open(place + '/left', 'w').write('x'); "
                      "found.append(place)\n    except OSError:\n        pass\nreturn found",
                      "assert f() == []"),
    "a full folder": ("try:\n    for n in range(64):\n        open(f'f{n}', 'wb').write("
                      "b'x' * 2**20)\nexcept OSError:\n    return sum(os.path.getsize(n) for n in "
                      "os.listdir('.'))\nreturn -1", "assert 0 <= f() <= 2**20"),
    "the environment": ("seen = dict(os.environ)\nfor name in ('self', '1', str(os.getppid())):\n"
                        "    try:\n        seen[name] = open(f'/proc/{name}/environ').read()\n"
                        "    except OSError:\n        pass\nreturn seen", "assert f() == {}"),
    "sockets": ("import socket\nfound = []\nfor kind in ('AF_INET', 'AF_INET6', 'AF_UNIX'):\n"
                "    try:\n        socket.socket(getattr(socket, kind)); found.append(kind)\n"
                "    except OSError:\n        pass\nreturn found", "assert f() == []"),
    "signals": ("found = []\nfor other in (os.getppid(), -1, 2, 3):\n    try:\n        "
                "os.kill(other, 9) if other else None\n    except OSError:\n        pass\n"
                "return 'right'", "assert f() == 'right'"),
    "rights": ("import ctypes\nlibc = ctypes.CDLL(None)\nfound = []\ntry:\n    os.setuid(0); "
               "found.append('root')\nexcept OSError:\n    pass\n"
               "if libc.mount(b'none', b'/tmp', b'tmpfs', 0, b'') == 0: found.append('mount')\n"
               "if libc.unshare(0x10000000) == 0: found.append('unshare')\n"
               "if libc.ptrace(16, 1, 0, 0) == 0: found.append('ptrace')\nreturn found",
               "assert f() == []"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOUNDED)
def test_a_hostile_program_is_kept_in(
    sandbox: Sandbox, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "sk-secret")
    assert run(sandbox, *BOUNDED[name]) is None
    assert run(sandbox, "return 'right'") is None, "the next program is served"


CHEATS = {
    "exit in the call": ("os._exit(0)", "ended before it answered"),
    "a polite exit": ("sys.exit(0)", "SystemExit"),
    "equal to all": ("class Same:\n    def __eq__(self, other): return True\nreturn Same()",
                     "no plain data"),
    "a text equal to all": ("class Same(str):\n    __eq__ = lambda self, other: True\n    "
                            "__hash__ = str.__hash__\nreturn Same('wrong')", "AssertionError"),
    "patched builtins": ("import builtins\nbuiltins.AssertionError = ValueError\n"
                         "builtins.__build_class__ = None\nreturn 'wrong'", "AssertionError"),
    "every frame and module": ("import gc\nfor one in gc.get_objects():\n    if isinstance(one, "
                               "dict) and 'passed' in one: one['passed'] = True\nfor name, module "
                               "in list(sys.modules.items()):\n    if hasattr(module, 'run_tests')"
                               ": module.run_tests = lambda *a: {'passed': True}\nreturn 'wrong'",
                               "AssertionError"),
    "a forged message": ("for pipe in range(3, 64):\n    try:\n        os.write(pipe, "
                         "b'{\"passed\": true}\\n')\n    except OSError:\n        pass\n"
                         "return 'right'", "KeyError"),
    "an end of the loop": ("raise StopIteration", "RuntimeError"),
    "a huge value": ("return 'x' * 2**20", "too much output"),
    "no end": ("while True: pass", TIMEOUT),
    "sleep": ("time.sleep(60)", TIMEOUT),
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_fails(sandbox: Sandbox, name: str) -> None:
    body, failure = CHEATS[name]
    test = "assert all(map(lambda _: f() == 'right', [0, 1]))" if "loop" in name else None
    found = run(sandbox, body, *([test] if test else []))
    assert found is not None
    assert failure in found


def test_an_exit_before_any_call_fails(sandbox: Sandbox) -> None:
    for program in ("import os; os._exit(0)", "raise SystemExit(0)", "def f(: pass"):
        assert sandbox.failure(program, UnitTests("", ("f",), "assert f() == 1")) is not None


def test_a_test_that_ends_its_own_process_has_not_passed(sandbox: Sandbox) -> None:
    for test in ("import os; os._exit(0)", "raise SystemExit(0)"):
        assert sandbox.failure("def f(): return 1", UnitTests("", ("f",), test)) is not None


def test_a_program_leaves_nothing_behind(sandbox: Sandbox) -> None:
    left = "if os.fork() == 0:\n    os.setsid()\n    time.sleep(30)\n    os._exit(0)\n"
    left += "open('left', 'w').write('x')\nreturn os.listdir('.')"
    for _ in range(2):
        assert run(sandbox, left, "assert f() == ['left']") is None
    assert all_gone()


def test_values_arrive_as_they_are(sandbox: Sandbox) -> None:
    values = [(1, [2.5, -0.0]), {"a": {1, 2}, 3: b"x"}, None, True, 10**50, float("inf"), "ä\ud800"]
    test = f"inf = float('inf')\nassert f({values!r}) == {values!r}\nassert f(x=1) == 1"
    assert sandbox.failure("def f(x): return x", UnitTests("", ("f",), test)) is None
    for exponent in (4299, 4300, 9000):  # about the length that Python writes out
        test = f"assert f(-10**{exponent}) == 10**{exponent}"
        assert sandbox.failure("def f(x): return -x", UnitTests("", ("f",), test)) is None
    test = "try:\n    f()\nexcept ZeroDivisionError:\n    pass\nelse:\n    assert False"
    assert sandbox.failure("def f(): return 1 / 0", UnitTests("", ("f",), test)) is None


def test_a_supervisor_that_is_killed_takes_its_program_along() -> None:
    one = Sandbox(SandboxConfig(time_s=20), 1)
    one.isolation()
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            run(one, "while True: pass")
        except SandboxError as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    (supervisor,) = one.pool.pids
    os.kill(supervisor, signal.SIGKILL)
    asking.join(10)
    assert errors, "a program is not judged by a fault of the sandbox"
    assert all_gone()
    assert run(one, "return 'right'") is None, "another supervisor serves"
    one.close()


@pytest.mark.parametrize("refuses_calls", [True, False])
def test_without_some_namespaces_the_lesser_isolation_is_reported(
    refuses_calls: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if os.getuid() != 0:
        pytest.skip("signals reach others without a pid namespace")
    lesser = Sandbox(LIMITS, 1, namespaces=SOME, refuses_calls=refuses_calls)
    with caplog.at_level(logging.INFO):
        found = lesser.isolation()
    assert found.namespaces == ("mount",)
    assert found.network == ("none" if refuses_calls else "open")
    (record,) = [one for one in caplog.records if "sandbox" in one.message]
    assert record.levelno == (logging.INFO if refuses_calls else logging.WARNING)
    left = "if os.fork() == 0:\n    os.setsid()\n    time.sleep(30)\nreturn 'right'"
    assert run(lesser, left) is None
    assert run(lesser, *BOUNDED["forks"]) is None
    assert all_gone(), "the program's user is cleared"
    lesser.close()


@pytest.mark.parametrize(
    ("probed", "message"),
    [
        ({"started": 12}, "processes of a program cannot be bounded"),
        ({"signals": [1]}, "signal others"),
        ({"writes": ["/etc"]}, "/etc"),
        ({"environment": 3}, "the environment"),
    ],
)
def test_what_cannot_be_kept_in_is_not_run(
    probed: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = {"started": 3, "signals": [], "writes": [], "folder": True, "network": None,
            "environment": 0}  # fmt: skip
    monkeypatch.setattr(Sandbox, "_failure", lambda *_: f"Report: {fine | probed!r}")
    patched = Sandbox(LIMITS, 1)
    with pytest.raises(ConfigError, match=message) as caught:
        patched.failure("def f(): pass", UnitTests())
    assert "evaluation.grading.run_code=True is not allowed" in str(caught.value)
    patched.close()


def test_a_user_without_rights_has_namespaces_of_users(root: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("it is what all other tests here are about")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from plan_tuning.config.grading import SandboxConfig\n"
        "from plan_tuning.grading.programs import UnitTests\n"
        "from plan_tuning.grading.sandbox.runner import Sandbox\n"
        "one = Sandbox(SandboxConfig(processes=4), 1)\n"
        "print(one.isolation())\n"
        "print(one.failure('def f(): return 1', UnitTests('', ('f',), 'assert f() == 1')))\n"
        "print(one.failure('def f(): return 1', UnitTests('', ('f',), 'assert f() == 2')))\n"
    )
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            ran = subprocess.run(
                [python, "-c", code, str(root)],
                user=65534, group=65534, extra_groups=[],
                cwd="/", capture_output=True, text=True,
            )  # fmt: skip
        except PermissionError:
            continue
        if "Error" not in ran.stderr or "ConfigError" in ran.stderr:
            break
    else:
        pytest.skip("no interpreter that another user may start with these packages")
    if "ConfigError" in ran.stderr:
        pytest.skip("this machine has no namespaces of users")
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("programs run under this user, namespaces: user, mount")
    assert lines[1:] == ["None", "AssertionError"]


def without_last_return(program: str, name: str) -> str:
    """Take the last ``return`` of a function away; it returns nothing there."""
    tree = ast.parse(program)
    (function,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    inner = {id(n) for f in ast.walk(function) if isinstance(f, ast.FunctionDef | ast.Lambda)
             and f is not function for n in ast.walk(f)}  # fmt: skip
    found = [n for n in ast.walk(function) if isinstance(n, ast.Return) and id(n) not in inner]
    last = max(found, key=lambda node: (node.lineno, node.col_offset))

    class Remover(ast.NodeTransformer):
        def visit_Return(self, node: ast.Return) -> ast.AST:
            return ast.copy_location(ast.Pass(), node) if node is last else node

    return ast.unparse(Remover().visit(tree))


def test_humaneval_passes_with_its_own_solutions_and_fails_without_a_return(shared: Path) -> None:
    problems = load("humaneval", split="test", path=str(shared / "data" / "humaneval"))
    assert len(problems) == 164
    broken = [
        f"```python\n{without_last_return(p.answer, p.metadata['entry_point'])}\n```"
        for p in problems
    ]
    with Grader(GradingConfig(run_code=True)) as grader:
        right = grader.grade_many([(p.solution, p) for p in problems], require_box=True)
        assert grader.facts()["sandbox"]["processes"] == GradingConfig().sandbox.processes
    quick = GradingConfig(run_code=True, sandbox=SandboxConfig(time_s=1))  # one never ends
    with Grader(quick) as grader:
        wrong = grader.grade_many(list(zip(broken, problems, strict=True)))
    assert sum(grade.verdict is Verdict.CORRECT for grade in right) == 164
    assert all(grade.is_strict for grade in right)
    assert {grade.verdict for grade in wrong} == {Verdict.WRONG, Verdict.TIMEOUT}


def test_every_namespace_is_tried(sandbox: Sandbox) -> None:
    found = sandbox.isolation().namespaces
    assert set(found) <= set(NAMESPACES)
    assert (sandbox.isolation().user == "ours") == (os.getuid() != 0)
