r"""canonical answer -> its parts: lists, sets, tuples, intervals, matrices, relations.

Splitting respects braces, brackets and parentheses; brackets may be mixed, as in ``[2,5)``.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

_OPEN = "({["
_CLOSE = ")}]"
_MATRIX = re.compile(
    r"[(\[]?\\begin\{([pbBvV]?|small)(matrix|array)\}(?:\{[lcr|\s]*\})?(.*)\\end\{\1\2\}[)\]]?",
    re.DOTALL,
)
_ROW_BREAK = re.compile(r"\\\\(?:\[[^\]]*\])?")
_RELATION = re.compile(r"\\(?:le|ge|ne|approx|in|equiv)(?![A-Za-z])|[<>]=?|:?=|!=")
_SPELLING = {"<=": "\\le", ">=": "\\ge", ":=": "=", "!=": "\\ne", "==": "="}
APPROXIMATELY = "\\approx"
_EQUALS = frozenset(("=", APPROXIMATELY))
GREEK = (  # names; pi is a number
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|chi|psi"
    "|omega|ell|Gamma|Delta|Theta|Lambda|Pi|Sigma|Phi|Psi|Omega"
)
_AND = re.compile(r",?\s*(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])\s*|;|\\\\")
_MAX_SIGNS = 4
_ALTERNATIVE_SIGN = re.compile(r"\\(pm|mp)(?![A-Za-z])\s?")
_SUBSCRIPT_WORD = re.compile(r"_\{?(?:\\(?:max|min|text\{[^{}]*\})\s?|[a-z]{3,})\}?")


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain ``lhs op … op rhs``; ``operators`` has one entry for each link."""

    parts: tuple[str, ...]
    operators: tuple[str, ...]

    @property
    def is_equation(self) -> bool:
        """Whether every sign says equal, or nearly so."""
        return _EQUALS.issuperset(self.operators)


def split_top(text: str, separator: str = ",") -> list[str]:
    """Split at a one-character separator outside all brackets."""
    parts, level, start = [], 0, 0
    for position, character in enumerate(text):
        if character in _OPEN:
            level += 1
        elif character in _CLOSE:
            level = max(0, level - 1)
        elif character == separator and level == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    parts.append(text[start:].strip())
    return parts


def items(text: str) -> list[str]:
    r"""List the values of a set or list; a single value is a list of one.

    >>> items(r"\{1,2\}"), items("3 and 5"), items(r"\pm 2"), items("(1,2),(2,1)")
    (['1', '2'], ['3', '5'], ['2', '-2'], ['(1,2)', '(2,1)'])
    """
    inner = set_content(text)
    if inner is not None:
        text = inner
    elif "\\begin" not in text:
        text = _AND.sub(",", text)
    found = [part for part in split_top(text) if part]
    if len(found) > 1 and "=" in found[0] and not any("=" in part for part in found[1:]):
        name, _, value = found[0].partition("=")  # x = 1, 2, 3
        if is_name(name):
            found[0] = value
    return [value for part in found for value in signs(part)]


def set_content(text: str) -> str | None:
    r"""Return what is inside ``\{…\}``, None where the text is no such set."""
    if text.startswith("\\{") and text.endswith("\\}") and text.count("\\{") == 1:
        return text[2:-2]
    return None


def signs(text: str) -> list[str]:
    r"""Expand ``\pm`` and ``\mp`` into both values; the components of a tuple vary freely."""
    found = _ALTERNATIVE_SIGN.findall(text)
    if not found or len(found) > _MAX_SIGNS:
        return [text]
    values = bracketed(text)
    if values is not None:  # (\pm 3, \pm 2) is four pairs
        opening, parts, closing = values
        choices = itertools.product(*map(signs, parts))
        return [f"{opening}{','.join(choice)}{closing}" for choice in choices]
    upper = _ALTERNATIVE_SIGN.sub(lambda m: "+" if m.group(1) == "pm" else "-", text)
    lower = _ALTERNATIVE_SIGN.sub(lambda m: "-" if m.group(1) == "pm" else "+", text)
    return [re.sub(r"(^|[(=,{])\+", r"\1", value) for value in (upper, lower)]


