r"""raw answer -> canonical answer: one spelling for what is written in many ways.

Only notation is unified here (Unicode, LaTeX synonyms, spacing, wrappers, digit grouping); nothing
is evaluated. The result is what :mod:`plan_tuning.grading.equivalence` takes apart.
"""

from __future__ import annotations

import re

from plan_tuning.grading.characters import plain_characters
from plan_tuning.grading.decoration import undecorated, without_markup
from plan_tuning.grading.spelling import (
    comma_groups_joined,
    spaced_groups_joined,
    spelled,
    with_overlines,
)

MAX_LENGTH = 3000  # longer answers are compared as they are
MAX_DEPTH = 40  # of nested braces and brackets

_SYNONYMS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne",
    "times": "cdot", "ast": "cdot", "bullet": "cdot", "infin": "infty", "varnothing": "emptyset",
    "empty": "emptyset", "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "dotsb": "ldots",
    "varphi": "phi", "varepsilon": "epsilon", "vartheta": "theta", "backslash": "setminus",
    "lbrack": "[", "rbrack": "]", "lbrace": "\\{", "rbrace": "\\}", "lvert": "|", "rvert": "|",
    "vert": "|", "mid": "|", "lt": "<", "gt": ">", "div": "/", "degree": "°", "textdegree": "°",
    "pounds": "$", "euro": "$", "textdollar": "$", "colon": ":",
    "approxeq": "approx", "simeq": "approx", "land": " and ", "lor": " or ", "wedge": " and ",
    "vee": " or ", "prime": "'", "nicefrac": "frac", "sfrac": "frac", "xfrac": "frac",
    "flatfrac": "frac", "bigcup": "cup", "bigcap": "cap", "textminus": "-", "minus": "-",
    "R": "\\mathbb{R}", "reals": "\\mathbb{R}", "Reals": "\\mathbb{R}", "Z": "\\mathbb{Z}",
    "N": "\\mathbb{N}", "Q": "\\mathbb{Q}", "C": "\\mathbb{C}", "percent": "%",
    "textpercent": "%",
}  # fmt: skip


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SILENT = _names(
    "left right middle displaystyle textstyle scriptstyle limits nolimits mathstrut strut big "
    "Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bf rm it sf tt cal boldmath "
    "hfill centering tiny scriptsize footnotesize small normalsize large Large LARGE huge Huge "
    "bfseries itshape upshape sffamily ttfamily rmfamily normalfont scriptscriptstyle mathord "
    "mathbin mathrel mathopen mathclose mathinner relax protect nonumber notag par noindent"
)
_SPACES = frozenset(("quad", "qquad", "enspace", "thinspace", "space", "medspace", "thickspace"))
_TEXT_WRAPPERS = _names(
    "text mathrm textbf textit textrm textnormal textsf texttt mbox hbox emph operatorname "
    "mathsf textup texttt textsc mathtt mathnormal"
)
_PLAIN_WRAPPERS = _names(
    "boxed fbox framebox mathbf mathit mathcal mathbb boldsymbol bm underline overline mathop "
    "bold ensuremath vec widehat hat bar dot mathfrak mathscr"
)
# Of the plain wrappers these mean something: they stay.
_MEANINGFUL = frozenset(("overline", "vec", "widehat", "hat", "bar", "dot", "mathbb"))
_SIZED = _names(
    "hspace vspace phantom hphantom vphantom label tag color cancel bcancel xcancel sout fontsize"
)
# What dresses its last argument, and how many arguments say how.
_DRESSED = {
    "textcolor": 1, "mathcolor": 1, "colorbox": 1, "fcolorbox": 2, "href": 1, "style": 1,
    "class": 1, "cssId": 1, "enclose": 1, "raisebox": 1, "scalebox": 1, "bbox": 0,
}  # fmt: skip
_BLACKBOARD = frozenset(("Bbb", "mathds"))

_TOKEN = re.compile(r"\\([A-Za-z]+)\*?|\\(.)|(.)", re.DOTALL)
_WORDS = re.compile(r"[A-Za-z][A-Za-z .'\-/]*")
_WORD_AHEAD = re.compile(r"[A-Za-z]{3}")
_SPACE_NEXT_TO_SYMBOL = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")
_DEGREE = re.compile(r"\^(?:\{\s*(?:\\circ|°)\s*\}|\s*\\circ|\s*°)")
_BARE_SCRIPT = re.compile(r"([\^_]) ?(\w) (?=\w)")  # \log_2 8: the space ends the subscript
_TWO_ARGUMENTS = frozenset(("frac", "binom"))
_INFIX = re.compile(r"\\(over|choose)(?![A-Za-z])")
_INFIX_NAMES = {"over": "frac", "choose": "binom"}
_RELATION_MACRO = re.compile(r"\\(?:le|ge|leq|geq|in|cup|approx)(?![A-Za-z])")
_IDLE_BEFORE = re.compile(r"(?:^|[\s\d(+\-=,$])$")  # braces that are no macro's argument
_MAX_INFIX = 20
_OPTION = re.compile(r"\s*\[[^\[\]]{0,80}\]")


