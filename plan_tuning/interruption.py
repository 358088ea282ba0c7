"""Ctrl-C: one exception for all phases of a job, and no signal that is lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a destructor, in the
callback of a weak reference or during garbage collection it is dropped, and some libraries turn it
into an error of their own. So the signal is also remembered, and the loops of a job ask for it
(:func:`check`) at every step.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_CODE = 130  # 128 + SIGINT, as shells have it
MESSAGE = "stopped by the user; the same command goes on where it stopped"


class Interrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C."""

    exit_code = EXIT_CODE

    def __init__(self, message: str = MESSAGE) -> None:
        super().__init__(message)


_is_asked = False


def check() -> None:
    """Stop here where a stop was asked for and the exception of the signal got lost.

    Raises:
        Interrupted: the user pressed Ctrl-C.
    """
    if _is_asked:
        raise Interrupted


def is_asked() -> bool:
    """Whether the user pressed Ctrl-C."""
    return _is_asked


@contextmanager
def watched() -> Iterator[None]:
    """Remember Ctrl-C while the block runs; outside the main thread nothing is changed.

    A SIGINT that is ignored, as in the background jobs of a script, stays so.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not is_main or before in (signal.SIG_IGN, _on_signal):
        yield
        return
    global _is_asked
    _is_asked = False
    hook = sys.unraisablehook
    signal.signal(signal.SIGINT, _on_signal)
    sys.unraisablehook = _quiet(hook)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)
        _is_asked = False


@contextmanager
def reported() -> Iterator[None]:
    """End the process in one line and with exit code 130 where the user stops the block.

    Raises:
        SystemExit: the user pressed Ctrl-C, whatever that became on its way here.
    """
    with watched():
        try:
            yield
            check()
        except KeyboardInterrupt:
            sys.stderr.write(f"{MESSAGE}\n")
            raise SystemExit(EXIT_CODE) from None
        except SystemExit as ended:
            if not _is_asked:
                raise
            raise SystemExit(EXIT_CODE) from ended


@contextmanager
def kept() -> Iterator[None]:
    """Keep Ctrl-C as it is around code that ends it in a way of its own.

    Lightning answers it with exit code 1, and ignores every further one for good.

    Raises:
        Interrupted: the block was ended by Ctrl-C.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise Interrupted from None
        raise
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _is_asked
    _is_asked = True
    raise Interrupted


def _quiet(hook: Any) -> Any:
    """Say nothing of an interrupt that a destructor dropped: it is remembered."""

    def shown(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Interrupted):
            hook(unraisable)

    return shown
