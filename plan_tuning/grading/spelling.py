r"""text -> the same text with its numbers in one spelling: sign, thousands, currency, scale.

The rules here hold in a formula and in running text alike, so that the way in which a number is
written never decides a verdict. They read characters as
:func:`plan_tuning.grading.characters.plain_characters` leaves them.
"""

from __future__ import annotations

import re

_BRACED_MARK = r"\{(?:\\?[,!;: ]|')\}|\\(?:text|mathrm|mbox|mathord)\{\s*,?\s*\}"
_THIN_SPACE = r"\\(?:[,!;: ]|thinspace(?![A-Za-z])\s?|[hm]?(?:space|kern|skip)\*?\{[^{}]{1,20}\})"
_THIN_GROUPS = re.compile(
    rf"(?<=\d)(?:,\\!\s*|,\{{\}}|\{{\}},|(?:{_THIN_SPACE}){{1,3}}|{_BRACED_MARK})(?=\d{{3}}(?!\d))"
)
_DECIMAL_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d)")
_SPACE_GROUPS = re.compile(r"(?<![\d.A-Za-z^_])\d{1,3}(?: \d{3})+(?![\d])")
_MARKED_GROUPS = re.compile(  # 9'500, and 9.500.000: two points are in no decimal
    r"(?<![\w.,'])\d{1,3}(?:(?:'\d{3})+(?![\d'])|(?:\.\d{3}){2,}(?![\d.]*\d))"
)
_COMMA_GROUPS = re.compile(r"(?<![\d.,^_])\d{1,3}(?:,\d{3})+(?![\d,]|, ?\d)")
_NUMBER_AHEAD = r"(?=[-+]?\s?(?:[\d.$]|\\\$|\\frac|\\sqrt|\())"
_CODES = (
    "USD|EUR|GBP|CAD|AUD|NZD|HKD|SGD|INR|CNY|RMB|JPY|CHF|KRW|MXN|BRL|ZAR|SEK|NOK|DKK|PHP|Rs\\.?"
)
_DOLLARS = r"(?:US|USD|CA|AU|NZ|HK|SG|NT|MX|C|A|S|R|\b)\s?\\?\$"
_CURRENCY = re.compile(
    rf"(?<![A-Za-z\\])(?:{_CODES}|(?:US|USD|CA|AU|NZ|HK|SG|NT|MX|C|A|S|R)\s?\\?\$)\s?{_NUMBER_AHEAD}"
    rf"|\\(?:text|mathrm|textbf)\{{\s*(?:{_CODES}|{_DOLLARS})\s*\}}\s?{_NUMBER_AHEAD}"
)
_SIGN_WORD = re.compile(
    r"(?:\\text(?:bf|it|rm)?\{\s*(?P<framed>minus|negative|positive)\s*\}"
    rf"|(?<![A-Za-z\\-])(?P<bare>minus|negative|positive)\s)\s*{_NUMBER_AHEAD}",
    re.IGNORECASE,
)
_DOUBLE_STAR = re.compile(r"(?<=[\w)}])\*\*(?=[-\d({])")
_TIMES_TEN = re.compile(r"(?<=\d)\s?[xX]\s?(?=10\s?\^)")
_SPLIT_FRACTION = re.compile(
    r"(?<![A-Za-z)\]0-9])(?:\{\})?\^\{?(\d+)\}?\s?(?:\\!)*/(?:\\!)*\s?(?:\{\})?_\{?(\d+)\}?"
)
_US = re.compile(r"(?<=[\d}$])\s?US(?=\s(?:dollars?|cents?)\b)")
_FRAMED_E = re.compile(r"(?<=\d)\\(?:mathrm|text)\{\s?[eE]\s?\}(?=[-+]?\d)")
_IDLE_OPERATOR = re.compile(r"\{(\\(?:times|cdot|div|pm))\}")
_IDLE_MARK = re.compile(r"\{([:=+\-/])\}")
_AND_A_PART = re.compile(
    r"(?<![\d.,/])(\d+),?\s(?:and|&)\s"
    r"(half|(?:a|one)[ -](?:half|quarter|third)|three[ -]quarters|two[ -]thirds)(?![A-Za-z])",
    re.IGNORECASE,
)
_PARTS = {"half": "1/2", "quarter": "1/4", "third": "1/3", "quarters": "3/4", "thirds": "2/3"}