def normalise(raw: str, *, grouping: bool = True) -> str:
    r"""Write an answer in the canonical notation.

    Args:
        raw: an answer as it was extracted, at most MAX_LENGTH characters for any effect.
        grouping: read ``1,250`` as 1250 (outside brackets); False where commas separate values.

    >>> normalise(r"$\dfrac12\,$."), normalise("70\u00a0000"), normalise(r"\left(1,\,2\right]")
    ('\\frac{1}{2}', '70000', '(1,2]')
    """
    if len(raw) > MAX_LENGTH:
        return raw.strip()
    text = plain_characters(without_markup(raw))
    text = _strip_outside(spelled(text))
    text = with_overlines(rewritten(text))
    text = _DEGREE.sub("°", text)
    text = " ".join(text.split())
    text = _BARE_SCRIPT.sub(r"\1{\2}", text)
    text = spaced_groups_joined(text)
    if grouping:
        text = _join_groups(text)
    text = _SPACE_NEXT_TO_SYMBOL.sub(_keep_macro_space, text)
    return _strip_outside(_unbrace(text))


def rewritten(text: str) -> str:
    r"""Write every macro in the one form that is known here.

    >>> rewritten(r"{3 \over 4}"), rewritten(r"\textcolor{red}{\dfrac12}")
    ('\\frac{3}{4}', '\\frac{1}{2}')
    """
    return _rewrite(_prefixed(text), 0)


def depth(text: str) -> int:
    """Count how deep braces, brackets and parentheses are nested at most."""
    level = deepest = 0
    for character in text:
        if character in "({[":
            level += 1
            deepest = max(deepest, level)
        elif character in ")}]":
            level = max(0, level - 1)
    return deepest


def _strip_outside(text: str) -> str:
    """Drop what stands around an answer: spaces, emphasis, quotes, a final period or comma."""
    while True:
        shorter = text.strip(' \t\r\n\f\v`"~')
        if shorter.startswith("**") or shorter.endswith("**"):
            shorter = shorter.strip("*")
        if shorter.startswith("*") and shorter.endswith("*") and len(shorter) > 1:
            shorter = shorter[1:-1]
        if shorter.endswith((".", ",", ";", ":")) and not shorter.endswith(("\\,", "\\;", "\\:")):
            shorter = shorter[:-1]
        shorter = undecorated(shorter)
        if shorter == text:
            return text
        text = shorter


def _rewrite(text: str, level: int) -> str:
    """Rewrite macros token by token, one call per level of nested arguments."""
    if level > MAX_DEPTH:
        return text
    out: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:  # cannot happen: the last alternative takes any character
            break
        position = match.end()
        name, escaped, character = match.groups()
        if name is not None:
            piece, position = _macro(name, text, position, level)
            out.append(piece)
        elif escaped is not None:
            out.append(_escape(escaped))
        elif character == "$":
            out.append(" ")
        elif character == "*":
            out.append("\\cdot ")
        elif character == "~":
            out.append(" ")
        else:
            out.append(character)
    return "".join(out)


def _prefixed(text: str) -> str:
    r"""Write ``a \over b`` as ``\frac{a}{b}``, and ``n \choose k`` likewise."""
    for _ in range(_MAX_INFIX):
        match = _INFIX.search(text)
        if match is None:
            break
        start, end = _group_around(text, match.start(), match.end())
        over, under = text[start : match.start()].strip(), text[match.end() : end].strip()
        if (
            text[:start].endswith("{")
            and text[end : end + 1] == "}"
            and _IDLE_BEFORE.search(text, 0, start - 1)
        ):
            start, end = start - 1, end + 1
        piece = f"\\{_INFIX_NAMES[match.group(1)]}{{{over}}}{{{under}}}"
        text = text[:start] + piece + text[end:]
    return text


def _group_around(text: str, start: int, end: int) -> tuple[int, int]:
    """Find the group that an infix macro divides: braces, brackets or one side of a relation."""
    level = 0
    while start > 0:
        character = text[start - 1]
        if character in ")]}":
            level += 1
        elif character in "([{":
            level -= 1
        if level < 0 or (level == 0 and character in ",;$&=<>"):
            break
        start -= 1
    relation = list(_RELATION_MACRO.finditer(text, start, end))
    level = 0
    while end < len(text):
        character = text[end]
        if character in "([{":
            level += 1
        elif character in ")]}":
            level -= 1
        stops = level == 0 and (character in ",;$&=<>" or text.startswith("\\text", end))
        if level < 0 or stops or text.startswith("\\right", end):
            break
        end += 1
    return (relation[-1].end() if relation else start), end


def _escape(character: str) -> str:
    if character in ",;: >\n\t":
        return " "
    if character in "!/()[]$":
        return "" if character in "!/" else " "
    if character in "%&#_":
        return character
    return "\\" + character  # \{ \} \| and the row break \\


