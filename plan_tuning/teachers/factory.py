"""TeacherConfig -> a Caller: a teacher with its store, and Ctrl-C handled while it is asked.

Before a first call, key and price are checked without asking anybody. There is no other preflight,
and no call is spent on one: the first request of the run that the store cannot answer goes out
alone, with all its retries (the scouting call of :class:`~plan_tuning.teachers.caller.Caller`), and
the others follow once it is answered. A wrong key, an unknown model or a closed port so costs one
request instead of a window of them, and what is asked is a real request, of a real prompt's length,
whose answer is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.teachers.backend import connect
from plan_tuning.teachers.caller import Caller
from plan_tuning.teachers.errors import InterruptedByUserError, read_key
from plan_tuning.teachers.pricing import Price, check_payment, price_of
from plan_tuning.teachers.store import CallStore
from plan_tuning.teachers.usage import Usage

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@asynccontextmanager
async def open_caller(
    config: TeacherConfig,
    calls: Path,
    *,
    role_seed: int = 0,
    max_failed_rate: float = 0.5,
    resamples: bool = True,
    usage: Usage | None = None,
) -> AsyncIterator[Caller]:
    """Open a teacher for one role.

    Args:
        config: who is asked.
        calls: folder of the store, usually ``multirun_outputs/calls``; processes share it.
        role_seed: shifts the samples, so that two runs can draw different ones.
        max_failed_rate: share of calls that may fail before the run stops.
        resamples: ask for another sample where a reply is unusable.
        usage: counts what is bought; None: nobody wants to know.

    Yields:
        The caller; its ``ask`` leads from requests to replies.

    Raises:
        TeacherError: raised by ``ask`` when the run cannot go on.
        ConfigError: the same, when money would be spent that nobody agreed to.
    """

    def find_price() -> Price | None:
        read_key(config.api_key_env, is_required=config.requires_key)  # absent: known at once
        price = price_of(config)
        check_payment(config, price)
        return price

    with CallStore(calls, is_batched=config.backend == "scripted") as store:
        caller = Caller(
            config,
            store,
            partial(connect, config),
            price=find_price,
            role_seed=role_seed,
            max_failed_rate=max_failed_rate,
            resamples=resamples,
            usage=usage,
        )
        with _interruptible(caller):
            try:
                yield caller
            finally:
                await caller.close()


@contextlib.contextmanager
def _interruptible(caller: Caller) -> Iterator[None]:
    """Let the first Ctrl-C (or SIGTERM) drain and the second one cancel.

    A signal that was ignored when the process started, as a shell's background jobs ignore Ctrl-C,
    stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    count = 0

    def on_signal() -> None:
        nonlocal count
        count += 1
        if count == 1:
            logger.warning(
                "Interrupted: waiting for %d calls in flight. Press Ctrl-C again to give them up; "
                "the same command resumes",
                caller.in_flight,
            )
            caller.stop(
                InterruptedByUserError(
                    "interrupted; every answer that arrived is stored. Run the same command again "
                    "to resume"
                )
            )
        else:
            logger.warning("Interrupted again: calls in flight are given up")
            caller.abort()

    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    previous = {n: handler for n, handler in handlers.items() if handler is not signal.SIG_IGN}
    try:
        for number in previous:
            loop.add_signal_handler(number, on_signal)
    except NotImplementedError:  # event loops without signal support (Windows)
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
