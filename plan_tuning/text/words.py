r"""canonical answer -> words: answers that are text, and how texts are compared.

Yes and no, choice letters, names and other words are compared without regard to case; a formula is
never taken for a text.
"""

from __future__ import annotations

import re

POLAR = {"yes": True, "true": True, "no": False, "false": False}
SHORT_SYMBOLS = 3  # bare letters up to here may be a product of variables
_SHORT_WORDS = frozenset(("yes", "no", "odd", "all", "red"))
_CHOICE = re.compile(r"\(?([A-Z])\)?[.:)]?")
_CHOICE_AND_TEXT = re.compile(r"\(?([A-Z])(?:\)|\.|:)\s*\S.*")
_TEXT_MACRO = re.compile(r"\\text\{([^{}]*)\}")
_LEAD = re.compile(
    r"(?:\\text\{)?"
    r"(?:[A-Za-z' ]{0,80}\b(?:is|are|equals)\b|(?:approximately|about|roughly|exactly)\b|\\approx)"
    r"[\s:}]*",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z '.\-]*")

_UNDER_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBERS = {word: value for value, word in enumerate(_UNDER_TWENTY.split())}
_NUMBERS |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}


def unwrapped(text: str) -> str:
    r"""Replace every ``\text{words}`` by its words."""
    return _TEXT_MACRO.sub(r"\1", text)


def without_lead(text: str) -> str:
    r"""Drop the words that lead up to a value.

    >>> without_lead(r"\text{The probability is}\frac{1}{2}"), without_lead("about 20")
    ('\\frac{1}{2}', '20')
    """
    lead = _LEAD.match(text)
    return text[lead.end() :] or text if lead else text


def polar(text: str) -> bool | None:
    """Read yes or no off the first word; None where it is neither."""
    word = unwrapped(text).strip().casefold()
    return POLAR.get(re.split(r"[\s,.;:!]", word, maxsplit=1)[0])


def same_choice(gold: str, answer: str) -> bool | None:
    """Compare choice letters; None where the gold is none, or might be a variable."""
    expected = _CHOICE.fullmatch(gold)
    if expected is None:
        return None
    given = _CHOICE.fullmatch(answer) or _CHOICE_AND_TEXT.fullmatch(
        _TEXT_MACRO.sub(r" \1", answer).strip()
    )
    if given is not None:
        return expected.group(1) == given.group(1)
    return False if gold.startswith("(") else None


def words_of(text: str) -> str | None:
    """Return a text answer in lower case; None where the text is a formula."""
    plain = _TEXT_MACRO.sub(r" \1 ", text).strip()
    if not _WORDS.fullmatch(plain):
        return None
    words = " ".join(plain.casefold().replace("-", " ").split()).rstrip(".")
    is_marked = "\\text" in text
    if not is_marked and len(words) <= SHORT_SYMBOLS and words not in _SHORT_WORDS:
        return None
    return words


def number_of(text: str) -> int | None:
    """Read a number word up to ninety-nine; None where the text is none.

    >>> number_of("Seven"), number_of("twenty-one"), number_of("seventeen of them")
    (7, 21, None)
    """
    parts = unwrapped(text).casefold().replace("-", " ").split()
    if len(parts) == 1:
        return _NUMBERS.get(parts[0])
    if len(parts) == 2:
        tens, ones = (_NUMBERS.get(part, 0) for part in parts)
        return tens + ones if tens >= 20 and 0 < ones < 10 else None
    return None
