"""Ctrl-C: real signals, dropped by destructors, turned into something else, or ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from plan_tuning import interruption
from plan_tuning.interruption import MESSAGE, Interrupted, check, kept, reported, watched


@pytest.fixture(autouse=True)
def default_signal() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and pytest may run in one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    assert not interruption.is_asked()


class Dropping:
    """Its destructor is where the signal arrives, so the exception is dropped."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10):
            pass


def test_a_signal_in_a_destructor_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    with watched():
        check()
        Dropping()
        assert interruption.is_asked()
        with pytest.raises(Interrupted, match="same command"):
            check()
    assert "Exception ignored" not in capsys.readouterr().err


def test_a_signal_stops_at_once_where_nothing_drops_it() -> None:
    with pytest.raises(Interrupted), watched():
        signal.raise_signal(signal.SIGINT)


def test_the_end_of_a_command_asks_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, reported():
        Dropping()
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"{MESSAGE}\n"


def end_after_signal(code: int) -> None:
    Dropping()
    raise SystemExit(code)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_another_exit_after_the_signal_is_130(code: int) -> None:
    with pytest.raises(SystemExit) as ended, reported():
        end_after_signal(code)
    assert ended.value.code == 130


def test_other_exits_stay_what_they_are() -> None:
    with pytest.raises(SystemExit) as ended, reported():
        raise SystemExit(3)
    assert ended.value.code == 3


def end_as_lightning() -> None:
    try:
        raise Interrupted
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(1)


def test_a_library_that_exits_and_goes_deaf() -> None:
    """As Lightning does, which ends with exit code 1 and ignores every later signal."""
    with watched():
        with pytest.raises(Interrupted), kept():
            end_as_lightning()
        assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        with pytest.raises(SystemExit, match="4"), kept():
            sys.exit(4)


def test_the_handler_of_before_comes_back_and_threads_change_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    with watched():
        ours = signal.getsignal(signal.SIGINT)
        assert ours is not before
        with watched():  # a job inside a sweep
            assert signal.getsignal(signal.SIGINT) is ours

        def elsewhere() -> None:
            with watched(), kept():
                assert signal.getsignal(signal.SIGINT) is ours

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with watched():
        os.kill(os.getpid(), signal.SIGINT)
        check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("module", ["hydra", "plan_tuning.sweep.sweeper"])
def test_the_first_imports_count_too(module: str) -> None:
    code = f"""
import importlib.abc, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Stop(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Stop())
from plan_tuning.__main__ import main
main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (130, f"{MESSAGE}\n")
