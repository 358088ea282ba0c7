r"""canonical answer -> words: answers that are text, and how texts are compared.

Yes and no, choice letters, names and other words are compared without regard to case; a formula is
never taken for a text.
"""

from __future__ import annotations

import re

POLAR = {"yes": True, "true": True, "no": False, "false": False}
SHORT_SYMBOLS = 3  # bare letters up to here may be a product of variables
_SHORT_WORDS = frozenset(("yes", "no", "odd", "all", "red"))
_AROUND = " \t\r\n*_`'\"$(){}"
_POLAR_WORD = re.compile(
    r"(?P<negation>(?:\bnot|n't|n’t)[\s*_'\"]{1,5}(?:a\s)?)?\b(?P<word>yes|no|true|false)\b",
    re.IGNORECASE,
)
_ANY_POLAR = r"[*_'\"]{0,3}\b(?:yes|no|true|false)\b[*_'\"]{0,3}"
_OFFERED = re.compile(
    rf"\b(?:n?either|whether)\b.{{0,20}}{_ANY_POLAR}"
    rf"|{_ANY_POLAR}\s{{0,3}}(?:/|,?\s{{0,3}}\b(?:or|nor|and|as well as)\b)\s{{0,3}}{_ANY_POLAR}",
    re.IGNORECASE,
)
_SETTLED = re.compile(
    r"\b(?:so|thus|hence|therefore|actually|rather|instead)[\s,:*_]{1,5}(?P<word>yes|no)\b"
    r"(?=\s*(?:[.,!;:*\"')\]}]|$))",
    re.IGNORECASE,
)
# "no" before a noun: followed by a word that does not begin a clause of its own.
_DETERMINER = re.compile(
    r"no\s+(?!(?:because|since|as|for|but|and|or|so|if|it|its|they|he|she|we|i|you|there|this|that"
    r"|the|a|an|not|to|in|on|at|is|are|was|were|yes)\b)[a-z]"
    r"|no\s+(?:such|one|longer|more|idea|way)\b",
    re.IGNORECASE,
)
_CHOICE = re.compile(r"[(\[]?([A-Z])[)\]]?[.:)]?")
_CHOICE_AND_TEXT = re.compile(r"[(\[]?([A-Z])(?:[)\]]|\.|:)\s*\S.*")
_CHOICE_LEAD = re.compile(r"(?:option|choice|answer|letter|alternative)\b\s*:?\s*", re.IGNORECASE)
_LOWER_LETTER = re.compile(r"[(\[]?[a-z](?![A-Za-z])")
_CHOICE_TAIL = re.compile(r"\s*is\s(?:the\s)?(?:correct|right)(?:\s(?:answer|option|choice))?$")
_TEXT_MACRO = re.compile(r"\\text\{([^{}]*)\}")
_LABEL = r"(?:(?:so|thus|hence|the|my|our|final|correct)\s?){0,4}(?:answers?|ans|result|solutions?)"
_LEAD = re.compile(
    rf"(?:\\text\{{)?(?:{_LABEL}\s?(?:\}}\s?:?|[:.]\}}?)"
    r"|[A-Za-z' ]{0,80}\b(?:is|are|equals)\b|(?:approximately|about|roughly|exactly)\b|\\approx)"
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
    """Read the yes or no that a sentence commits itself to; None where it does not.

    What stands alone counts (``no, because``), what belongs to a noun does not (``no doubt``);
    true and false count where neither yes nor no does; ``not`` turns them round. Two words that
    are offered together (``yes or no``) or contradict each other are no commitment, unless one is
    concluded (``so yes``).

    >>> polar("Yes, there is no doubt."), polar("not no, it is yes"), polar("neither yes nor no")
    (True, True, None)
    """
    text = unwrapped(text).strip(_AROUND)
    if _OFFERED.search(text):
        return None
    settled = [match.group("word").casefold() for match in _SETTLED.finditer(text)]
    if settled:
        return POLAR[settled[-1]]
    found = [
        (match.group("word").casefold(), bool(match.group("negation")))
        for match in _POLAR_WORD.finditer(text)
        if match.start("word") == 0 or not _DETERMINER.match(text, match.start("word"))
    ]
    plain = [(word, is_turned) for word, is_turned in found if word in ("yes", "no")]
    values = {POLAR[word] != is_turned for word, is_turned in plain or found}
    return values.pop() if len(values) == 1 else None


def has_polar(text: str) -> bool:
    """Whether yes, no, true or false stands anywhere in a text."""
    return _POLAR_WORD.search(text) is not None


def same_choice(gold: str, answer: str) -> bool | None:
    r"""Compare choice letters; None where the gold is none, or might be a variable.

    >>> same_choice("E", r"\text{Option E}"), same_choice("E", "Choice(D)"), same_choice("x", "E")
    (True, False, None)
    """
    expected = _CHOICE.fullmatch(_letter(gold))
    if expected is None:
        return None
    named = _letter(answer)
    given = _CHOICE.fullmatch(named) or _CHOICE_AND_TEXT.fullmatch(named)
    if given is not None:
        return expected.group(1) == given.group(1)
    return False if gold.startswith("(") else None


def _letter(text: str) -> str:
    """Drop ``option`` and the like before a letter, and ``is correct`` behind it."""
    plain = _TEXT_MACRO.sub(r" \1", text).strip()
    lead = _CHOICE_LEAD.match(plain)
    if lead is not None:
        plain = plain[lead.end() :]
        plain = plain[:2].upper() + plain[2:] if _LOWER_LETTER.match(plain) else plain
    return _CHOICE_TAIL.sub("", plain)


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
    >>> number_of("minus five")
    -5
    """
    parts = unwrapped(text).casefold().replace("-", " ").split()
    if len(parts) > 1 and parts[0] in ("minus", "negative"):
        value = number_of(" ".join(parts[1:]))
        return None if value is None else -value
    if len(parts) == 1:
        return _NUMBERS.get(parts[0])
    if len(parts) == 2:
        tens, ones = (_NUMBERS.get(part, 0) for part in parts)
        return tens + ones if tens >= 20 and 0 < ones < 10 else None
    return None
