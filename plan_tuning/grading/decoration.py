r"""text -> the same text without what only decorates it: HTML, emoji, arrows, labels in a frame.

What says something stays: struck-out text goes with its strokes, and a cross (❌) is no ornament:
it calls the answer wrong.
"""

from __future__ import annotations

import html
import re
import unicodedata

_MARKUP = re.compile(r"<[A-Za-z/]|&[#A-Za-z]|~~")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,12}\d{0,2});")
_NAMES = (
    "em strong span div br font center mark code pre big small tt ins kbd h[1-6] td tr th table "
    "tbody li ul ol blockquote label details summary section final result sup sub"
)
_ATTRIBUTES = r"(?:\s[^<>]{0,300})?\s?/?>"
_TAG = re.compile(rf"</?(?P<name>{'|'.join(_NAMES.split())}){_ATTRIBUTES}", re.IGNORECASE)
_SHORT_TAG = re.compile(rf"</?(?P<name>[biupa]){_ATTRIBUTES}", re.IGNORECASE)
_SHORT_END = re.compile(r"</[biupa]>", re.IGNORECASE)
_BLOCKS = frozenset(
    [
        "br",
        "p",
        "div",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "td",
        "tr",
        "th",
        "li",
        "ul",
        "ol",
        "table",
        "blockquote",
        "center",
    ]
)
_STRUCK_OUT = re.compile(r"<(del|s|strike)>[^<]{0,500}</\1>|~~[^~\n$\\]{1,200}~~", re.IGNORECASE)
_SCRIPT = re.compile(r"<(sup|sub)>([^<]{1,40})</\1>", re.IGNORECASE)
_EMOJI_PARTS = re.compile("[\ufe0e\ufe0f\u20e3]")

_ARROW_MACRO = (
    r"\\(?:[Ll]ongr|[Rr]|r)ightarrow(?![A-Za-z])|\\(?:Longr|longr)ightarrow(?![A-Za-z])"
    r"|\\(?:implies|to|therefore|checkmark)(?![A-Za-z])"
)
_BEFORE = re.compile(rf"(?:[-=]{{1,3}}>|>{{2,3}}|{_ARROW_MACRO})\s*")
_BEHIND = re.compile(
    r"(?:\\[ ,;:!]|\\q?quad|[~\s])*"
    r"(?:<[-=]{1,3}|\\(?:[Ll]eftarrow|square|Box|blacksquare|checkmark|qedsymbol|qed))$"
)
_CROSSES = "❌❎✗✘✖🚫⛔🙅👎"
_SIGNS = "∴▸▹►▻◂◃◄◅∎▪■□◼◻«»「」『』【】〈〉《》‹›•‣◦※"  # of the categories Sm, Ps, Pe, Po
_ARROWS = re.compile("[\u2190-\u21ff\u27f0-\u27ff\u2900-\u297f]")


def without_markup(text: str) -> str:
    r"""Take HTML and strokes through text off, and read HTML's names of characters.

    >>> without_markup("<b>73</b>&nbsp;km<sup>2</sup>"), without_markup("~~72~~ 73")
    ('73\xa0km^{2}', ' 73')
    >>> without_markup("a<b and c>d")
    'a<b and c>d'
    """
    if not _MARKUP.search(text):
        return text
    text = _ENTITY.sub(lambda m: html.unescape(m.group()), text)
    text = _STRUCK_OUT.sub("", text)
    text = _SCRIPT.sub(lambda m: f"{'^' if m[1].lower() == 'sup' else '_'}{{{m[2]}}}", text)
    text = _TAG.sub(_gap, text)
    return _SHORT_TAG.sub(_gap, text) if _SHORT_END.search(text) else text


def _gap(match: re.Match[str]) -> str:
    """A new line where the tag begins or ends a block, nothing in a line."""
    return "\n" if match.group("name").lower() in _BLOCKS else ""


def without_emoji_parts(text: str) -> str:
    """Take off what makes an emoji of a digit: 7️⃣ is 7."""
    return text if text.isascii() else _EMOJI_PARTS.sub("", text)


def undecorated(text: str) -> str:
    r"""Take emoji and arrows off both ends.

    >>> undecorated("→ 73"), undecorated("🎉 73 🎉"), undecorated("=> 5"), undecorated("5 ❌")
    ('73', '73', '5', '5 ❌')
    """
    while True:
        shorter = text.strip()
        lead = _BEFORE.match(shorter)
        if lead:
            shorter = shorter[lead.end() :]
        tail = _BEHIND.search(shorter[-40:])
        if tail:
            shorter = shorter[: -len(tail.group())]
        while shorter and _is_ornament(shorter[0]):
            shorter = shorter[1:].lstrip()
        while shorter and _is_ornament(shorter[-1]):
            shorter = shorter[:-1].rstrip()
        if not shorter or shorter == text:
            return text
        text = shorter


def _is_ornament(character: str) -> bool:
    if character.isascii() or character in _CROSSES:
        return False
    if character in _SIGNS or _EMOJI_PARTS.match(character) or _ARROWS.match(character):
        return True
    kind = unicodedata.category(character)
    return (
        kind in ("So", "Sk", "Cf", "Me")
        and not unicodedata.normalize("NFKC", character)[:1].isalnum()
        and character not in "°º˚℃℉"
    )
