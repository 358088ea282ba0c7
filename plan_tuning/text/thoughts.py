r"""A model's text -> its thoughts, and what it says after them.

Models that think write ``<think>…</think>`` before their answer; a server may cut the opening tag
off, because its chat template has already written it. What counts is what follows the last closing
tag. An answer that never came, because the thought was not closed, is an empty text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

READING_VERSION = 2
"""Raised by hand whenever a text is read otherwise; see :mod:`plan_tuning.tasks.regrading`."""

# Of Qwen, DeepSeek and most others; of Gemini's OpenAI endpoint; of Seed; of litellm; of Magistral.
_NAMES = r"(?:think|thinking|thought|seed:think|budget:thinking)"
_OPENING = re.compile(rf"(?i)\s*(?:<{_NAMES}(?:\s[^<>]*)?>|\[THINK\])")
_CLOSING = re.compile(rf"(?i)</{_NAMES}\s*>|\[/THINK\]")


@dataclass(frozen=True, slots=True)
class Said:
    """A text in two parts, which joined are the text again."""

    thoughts: str  # with their tags and the space behind them; empty where there are none
    text: str  # what is said
    is_open: bool = False  # a thought was begun and not ended: the text was cut off


def split_thoughts(raw: str) -> Said:
    r"""Split a model's text into its thoughts and what it says after them.

    >>> split_thoughts("<think>5 or 6?</think>\n\nIt is 6.").text
    'It is 6.'
    >>> split_thoughts("5 or 6?</think>It is 6.").text, split_thoughts("It is 6.").thoughts
    ('It is 6.', '')
    >>> split_thoughts("<think>5 or 6?")
    Said(thoughts='<think>5 or 6?', text='', is_open=True)
    """
    if "<" not in raw and "[" not in raw:  # with which every tag begins
        return Said("", raw)
    end = 0
    for closing in _CLOSING.finditer(raw):
        end = closing.end()
    if _OPENING.match(raw, end):
        return Said(raw, "", is_open=True)
    if not end:
        return Said("", raw)
    text = raw[end:].lstrip()
    return Said(raw[: len(raw) - len(text)], text)


def holds_thoughts(text: str) -> bool:
    """Whether a text begins with a thought, or holds the end of one."""
    return bool(split_thoughts(text).thoughts)


def join_thoughts(thoughts: str, text: str, *, is_open: bool) -> str:
    """Write thoughts that a server sent apart as the model itself would have written them.

    Args:
        thoughts: without tags; blank: the text stands alone.
        text: what is said.
        is_open: the answer was cut off while the model thought.
    """
    if not thoughts.strip():
        return text
    return f"<think>{thoughts}" if is_open else f"<think>{thoughts}</think>{text}"
