r"""two canonical formulas -> equal or not: algebra, the last resort of the grader.

math-verify's parser reads the formulas, and its ``verify`` compares what are no expressions (sets,
matrices). Expressions are evaluated to 50 digits, at several points where they have variables: that
settles nearly all pairs, and it tells numbers apart that rounding makes equal (1/2^98 and 1/2^88).
This module runs in the killable workers of :mod:`plan_tuning.grading.pool` only.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import math_verify
import sympy
from latex2sympy2_extended import latex2sympy
from sympy.core.function import AppliedUndef

_DIGITS = 50
_EXACT = sympy.Float(10, _DIGITS) ** -30
_DECIMAL = re.compile(r"(\d*)\.(\d+)")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)°")
_IMAGINARY = {sympy.Symbol("i", real=True): sympy.I, sympy.Symbol("i"): sympy.I}
# Points of evaluation: no small integers, which too many different formulas share.
_POINTS: tuple[tuple[Any, ...], ...] = tuple(
    tuple(sympy.Rational(prime, under) for prime in (137, 211, 89, 173, 59, 241, 113, 191))
    for under in (97, 31, 53)
)
# Formulas with floors can agree on most integers: these need many points.
_NUM_STEPPED_POINTS = 40
_NUM_INTEGER_POINTS = 12
_FAMILIAR = (
    ("value", r"\frac{\sqrt{2}}{2}+1", r"2^{-\frac{1}{2}}+1.5"),
    ("value", r"(x+1)^2-3x", r"x^2-x+\frac{2 n}{x(n-1)}"),
    ("value", r"\log_{2}8\cdot\pi", r"\ln(3)+\sin(\frac{\pi}{6})-e^{2x}"),
    ("value", r"\lfloor\frac{n}{2}\rfloor!", r"\binom{n}{2}-|n|"),
    ("value", r"3+4i", r"\sqrt[3]{5}\cos x"),
    ("equation", "y=2x+3", "2x-y+3=0"),
)
_MAX_SYMBOLS = len(_POINTS[0])


def equal(mode: str, gold: str, answer: str, rounding: float) -> bool:
    """Compare two canonical formulas.

    Args:
        mode: ``value`` for numbers and expressions, ``equation`` for ``a=b``, which is compared
            up to a constant factor.
        gold: safe canonical gold.
        answer: safe canonical answer.
        rounding: relative error up to which a decimal passes.
    """
    try:
        return _same_equation(gold, answer) if mode == "equation" else _same(gold, answer, rounding)
    except ZeroDivisionError:
        return False  # undefined is not equal to anything


def warm_up() -> None:
    """Compare a few formulas: the parser builds its tables, and algebra its caches, as they go."""
    for mode, gold, answer in _FAMILIAR:
        equal(mode, gold, answer, 0.0)


def _same(gold: str, answer: str, rounding: float) -> bool:
    first, second = _parse(gold), _parse(answer)
    if first is None or second is None:
        return False
    tolerance = sympy.Float(rounding) if _is_rounded(gold, answer) else _EXACT
    decided = _numerically(first, second, tolerance)
    if decided is not None:
        return decided
    if isinstance(first, sympy.Expr) and isinstance(second, sympy.Expr):
        # verify() rounds, and takes what is undefined at a point for equal: only proof counts here
        return bool(sympy.simplify(first - second) == 0)
    return bool(math_verify.verify([first], [second], timeout_seconds=None))


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> Any:
    """Parse one formula; None where the parser cannot."""
    latex = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    latex = _DECIMAL.sub(_as_fraction, latex)  # floats would blur 0.1x and x/10
    try:
        parsed = latex2sympy(latex, is_real=True, convert_degrees=False, normalization_config=None)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # the parser raises anything, plain Exception included, on bad input
        return None
    if isinstance(parsed, sympy.Basic):
        return parsed.subs(_IMAGINARY)
    return parsed


def _as_fraction(match: re.Match[str]) -> str:
    whole, decimals = match.groups()
    return f"\\frac{{{int(whole + decimals)}}}{{1{'0' * len(decimals)}}}"


def _is_rounded(gold: str, answer: str) -> bool:
    if re.fullmatch(r"-?\d+", gold) or re.fullmatch(r"-?\d+", answer):
        return False
    return bool(_DECIMAL.search(gold) or _DECIMAL.search(answer))


def _numerically(first: Any, second: Any, tolerance: Any) -> bool | None:
    """Decide by figures; None where they cannot."""
    if not (isinstance(first, sympy.Expr) and isinstance(second, sympy.Expr)):
        return None
    if first == second:
        return True
    if first.atoms(AppliedUndef) or second.atoms(AppliedUndef):
        return None
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    if not symbols:
        return _close(first, second, tolerance)
    if len(symbols) > _MAX_SYMBOLS:
        return None
    stepped = first.has(*_STEPPED) or second.has(*_STEPPED)
    discrete = stepped or first.has(*_DISCRETE) or second.has(*_DISCRETE)
    if discrete or _alternates(first, second):
        discrete = True
        points = _integer_points(_NUM_STEPPED_POINTS if stepped else _NUM_INTEGER_POINTS)
    else:
        points = list(_POINTS)
    agreed = 0
    for point in points:
        for sign in (1,) if discrete else (1, -1):
            values = {
                symbol: sympy.Integer(sign) * value
                for symbol, value in zip(symbols, point, strict=False)
            }
            one, other = _value(first, values), _value(second, values)
            if one is None or other is None:
                continue
            if sign < 0 and not (one.is_real and other.is_real):
                continue  # outside the domain that is meant: logarithms, roots
            if not _near(one, other, tolerance):
                return False
            agreed += 1
    return True if agreed >= 2 else None


_STEPPED = (sympy.floor, sympy.ceiling, sympy.Mod)
_DISCRETE = (sympy.factorial, sympy.binomial, sympy.gamma, sympy.Sum, sympy.Product)


def _integer_points(count: int) -> list[tuple[Any, ...]]:
    """Make points of positive integers.

    The first coordinate runs through 1, 2, 3, …, every second time 20 higher: binomials and
    differences under a factorial need their first variable above the others, or below.
    """
    return [
        (
            k // 2 + 1 + 20 * (k % 2),
            *(((k * (i + 2) + i * i) % 17) + 1 for i in range(1, _MAX_SYMBOLS)),
        )
        for k in range(count)
    ]


def _alternates(*expressions: Any) -> bool:
    """Whether a negative number is raised to a variable, as in (-1)^n."""
    return any(
        power.base.is_negative and power.exp.free_symbols
        for expression in expressions
        for power in expression.atoms(sympy.Pow)
    )


def _value(expression: Any, values: dict[Any, Any]) -> Any:
    value = sympy.N(expression.subs(values), _DIGITS)
    if not isinstance(value, sympy.Expr) or not value.is_number or value.has(sympy.nan, sympy.zoo):
        return None
    real, imaginary = value.as_real_imag()
    return (
        value
        if real.is_Float or real.is_Integer or imaginary.is_Float or real.is_infinite
        else None
    )


def _close(first: Any, second: Any, tolerance: Any) -> bool | None:
    if first.is_infinite or second.is_infinite:
        return bool(first == second)
    one, other = _value(first, {}), _value(second, {})
    if one is None or other is None:
        return None
    if (one == 0) != (other == 0) or max(abs(one), abs(other)) < sympy.Float("1e-40"):
        difference = sympy.simplify(first - second)
        return bool(difference == 0 or difference.is_zero)
    return _near(one, other, tolerance)


def _near(one: Any, other: Any, tolerance: Any) -> bool:
    scale = max(abs(one), abs(other))
    if scale == 0:
        return True
    return bool(abs(one - other) <= tolerance * scale)


def _same_equation(gold: str, answer: str) -> bool:
    """Compare equations by the ratio of their differences, which must be one constant."""
    sides = []
    for text in (gold, answer):
        left, _, right = text.partition("=")
        if "=" in right or not left or not right:
            return False
        parsed = _parse(left), _parse(right)
        if not all(isinstance(side, sympy.Expr) for side in parsed):
            return False
        sides.append(parsed[0] - parsed[1])
    first, second = sides
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    if not symbols or len(symbols) > _MAX_SYMBOLS or first.free_symbols != second.free_symbols:
        return False
    ratios = []
    for point in _POINTS:
        values = dict(zip(symbols, point, strict=False))
        one, other = _value(first, values), _value(second, values)
        if one is None or other is None or other == 0 or one == 0:
            return False
        ratios.append(one / other)
    return all(_near(ratio, ratios[0], _EXACT) for ratio in ratios)
