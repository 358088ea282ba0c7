r"""canonical answer -> value and unit: what may stand behind a number without being part of it.

A unit is optional when answers are compared, but two units that are known to differ make answers
differ, and words that change a value (million, dozen) are not units.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEGREE = "degree"
PERCENT = "percent"

_ALIASES = {
    "metre": "m meter meters metres",
    "centimetre": "cm centimeter centimeters centimetre centimetres",
    "millimetre": "mm millimeter millimeters millimetre millimetres",
    "kilometre": "km kilometer kilometers kilometre kilometres",
    "inch": "in inch inches",
    "foot": "ft foot feet",
    "yard": "yd yard yards",
    "mile": "mi mile miles",
    "second": "s sec secs second seconds",
    "minute": "min mins minute minutes",
    "hour": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr yrs year years",
    "gram": "g gram grams",
    "kilogram": "kg kilogram kilograms",
    "milligram": "mg milligram milligrams",
    "pound": "lb lbs pound pounds",
    "ounce": "oz ounce ounces",
    "litre": "l L liter liters litre litres",
    "millilitre": "ml mL milliliter milliliters",
    "gallon": "gal gallon gallons",
    "dollar": "dollar dollars usd USD bucks",
    "cent": "cent cents",
    "mile per hour": "mph",
    "kilometre per hour": "kph kmh",
    DEGREE: "° degree degrees deg",
    PERCENT: "% percent percents",
    "am": "am a.m a.m.",
    "pm": "pm p.m p.m.",
    "unit": "unit units",
    "square": "sq square squared",
    "cubic": "cu cubic cubed",
}
_UNITS = {alias: unit for unit, aliases in _ALIASES.items() for alias in aliases.split()}
_UNITS |= {alias.upper(): unit for alias, unit in _UNITS.items() if unit in ("am", "pm")}
_SINGLE = frozenset(alias for alias in _UNITS if len(alias) == 1 and alias.isalpha())
_MULTIPLIERS = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_MULTIPLIERS |= {f"{word}s": value for word, value in _MULTIPLIERS.items()}


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words after a number that are no unit: the answer says something else, or is a formula.
_NOT_UNITS = _names(
    "and or not minus plus times over divided by squared cubed sin cos tan log ln exp sqrt "
    "mod max min gcd lcm if when where for to than with but is are was pi theta alpha beta "
    "base factorial half halves third thirds quarter quarters tenth tenths is isn't no none "
    "nor wrong incorrect approximately about except unless instead"
)
_WORD = r"(?:\\text\{(?P<text>[^{}]*)\}|(?P<bare>[A-Za-z][A-Za-z.'-]*|°|%))"
_PIECE = re.compile(rf"\s*(?:{_WORD}(?:\^\{{?(?P<power>-?[0-9])\}}?)?|(?P<per>/)|-)")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_MACRO_END = re.compile(r"\\[A-Za-z]+$")
_VALUE_END = re.compile(r"[\d)}\]!|]")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with what stands behind it.

    ``unit`` is empty, a known unit, or the words as they are; ``scale`` multiplies the value
    (``3 million``).
    """

    value: str
    unit: str = ""
    scale: int = 1

    @property
    def is_percent(self) -> bool:
        """Whether a percent sign or word follows."""
        return self.unit == PERCENT


def split_unit(text: str) -> Quantity:
    r"""Take the unit off a canonical answer.

    >>> split_unit(r"5\text{cm}"), split_unit("2x").unit
    (Quantity(value='5', unit='centimetre', scale=1), '')
    """
    start = _tail_start(text)
    if start is None:
        return Quantity(text)
    value, tail = text[:start].rstrip(), text[start:]
    words = _words(tail, spaced=text[start : start + 1] == " ")
    if words is None:
        return Quantity(text)
    scale = 1
    while words and words[0] in _MULTIPLIERS:
        scale *= _MULTIPLIERS[words[0]]
        words = words[1:]
    if any(word in _MULTIPLIERS for word in words):
        return Quantity(text)
    unit = _named(words)
    if unit == DEGREE and _TRIGONOMETRY.search(value):
        return Quantity(text)  # the sign belongs to the angle inside
    return Quantity(value, unit, scale)


def canonical_unit(text: str) -> str:
    """Name a unit that stands alone, for example a data set's ``unit`` field."""
    return split_unit("1" + (text if text.startswith(("\\", "%", "°", "^")) else " " + text)).unit


def units_differ(first: str, second: str) -> bool:
    """Whether two units cannot mean the same; an absent one fits any."""
    if not first or not second or first == second:
        return False
    one, other = set(first.split()), set(second.split())
    if one & _ALIASES.keys() != other & _ALIASES.keys():  # cm and cm squared
        return True
    if one <= other or other <= one:  # red apples, apples
        return False
    singular = ({word.rstrip("s") for word in words} for words in (one, other))
    smaller, larger = sorted(singular, key=len)
    return not smaller <= larger


def _tail_start(text: str) -> int | None:
    """Find where the words behind the last number, bracket or brace begin; None without words."""
    position = len(text)
    while position > 0:
        character = text[position - 1]
        if character == "}":
            opening = text.rfind("\\text{", 0, position)
            if opening >= 0 and "}" not in text[opening : position - 1]:
                position = opening
                continue
            if re.search(r"[A-Za-z°]\^\{-?\d\}$", text[:position]):
                position = text.rfind("^", 0, position)
                continue
            break
        if character.isdigit() and re.search(
            r"(?:[A-Za-z]|\\text\{[^{}]*\})\^\d$", text[:position]
        ):
            position -= 2
            continue
        if character.isalpha() and _MACRO_END.search(text[max(0, position - 12) : position]):
            break
        if character.isalpha() or character in " /%°.'-":
            position -= 1
            continue
        break
    if position in (0, len(text)):
        return None
    if not _VALUE_END.match(text[position - 1]) and not text.startswith("\\text", position):
        return None
    if text[position] in ".-/'":
        return None
    return position


def _words(tail: str, *, spaced: bool) -> list[str] | None:
    words: list[str] = []
    position = 0
    while position < len(tail.rstrip()):
        match = _PIECE.match(tail, position)
        if match is None or match.end() == position:
            return None
        position = match.end()
        if match.group("per"):
            words.append("per")
            continue
        inside, bare = match.group("text"), match.group("bare")
        if inside is not None:
            words.extend(inside.replace("/", " per ").replace("-", " ").split())
        elif bare is not None:
            is_known = bare in _UNITS or bare.rstrip(".") in _UNITS or bare.lower() in _MULTIPLIERS
            if bare in _SINGLE and not spaced:
                return None  # 5m is a product where letters are variables
            if not is_known and (len(bare) < 3 or not spaced) and bare != "per":
                return None
            words.append(bare)
        power = match.group("power")
        if power in ("2", "3") and words:
            words.append("square" if power == "2" else "cubic")
        elif power:
            return None
    words = [word if word in _UNITS else word.rstrip(".").lower() for word in words]
    if not words or len(words) > 5 or any(word in _NOT_UNITS for word in words):
        return None
    return words


def _named(words: list[str]) -> str:
    names = [_UNITS.get(word, word) for word in words if word not in ("of", "the", "a", "in total")]
    joined = " ".join(sorted(names) if "per" not in names else names)
    return _UNITS.get(joined, joined)
