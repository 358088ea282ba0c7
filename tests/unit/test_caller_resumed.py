"""The one call site, resumed: what is stored comes back, and what fails for good ends clearly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from plan_tuning.teachers.caller import Caller
from plan_tuning.teachers.errors import BreakerError
from plan_tuning.teachers.failures import Transient

from .test_caller import GOOD, REQUEST, Script, run


def test_odd_words_of_a_server_can_be_stored(tmp_path: Path) -> None:
    odd = dataclasses.replace(GOOD, finish_reason="\ud800", served_model="m\ud800")
    assert run(tmp_path, Script(odd), lambda caller: caller.ask(REQUEST)).status == "ok"


@pytest.mark.parametrize(
    ("kind", "is_left_out"),
    [("http_500", True), ("timeout", True), ("disconnected", True), ("connection", False)],
)
def test_a_resumed_run_may_have_nothing_left_but_calls_that_fail(
    kind: str, is_left_out: bool, tmp_path: Path
) -> None:
    run(tmp_path, Script(GOOD), lambda caller: caller.ask(REQUEST))
    hopeless = Script(Transient(kind, "no"))

    async def main(caller: Caller) -> str:
        assert (await caller.ask(REQUEST)).is_cached
        return (await caller.ask(dataclasses.replace(REQUEST, sample_index=1))).status

    if is_left_out:
        assert run(tmp_path, hopeless, main, max_attempts=2) == "failed"
    else:
        with pytest.raises(BreakerError, match="no answer from"):
            run(tmp_path, hopeless, main, max_attempts=2)
