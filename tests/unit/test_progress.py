"""Progress of an evaluation off a terminal: few lines, with the speed of their phase."""

from __future__ import annotations

import logging

import pytest

from plan_tuning.evaluation.progress import log_lines, shown

LOGGER = "plan_tuning.evaluation.progress"


def test_a_phase_is_told_at_its_end_only_unless_it_takes_long(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    tell = log_lines("gsm8k")
    for rows in (1, 2, 3):
        tell("planning", rows, 3, 10 * rows)
    tell("executing", 3, 3, 40)
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("gsm8k, planning: 3 of 3, 30 tokens, ")
    assert caplog.messages[1].startswith("gsm8k, executing: 3 of 3, 40 tokens, ")
    assert all(message.endswith(" tokens/s") for message in caplog.messages)
    caplog.clear()
    eager = log_lines("gsm8k", every_s=0.0)
    for rows in (1, 2, 3):
        eager("planning", rows, 3, rows)
    assert len(caplog.messages) == 3


def test_nothing_is_shown_where_it_is_not_wanted() -> None:
    with shown("gsm8k", is_wanted=False) as progress:
        assert progress is None
