"""What a program in the sandbox may learn and make: not its tests, no memory beside its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.grading import SandboxConfig
from plan_tuning.grading.programs import UnitTests
from plan_tuning.grading.sandbox.confinement import spare_user
from plan_tuning.grading.sandbox.runner import Sandbox, SandboxError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox is Linux's"),
]

LIMITS = SandboxConfig(time_s=2, memory_mb=256, files_mb=1, output_kb=64, processes=4)
PLENTY = SandboxConfig(time_s=20)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(LIMITS, 1)
    yield made
    made.close()


# The searched text stands in reverse, so that a program does not find itself.
SEARCHING = """
import gc, sys

def f(backwards):
    text = backwards[::-1]
    found, frame = [], sys._getframe()
    while frame:
        found += [name for name, value in frame.f_locals.items()
                  if name not in ("text", "found") and text in repr(value)]
        frame = frame.f_back
    for one in gc.get_objects():
        if any(isinstance(part, (str, bytes)) and part is not text and text in str(part)
               for part in gc.get_referents(one)):
            found.append(type(one).__name__)
    return found
"""


def test_a_program_finds_its_tests_nowhere(sandbox: Sandbox) -> None:
    """Neither its own nor those of the request before, though one supervisor serves both."""
    for secret in ("expected-4711", "expected-0815"):
        for sought in ("expected-4711", "expected-0815"):
            test = f"secret = {secret!r}\nassert f({sought[::-1]!r}) == []"
            assert sandbox.failure(SEARCHING, UnitTests("", ("f",), test)) is None
    (supervisor,) = sandbox.pool.pids
    told = "raise ValueError('said-' + 'aloud-' + str(40 + 2))"
    assert "said-aloud-42" in str(sandbox.failure("def f(): pass", UnitTests("", ("f",), told)))
    assert sandbox.failure("own = 'written-by-' + 'one'", UnitTests("", ("f",), "")) is None
    assert sandbox.pool.pids == [supervisor]
    memory = memory_of(supervisor)
    for secret in (b"expected-4711", b"expected-0815", b"said-aloud-42", b"'written-by-' +"):
        assert secret not in memory, "what a program is forked from"


def memory_of(process: int) -> bytes:
    found = []
    with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/mem", "rb", 0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            start, end = (int(one, 16) for one in span.split("-"))
            if rights.startswith("rw"):
                memory.seek(start)
                found.append(memory.read(end - start))
    return b"".join(found)


CALLS = {"x86_64": {"clone": 56, "memfd_create": 319}, "aarch64": {"clone": 220,
         "memfd_create": 279}}  # fmt: skip

BEYOND = {  # each finds what it could do; were it let, it would do so once and end it again
    "shared memory": """
    one = libc.shmget(0, 2**20, 0o1600)
    if one >= 0:
        libc.shmctl(one, 0, None)
    return one""",
    "semaphores": "    return libc.semget(0, 1, 0o1600)",
    "messages": "    return libc.msgget(0, 0o1600)",
    "files in memory": "    return libc.syscall({memfd_create}, b'x', 0)",
    "secret memory": "    return libc.syscall(447, 0)",
    "an open tree": "    return libc.syscall(428, -100, b'/', 1)",
    "another file system": "    return libc.syscall(430, b'tmpfs', 0)",
    "rights over mounts": "    return libc.syscall(442, -100, b'/', 0, bytes(32), 32)",
    "a namespace of users": """
    child = libc.syscall({clone}, 0x10000000 | 17, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    return child""",
    "the same by clone3": """
    child = libc.syscall(435, struct.pack('11Q', 0x10000000, 0, 0, 0, 17, *[0] * 6), 88)
    if child == 0:
        os._exit(0)
    return child""",
}


@pytest.mark.parametrize("name", BEYOND)
def test_the_kernel_refuses(sandbox: Sandbox, name: str) -> None:
    machine = os.uname().machine
    if machine not in CALLS:
        pytest.skip("system calls are refused on two architectures")
    body = BEYOND[name].strip("\n").format(**CALLS[machine])
    program = f"import ctypes, os, struct\nlibc = ctypes.CDLL(None)\ndef f():\n{body}\n"
    test = "found = f()\nassert found == -1, found"
    assert sandbox.failure(program, UnitTests("", ("f",), test)) is None


def test_threads_and_processes_start_all_the_same(sandbox: Sandbox) -> None:
    program = """
import os, threading

def f():
    found = []
    one = threading.Thread(target=found.append, args=(1,))
    one.start()
    one.join()
    child = os.fork()
    if child == 0:
        os._exit(7)
    return found, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
    assert sandbox.failure(program, UnitTests("", ("f",), "assert f() == ([1], 7)")) is None


def test_a_judge_that_is_killed_judges_nothing() -> None:
    one = Sandbox(PLENTY, 1)
    one.isolation()
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            one.failure("def f():\n    while True: pass", UnitTests("", ("f",), "f()"))
        except SandboxError as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.5)
    (supervisor,) = one.pool.pids
    for child in psutil.Process(supervisor).children():
        child.kill()
    asking.join(20)
    assert errors
    assert one.failure("def f(): return 1", UnitTests("", ("f",), "assert f() == 1")) is None
    one.close()


