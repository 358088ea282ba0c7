r"""raw answer -> canonical answer: one spelling for what is written in many ways.

Only notation is unified here (Unicode, LaTeX synonyms, spacing, wrappers, digit grouping); nothing
is evaluated. The result is what :mod:`plan_tuning.grading.equivalence` takes apart.
"""

from __future__ import annotations

import re
import unicodedata

MAX_LENGTH = 3000  # longer answers are compared as they are
MAX_DEPTH = 40  # of nested braces and brackets

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙ", "0123456789+-=()n")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ]+")
_SUBSCRIPT_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙ]+")
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta",
    "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi",
    "ϕ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta",
    "Λ": "Lambda", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_SYMBOLS = {
    **{letter: f"\\{name} " for letter, name in _GREEK.items()},
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),
    **dict.fromkeys("×·⋅∙•∗✕⨯", "\\cdot "),
    "÷": "/", "⁄": "/", "∕": "/", "∶": ":", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ",
    "⩽": "\\le ", "⩾": "\\ge ", "≠": "\\ne ", "≈": "\\approx ", "±": "\\pm ", "∓": "\\mp ",
    "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset ", "ℝ": "\\mathbb{R}",
    "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}",
    "°": "^{\\circ}", "º": "^{\\circ}", "˚": "^{\\circ}", "⌊": "\\lfloor ", "⌋": "\\rfloor ",
    "⌈": "\\lceil ", "⌉": "\\rceil ", "∠": "\\angle ", "′": "'", "’": "'", "‘": "'", "“": '"',
    "”": '"', "„": '"', "…": "\\ldots ", "€": "$", "£": "$", "¥": "$", "₹": "$", "¢": " cents",
    "∖": "\\setminus ", "∣": "|",
}  # fmt: skip
_SYMBOL = re.compile("|".join(map(re.escape, _SYMBOLS)))
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-z]|(?=[({\\]))")
_ROOT_DEGREE = {"√": "", "∛": "[3]", "∜": "[4]"}

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
    "vee": " or ", "prime": "'",
}  # fmt: skip


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SILENT = _names(
    "left right middle displaystyle textstyle scriptstyle limits nolimits mathstrut strut big "
    "Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bf rm it sf tt cal boldmath "
    "hfill centering small large normalsize nonumber notag par noindent"
)
_SPACES = frozenset(("quad", "qquad", "enspace", "thinspace", "space", "medspace", "thickspace"))
_TEXT_WRAPPERS = _names(
    "text mathrm textbf textit textrm textnormal textsf texttt mbox hbox emph operatorname "
    "mathsf textup"
)
_PLAIN_WRAPPERS = _names(
    "boxed fbox framebox mathbf mathit mathcal mathbb boldsymbol bm underline overline mathop "
    "bold ensuremath vec widehat hat bar"
)
# Of the plain wrappers these mean something: they stay.
_MEANINGFUL = frozenset(("overline", "vec", "widehat", "hat", "bar", "mathbb"))
_SIZED = frozenset(("hspace", "vspace", "phantom", "hphantom", "vphantom", "label", "tag", "color"))

