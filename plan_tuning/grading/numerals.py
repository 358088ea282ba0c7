r"""running text -> the number it states, with all that belongs to it: its sign, its scale.

A sentence that names several numbers (``5 or 7``), a range (``between 5 and 7``), a bound (``more
than 5``) or what the number is not (``not 5``) does not state one; what is returned then is these
words, which equal no number. A sum or product is returned whole, for the comparison to work out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from plan_tuning.grading.characters import plain_characters
from plan_tuning.grading.normalisation import MAX_LENGTH, normalise, rewritten
from plan_tuning.grading.quantities import is_quantity, unknowns
from plan_tuning.grading.spelling import (
    comma_groups_joined,
    spaced_groups_joined,
    spelled,
    with_overlines,
)
from plan_tuning.grading.words import number_of

# The common sentence holds one plain number, and nothing that could belong to it.
_PLAIN = re.compile(
    r"(?<![\w.\\])-?[$]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+(?=\D|$)|(?=\.\d))(?:\.\d+)?(?:/\d+)?%?"
)
_HAZARD = re.compile(
    r"[\\{}<>^~&!#|]|[A-Za-z]\(|\b(?:log|ln|sin|cos|tan|exp|sqrt)\b|\*\*|\d['_:A-Za-z]|\d,\d{1,2}(?!\d)|\d\.\d+\.\d|\d\s?[-+*/x(]|[-+]\s|[A-Za-z]\$"
    r"|\d\s?\.\.|\b(?:minus|negative|not|no|neither|nor|or|to|than|and|between|plus|times|divided"
    r"|squared|cubed|cannot|never|but|other|twice|double|triple|otherwise|else|half|quarter|third|[a-z]*illions?|hundreds?|thousands?|dozens?|n't)\b"
    r"|n't\b",
    re.IGNORECASE,
)

_DECIMAL = r"(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,4}(?![\w.]))?"
_FRACTION = r"\\frac\{[^{}]{1,60}\}\{[^{}]{1,60}\}"
_ATOM = (
    r"(?:\d+(?:\.\d+)?(?::\d+(?:\.\d+)?)+|\d+(?: : \d+)+|\d*\.\d*\\overline\{\d{1,50}\}"
    rf"|{_DECIMAL}(?:\s?{_FRACTION}|\s\d+\s?/\s?\d+(?![\d/]))?|{_FRACTION}"
    r"|\\(?:sqrt|binom)(?:\[\d\])?(?:\{[^{}]{1,60}\}){1,2})"
)
_TERM = rf"{_ATOM}(?:\s?\^\s?(?:\{{[^{{}}]{{1,40}}\}}|\(-?\d+\)|-?\d+))?(?:\s?%)?"
_BRACKET = r"\((?=[^()]{0,80}\d)(?:[-+*/^.\d\s{}]|\\cdot|\\frac){1,80}\)"
_IRRATIONAL = r"\\(?:sqrt(?:\[\d\])?\{[^{}]{1,60}\}|pi(?![A-Za-z]))"
_FORMULA = re.compile(
    rf"(?<![\w^_])(?<![\^_]\{{)(?<!\d\.)(?P<sign>[-+]\s?)?(?:{_TERM}|{_BRACKET})"
    rf"(?:\s?{_IRRATIONAL}|\s?(?:\\cdot|\\pm|\\approx|[-+*/])\s?-?(?:{_TERM}|{_BRACKET})|(?<=[\d)]){_BRACKET})*"
)
_SCALE_WORDS = "hundred|thousand|million|billion|trillion|dozen"
_SCALE = re.compile(rf"(?:[\s-]?(?:{_SCALE_WORDS})s?(?![A-Za-z]))+", re.IGNORECASE)
_SCALE_LETTER = re.compile(r"([kKM]|\s?[bm]n)(?![A-Za-z\d])")
_SCALE_NAMES = {"k": "thousand", "m": "million", "bn": "billion", "mn": "million"}
_RANGE = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)%?")

_NEGATION = re.compile(
    r"(?:\b(?:not|neither|nor|never|cannot|(?:instead|other|rather) (?:of|than)|anything but"
    r"|no longer)|n't)"
    r"\s(?:be\s|equal to\s|exactly\s|simply\s|just\s|the\s)?$",
    re.IGNORECASE,
)
_CROSSED_OUT = re.compile(r"\s?[❌✗✘🚫]")
_BOUND = re.compile(
    r"(?:(?<!no )(?<!not )\b(?:less|more|fewer|greater|larger|smaller|bigger) than(?: or equal to)?"
    r"|\b(?:twice|double|triple|half of|half|a (?:half|third|quarter) of)|\\(?:le|ge|ne)"
    r"|(?:^|\s|\s[A-Za-z])\s?[<>]=?|!=|\b(?:log|ln|sin|cos|tan|exp|sqrt)\s?\(?|\b[A-Za-z]\()\s?$",
    re.IGNORECASE,
)
_BOUND_SIGN = re.compile(r"[<>=\\]")
_JOINED = re.compile(
    r"\s?(?:[A-Za-z%°$]+\s){0,2}(?P<comma>,\s?)?(?P<word>or|to|nor|through|versus|vs\.?|and|and/or|&)"
    r"\s(?:(?:\w+ly|maybe|perhaps|even|about|else|also)\s)?$",
    re.IGNORECASE,
)
_BOUND_BEHIND = re.compile(r"\s?(?:[<>]=?|\\(?:le|ge|ne)(?![A-Za-z]))\s?[A-Za-z]\s?[<>\\=]")
_DEPENDS = re.compile(r"\sif\b.*\b(?:otherwise|else)\b")
_ADJACENT = re.compile(r"\s?[%°]?\s?(?:and|&)\s$")
_LIST_GAP = re.compile(r"\s?[,;]\s?")
_LIST_END = re.compile(r"\s?(?:$|[,;.)\]}\\]|and\b|or\b)")
_RANGE_GAP = re.compile(r"\s?(?:\.{2,3}|~|\\ldots)\s?|['\u2032]\s?")
_COUNTED_GAP = re.compile(r"\s[A-Za-z]+,\s")
_COUNTED_END = re.compile(r"\s[A-Za-z]+s\W*$")
_MEASURES = (
    "hours? hrs? h minutes? mins? m seconds? secs? s days? weeks? months? years? feet foot ft inch"
    "(?:es)? in pounds? lbs? ounces? oz dollars? cents? yards? miles? kilometers? km meters? cm "
    "metres? gallons? quarts? pints? kg grams? liters? litres? ml dimes? nickels? quarters? "
    "penn(?:y|ies)"
)
_MEASURE = rf"\s?(?:{'|'.join(_MEASURES.split())})(?![A-Za-z])"
_COMPOUND_GAP = re.compile(rf"{_MEASURE}\s?(?:,\s?)?(?:and\s)?$", re.IGNORECASE)
_COMPOUND_END = re.compile(_MEASURE, re.IGNORECASE)
_UNKNOWN_BEHIND = re.compile(
    r"(?:[abijqruv]|\s?(?:[-+*/^]|\\cdot)?\s?[xyzn])(?![A-Za-z])(?!\s[a-z]{2})"
)
_UNKNOWN_BEFORE = re.compile(r"(?<![A-Za-z\\])([xyzn]|\d[xyzn])\s?$")
_LINKS = re.compile(r"(?:\b(?:is|are|be|was|were|to|at|of|by|equals?|gives?|gets?)|[=:(,])\s?$")

_SIGNED_PRICE = re.compile(r"([-+])\$\s?(?=[\d.])")
_ARROW = re.compile(r"[-=]+>")
_SPACED_DASH = re.compile(r"—(?=\s)")
_EMPHASIS = re.compile(r"\*\*|(?<![\d)}\s])\*(?=\S)|(?<=\S)\*(?![\d({\s\\])|(?<=[^\d)}]\s)\*(?=\S)")
_TEXT_MACRO = re.compile(r"\\text\{([^{}]*)\}")
_DEGREE = re.compile(r"\^\s?\{?\s?\\circ\s?\}?")
_INDIAN_GROUPS = re.compile(r"(?<![\d.,])\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])")
_LINE_GROUPS = re.compile(r"(?<=\d)\\?_(?=\d{3}(?!\d))")
_OPERATIONS = (
    (re.compile(r"(?<=\d)\s?x\s?(?=[\d(.])"), "\\\\cdot "),
    (re.compile(r"(?<=[\d)}%])\s(?:times|multiplied by)\s(?=[-\d(.])"), "\\\\cdot "),
    (re.compile(r"(?<=[\d)}%])\splus\s(?=[-\d(.])"), "+"),
    (re.compile(r"(?<=[\d)}%])\s?(?:divided by|over)\s(?=[-\d(.])"), "/"),
    (re.compile(r"(?<=[\d)])\s(?:raised )?to the power (?:of )?(?=[-\d(])"), "^"),
    (re.compile(r"\bhalf (?:of )?an? (?=(?:thousand|[mbtr]+illion)s?\b)"), "0.5 "),
    (re.compile(r"(?<=[\d)])\ssquared\b"), "^2"),
    (re.compile(r"(?<=[\d)])\scubed\b"), "^3"),
    (re.compile(r"(?<![\d./])(\d+)\s(?:and|&)\s(?=\d{1,2}/\d)"), r"\1 "),
)
SENTENCE_END = re.compile(r"(?<!\d\.\.)[.!?](?=[\s*\"')\]]|$)|\n")
# What a text says about an answer that it has given.
_REMARK = re.compile(
    r"[,;:]?\s(?:because|since|which|where|due to|given|as required|as desired)\b.*"
    r"|;\s*[A-Za-z][A-Za-z ]*$|\s[-–—]+\s[A-Za-z][A-Za-z' ]*$"
    r"|\s\((?=[^()]*[A-Za-z]{3})[^()]*\)\W*$",
    re.DOTALL,
)
_BRACKETED = re.compile(r"(?<=[\dA-Za-z%$}*])\s\((?!or\b)[^()]{0,300}\)")
_EQUALS = re.compile(r"(?<![<>!])=(?![=>])")
# Letters that may be units behind a number stay: the rest of a side is a formula.
_FORMULA_START = re.compile(r"(?<!\\)[A-Za-z]{2,}|'s\b|[,;:]|\.\s")
_UNIT_LETTER = re.compile(r"(?<=\d)\s?[mghsL](?![A-Za-z])")
_TENS_WORD = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_NUMBER_WORD = re.compile(
    rf"\W{{0,4}}((?:(?:minus|negative)\s)?(?:(?:{_TENS_WORD})[-\s](?=(?:one|two|three|four|five|six|seven"
    r"|eight|nine)\b))?[A-Za-z]+)\b",
    re.IGNORECASE,
)
_NO_NUMBER_WORD = re.compile(
    rf"[\s,-]*(?:{_SCALE_WORDS}|and|or|to|point|half|halves|thirds?|quarters?|fifths?|tenths?)",
    re.IGNORECASE,
)
_FRACTION_SIGNS = "½¼¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_MAX_BEFORE, _MAX_BEHIND = 300, 120  # characters around the last digit that may belong to it
_MAX_SIDE = 100  # characters of the formula before an equals sign


@dataclass(frozen=True, slots=True)
class _Numeral:
    start: int
    end: int
    text: str


def stated(sentence: str, *, is_last: bool = False) -> str | None:
    r"""Read the number that a sentence states, behind its last equals sign where there is one.

    Args:
        sentence: any characters; 3,000 of them are read.
        is_last: take the last number, as where nothing announces the answer; the first otherwise.

    Returns:
        The number as it is written, an equation that still holds an unknown, or what the sentence
        says instead of a number; None where it has none.

    >>> [stated(text) for text in ("$1,250", r"9{,}500 dollars", "1.5 million", "5 or 7")]
    ['$1,250', '9500', '1.5 million', '5 or 7']
    >>> stated("minus 5"), stated("not 5 but 7"), stated("1 4/5 hours"), stated("none")
    ('-5', '7', '1 4/5', None)
    """
    for pattern in () if is_last else (_BRACKETED, _REMARK):
        shorter = pattern.sub("", sentence)
        if shorter != sentence and _named(shorter) is not None:
            sentence = shorter
    signs = list(_EQUALS.finditer(sentence))
    if not signs:
        found = _named(sentence, is_last=is_last)
        return _number_word(sentence) if found is None and not is_last else found
    left, tail = sentence[: signs[-1].start()], sentence[signs[-1].end() :]
    number = _named(tail, is_last=is_last) or _named(sentence, is_last=is_last)
    unsolved = "" if is_last or number is None else _unsolved_side(left)
    return f"{unsolved} = {number}" if unsolved else number


def last_stated(text: str) -> tuple[str, int] | None:
    """Read the number that the last sentence with a digit states, and where that digit ends."""
    end = _last_digit(text)
    if end < 0:
        return None
    sentence = _sentence_around(text, end)
    return stated(sentence, is_last=True) or sentence.strip(), end + 1


def _last_digit(text: str) -> int:
    """Find the last digit or fraction sign; -1 without one."""
    for position in range(len(text) - 1, -1, -1):
        if text[position].isdecimal() or text[position] in _FRACTION_SIGNS:
            return position
    return -1


def _sentence_around(text: str, position: int) -> str:
    """Cut out the sentence of a digit, at most 420 characters of it."""
    before = text[max(0, position - _MAX_BEFORE) : position + 1]
    behind = text[position + 1 : position + _MAX_BEHIND]
    start = max((match.end() for match in SENTENCE_END.finditer(before)), default=0)
    end = SENTENCE_END.search(behind)
    return before[start:] + (behind[: end.start()] if end else behind)


def without_remark(answer: str) -> str:
    """Drop what is said about a value behind it, unless nothing would be left."""
    return _REMARK.sub("", answer, count=1).strip() or answer


def _number_word(sentence: str) -> str | None:
    """Return the number that a sentence begins with in letters."""
    match = _NUMBER_WORD.match(sentence)
    if match is None or number_of(match.group(1)) is None:
        return None
    return None if _NO_NUMBER_WORD.match(sentence, match.end()) else match.group(1)


def _unsolved_side(left: str) -> str:
    """Return the formula before an equals sign if it still holds an unknown, as in ``x + 7 = 5``.

    Then the number behind the sign is no answer, and the whole equation is compared.
    """
    formula = _FORMULA_START.split(left.rpartition("=")[2])[-1].strip(" \t$*`")
    if len(formula) > _MAX_SIDE:
        return ""
    side = normalise(_UNIT_LETTER.sub("", formula))
    return formula if unknowns(side) and not is_quantity(side) else ""


def _named(text: str, *, is_last: bool = False) -> str | None:
    """Read the number that a part of a sentence without an equals sign names."""
    text = text[-MAX_LENGTH:] if is_last else text[:MAX_LENGTH]
    if text.isascii() and not _HAZARD.search(text):
        plain = _PLAIN.findall(text)
        if len(plain) == 1:
            return str(plain[0]).strip()
    prose = _prose(text)
    found = _numerals(prose, is_last)
    if not found:
        return None
    kept = _without_denied(prose, found)
    if not kept:
        return f"not {found[-1 if is_last else 0].text}"
    numeral = kept[-1 if is_last else 0]
    if len(kept) > 1:
        first, second = kept[-2:] if is_last else kept[:2]
        if first.text != second.text and _are_joined(prose, first, second, is_last):
            return f"{first.text} or {second.text}"
    before, behind = prose[: numeral.start], prose[numeral.end :]
    bound = _BOUND.search(before)
    if bound and (not is_last or _BOUND_SIGN.search(bound.group())):
        return f"{bound.group().strip()} {numeral.text}"
    if before.endswith("|") and behind.startswith("|"):
        return f"|{numeral.text}|"
    if _BOUND_BEHIND.match(behind) or _DEPENDS.match(behind):
        return f"{numeral.text} or other"
    unknown = _UNKNOWN_BEHIND.match(behind)
    return numeral.text + unknown.group() if unknown else numeral.text


def _prose(text: str) -> str:
    """Write a sentence in plain characters, with its spaces, and its numbers in one spelling."""
    text = spelled(plain_characters(_SPACED_DASH.sub(",", text)))
    text = _LINE_GROUPS.sub("", _ARROW.sub(" ", text))
    text = _EMPHASIS.sub("", text)
    if "\\" in text:
        text = _TEXT_MACRO.sub(r" \1 ", with_overlines(rewritten(text)))
        text = _DEGREE.sub("°", text)
    text = " ".join(_SIGNED_PRICE.sub(r"\1", text).replace("$", " ").split())
    text = comma_groups_joined(spaced_groups_joined(text))
    text = _INDIAN_GROUPS.sub(lambda m: m.group().replace(",", ""), text)
    for pattern, sign in _OPERATIONS:
        text = pattern.sub(sign, text)
    return text


def _numerals(prose: str, is_last: bool) -> list[_Numeral]:
    found = []
    for match in _FORMULA.finditer(prose):
        text, end = match.group().strip(), match.end()
        sign = match.group("sign")
        unknown = _UNKNOWN_BEFORE.search(prose[: match.start()]) if sign else None
        if unknown:
            text = unknown.group(1) + text
        elif sign and sign.endswith(" ") and not _is_signed(prose[: match.start()], is_last):
            text = text[len(sign) :]
        limits = _RANGE.fullmatch(text)
        if limits and float(limits.group(1)) < float(limits.group(2)):
            text = f"{limits.group(1)} to {limits.group(2)}"
        scale = _SCALE.match(prose, end)
        letter = None if scale else _SCALE_LETTER.match(prose, end)
        if scale:
            text, end = f"{text} {scale.group().strip(' -').lower()}", scale.end()
        elif letter and match.end() > 0 and prose[match.end() - 1].isdigit():
            text += f" {_SCALE_NAMES[letter.group(1).strip().lower()]}"
            end = letter.end()
        found.append(_Numeral(match.start(), end, text))
    return found


def _is_signed(before: str, is_last: bool) -> bool:
    """Whether a dash with a space behind it is a sign, and no bullet or dash between words."""
    if not before.strip():
        return not is_last
    return bool(_LINKS.search(before))


def _without_denied(prose: str, found: list[_Numeral]) -> list[_Numeral]:
    """Leave out what the answer is said not to be: both numbers of ``not 5 or 7``."""
    kept: list[_Numeral] = []
    denied: _Numeral | None = None
    for numeral in found:
        joined = _JOINED.fullmatch(prose, denied.end, numeral.start) if denied else None
        if _is_denied(prose, numeral) or (joined and joined.group("word").lower() in ("or", "nor")):
            denied = numeral
        else:
            kept.append(numeral)
            denied = None
    return kept


def _is_denied(prose: str, numeral: _Numeral) -> bool:
    before = prose[max(0, numeral.start - 40) : numeral.start]
    return bool(_NEGATION.search(before) or _CROSSED_OUT.match(prose, numeral.end))


def _are_joined(prose: str, first: _Numeral, second: _Numeral, is_last: bool) -> bool:
    """Whether two numbers are named together, so that neither is the answer alone."""
    gap, behind = prose[first.end : second.start].replace("(", ""), prose[second.end :]
    if _COMPOUND_GAP.fullmatch(gap) and _COMPOUND_END.match(behind):
        return True  # 1 hour 20 minutes
    if gap == " " and any(word in first.text for word in _SCALE_WORDS.split("|")):
        return True  # 3 thousand 500
    if _RANGE_GAP.fullmatch(gap) or (gap == " " and not is_last and not behind.strip(" .!")):
        return True
    if not is_last and _LIST_GAP.fullmatch(gap) and _LIST_END.match(behind):
        return True
    if not is_last and _COUNTED_GAP.fullmatch(gap) and _COUNTED_END.match(behind):
        return True  # 5 apples, 7 oranges
    joined = _JOINED.fullmatch(gap)
    if joined is None:
        return False
    word = joined.group("word").lower()
    if word in ("and", "&"):
        if is_last:
            return bool(_ADJACENT.fullmatch(gap))
        return not joined.group("comma") or not behind.strip(" .!")
    if word == "to" and is_last:  # it rose from 5 to 7
        return not re.search(r"\bfrom\s[^,;]{0,20}$", prose[: first.start])
    return True
