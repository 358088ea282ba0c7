r"""canonical answer -> set of reals or of listed values, in whatever notation it is written.

``x<-2\text{ or }x>2``, ``(-\infty,-2)\cup(2,\infty)`` and ``\{x\mid |x|>2\}`` are one set. Where
the ends are numbers, sets are compared as such; where they are formulas, piece by piece.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from plan_tuning.grading.arithmetic import evaluate
from plan_tuning.grading.structure import (
    Relation,
    bare_name,
    bracketed,
    interval,
    is_name,
    items,
    relation,
    set_content,
    split_top,
    union,
)
from plan_tuning.grading.words import unwrapped

_INFINITY = "\\infty"
_EMPTY = "\\emptyset"
_SET_AHEAD = r"(?=[(\[\]{]|\\\{|\\mathbb|\\emptyset)"
_VARIABLE = (
    r"(?:\\(?:alpha|beta|theta|phi|lambda|mu)"
    r"|[A-Za-z](?:_\{?\w+\}?)?|\([A-Za-z]\w*(?:,\s?[A-Za-z]\w*)+\))"
)
_MEMBERSHIP = re.compile(rf"(?:\\forall\s?)?({_VARIABLE})\s?\\in\s?{_SET_AHEAD}")
_NAMED = re.compile(
    r"(?:\\text\{(?:[Tt]he )?(?:[Ss]olution )?[Ss]et(?: is| of solutions(?: is)?)?\}\s?"
    r"|(?:\\text\{[^{}]*\}|[A-Za-z][A-Za-z ]{0,40}|[A-Z]_\{?\w+\}?|\\\{[^{}]*\\\}"
    r"|[A-Z]'?\s?\\c[au]p\s?[A-Z]'?|[A-Z](?:\^c)?)\s?(?:=|:)\s?)(?=\\\{|\{|\\mathbb|\\emptyset"
    r"|[(\[\]][^=]*\\(?:cup|infty))"
)
_PLAIN_BRACES = re.compile(r"\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
_BUILDER = re.compile(
    rf"\\\{{\s?({_VARIABLE})\s?(?:\\in\s?\\mathbb\{{([RZN])\}}(\^\{{?[+*]\}}?|_\{{?>?0\}}?)?)?"
    r"\s?(?:\||:)\s?(.+)\\\}"
)
_BUILT = re.compile(rf"\\\{{\s?({_VARIABLE}(?:\\in\s?\\mathbb\{{[A-Z]\}})?)\s?[|:]\s?")
_HALF_LINE = re.compile(
    r"\\mathbb\{R\}(?:[\^_]\{?(?P<sign>[+-])\}?|_\{?(?P<bound>>|<|\\ge|\\le)\s?0\}?)"
)
_IS_REAL = re.compile(r"(?:,|and)?\s?[A-Za-z]\s?\\in\s?\\mathbb\{R\}\s?(?:,|and(?![A-Za-z]))?\s?")
_IS_WHOLE = re.compile(r"(?:,|and)?\s?[A-Za-z]\s?\\in\s?\\mathbb\{Z\}\s?(?:,|and(?![A-Za-z]))?\s?")
_OR = re.compile(r"\s?(?<![A-Za-z\\])or(?![A-Za-z])\s?|(?<=[)\]}])\s?U\s?(?=[(\[\\])")
_AND = re.compile(r"\s?(?<![A-Za-z\\])and(?![A-Za-z])\s?|\\cap(?![A-Za-z])\s?")
_CUP = re.compile(r"\\cup(?![A-Za-z])\s?")
_ALL_REALS = re.compile(
    r"(?:the set of )?(?:all |any |every )?reals?(?: numbers?)?(?: x)?|\\mathbb\{r\}|r"
    r"|\(-\\infty,\+?\\infty\)"
)
_EXCEPT = re.compile(
    r"(.+?)\s?(?:\\setminus|-|except|excluding|other than)\s?(?:for )?(\\\{.+\\\}|[^\\].*)"
)
_NO_ELEMENTS = re.compile(
    r"(?:the )?empty set|no (?:real )?solutions?|\\\{\s?\\\}|\\phi", re.IGNORECASE
)
_REVERSED = re.compile(r"([(\[\]])([^()\[\]]*,[^()\[\]]*)([)\[\]])")
_SEMICOLON_PAIR = re.compile(r"([(\[\]][^(),;\[\]]*);([^(),;\[\]]*[)\[\]])")
_SURD = re.compile(r"\d*\\sqrt\{\d+\}|\d*\\pi ?")
_DISTANCE = re.compile(r"\|([A-Za-z])(?:([-+])([^|]+))?\|")
_MAX_MEMBERS = 60
_MAX_CHARACTERS = 400  # of a text that is read as a set
_HINT = re.compile(r"[<>(\[\]]|\\(?:le|ge|ne|in|cup|mathbb|setminus)(?![A-Za-z])|[Rr]eal|^R$")
Limit = Fraction | None  # None is infinite
_Span = tuple[Limit, bool, Limit, bool]


@dataclass(frozen=True, slots=True)
class Piece:
    """An interval by its ends as they are written; a point has two equal closed ends."""

    low: str
    has_low: bool
    high: str
    has_high: bool

    def __str__(self) -> str:
        if self.low == self.high:
            return self.low
        opening, closing = "[" if self.has_low else "(", "]" if self.has_high else ")"
        return f"{opening}{self.low},{self.high}{closing}"


@dataclass(frozen=True, slots=True)
class RealSet:
    """A set of reals.

    ``is_certain`` says that its notation means a set of reals and nothing else: ``(1,2)`` may be a
    point.
    """

    name: str
    pieces: tuple[Piece, ...]
    is_certain: bool


def bare_set(text: str) -> str:
    r"""Drop what names a set, and list its members where they can be listed.

    >>> bare_set(r"x\in\{1,2\}"), bare_set(r"S=\{1,2\}"), bare_set(r"\{1\}\cup\{2\}")
    ('\\{1,2\\}', '\\{1,2\\}', '\\{1,2\\}')
    >>> bare_set(r"\{x\in\mathbb{Z}|0<x\le 3\}"), bare_set("x=2")
    ('\\{1,2,3\\}', 'x=2')
    """
    named = _MEMBERSHIP.match(text) or _NAMED.match(text)
    if named is not None:
        text = text[named.end() :]
        plain = _PLAIN_BRACES.fullmatch(text)
        if plain is not None:
            text = f"\\{{{plain.group(1)}\\}}"
    if _NO_ELEMENTS.fullmatch(unwrapped(text).strip()):
        return _EMPTY
    if text.startswith("\\{"):
        contents = [set_content(part) for part in union(text)]
        if len(contents) > 1 and all(content is not None for content in contents):
            return f"\\{{{','.join(str(content) for content in contents)}\\}}"
        return _members(text) or _BUILT.sub(r"\\{\1|", text, count=1)
    return text


def real_set(text: str) -> RealSet | None:
    r"""Read a canonical text as a set of reals; None where it is none.

    >>> str(real_set(r"x<-2 or x>2").pieces[1]), str(real_set(r"\{x|-1\le x<3\}").pieces[0])
    ('(2,\\infty)', '[-1,3)')
    >>> real_set("x+1"), real_set("(1,2)").is_certain, real_set(r"\mathbb{R}").is_certain
    (None, False, True)
    """
    if len(text) > _MAX_CHARACTERS or not _HINT.search(text):
        return None
    named = _MEMBERSHIP.match(text)
    name = ""
    if named is not None:
        name, text = bare_name(named.group(1)), text[named.end() :]
    built = _BUILDER.fullmatch(text)
    if built is not None:
        if built.group(2) in ("Z", "N") or _IS_WHOLE.search(built.group(4)):
            return None
        text = built.group(4)
    text = _IS_REAL.sub("", text)
    text = _SEMICOLON_PAIR.sub(r"\1,\2", text)
    found = _any_of(text)
    if found is None or (name and found.name and name != found.name):
        return None
    certain = found.is_certain or named is not None or built is not None
    return RealSet(found.name or name, found.pieces, certain)


def same_set(
    first: RealSet, second: RealSet, equal: Callable[[Sequence[str], Sequence[str]], bool | None]
) -> bool | None:
    """Compare two sets.

    Args:
        first: the gold's set.
        second: the answer's set.
        equal: compares lists of pieces in any order, where ends are no plain numbers.
    """
    if first.name and second.name and first.name.casefold() != second.name.casefold():
        return False
    one, other = spans(first.pieces), spans(second.pieces)
    if one is not None and other is not None:
        return one == other
    return equal([str(piece) for piece in first.pieces], [str(piece) for piece in second.pieces])


def spans(pieces: Sequence[Piece]) -> list[_Span] | None:
    """Order and merge the pieces of a set by their values; None where an end is no number."""
    found: list[_Span] = []
    for piece in pieces:
        low, high = _limit(piece.low, "-"), _limit(piece.high, "")
        if isinstance(low, str) or isinstance(high, str):
            return None
        found.append((low, piece.has_low, high, piece.has_high))
    found.sort(key=lambda span: (span[0] is not None, span[0] or 0, not span[1]))
    merged: list[_Span] = []
    for span in found:
        if merged and _touch(merged[-1], span):
            low, has_low, high, has_high = merged[-1]
            if span[2] is None or (high is not None and span[2] > high):
                high, has_high = span[2], span[3]
            elif span[2] == high:
                has_high = has_high or span[3]
            merged[-1] = (low, has_low, high, has_high)
        else:
            merged.append(span)
    return merged


def _touch(first: _Span, second: _Span) -> bool:
    """Whether the second span begins inside the first, or where that ends."""
    high, low = first[2], second[0]
    if high is None or low is None:
        return True
    return low < high or (low == high and (first[3] or second[1]))


def _limit(text: str, sign: str) -> Limit | str:
    """Read one end: a number, None for the infinite one on its side, or an empty text."""
    if text.replace("+", "") == sign + _INFINITY:
        return None
    value = evaluate(text)
    return "" if value is None else value


def _any_of(text: str) -> RealSet | None:
    if _ALL_REALS.fullmatch(unwrapped(text).strip().casefold()):
        whole = Piece(f"-{_INFINITY}", False, _INFINITY, False)
        return RealSet("", (whole,), text != "R")
    without = _EXCEPT.fullmatch(unwrapped(text).strip())
    if without and _ALL_REALS.fullmatch(without.group(1).strip().casefold()):
        return _all_but("", [without.group(2)])
    half = _HALF_LINE.fullmatch(text)
    if half is not None:
        bound = half.group("bound") or {"+": ">", "-": "<"}[half.group("sign")]
        line = _from_relation(Relation(("x", "0"), (bound,)), is_alone=True)
        return RealSet("", line.pieces, True) if line else None
    parts = _AND.sub(",", text).split(",") if "\\ne" in text else []
    excluded = [relation(part if "\\ne" in part else f"x\\ne {part}") for part in parts]
    if excluded and all(part is not None and part.operators == ("\\ne",) for part in excluded):
        names = {bare_name(part.parts[0]) for part in excluded if part}
        if len(names) == 1 and all(part and is_name(part.parts[0]) for part in excluded):
            return _all_but(names.pop(), [part.parts[1] for part in excluded if part])
    parts = [part.strip() for part in _OR.sub("\x1f", _CUP.sub("\x1f", text)).split("\x1f")]
    found = [_all_of(part, is_alone=len(parts) == 1) for part in parts]
    known = [part for part in found if part is not None]
    if len(known) < len(found) or len({part.name for part in known if part.name}) > 1:
        return None
    if len(known) > 1 and "\\cup" not in text and not any(part.is_certain for part in known):
        return None  # (1,2) or (2,1): two points
    pieces = tuple(piece for part in known for piece in part.pieces)
    return RealSet(
        next((part.name for part in known if part.name), ""),
        pieces,
        len(known) > 1 or known[0].is_certain,
    )


def _all_but(name: str, texts: Sequence[str]) -> RealSet | None:
    """The line without some points, which must be numbers where there are several."""
    points = []
    for text in texts:
        for item in items(re.sub(r"^[A-Za-z]=", "", text)):
            value = evaluate(item)
            if value is None and len(texts) > 1:
                return None
            points.append((value or Fraction(0), item))
    if len(points) > 1 and any(evaluate(item) is None for _, item in points):
        return None
    ends = [f"-{_INFINITY}", *(item for _, item in sorted(points)), _INFINITY]
    pieces = [Piece(low, False, high, False) for low, high in itertools.pairwise(ends)]
    return RealSet(name, tuple(pieces), True)


def _all_of(text: str, *, is_alone: bool) -> RealSet | None:
    """Read one piece, or inequalities that hold at once."""
    parts = [part for part in _AND.sub("\x1f", text).split("\x1f") if part]
    found = [_piece(part, is_alone=is_alone) for part in parts]
    known = [part for part in found if part is not None]
    if not known or len(known) < len(found):
        return None
    if len(known) == 1:
        return known[0]
    if len({part.name for part in known if part.name}) > 1 or not (
        "\\cap" in text or any(part.is_certain for part in known)
    ):
        return None
    one = known[0]
    for other in known[1:]:
        both = _common(one, other)
        if both is None:
            return None
        one = both
    return one


def _common(first: RealSet, second: RealSet) -> RealSet | None:
    """Intersect two single pieces with numbers for ends."""
    one, other = spans(first.pieces), spans(second.pieces)
    if not one or not other or len(one) > 1 or len(other) > 1:
        return None
    (a, has_a, b, has_b), (c, has_c, d, has_d) = one[0], other[0]
    take_first = a is not None and (c is None or a > c or (a == c and not has_a))
    low, has_low, low_text = (
        (a, has_a, first.pieces[0].low) if take_first else (c, has_c, second.pieces[0].low)
    )
    take_first = b is not None and (d is None or b < d or (b == d and not has_b))
    high, has_high, high_text = (
        (b, has_b, first.pieces[-1].high) if take_first else (d, has_d, second.pieces[-1].high)
    )
    if low is not None and high is not None and low >= high:
        return None
    return RealSet(
        first.name or second.name, (Piece(low_text, has_low, high_text, has_high),), True
    )


def _piece(text: str, *, is_alone: bool) -> RealSet | None:
    found = relation(text)
    if found is not None:
        return _from_relation(found, is_alone=is_alone)
    content = set_content(text)
    if content is not None:
        if is_alone or not content:
            return None
        points = tuple(Piece(value, True, value, True) for value in split_top(content))
        return RealSet("", points, False)
    ends = _REVERSED.fullmatch(text)
    pair = None if ends else bracketed(text)
    if ends is not None and len(split_top(ends.group(2))) == 2:
        low, high = split_top(ends.group(2))
        has_low, has_high = ends.group(1) == "[", ends.group(3) == "]"
    elif pair is not None and len(pair[1]) == 2:
        (low, high), has_low, has_high = pair[1], pair[0] == "[", pair[2] == "]"
    else:
        return None
    values = evaluate(low), evaluate(high)
    if values[0] is not None and values[1] is not None and values[0] >= values[1]:
        return None
    is_reversed = text[0] == "]" or text[-1] == "["
    certain = is_reversed or _INFINITY in (high.lstrip("+"), low.lstrip("-"))
    return RealSet("", (Piece(low, has_low, high.removeprefix("+"), has_high),), certain)


def _from_relation(found: Relation, *, is_alone: bool) -> RealSet | None:
    if found.operators == ("=",) and not is_alone and is_name(found.parts[0]):
        point = found.parts[1]
        return RealSet(bare_name(found.parts[0]), (Piece(point, True, point, True),), False)
    distance = _DISTANCE.fullmatch(found.parts[0])
    if distance is not None and len(found.parts) == 2:
        return _around(distance, found.operators[0], found.parts[1])
    whole = interval(found)
    if whole is None:
        return None
    name, text = whole
    piece = _piece(text, is_alone=True)
    return RealSet(name, piece.pieces, True) if piece else None


def _around(distance: re.Match[str], operator: str, bound: str) -> RealSet | None:
    r"""Write ``|x-3|<2`` as ``(1,5)``; ends are worked out, so they must be numbers."""
    radius, middle = evaluate(bound), evaluate(distance.group(3) or "0")
    if radius is None and distance.group(3) is None and _SURD.fullmatch(bound):
        low, high = f"-{bound}", bound
    elif radius is None or middle is None or radius <= 0:
        return None
    else:
        middle = -middle if distance.group(2) == "+" else middle
        low, high = str(middle - radius), str(middle + radius)
    is_closed = operator in ("\\le", "\\ge")
    if operator in ("<", "\\le"):
        pieces: tuple[Piece, ...] = (Piece(low, is_closed, high, is_closed),)
    elif operator in (">", "\\ge"):
        pieces = (
            Piece(f"-{_INFINITY}", False, low, is_closed),
            Piece(high, is_closed, _INFINITY, False),
        )
    else:
        return None
    return RealSet(distance.group(1), pieces, True)


def _members(text: str) -> str | None:
    """List the integers that a condition with numbers at both ends leaves."""
    built = _BUILDER.fullmatch(text)
    if built is None:
        return None
    given = [relation(part) for part in _OR.sub("\x1f", built.group(4)).split("\x1f")]
    if all(part and part.operators == ("=",) and part.parts[0] == built.group(1) for part in given):
        return f"\\{{{','.join(part.parts[1] for part in given if part)}\\}}"
    condition = _IS_WHOLE.sub("", built.group(4))
    if built.group(2) not in ("Z", "N") and condition == built.group(4):
        return None
    found = _any_of(condition)
    limits = spans(found.pieces) if found and found.is_certain else None
    if limits is None:
        return None
    numbers: list[int] = []
    for low, has_low, high, has_high in limits:
        if built.group(2) == "N" and low is not None and low < 0:
            return None
        if low is None or high is None or high - low > _MAX_MEMBERS:
            return None
        first, last = -(-low.numerator // low.denominator), high.numerator // high.denominator
        first += low == first and not has_low
        last -= high == last and not has_high
        numbers.extend(range(first, last + 1))
    return f"\\{{{','.join(map(str, numbers))}\\}}" if numbers else _EMPTY
