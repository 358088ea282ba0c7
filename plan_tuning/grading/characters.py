r"""characters -> the characters that formulas are read in: Unicode becomes ASCII and LaTeX."""

from __future__ import annotations

import re
import unicodedata

from plan_tuning.grading.decoration import without_emoji_parts

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙ", "0123456789+-=()n")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ]+")
_SUBSCRIPT_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙ]+")
_RAISED_FRACTION = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹]+)[⁄/]([₀₁₂₃₄₅₆₇₈₉]+)")
_BAR_MARK = "[\u0304\u0305]"
_BAR_ABOVE = re.compile(rf"(?:\d{_BAR_MARK})+")
_DOT_ABOVE = re.compile("(\\d)\u0307")
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta",
    "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi",
    "ϕ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta",
    "Λ": "Lambda", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_SYMBOLS = {
    **{letter: f"\\{name} " for letter, name in _GREEK.items()},
    **dict.fromkeys("−–—‐‑‒﹣－➖˗⁃", "-"),
    **dict.fromkeys("×·⋅∙•∗✕⨯", "\\cdot "),
    "÷": "/", "⁄": "/", "∕": "/", "∶": ":", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ",
    "⩽": "\\le ", "⩾": "\\ge ", "≠": "\\ne ", "≈": "\\approx ", "±": "\\pm ", "∓": "\\mp ",
    "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset ", "ℝ": "\\mathbb{R}",
    "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}",
    "°": "^{\\circ}", "º": "^{\\circ}", "˚": "^{\\circ}", "⌊": "\\lfloor ", "⌋": "\\rfloor ",
    "⌈": "\\lceil ", "⌉": "\\rceil ", "∠": "\\angle ", "′": "'", "’": "'", "‘": "'", "“": '"',
    "”": '"', "„": '"', "…": "\\ldots ", "€": "$", "£": "$", "¥": "$", "₹": "$", "¢": " cents",
    "∖": "\\setminus ", "∣": "|", "⋃": "\\cup ", "⋂": "\\cap ", "➗": "/", "➕": "+",
}  # fmt: skip
_SYMBOL = re.compile("|".join(map(re.escape, _SYMBOLS)))
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-z]|(?=[({\\]))")
_ROOT_DEGREE = {"√": "", "∛": "[3]", "∜": "[4]"}


def plain_characters(raw: str) -> str:
    r"""Write the characters of an answer with ASCII and LaTeX: what looks like a minus is one.

    >>> plain_characters("−5"), plain_characters("2½"), plain_characters("10⁶")
    ('-5', '2\\frac{1}{2}', '10^{6}')
    """
    if raw.isascii():
        return raw
    text = _RAISED_FRACTION.sub(_fraction, without_emoji_parts(raw))
    text = _DOT_ABOVE.sub(r"\\dot{\1}", _BAR_ABOVE.sub(_bar, text))
    text = _SUPERSCRIPT_RUN.sub(lambda m: f"^{{{m.group().translate(_SUPERSCRIPTS)}}}", text)
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


def _fraction(match: re.Match[str]) -> str:
    over = match.group(1).translate(_SUPERSCRIPTS)
    return f"\\frac{{{over}}}{{{match.group(2).translate(_SUBSCRIPTS)}}}"


def _bar(match: re.Match[str]) -> str:
    return f"\\overline{{{re.sub(_BAR_MARK, '', match.group())}}}"


def _root(match: re.Match[str]) -> str:
    macro = f"\\sqrt{_ROOT_DEGREE[match.group(1)]}"
    return f"{macro}{{{match.group(2)}}}" if match.group(2) else macro