_TOKEN = re.compile(r"\\([A-Za-z]+)\*?|\\(.)|(.)", re.DOTALL)
_WORDS = re.compile(r"[A-Za-z][A-Za-z .'\-/]*")
_SPACE_NEXT_TO_SYMBOL = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")
_THIN_GROUPS = re.compile(r"(?<=\d)(?:\\,|\\!|\\;|\\:|\{,\}|\\ |,\\!\s*|\{ \})(?=\d{3}(?!\d))")
_SPACE_GROUPS = re.compile(r"(?<![\d.A-Za-z^_])\d{1,3}(?: \d{3})+(?![\d])")
_COMMA_GROUPS = re.compile(r"(?<![\d.,^_])\d{1,3}(?:,\d{3})+(?![\d,]|, ?\d)")
_DEGREE = re.compile(r"\^(?:\{\s*(?:\\circ|°)\s*\}|\s*\\circ|\s*°)")
_BARE_SCRIPT = re.compile(r"([\^_]) ?(\w) (?=\w)")  # \log_2 8: the space ends the subscript
_TWO_ARGUMENTS = frozenset(("frac", "binom"))


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
    text = _plain_characters(raw)
    text = _strip_outside(text)
    text = _THIN_GROUPS.sub("", text)
    text = _rewrite(text, 0)
    text = _DEGREE.sub("°", text)
    text = " ".join(text.split())
    text = _BARE_SCRIPT.sub(r"\1{\2}", text)
    text = _SPACE_GROUPS.sub(lambda m: m.group().replace(" ", ""), text)
    if grouping:
        text = _join_groups(text)
    text = _SPACE_NEXT_TO_SYMBOL.sub(_keep_macro_space, text)
    return _strip_outside(_unbrace(text))


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


def _plain_characters(raw: str) -> str:
    text = _SUPERSCRIPT_RUN.sub(lambda m: f"^{{{m.group().translate(_SUPERSCRIPTS)}}}", raw)
    text = _SUBSCRIPT_RUN.sub(lambda m: f"_{{{m.group().translate(_SUBSCRIPTS)}}}", text)
    text = _ROOT.sub(_root, text)
    text = _SYMBOL.sub(lambda m: _SYMBOLS[m.group()], text)
    if text.isascii():
        return text
    characters = []
    for character in text:
        category = unicodedata.category(character)
        if category in ("Cf", "Cs", "Cc", "Cn", "Co") and character not in "\n\t":
            continue
        if category == "No" and "FRACTION" in unicodedata.name(character, ""):
            # before NFKC, which would glue the whole part of 2½ to its numerator
            over, _, under = unicodedata.normalize("NFKC", character).partition("⁄")
            characters.append(f"\\frac{{{over}}}{{{under}}}")
        elif category in ("Zs", "Zl", "Zp"):
            characters.append(" ")
        else:
            characters.append(character)
    text = unicodedata.normalize("NFKC", "".join(characters))
    return _SYMBOL.sub(lambda m: _SYMBOLS[m.group()], text)


def _root(match: re.Match[str]) -> str:
    macro = f"\\sqrt{_ROOT_DEGREE[match.group(1)]}"
    return f"{macro}{{{match.group(2)}}}" if match.group(2) else macro


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
        _, position = _argument(text, position)
        return "", position
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
                out.append(
                    _COMMA_GROUPS.sub(lambda m: m.group().replace(",", ""), text[start:position])
                )
                start = position
            level += 1
        elif character in ")]" and level:
            level -= 1
            if level == 0:
                out.append(text[start : position + 1])
                start = position + 1
    rest = text[start:]
    if level == 0:
        rest = _COMMA_GROUPS.sub(lambda m: m.group().replace(",", ""), rest)
    return "".join(out) + rest


def _keep_macro_space(match: re.Match[str]) -> str:
    """Keep the space that ends a macro's name; every other space beside a symbol means nothing."""
    before = re.search(r"\\[A-Za-z]+$", match.string[max(0, match.start() - 20) : match.start()])
    after = match.string[match.end() : match.end() + 1]
    return " " if before and after.isalnum() else ""


_SINGLE_BRACED = re.compile(r"([\^_])\{(\d|[A-Za-z])\}(?![0-9A-Za-z])")
_IDLE_BRACES = re.compile(r"(?<![\\A-Za-z0-9^_}\]])\{([A-Za-z0-9.]+)\}")


def _unbrace(text: str) -> str:
    while (
        len(text) > 1 and text[0] == "{" and _argument(text, 0)[1] == len(text) and text[-1] == "}"
    ):
        text = text[1:-1].strip()
    text = _IDLE_BRACES.sub(r"\1", text)
    return _SINGLE_BRACED.sub(r"\1\2", text)