def _macro(name: str, text: str, position: int, level: int) -> tuple[str, int]:
    if name in _SILENT:
        if name in ("left", "right") and text[position : position + 1] == ".":
            position += 1
        return "", position
    if name in _SPACES:
        return " ", position
    if name in _SIZED:
        _, position = _argument(text, _behind_option(text, position))
        return "", position
    if name in _DRESSED:
        position = _behind_option(text, position)
        for _ in range(_DRESSED[name]):
            _, position = _argument(text, position)
        content, position = _argument(text, position)
        return _rewrite(content, level + 1), position
    if name in _BLACKBOARD:
        name = "mathbb"
    if name in _TEXT_WRAPPERS:
        content, position = _argument(text, position)
        return _worded(_rewrite(content, level + 1)), position
    if name in _PLAIN_WRAPPERS:
        content, position = _argument(text, position)
        inner = _rewrite(content, level + 1)
        return (f"\\{name}{{{inner}}}" if name in _MEANINGFUL else f" {inner} "), position
    name = _SYNONYMS.get(name, name)
    if not name.isalpha():
        return name, position
    if name in _TWO_ARGUMENTS:
        first, position = _argument(text, position)
        second, position = _argument(text, position)
        parts = (_rewrite(part, level + 1).strip() for part in (first, second))
        return f"\\{name}" + "".join(f"{{{part}}}" for part in parts), position
    if name == "sqrt":
        index = re.compile(r"\s*\[([^\[\]]*)\]").match(text, position)
        position = index.end() if index else position
        content, position = _argument(text, position)
        degree = f"[{_rewrite(index.group(1), level + 1).strip()}]" if index else ""
        return f"\\sqrt{degree}{{{_rewrite(content, level + 1).strip()}}}", position
    return f"\\{name} ", position


def _behind_option(text: str, position: int) -> int:
    option = _OPTION.match(text, position)
    return option.end() if option else position


def _argument(text: str, position: int) -> tuple[str, int]:
    """Read one argument of a macro: a braced group, a macro, or one character."""
    while position < len(text) and text[position].isspace():
        position += 1
    if position >= len(text):
        return "", position
    if text[position] == "{":
        level = 0
        for end in range(position, len(text)):
            if text[end] == "{" and text[end - 1 : end] != "\\":
                level += 1
            elif text[end] == "}" and text[end - 1 : end] != "\\":
                level -= 1
                if level == 0:
                    return text[position + 1 : end], end + 1
        return text[position + 1 :], len(text)
    match = _TOKEN.match(text, position)
    end = match.end() if match else position + 1
    name = match.group(1) if match else None
    if name in ("sqrt", "text", "mathrm"):
        _, end = _argument(text, end)
    return text[position:end], end


def _worded(content: str) -> str:
    r"""Keep ``\text{}`` around words only; numbers in it are as good as outside."""
    stripped = " ".join(content.split())
    if stripped.casefold() in ("and", "or"):
        return f" {stripped.casefold()} "
    plain = stripped if stripped.count(" ") < 2 else stripped.replace(",", "")
    if len(stripped) > 1 and _WORDS.fullmatch(plain):  # a sentence may hold commas, a list not
        return f"\\text{{{stripped}}}"
    return f" {content} "


def _join_groups(text: str) -> str:
    if "," not in text:
        return text
    out, level, start = [], 0, 0
    for position, character in enumerate(text):  # only outside brackets: (312,123) is a pair
        if character in "([":
            if level == 0:
                out.append(comma_groups_joined(text[start:position]))
                start = position
            level += 1
        elif character in ")]" and level:
            level -= 1
            if level == 0:
                out.append(text[start : position + 1])
                start = position + 1
    rest = text[start:]
    if level == 0:
        rest = comma_groups_joined(rest)
    return "".join(out) + rest


def _keep_macro_space(match: re.Match[str]) -> str:
    """Keep the space that ends a macro's name; every other space beside a symbol means nothing."""
    before = re.search(r"\\[A-Za-z]+$", match.string[max(0, match.start() - 20) : match.start()])
    after = match.string[match.end() : match.end() + 1]
    if before:
        return " " if after.isalnum() else ""
    # a word behind a closed value is its unit, or another word
    is_word = _WORD_AHEAD.match(match.string, match.end())
    return " " if is_word and match.string[match.start() - 1] in ")}%" else ""


_SINGLE_BRACED = re.compile(r"([\^_])\{(\d|[A-Za-z])\}(?![0-9A-Za-z])")
_IDLE_BRACES = re.compile(r"(?<![\\A-Za-z0-9^_}\]])\{([A-Za-z0-9.]+)\}")


def _unbrace(text: str) -> str:
    while (
        len(text) > 1 and text[0] == "{" and _argument(text, 0)[1] == len(text) and text[-1] == "}"
    ):
        text = text[1:-1].strip()
    text = _IDLE_BRACES.sub(r"\1", text)
    return _SINGLE_BRACED.sub(r"\1\2", text)