_DOTTED_BY_HAND = re.compile(
    r"\\(?:overset|stackrel)\{\s*(?:\\cdot|\\bullet|\.|-|\\_)\s*\}\{(\d)\}"
)
_ELLIPSIS = re.compile(r"(?<![\w.])(\d*\.\d{3,})\s?(?:\.{3}|\\[lc]?dots[cb]?(?![A-Za-z]))(?!\d)")
_PERIOD = re.compile(r"(\d)\1{2,}$|(\d{2,12}?)\2+$")
_PERIOD_IN_BRACKETS = re.compile(r"(?<![\w.)])(\d*\.)\((\d{1,20})\)(?![\d!^])")
_BAR = re.compile(r"(\.\d*)\\(?:bar|dot)\s?\{?(\d+)\}?")
_TWO_DOTS = re.compile(r"(\.\d*)\\dot\s?\{?(\d)\}?(\d*)\\dot\s?\{?(\d)\}?")


def spelled(text: str) -> str:
    r"""Unify the spelling of numbers before any macro is read.

    >>> spelled(r"9{,}500"), spelled("US$29"), spelled("minus 5"), spelled("1.5 x 10^6")
    ('9500', '29', '-5', '1.5\\cdot 10^6')
    >>> spelled("7 and a half"), spelled("0.1666..."), spelled("9'500")
    ('7 1/2', '0.1\\overline{6}', '9500')
    """
    if "\\" in text or "{" in text:
        text = _THIN_GROUPS.sub("", text)
        text = _DECIMAL_COMMA.sub(".", text)
        text = _IDLE_OPERATOR.sub(r"\1 ", _IDLE_MARK.sub(r"\1", text))
        text = _FRAMED_E.sub("e", text)
        text = _DOTTED_BY_HAND.sub(r"\\dot{\1}", text)
    text = _MARKED_GROUPS.sub(lambda m: m.group().replace("'", "").replace(".", ""), text)
    text = _DOUBLE_STAR.sub("^", text)
    text = _TIMES_TEN.sub(r"\\cdot ", text)
    text = _SPLIT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = _US.sub("", _CURRENCY.sub("", text))
    text = _SIGN_WORD.sub(_sign, text)
    text = _ELLIPSIS.sub(_recurring, text)
    text = _PERIOD_IN_BRACKETS.sub(r"\1\\overline{\2}", text)
    return _AND_A_PART.sub(_mixed, text)


def spaced_groups_joined(text: str) -> str:
    """Join thousands that spaces of any width separate: ``9 500``."""
    return _SPACE_GROUPS.sub(lambda m: m.group().replace(" ", ""), text)


def comma_groups_joined(text: str) -> str:
    """Join thousands that commas separate: ``9,500``."""
    return _COMMA_GROUPS.sub(lambda m: m.group().replace(",", ""), text)


def with_overlines(text: str) -> str:
    r"""Write recurring decimals with one bar, behind the reading of macros.

    >>> with_overlines(r"0.\bar{3}"), with_overlines(r"0.\dot {1}4285\dot {7}")
    ('0.\\overline{3}', '0.\\overline{142857}')
    """
    if "\\bar" not in text and "\\dot" not in text:
        return text
    text = _TWO_DOTS.sub(r"\1\\overline{\2\3\4}", text)
    return _BAR.sub(r"\1\\overline{\2}", text)


def _sign(match: re.Match[str]) -> str:
    word = match.group("framed") or match.group("bare")
    return "+" if word.lower() == "positive" else "-"


def _recurring(match: re.Match[str]) -> str:
    """Take what repeats before an ellipsis for the period; without one nothing is known."""
    decimal = match.group(1)
    found = _PERIOD.search(decimal, decimal.index(".") + 1)
    if found is None:
        return match.group()
    period = found.group(1) or found.group(2)
    return f"{decimal[: found.start()]}\\overline{{{period}}}"


def _mixed(match: re.Match[str]) -> str:
    word = match.group(2).lower().replace("-", " ").split()[-1]
    return f"{match.group(1)} {_PARTS[word]}"
