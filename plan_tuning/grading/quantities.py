r"""left side of an equation -> what it says: a value asked for, or an equation still to be solved.

``m+n=25`` gives a value, and so do ``f(3)=5`` and ``\cos A=\frac{3}{5}``. ``3x=5`` and ``x^2=5`` do
not: their solution is another number. The rule: nothing is left to be solved where the left side
is one name, or joins several different names without numbers beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from plan_tuning.grading.arithmetic import evaluate
from plan_tuning.grading.scalars import numeral_value
from plan_tuning.grading.structure import (
    APPROXIMATELY,
    GREEK,
    Relation,
    bare_name,
    is_name,
    matrix,
)
from plan_tuning.grading.units import split_unit, units_differ

_ATOM = "\x1a"  # stands for a quantity that is as good as a name
_SUBSCRIPT = r"(?:_(?:\{[^{}]*\}|\w))?"
_DESCRIPTION = re.compile(r"(?:\\text\{[^{}]*\}(?!\()|[A-Za-z]{2,}(?= |$))\s*")
_NAMED_FUNCTION = re.compile(
    r"(?:\\(?:gcd|max|min|det|deg|dim|arg|Pr|phi|pi)|\\text\{[^{}]*\}|\\mathbb\{E\}"
    rf"|[A-Zfgh]{_SUBSCRIPT}(?:'{{1,3}}|\^\{{-1\}})?)\s?(?:\([^()]*\)|\[[^\[\]]*\])"
)
_FUNCTION = re.compile(rf"[A-Za-z]{_SUBSCRIPT}'{{0,3}}\((?:\d+|[A-Za-z]{_SUBSCRIPT})\)")
_MEASURE = re.compile(  # lengths, sizes and moduli; |x| = 5 has two solutions
    r"\|(?:[A-Zzw][^|]*|\\(?:vec|overline)\{[^{}]*\})\||\[[A-Z]{3,6}\]|\\\|[^|]*\\\|"
)
_TRIGONOMETRY = re.compile(
    r"\\(?P<name>sin|cos|tan|cot|sec|csc)(?P<power>\^(?:\d|\{\d\}))?\s?"
    rf"(?P<angle>\([^()]*\)|\d?(?:\\angle\s?)?(?:\\(?:{GREEK})|[A-Za-z]{_SUBSCRIPT}){{1,3}})"
)
_MARKED = re.compile(
    r"\\(?:vec|overline|bar|hat|widehat)\{[^{}]*\}|\\(?:angle|triangle)\s?[A-Z]{1,3}"
)
_BIG_OPERATOR = re.compile(r"\\(?:int|iint|sum|prod|lim)(?![A-Za-z])")
_INVERSE = re.compile(r"(?<![A-Za-z])[A-Z]\^(?:\{-1\}|\{\\top ?\}|T)")
_NAME = re.compile(rf"\\(?:{GREEK})(?![A-Za-z]){_SUBSCRIPT}|(?<!\\)[A-Za-z]{_SUBSCRIPT}'{{0,3}}")
_RECIPROCAL = re.compile(r"\\frac\{1\}|(?<![\d.)}])1/")
_EXPONENT = re.compile(r"\^(?:\d|\{\d{1,2}\})")
_STRUCTURE = re.compile(r"\\(?:frac|cdot)(?![A-Za-z])\s?")
_JOINED = re.compile(r"[\x1a+*/:(){}\s-]+")
_MACRO = re.compile(r"\\[A-Za-z]+")
_CONSTANTS = frozenset("ei")
_ARROW = re.compile(
    r"\\(?:Long|long)?(?:[Rr]ightarrow|[Ll]eftrightarrow)(?![a-z])|\\(?:implies|iff|to)(?![a-z])|[⇒→⇔]"
)
_PERCENTAGE = re.compile(r"(\d+(?:\.\d+)?)%")
_TIMES = re.compile(r"(?<=[\d)])\s?x\s?(?=[\d(])|\\text\{of\}|(?<=[\d%)])\s?of\s?(?=\d)")
_WORDS = re.compile(
    r"/?\s?\\text\{[^{}]*\}|/?(?<![A-Za-z\\])[A-Za-z]{4,}(?![A-Za-z(])| [A-Za-z]{2,}(?![A-Za-z(])|°"
)
_MAX_SIDES = 20  # of one chain of equations
_ROUGH = Fraction(1, 20)  # how far apart two sides of a \approx may be


def is_quantity(text: str, *, is_alone: bool = False) -> bool:
    r"""Whether a left side is what the right side is the value of.

    Args:
        text: canonical left side.
        is_alone: refuse several names that are joined: ``x+y=0`` is the equation of a line.

    >>> [is_quantity(text) for text in ("x", "m+n", "f(10)", r"\text{total}")]
    [True, True, True, True]
    >>> [is_quantity(text) for text in ("3x", "x+3", "x^2", r"\frac{x}{2}", "7", "x(x+1)")]
    [False, False, False, False, False, False]
    """
    if is_name(text):
        return True
    text = bare_quantity(text)
    if not text or is_name(text) or _BIG_OPERATOR.match(text):
        return True
    atoms: set[str] = set()

    def atom(match: re.Match[str]) -> str:
        atoms.add(match.group())
        return _ATOM

    text = _STRUCTURE.sub("*", _RECIPROCAL.sub("/", text))
    text = _TRIGONOMETRY.sub(lambda m: _trigonometric(m, atoms), text)
    for pattern in (_MEASURE, _MARKED, _INVERSE):
        text = pattern.sub(atom, text)
    for _ in range(3):  # f(f(2)): the inner ones first
        text = _NAMED_FUNCTION.sub(lambda m: m.group() if _is_product(m.group()) else atom(m), text)
        text = _FUNCTION.sub(atom, text)
    text = _NAME.sub(atom, text)
    if text == _ATOM:
        return True
    if is_alone or len(atoms) < 2:
        return False
    return bool(_JOINED.fullmatch(_EXPONENT.sub("", text)))


def _trigonometric(match: re.Match[str], atoms: set[str]) -> str:
    atoms.add(match.group("name") + match.group("angle"))
    return _ATOM + (match.group("power") or "")


def _is_product(application: str) -> bool:
    """Whether what looks like a function's value is a product: ``A(A+1)``."""
    return application[0].isalpha() and application[0] in application[1:]


