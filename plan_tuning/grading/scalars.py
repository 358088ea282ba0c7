r"""two canonical numbers -> equal or not: percent, base, ratio, tolerance and rounding.

Numbers are compared exactly, as fractions; the points on which reasonable graders differ are
options of :class:`~plan_tuning.config.grading.GradingConfig`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from plan_tuning.config.grading import GradingConfig
from plan_tuning.grading.arithmetic import is_plain
from plan_tuning.grading.normalisation import normalise
from plan_tuning.grading.units import canonical_unit
from plan_tuning.grading.words import unwrapped
from plan_tuning.records import Problem

_BASE = re.compile(r"([0-9A-Z]+)_(?:\{(\d+|\\text\{\w+\})\}|(\d+))")
_BASE_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_RATIO = re.compile(r"\d+(?:\.\d+)?(?::\d+(?:\.\d+)?)+")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?")


@dataclass(frozen=True, slots=True)
class Criteria:
    """What the problem says about its answers, beside the gold itself."""

    config: GradingConfig
    style: str = "math"
    is_multiple_answer: bool = False
    unit: str = ""
    tolerance: float | None = None

    @classmethod
    def of(cls, problem: Problem, config: GradingConfig) -> Criteria:
        """Read the criteria of a problem."""
        return cls(
            config=config,
            style=problem.style,
            is_multiple_answer=problem.is_multiple_answer,
            unit=canonical_unit(normalise(problem.unit)) if problem.unit else "",
            tolerance=problem.tolerance,
        )


def same_number(
    gold: Fraction,
    answer: Fraction,
    percent: tuple[bool, bool],
    texts: tuple[str, str],
    criteria: Criteria,
) -> bool:
    """Compare two exact numbers under the policy of percent signs, rounding and tolerance."""
    config = criteria.config
    if not config.accept_unsimplified and not _is_lowest(texts[1]):
        return False
    if percent[0] == percent[1]:
        return _close(gold, answer, texts, criteria)
    if config.percent == "exact":
        return False
    if _close(gold, answer, texts, criteria):
        return True
    if config.percent == "same":
        return False
    if percent[0]:
        return _close(gold / 100, answer, texts, criteria)
    return _close(gold, answer / 100, texts, criteria)


def _close(gold: Fraction, answer: Fraction, texts: tuple[str, str], criteria: Criteria) -> bool:
    if gold == answer:
        return True
    if criteria.tolerance is not None:
        return abs(gold - answer) <= Fraction(str(criteria.tolerance))
    if gold.denominator == 1 or answer.denominator == 1 or criteria.style == "aime":
        return False  # an integer is exact
    if not any("." in text for text in texts):
        return False
    return abs(gold - answer) <= abs(gold) * Fraction(str(criteria.config.rounding))


def numeral_value(text: str) -> Fraction | None:
    """Read a numeral with a base; None where the text is none.

    >>> numeral_value("1101_2"), numeral_value("1101_{two}"), numeral_value("12_2")
    (Fraction(13, 1), None, None)
    """
    match = _BASE.fullmatch(text)
    base = _base(match) if match else None
    if match is None or not isinstance(base, int) or not 2 <= base <= 36:
        return None
    if any(int(digit, 36) >= base for digit in match.group(1)):
        return None
    return Fraction(int(match.group(1), base))


def same_base(gold: str, answer: str, accept_missing: bool) -> bool | None:
    """Compare numerals with a base by digits and base; None where neither has one."""
    expected, given = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if expected is None:
        return None if given is None else False
    if given is None:
        return accept_missing and answer == expected.group(1)
    return expected.group(1) == given.group(1) and _base(expected) == _base(given)


def _base(match: re.Match[str]) -> int | str:
    name = match.group(2) or match.group(3)
    word = unwrapped(name)
    return int(word) if word.isdigit() else _BASE_WORDS.get(word, word)


def same_ratio(gold: str, answer: str) -> bool | None:
    """Compare ratios up to a common factor, clock times digit by digit."""
    if not _RATIO.fullmatch(gold):
        return False if _RATIO.fullmatch(answer) and gold.count("/") != 1 else None
    if not _RATIO.fullmatch(answer):
        return None
    clock = _CLOCK.fullmatch(gold) is not None
    if clock != (_CLOCK.fullmatch(answer) is not None):
        return False
    first, second = ([Fraction(part) for part in text.split(":")] for text in (gold, answer))
    if len(first) != len(second):
        return False
    if first == second:
        return True
    if clock or not all(first) or not all(second):
        return False
    return len({a / b for a, b in zip(first, second, strict=True)}) == 1


def _is_lowest(text: str) -> bool:
    """Whether a number needs no more working out: plain, or a fraction in lowest terms."""
    if is_plain(text):
        return True
    match = re.fullmatch(r"-?(?:\d+\s?)?(?:\\frac\{(\d+)\}\{(\d+)\}|(\d+)/(\d+))", text)
    if match is None:
        return False
    over, under = (int(part) for part in match.groups() if part)
    value = Fraction(over, under) if under else Fraction(0)
    return value.denominator == under > 1
