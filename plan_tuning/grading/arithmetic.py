r"""canonical number -> exact fraction: integers, decimals, fractions, powers, factorials, roots.

A small recursive-descent parser over the canonical notation. It returns None for whatever it does
not know, and for numbers that would grow too large: nothing here can hang or fill the memory.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from plan_tuning.grading.normalisation import MAX_DEPTH

MAX_BITS = 65_536  # of a numerator or denominator: 2004! fits, a power tower does not
_MAX_FACTORIAL = 5000
_MAX_DIGITS = 1000

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][-+]?\d{1,4}(?![\d.]))?|\.\d+|\.(?=\\overline))"
    r"|(?P<macro>\\[A-Za-z]+)"
    r"|(?P<symbol>[-+*/^!(){}\[\]]))\s*"
)
_SPACED_MIXED = re.compile(r"(-?)(\d{1,18}) (\d{1,18})/(\d{1,18})")
_PLAIN = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)")


class _NotExactError(Exception):
    """The text is no exact number that this parser knows."""


def evaluate(text: str) -> Fraction | None:
    r"""Evaluate a canonical text exactly.

    Returns:
        The value, or None where the text is not plain arithmetic, or too large.

    >>> evaluate(r"1\frac{1}{2}"), evaluate(r"2^{10}-5!"), evaluate(r"0.1\overline{6}")
    (Fraction(3, 2), Fraction(904, 1), Fraction(1, 6))
    """
    mixed = _SPACED_MIXED.fullmatch(text)
    if mixed:
        sign, whole, over, under = mixed.groups()
        if not int(under):
            return None
        value = int(whole) + Fraction(int(over), int(under))
        return -value if sign else value
    try:
        return _Parser(text).parse()
    except _NotExactError:
        return None


def is_plain(text: str) -> bool:
    """Whether the text is one integer or decimal, as opposed to something to be worked out."""
    return bool(_PLAIN.fullmatch(text))


class _Parser:
    """One pass over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or match.end() == position:
                raise _NotExactError
            self.tokens.append((str(match.lastgroup), match.group(str(match.lastgroup))))
            position = match.end()
        self.index = 0
        self.level = 0

    def parse(self) -> Fraction:
        value = self._sum()
        if self.index != len(self.tokens):
            raise _NotExactError
        return value

    def _peek(self) -> str:
        return self.tokens[self.index][1] if self.index < len(self.tokens) else ""

    def _take(self, expected: str = "") -> str:
        token = self._peek()
        if not token or (expected and token != expected):
            raise _NotExactError
        self.index += 1
        return token

    def _sum(self) -> Fraction:
        self.level += 1
        if self.level > MAX_DEPTH:
            raise _NotExactError
        value = self._product()
        while self._peek() in ("+", "-"):
            operator = self._take()
            right = self._product()
            value = _bounded(value + right if operator == "+" else value - right)
        self.level -= 1
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        divided = False
        while True:
            token = self._peek()
            if token in ("*", "\\cdot"):
                self._take()
                value = _bounded(value * self._signed())
            elif token == "/":
                self._take()
                divisor = self._signed()
                if not divisor:
                    raise _NotExactError
                value, divided = _bounded(value / divisor), True
            elif token in ("(", "\\frac", "\\sqrt", "\\binom") or (
                token and self._is_number(self.index) and self._closed_before()
            ):
                if divided:  # 1/2(3): people differ in what it means
                    raise _NotExactError
                value = _bounded(value * self._power())
            else:
                return value

    def _is_number(self, index: int) -> bool:
        return index < len(self.tokens) and self.tokens[index][0] == "number"

    def _closed_before(self) -> bool:
        return self.tokens[self.index - 1][1] == ")"

    def _signed(self) -> Fraction:
        negative = False
        while self._peek() in ("+", "-"):
            negative ^= self._take() == "-"
        value = self._power()
        return -value if negative else value

    def _power(self) -> Fraction:
        value = self._postfix()
        if self._peek() == "^":
            self._take()
            if self._peek() == "{":
                exponent = self._group()
            elif self._peek() == "(":
                exponent = self._atom()
            elif self._is_number(self.index):
                digits = self._take()
                # without braces LaTeX raises to one digit only; people mean all of them
                exponent = _number(digits)
            else:
                raise _NotExactError
            value = _raise(value, exponent)
        return value

    def _postfix(self) -> Fraction:
        value = self._atom()
        if self._peek() == "!":
            self._take()
            if self._peek() == "!" or value.denominator != 1 or not 0 <= value <= _MAX_FACTORIAL:
                raise _NotExactError
            value = _bounded(Fraction(math.factorial(int(value))))
        return value

    def _atom(self) -> Fraction:
        if self._is_number(self.index):
            literal = self._take()
            if self._peek() == "\\overline" and "." in literal:
                return self._recurring(literal)
            value = _number(literal)
            if literal.isdigit() and self._peek() == "\\frac":
                return value + self._proper_fraction()
            return value
        token = self._take()
        if token == "(":
            value = self._sum()
            self._take(")")
            return value
        if token == "{":
            self.index -= 1
            return self._group()
        if token == "\\frac":
            over, under = self._group(), self._group()
            if not under:
                raise _NotExactError
            return _bounded(over / under)
        if token == "\\binom":
            return _binomial(self._group(), self._group())
        if token == "\\sqrt":
            degree = Fraction(2)
            if self._peek() == "[":
                self._take()
                degree = self._sum()
                self._take("]")
            return _exact_root(self._group(), degree)
        raise _NotExactError

    def _recurring(self, literal: str) -> Fraction:
        """Read a decimal whose last digits stand under a bar."""
        self._take()
        self._take("{")
        period = self._take()
        self._take("}")
        before, _, after = literal.partition(".")
        if not period.isdigit() or not (before + after + "0").isdigit() or len(period) > 50:
            raise _NotExactError
        nines = int("9" * len(period) + "0" * min(len(after), _MAX_DIGITS))
        return _number(f"{before or 0}.{after or 0}") + Fraction(int(period), nines)

    def _proper_fraction(self) -> Fraction:
        """Read the fraction of a mixed number; an improper one would be a product."""
        start = self.index
        self._take("\\frac")
        literal = [token for token, _ in zip(self.tokens[start + 1 :], range(6), strict=False)]
        kinds = [kind for kind, _ in literal]
        over, under = self._group(), self._group()
        whole = kinds == ["symbol", "number", "symbol"] * 2
        if not (whole and over.denominator == under.denominator == 1 and 0 < over < under):
            raise _NotExactError
        return over / under

    def _group(self) -> Fraction:
        self._take("{")
        value = self._sum()
        self._take("}")
        return value


