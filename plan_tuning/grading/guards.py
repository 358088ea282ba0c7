r"""canonical answer -> may algebra see it: what keeps costly texts out.

Only texts made of known macros and characters are safe; towers of powers, large factorials and the
like are not. An answer that is not safe can still be right by being written as the gold is.
"""

from __future__ import annotations

import re

from plan_tuning.grading.arithmetic import evaluate
from plan_tuning.grading.normalisation import MAX_DEPTH, MAX_LENGTH, depth

_CHARACTERS = re.compile(r"[A-Za-z0-9\\{}()\[\]^_+\-*/=<>|!.,:%°' ]*")
_MACRO = re.compile(r"\\([A-Za-z]+|.)")


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_MACROS = _names(
    "frac sqrt binom cdot pi infty emptyset alpha beta gamma delta epsilon zeta eta theta "
    "iota kappa lambda mu nu xi rho sigma tau phi chi psi omega Gamma Delta Theta Lambda Xi "
    "Pi Sigma Phi Psi Omega sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln "
    "log lg exp lfloor rfloor lceil rceil le ge ne pm mp min max gcd pmod bmod overline text "
    "ell { } | , circ"
)
# Restating the problem is no answer: these pass only where the gold itself uses them.
_UNEVALUATED = _names("lim int sum prod iint oint to limits infty in mathbb setminus cap cup")
_LONG_DIGITS = re.compile(r"\d{300}")
_LARGE_EXPONENT = re.compile(r"\^\s*[-+(]*\s*(?:\d{5,}|\d+[eE]\d+)")
_SPACED_DIGITS = re.compile(r"\d \d")
_POWER_OF_SUM = re.compile(r"[)}\]]\^\{?(\d+)")
_LARGE_FACTORIAL = re.compile(r"(\d{4,})\}?\)?\s*!|!\s*[)}]*\s*!")
_LARGE_BINOMIAL = re.compile(r"\\binom\{[^{}]*\d{5,}")
_E_NOTATION = re.compile(r"\d[eE][-+]?\d{4,}")
_MAX_POWER_OF_SUM = 200
_MAX_EXPONENT = 20_000
_MAX_OPERATORS = 400


def is_safe(text: str, *, like: str = "") -> bool:
    r"""Whether a canonical text may go to a symbolic comparison.

    Args:
        text: canonical answer.
        like: canonical gold; macros that it uses are allowed as well.

    >>> is_safe(r"\frac{x}{2}"), is_safe("9^{9^{9^{9}}}"), is_safe("__import__('os')")
    (True, False, False)
    """
    if len(text) > MAX_LENGTH or depth(text) > MAX_DEPTH or not _CHARACTERS.fullmatch(text):
        return False
    if "__" in text or len(re.findall(r"[-+*/^]|\\cdot", text)) > _MAX_OPERATORS:
        return False
    allowed = {match.group(1) for match in _MACRO.finditer(like)} & _UNEVALUATED
    for match in _MACRO.finditer(text):
        if match.group(1) not in _MACROS and match.group(1) not in allowed:
            return False
    if not _is_balanced(text):
        return False
    if any(
        pattern.search(text)
        for pattern in (
            _LONG_DIGITS,
            _LARGE_FACTORIAL,
            _LARGE_BINOMIAL,
            _E_NOTATION,
            _LARGE_EXPONENT,
            _SPACED_DIGITS,
        )
    ):
        return False
    if not all(_is_small(exponent) for exponent in _exponents(text)):
        return False
    return all(int(m.group(1)) <= _MAX_POWER_OF_SUM for m in _POWER_OF_SUM.finditer(text))


def _is_balanced(text: str) -> bool:
    levels = {"(": 0, "[": 0, "{": 0}
    for character in text:
        if character in levels:
            levels[character] += 1
        elif character in ")]}":
            opening = "([{"[")]}".index(character)]
            levels[opening] -= 1
            if levels[opening] < 0:
                return False
    return not any(levels.values())


def _exponents(text: str) -> list[str]:
    """List what stands in braces behind ``^``, inner ones too."""
    found: list[str] = []
    starts: list[int] = []
    for position, character in enumerate(text):
        if character == "{":
            raised = text[:position].rstrip().endswith("^")
            starts.append(position + 1 if raised else -1)
        elif character == "}" and starts:
            start = starts.pop()
            if start >= 0:
                found.append(text[start:position])
    return found


def _is_small(exponent: str) -> bool:
    """Whether a power may be taken: no tower of powers, no huge number."""
    value = evaluate(exponent)
    if value is not None:
        return abs(value) <= _MAX_EXPONENT
    return exponent.count("^") < 2 and not re.fullmatch(r"[\d\s^{}()+*!\-]*", exponent)