@pytest.mark.parametrize("says", ["", "print('{\"ready\": true}', flush=True)"])
def test_a_supervisor_that_dies_at_its_start_is_a_refusal(says: str) -> None:
    one = Sandbox(LIMITS, 1)
    one.pool._start = lambda: ([sys.executable, "-S", "-c", says], {})
    with pytest.raises(ConfigError, match="the sandbox does not start here"):
        one.failure("def f(): pass", UnitTests())
    one.close()


def test_what_others_let_everyone_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"started": 3, "signals": [], "writes": [], "folder": False, "network": None,
             "environment": 0, "reads": ["/srv", "/proc"]}  # fmt: skip
    monkeypatch.setattr(Sandbox, "_failure", lambda *_: f"Report: {found!r}")
    one = Sandbox(LIMITS, 1)
    one.pool.told = {"user": "one of its own", "namespaces": [], "refused_calls": True}
    assert "it can read: the system's files, /proc, /srv" in str(one.isolation())
    one.close()


ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.grading import SandboxConfig
from plan_tuning.grading.programs import UnitTests
from plan_tuning.grading.sandbox.runner import Sandbox
one = Sandbox(SandboxConfig(processes=4, time_s=2), 1, **eval(sys.argv[2]))
try:
    print(one.isolation())
    print(one.failure('def f(): return 1', UnitTests('', ('f',), 'assert f() == 1')))
    print(one.failure('def f(): return 1', UnitTests('', ('f',), 'assert f() == 2')))
except ConfigError as error:
    print('refused:', error)
one.close()
"""


def alone(
    root: Path, code: str, settings: str, before: Callable[[subprocess.Popen[str]], None]
) -> list[str]:
    """Run a sandbox in an interpreter whose library every user may read."""
    for python in (sys.executable, "/usr/bin/python3"):
        library = subprocess.run([python, "-c", "import os; print(os.path.dirname(os.__file__))"],
                                 capture_output=True, text=True).stdout.strip()  # fmt: skip
        folders = (Path(library), *Path(library).resolve().parents)
        if not library or any(one.stat().st_mode & 0o005 != 0o005 for one in folders):
            continue
        started = subprocess.Popen(
            [python, "-c", code, str(root), settings],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip
        before(started)
        return started.communicate(timeout=120)[0].splitlines()
    pytest.skip("no interpreter whose library every user may read")


def test_without_a_namespace_of_mounts_nothing_is_run_and_nothing_left(root: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("signals reach others without a pid namespace")
    (line,) = alone(root, ALONE, "{'namespaces': ()}", lambda started: None)
    assert line.startswith("refused:")
    assert "a program would reach /tmp" in line
    assert "a mount namespace" in line
    left = [one for folder in ("/tmp", "/var/tmp", "/dev/shm") for one in os.listdir(folder)]
    assert not [one for one in left if one.startswith("sandbox_probe_")]


IN_A_CONTAINER = """
import ctypes, os
assert ctypes.CDLL(None).unshare(0x10000000) == 0
print("unshared", flush=True)
input()
os.setgid(0)
os.setuid(0)
"""


@pytest.mark.parametrize("count", [65535, 0])
def test_roots_of_containers_use_the_ids_that_are_mapped(root: Path, count: int) -> None:
    """Few ids, or no other one: then programs are the user's own, in a namespace of users."""
    if os.getuid() != 0:
        pytest.skip("maps of many ids are root's to write")

    def map_ids(started: subprocess.Popen[str]) -> None:
        assert started.stdout is not None
        assert started.stdin is not None
        if started.stdout.readline() != "unshared\n":
            pytest.skip("this machine has no namespaces of users")
        for kind in ("uid", "gid"):
            lines = f"0 0 1\n1 100000 {count}\n" if count else "0 100000 1\n"
            Path(f"/proc/{started.pid}/{kind}_map").write_text(lines)
        started.stdin.write("\n")
        started.stdin.flush()

    lines = alone(root, IN_A_CONTAINER + ALONE, "{}", map_ids)
    user = "one of its own" if count else "this user"
    assert lines[0].startswith(f"programs run under {user}, namespaces: "), lines
    assert lines[1:] == ["None", "AssertionError"]


def test_ids_lie_in_both_maps() -> None:
    whole, few = "0 0 4294967295", "0 1000 1\n1 100000 65536"
    assert spare_user(whole, whole, 7) == 2_000_000_014
    for number in (1, 2, 4_194_304):
        found = spare_user(few, whole, number)
        assert found is not None
        assert 32_000 < found < found + 1 < 65_500
        assert spare_user(whole, few, number) == found
    assert spare_user(few, whole, 1) != spare_user(few, whole, 2)
    assert spare_user("0 1000 1", whole, 1) is spare_user(whole, "", 1) is None
