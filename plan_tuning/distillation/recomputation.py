r"""An execution with its annotated equations -> whether they recompute, and where they end.

GSM8K's rationales hold the calls of a calculator, ``<<16-3-4=9>>``. Each is computed again in
rational numbers, so ``1/3=.333`` is wrong and ``0.1+0.2=0.3`` is right. Only the arithmetic of the
annotations is checked: that an equation belongs where it stands, nobody knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

NO_EQUATION = "no_annotated_equation"
WRONG_EQUATION = "equation_does_not_recompute"
OTHER_END = "chain_ends_elsewhere"

_ANNOTATED = re.compile(r"<<([^<>]*)>>")
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|(\*\*|//|[-+*/()%^]))")
_IGNORED = re.compile(r"[$,\s]")
_MAX_BITS = 10_000  # of a power: larger ones are nobody's arithmetic
_MAX_LENGTH = 500  # characters of an expression


class ArithmeticTextError(ValueError):
    """A text that is no arithmetic of numbers."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The annotated equations of one execution, in their order."""

    equations: tuple[str, ...]  # a=b, as they are annotated
    recomputed: tuple[bool, ...]  # whether both sides are the same number
    end: Fraction | None  # right side of the last one; None: there is none, or it is no number


def chain_of(annotated: str) -> Chain:
    """Compute every annotated equation of an execution again.

    >>> chain_of("3*2=<<3*2=6>>6 and 6/4=<<6/4=1.4>>1.4").recomputed
    (True, False)
    """
    equations = tuple(_ANNOTATED.findall(annotated))
    ends = [_value(equation.rpartition("=")[2]) for equation in equations[-1:]]
    return Chain(equations, tuple(map(recomputes, equations)), ends[0] if ends else None)


def recomputes(equation: str) -> bool:
    """Whether all sides of an equation are the same rational number.

    >>> recomputes("0.1+0.2=0.3"), recomputes("1/3=.333"), recomputes("2+2")
    (True, False, False)
    """
    sides = [_value(side) for side in equation.split("=")]
    return len(sides) > 1 and None not in sides and len(set(sides)) == 1


def defect(annotated: str, answer: str) -> str | None:
    """Say why an execution is not one that recomputes up to the gold number; None where it is.

    Args:
        annotated: the execution with its equations as ``<<a=b>>``.
        answer: gold answer.

    >>> defect("3*2=<<3*2=6>>6", "6"), defect("3*2=<<3*2=6>>6", "7")
    (None, 'chain_ends_elsewhere')
    """
    chain = chain_of(annotated)
    if not chain.equations:
        return NO_EQUATION
    if not all(chain.recomputed):
        return WRONG_EQUATION
    return None if chain.end == _value(answer) else OTHER_END


def _value(text: str) -> Fraction | None:
    try:
        return compute(text)
    except ArithmeticTextError:
        return None


def compute(expression: str) -> Fraction:
    """Compute an expression of decimal numbers, ``+ - * / // ** ^ %`` and brackets, exactly.

    ``20%`` is a fifth. Currency signs and thousands commas do not count.

    Raises:
        ArithmeticTextError: it is no such expression, divides by zero, or is out of all bounds.

    >>> compute("$1,200*(1-20%)/2")
    Fraction(480, 1)
    """
    text = _IGNORED.sub("", expression)
    if not text or len(text) > _MAX_LENGTH:
        raise ArithmeticTextError(f"{expression[:40]!r} is empty or too long")
    tokens, place = [], 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise ArithmeticTextError(f"{expression!r}: {text[place]!r} is no arithmetic")
        tokens.append(found[1] or found[2])
        place = found.end()
    parser = _Parser(tokens)
    try:
        value = parser.sum()
    except (ZeroDivisionError, RecursionError) as error:
        raise ArithmeticTextError(f"{expression!r} has no value") from error
    if parser.next is not None:
        raise ArithmeticTextError(f"{expression!r}: {parser.next!r} is one too many")
    return value


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens[::-1]

    @property
    def next(self) -> str | None:
        return self._tokens[-1] if self._tokens else None

    def _take(self, *words: str) -> str | None:
        return self._tokens.pop() if self.next in words else None

    def sum(self) -> Fraction:
        value = self._product()
        while sign := self._take("+", "-"):
            other = self._product()
            value = value + other if sign == "+" else value - other
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while sign := self._take("*", "/", "//"):
            other = self._signed()
            if sign == "*":
                value *= other
            else:
                value = value / other if sign == "/" else Fraction(value // other)
        return value

    def _signed(self) -> Fraction:
        if sign := self._take("-", "+"):
            value = self._signed()
            return -value if sign == "-" else value
        return self._power()

    def _power(self) -> Fraction:
        value = self._atom()
        while self._take("%"):
            value /= 100
        if self._take("**", "^"):
            exponent = self._signed()
            bits = max(value.numerator.bit_length(), value.denominator.bit_length())
            if exponent.denominator != 1 or bits * abs(exponent) > _MAX_BITS:
                raise ArithmeticTextError(f"{exponent} is no exponent here")
            value = Fraction(value**exponent.numerator)
        return value

    def _atom(self) -> Fraction:
        if self._take("("):
            value = self.sum()
            if self._take(")") is None:
                raise ArithmeticTextError("a bracket is not closed")
            return value
        token = self._tokens.pop() if self._tokens else ""
        if not token or not (token[0].isdigit() or token[0] == "."):
            raise ArithmeticTextError(f"a number is missing before {token!r}")
        return Fraction(token if not token.endswith(".") else token[:-1])