def _number(literal: str) -> Fraction:
    if len(literal) > _MAX_DIGITS:
        raise _NotExactError
    value = Fraction(literal.rstrip(".") if literal.endswith(".") else literal)
    return _bounded(value)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _NotExactError
    return value


def _raise(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if exponent.denominator > 64:
            raise _NotExactError
        base = _exact_root(base, Fraction(exponent.denominator))
        exponent = Fraction(exponent.numerator)
    power = int(exponent)
    if base == 0 and power <= 0:
        raise _NotExactError
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(power) * size > MAX_BITS and abs(base) != 1:
        raise _NotExactError
    return base**power if abs(base) != 1 else Fraction(base if power % 2 else 1)


def _binomial(n: Fraction, k: Fraction) -> Fraction:
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n <= _MAX_FACTORIAL:
        raise _NotExactError
    return _bounded(Fraction(math.comb(int(n), int(k))))


def _exact_root(value: Fraction, degree: Fraction) -> Fraction:
    if degree.denominator != 1 or not 2 <= degree <= 64 or (value < 0 and degree % 2 == 0):
        raise _NotExactError
    over = _integer_root(abs(value.numerator), int(degree))
    under = _integer_root(value.denominator, int(degree))
    root = Fraction(over, under)
    return -root if value < 0 else root


def _integer_root(value: int, degree: int) -> int:
    if degree == 2:
        root = math.isqrt(value)
    else:
        if value.bit_length() > 1000:
            raise _NotExactError
        root = round(value ** (1 / degree))
    for candidate in (root, root + 1, root - 1):
        if candidate >= 0 and candidate**degree == value:
            return candidate
    raise _NotExactError