def bare_quantity(text: str) -> str:
    """Drop the words that describe a quantity: ``value of x`` is ``x``."""
    position = 0
    while match := _DESCRIPTION.match(text, position):
        position = match.end()
    return text[position:].strip() if position else bare_name(text)


def unknowns(text: str) -> set[str]:
    r"""List the names in an expression; ``e``, ``i`` and ``\pi`` are numbers.

    >>> sorted(unknowns(r"3x+\alpha y_{1}-\sqrt{2}e"))
    ['\\alpha', 'x', 'y']
    """
    text = _WORDS.sub(" ", _TIMES.sub(" ", text))
    greek = set(re.findall(rf"\\(?:{GREEK})(?![A-Za-z])", text))
    return greek | (set(re.findall(r"[A-Za-z]", _MACRO.sub(" ", text))) - _CONSTANTS)


def conclusion(text: str) -> str:
    r"""Take the last step of a derivation: ``3x=15\Rightarrow x=5`` ends in ``x=5``."""
    arrows = list(_ARROW.finditer(text))
    for arrow in reversed(arrows):
        before, after = text[: arrow.start()], text[arrow.end() :].strip()
        if before.count("{") == before.count("}") and "=" in before and "=" in after:
            return after
    return text


def value_of(text: str) -> Fraction | None:
    r"""Work a canonical text out that may hold units, percent signs and bases.

    >>> value_of(r"3\text{apples}\cdot 2"), value_of("20%of 50"), value_of("101_2"), value_of("3x")
    (Fraction(6, 1), Fraction(10, 1), Fraction(5, 1), None)
    """
    numeral = numeral_value(text)
    if numeral is not None:
        return numeral
    text = _TIMES.sub(r"\\cdot ", text)
    quantity = split_unit(text)
    plain = evaluate(quantity.value)
    if plain is not None:
        return plain * quantity.scale / (100 if quantity.is_percent else 1)
    return evaluate(_WORDS.sub("", _PERCENTAGE.sub(r"(\1/100)", text)).strip())


def same_side(first: str, second: str, *, is_approximate: bool) -> bool | None:
    """Compare two sides of one equation by their figures; None where they have none.

    A decimal may be the other side rounded to its last digit; a conversion between two units is
    taken as it stands.
    """
    if units_differ(split_unit(first).unit, split_unit(second).unit):
        return True
    one, other = value_of(first), value_of(second)
    if one is None or other is None:
        return None
    error = abs(one - other)
    decimals = re.search(r"\.(\d+)", second)
    if is_approximate:
        return error <= max(abs(one) * _ROUGH, Fraction(1))
    return error == 0 or (
        decimals is not None and error < Fraction(1, 10 ** len(decimals.group(1)))
    )


def turned(found: Relation) -> Relation:
    """Write ``5=x`` as ``x=5``."""
    first, last = found.parts[0], found.parts[-1]
    if is_name(last) and not is_quantity(first) and not unknowns(first):
        return Relation(found.parts[::-1], found.operators[::-1])
    return found


def holds(found: Relation, equal: Callable[[str, str], bool | None]) -> bool | None:
    """Whether the last side of an equation is its value: ``3x=5`` and ``7=5`` give none.

    Args:
        found: equation, or a chain of them.
        equal: compares two sides that figures alone cannot tell apart; None is undecided.
    """
    if len(found.parts) > _MAX_SIDES:
        return False
    value = found.parts[-1]
    undecided = False
    for index, part in enumerate(found.parts[:-1]):
        result = _gives(part, value, APPROXIMATELY in found.operators[index:], equal)
        if result is False:
            return False
        undecided = undecided or result is None
    return None if undecided else True


def _gives(
    side: str, value: str, is_approximate: bool, equal: Callable[[str, str], bool | None]
) -> bool | None:
    is_zero = "".join(value.split()) == "0"
    if is_quantity(side, is_alone=is_zero) or matrix(value) is not None:
        return True
    if unknowns(side) and not unknowns(value):
        return False  # an equation to be solved
    figures = same_side(side, value, is_approximate=is_approximate)
    if figures or (figures is None and is_approximate):
        return True
    return equal(value, side)