def bracketed(text: str) -> tuple[str, list[str], str] | None:
    """Take a tuple or an interval apart: opening bracket, two or more values, closing bracket."""
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]":
        return None
    level = 0
    for position, character in enumerate(text):
        if character in _OPEN:
            level += 1
        elif character in _CLOSE:
            level -= 1
            if level == 0 and position < len(text) - 1:
                return None
    values = split_top(text[1:-1])
    return (text[0], values, text[-1]) if len(values) > 1 else None


def matrix(text: str) -> list[list[str]] | None:
    """Take a matrix apart into rows of entries; the kind of its brackets does not matter."""
    match = _MATRIX.fullmatch(text)
    if match is None or match.group(1) in ("v", "V") or "\\begin" in match.group(3):
        return None
    rows = [row for row in _ROW_BREAK.split(match.group(3)) if row.strip()]
    return [[entry.strip() for entry in row.split("&")] for row in rows]


def union(text: str) -> list[str]:
    r"""Split a union of sets at ``\cup``; anything else is a list of one."""
    marked = re.sub(r"\\cup(?![A-Za-z])\s?", "\x1f", text)
    return [part.strip() for part in split_top(marked, "\x1f")]


def relation(text: str) -> Relation | None:
    """Take an equation, an inequality or a chain of them apart; None where there is none."""
    parts, operators, level, start, position = [], [], 0, 0, 0
    while position < len(text):
        character = text[position]
        if character in _OPEN:
            level += 1
        elif character in _CLOSE:
            level = max(0, level - 1)
        elif level == 0 and (character in "<>=!:\\"):
            match = _RELATION.match(text, position)
            if match:
                parts.append(text[start:position].strip())
                operators.append(_SPELLING.get(match.group(), match.group()))
                position = start = match.end()
                continue
        position += 1
    if not operators:
        return None
    parts.append(text[start:].strip())
    return Relation(tuple(parts), tuple(operators))


_NAME = re.compile(
    rf"(?:\\angle\s?)?(?:[A-Za-z](?:_\{{?\w+\}}?)?'?\s?){{1,4}}|\\(?:{GREEK})(?:_\{{?\w+\}}?)?"
    r"|\\text\{[^{}]*\}"
    r"|[A-Za-z](?:_\{?\w+\}?)?\(\w(?:,\w)*\)|\|[A-Z]{2}\||\\overline\{[A-Z]{2}\}"
    r"|\([A-Za-z]\w{0,3}(?:,\s?[A-Za-z]\w{0,3})+\)|[A-Za-z]{2,12}"
)


def is_name(text: str) -> bool:
    """Whether a left side only names what is on the right: ``x``, ``f(x)``, ``AB``, ``(x,y)``."""
    return bool(_NAME.fullmatch(bare_name(text)))


def bare_name(text: str) -> str:
    r"""Drop what is said about a name: ``m_{\max}`` names what ``m`` names."""
    return _SUBSCRIPT_WORD.sub("", text).replace(" ", "").strip()


def interval(found: Relation) -> tuple[str, str] | None:
    r"""Write an inequality of one name as its interval.

    Returns:
        The name and the interval, or None where the relation is no such inequality.

    >>> interval(relation(r"2\le x<5"))
    ('x', '[2,5)')
    """
    flipped = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
    if not all(operator in flipped for operator in found.operators):
        return None
    if len(found.parts) == 2:
        name, operator, bound = found.parts[0], found.operators[0], found.parts[1]
        if not is_name(name):
            name, operator, bound = bound, flipped[operator], name
        if not is_name(name) or is_name(bound):
            return None
        if operator in ("<", "\\le"):
            return bare_name(name), f"(-\\infty,{bound}{')' if operator == '<' else ']'}"
        return bare_name(name), f"{'(' if operator == '>' else '['}{bound},\\infty)"
    if len(found.parts) == 3 and is_name(found.parts[1]):
        low, name, high = found.parts
        first, second = found.operators
        if first in (">", "\\ge"):
            low, high, first, second = high, low, flipped[second], flipped[first]
        if first not in ("<", "\\le") or second not in ("<", "\\le"):
            return None
        opening, closing = "(" if first == "<" else "[", ")" if second == "<" else "]"
        return bare_name(name), f"{opening}{low},{high}{closing}"
    return None
