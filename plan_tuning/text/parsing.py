"""Teacher's reply -> plan text, plan score: what a reply says, or that it cannot be read."""

from __future__ import annotations

import re
from dataclasses import dataclass

PARSED = "parsed"
UNPARSED = "unparsed"
OUT_OF_RANGE = "out_of_range"
LOWEST, HIGHEST = -100, 100

# A label is "score", its decoration and a separator; the value is read from what follows it.
_LABEL = re.compile(r"(?i)(?<![^\W_])score[\s*_`\"'\])]*[:=：]")
_FILLER = re.compile(r"(?:[\s*_`\"'\[({<$]|\\boxed(?=\{))*")
_NUMBER = re.compile(r"([+\-\u2212\u2013]?)([0-9](?:[0-9.,]*[0-9])?)")
_SCALE = re.compile(r"(?i)\s*(?:/|out of)\s*100(?![0-9.,]*[0-9])")
_CLOSED = re.compile(r"[*_`\"'\])}>$.,;!\s]*")
_RANGE = re.compile(r"(?i)(?:[-\u2212\u2013~/%^+*x0-9]|to\b|or\b|and\b|out of\b|percent\b)")

_RELEASED = re.compile(r"Score:\s*(\d+)(?!\.)")

_PLAN_TAG = re.compile(r"(?is)<plan>(.*?)(?:</plan>|\Z)")
_FENCE = re.compile(r"\A```[^\n`]*\n(.*?)\n?```\Z", re.DOTALL)

_REFUSAL = re.compile(
    r"(?i)\A\W*(?:(?:i[’']m|i am) (?:\w+ )?sorry\b|sorry,|i apologi[sz]e\b)?[,.;:\s]*"
    r"(?:but |unfortunately,? )?"
    r"(?:as an ai\b[^.\n]*|i (?:cannot|can[’']?t|am unable to|am not able to|won[’']t|will not"
    r"|must decline to)|i[’']m (?:unable|not able) to)"
    r"[^.\n]*\b(?:help|assist|comply|answer|solve|provide|continue|fulfil|engage|discuss)"
)
_REFUSAL_LENGTH = 400  # characters; longer texts say something beside the refusal


@dataclass(frozen=True, slots=True)
class Score:
    """A verifier's score, or why there is none."""

    value: int | None
    status: str  # parsed, unparsed, out_of_range


def parse_score(text: str) -> Score:
    r"""Read the score off a verifier's reply.

    The last ``Score:`` counts, whatever stands around it: bold, brackets, ``/100``, ``=`` for the
    colon, a typographic minus. A last ``Score:`` without a plain integer is unparsed, even where an
    earlier one has a number; a number outside [-100, 100] is out of range. Neither is ever turned
    into a number.

    >>> parse_score("Good.\n**Score:** 85/100"), parse_score("Score: 90 ... Score: -20")
    (Score(value=85, status='parsed'), Score(value=-20, status='parsed'))
    >>> parse_score("Score: 95.5").status, parse_score("Score: 105").status
    ('unparsed', 'out_of_range')
    """
    labels = list(_LABEL.finditer(text))
    if not labels:
        return Score(None, UNPARSED)
    label = labels[-1]
    filler = _FILLER.match(text, label.end())
    number = _NUMBER.match(text, filler.end() if filler else label.end())
    if number is None:
        return Score(None, UNPARSED)
    value = _integer(number[1], number[2])
    if value is None or not _is_closed(text, number.end()):
        return Score(None, UNPARSED)
    if not LOWEST <= value <= HIGHEST:
        return Score(None, OUT_OF_RANGE)
    return Score(value, PARSED)


def _integer(sign: str, digits: str) -> int | None:
    whole, _, rest = digits.partition(".")
    if rest.strip("0") or not whole.isdigit() or len(whole) > 9:
        return None
    return int(whole) if sign in ("", "+") else -int(whole)


def _is_closed(text: str, end: int) -> bool:
    """Whether nothing behind the number makes it a range, another scale or a term."""
    line_end = text.find("\n", end)
    tail = text[end : line_end if line_end >= 0 else len(text)]
    scale = _SCALE.match(tail)
    if scale:
        tail = tail[scale.end() :]
    if tail[:1].isalpha():
        return False
    closed = _CLOSED.match(tail)
    return not _RANGE.match(tail, closed.end() if closed else 0)


def parse_score_released(text: str) -> Score:
    """Read a score as the authors' released code does, to measure on how many rows it differs.

    The first match counts; a sign, bold or brackets before the number and anything unreadable give
    -100; what exceeds 100 becomes 100; a number with a full stop behind it loses its last digit.

    >>> [parse_score_released(t).value for t in ("Score: 85", "Score: 85.", "**Score:** 85")]
    [85, 8, -100]
    """
    found = _RELEASED.search(text)
    value = min(int(found[1][:9]), HIGHEST) if found else LOWEST
    return Score(value, PARSED)


SCORE_PARSERS = {"strict": parse_score, "released_code": parse_score_released}


def parse_plan(text: str) -> str:
    r"""Take the plan out of a reply: without tags, code fence, blank lines and outer space.

    Replies that differ in blank lines only give the same plan, and so share their later requests.

    >>> parse_plan("  <plan>\n1. Add.\n\n2. Halve. </plan> ")
    '1. Add.\n2. Halve.'
    """
    tagged = _PLAN_TAG.search(text)
    body = (tagged[1] if tagged else text).replace("\r\n", "\n").strip(" \t\n")
    fenced = _FENCE.match(body)
    lines = (fenced[1] if fenced else body).split("\n")
    return "\n".join(line.rstrip(" \t") for line in lines if line.strip(" \t")).strip(" \t")


def is_refusal(text: str) -> bool:
    """Whether a reply only declines to answer.

    >>> is_refusal("I'm sorry, but I can't help with that.")
    True
    >>> is_refusal("1. Sorry numbers by size.")
    False
    """
    return len(text) <= _REFUSAL_LENGTH and _REFUSAL.match(text) is not None
