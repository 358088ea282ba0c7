r"""completion -> final answer: where a text commits itself to an answer, and by which rule.

The rules are tried from the most to the least explicit: a box, an ``<answer>`` tag, ``####``, "the
answer is", and, unless a box is required, the last number or formula. Everything is linear in the
length of the text, of which the last 200,000 characters are read.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from plan_tuning.grading.decoration import undecorated, without_markup
from plan_tuning.grading.numerals import SENTENCE_END, last_stated, stated, without_remark
from plan_tuning.grading.words import POLAR, has_polar, polar

MAX_CHARACTERS = 200_000
_MAX_JOIN = 100  # characters between two boxes or formulas that are one answer
_MAX_ANNOUNCED = 3000  # characters read behind "the answer is"
NUMERIC_STYLES = frozenset({"gsm8k", "aime", "microworld"})
BOX_RULE = "boxed"
FENCE_RULE = "fence"  # of programs

FOUND = "found"
NONE = "none"
TRUNCATED = "truncated"
SEVERAL = "several"

# Rules that a completion which ran into its length limit may still be graded by: the commitment is
# complete even if the text after it is not.
COMMITTED_RULES = frozenset({BOX_RULE, FENCE_RULE, "answer_tag", "hashes"})


@dataclass(frozen=True, slots=True)
class Extraction:
    """The final answer of a completion.

    ``rule`` is one of boxed, answer_tag, hashes, answer_is, last_formula, last_number, last_word,
    or empty; ``status`` is found, none, truncated (the text stops inside its answer or before it)
    or several (boxes joined by "and" or a comma: ``answer`` lists them).
    """

    answer: str
    rule: str
    status: str


_STOP_TOKEN = re.compile(
    r"</s>|<\|(?:im_end|endoftext|eot_id|end_of_text|end|im_start|user)\|>|<end_of_turn>|<eos>"
)
# What a base model goes on with after its answer: the next problem of an imagined list.
_NEXT_PROBLEM = re.compile(
    r"^[ \t#*]{0,9}"
    r"(?:(?:Question|Problem|Q|Instruction|Human|User)[ \t]?\d{0,4}[ \t]?[:.]|<input>)",
    re.MULTILINE,
)
_COMMITMENT = re.compile(
    r"\\(?:boxed|fbox|framebox)\b|</answer>|</output>|####[ \t]*\S|answer\s*(?:is|:)", re.IGNORECASE
)
_BOX_EVENT = re.compile(r"\\(?:boxed|fbox|framebox)\s*(\{)?|\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"\s*(-?[0-9][0-9.,/]*|[A-Za-z]\b)")
# What may stand between two boxes that together are one answer.
_JOIN = re.compile(
    r"(?:[\s$,;&.]|\\[()\[\],;: ]|\\(?:text|mathrm|textbf)\{\s*(?:and|or)\s*\}|\b(?:and|or)\b"
    r"|\\quad|\\qquad|\*)*"
)
_OR = re.compile(r"\bor\b")  # between inequalities it makes one set of two
_INEQUALITY = re.compile(r"[<>]|\\(?:le|ge|lt|gt)")
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]*#{4}[ \t]*([^#\s].*)$", re.MULTILINE)
_HASHED_ANSWER = re.compile(
    r"[-+$€£(\\*~]*\s*[\d.½¼¾]|[$\\(\[{]|(?:minus|negative|positive|about|approximately|roughly)\b"
    r"|(?:US|[A-Z])?\$|(?:USD|EUR|GBP|Rs)\b|[^\w\s#]\s*\d|(?:yes|no|true|false)\b|\S{1,12}$",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"\W*(?:(?:the|so|thus|my|your)\s)?(?:final\s)?(?:answer|result|solution)\W*$", re.IGNORECASE
)
_OTHER_HEADING = re.compile(
    r"\W*(?:step|conclusion|explanation|summary|check|verification|note|total|given|plan)\b\W*$"
    r"|\d{1,2}[.):]\s+\W*[A-Z]",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"\W{0,4}(?:(?:so|thus|the|my|final)\s){0,3}(?:answer|result)\s?(?:\*{0,2}(?:is|=|:))\*{0,2}\s*",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^[-•>+]\s+")
# Repetitions are bounded throughout: a run of blanks must not be tried in every split.
_ANSWER_IS = re.compile(
    r"\b(?:final\s{1,3})?(?:answer|result)(?:\s{1,3}to\s{1,3}(?:the|this)\s{1,3}\w{1,30})?"
    r"\*{0,3}[ \t]{0,3}(?:(?:is|are|=|:)\*{0,3}:?|\*{0,3}[ \t]{0,9}$)",
    re.IGNORECASE | re.MULTILINE,
)
_DELIMITER = re.compile(r"\\\\|\\\$|\$\$|\$|\\[()\[\]]")
_CLOSING = {"$": "$", "$$": "$$", "\\(": "\\)", "\\[": "\\]"}
_POLAR = re.compile(r"\b(yes|no|true|false)\b(?=\s*(?:[.,!;:*\"')\]}]|$))", re.IGNORECASE)
_POLAR_WORD = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)
_PROSE_END = re.compile(r"[.!?:)\]}>$*\"'`|\d%]\s*$")


def extract(text: str, *, style: str = "math", require_box: bool = False) -> Extraction:
    r"""Find the final answer of a completion.

    Args:
        text: the completion, any characters.
        style: grading style of the problem; it decides what the last fallback looks for.
        require_box: take a box or nothing, as a reward must.

    Returns:
        The raw text of the answer (not normalised), the rule that found it, and the status.

    >>> extract(r"so 6 * 7 = \boxed{42}.")
    Extraction(answer='42', rule='boxed', status='found')
    >>> extract("She pays $42.", style="gsm8k").rule
    'last_number'
    """
    body = committed_part(text[-MAX_CHARACTERS:])
    if body is None:
        return Extraction("", "", TRUNCATED)
    boxed = _boxed(body)
    if boxed is not None:
        return _committed(boxed, style)
    if require_box:
        return Extraction("", "", NONE)
    body = without_markup(body)
    for rule in (_tagged, _hashed, _announced):
        found = rule(body, style)
        if found is not None:
            return _committed(found, style)
    return _last(body, style)


def _committed(found: Extraction, style: str) -> Extraction:
    """Take yes and no together for no answer."""
    if style == "strategyqa" and has_polar(found.answer) and polar(found.answer) is None:
        return Extraction("", found.rule, NONE)
    return found


def committed_part(text: str) -> str | None:
    """Cut thoughts, the plan and what follows the end; None where thoughts or plan are open."""
    start = 0
    for stop in _STOP_TOKEN.finditer(text):
        if text[start : stop.start()].strip():
            text = text[: stop.start()]
            break
        start = stop.end()
    text = text[start:]
    thought = text.rfind("</think>")
    if text.rfind("<think>") > thought:
        return None
    if thought >= 0:
        text = text[thought + len("</think>") :]
    end = text.find("</output>")
    if end >= 0:
        text = text[:end]
    start = text.rfind("<output>")
    if start >= 0:
        text = text[start + len("<output>") :]
    else:
        plan = text.rfind("</plan>")
        if text.rfind("<plan>") > plan:
            return None
        if plan >= 0:
            text = text[plan + len("</plan>") :]
    commitment = _COMMITMENT.search(text)
    if commitment is not None:
        following = _NEXT_PROBLEM.search(text, commitment.end())
        if following is not None:
            text = text[: following.start()]
    return text


def _boxed(text: str) -> Extraction | None:
    boxes: list[tuple[int, int, str]] = []  # start, end, content; outermost complete ones
    stack: list[tuple[int, int]] = []  # (start of the macro or -1, start of the content)
    open_after = -1
    for event in _BOX_EVENT.finditer(text):
        token = event.group()
        if token == "}":
            if not stack:
                continue
            start, content = stack.pop()
            if start >= 0:
                while boxes and boxes[-1][0] > start:
                    boxes.pop()
                boxes.append((start, event.end(), text[content : event.start()]))
        elif token == "{":
            stack.append((-1, -1))
        elif event.group(1):
            stack.append((event.start(), event.end()))
        elif token.startswith(("\\boxed", "\\fbox", "\\framebox")):
            bare = _UNBRACED.match(text, event.end())
            if bare is not None:
                boxes.append((event.start(), bare.end(), bare.group(1).rstrip(".,")))
            elif not text[event.end() :].strip():
                open_after = event.start()
    for start, _ in stack:
        open_after = max(open_after, start)
    if not boxes:
        return Extraction("", "", TRUNCATED) if open_after >= 0 else None
    last = boxes[-1]
    if open_after > last[0]:
        return Extraction("", BOX_RULE, TRUNCATED)
    contents = [last[2].strip()]
    for earlier, later in zip(reversed(boxes[:-1]), reversed(boxes), strict=False):
        if later[0] - earlier[1] > _MAX_JOIN or not _JOIN.fullmatch(text, earlier[1], later[0]):
            break
        if earlier[2].strip() not in contents:
            contents.insert(0, earlier[2].strip())
    contents = [content for content in contents if _is_answer(content)]
    if not contents:
        return Extraction("", BOX_RULE, NONE)
    status = SEVERAL if len(contents) > 1 else FOUND
    return Extraction(", ".join(contents), BOX_RULE, status)


def _is_answer(content: str) -> bool:
    return bool(content.strip(" \t\n{}$*.~"))


def _tagged(text: str, style: str) -> Extraction | None:
    start, content = -1, None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag.group(1):
            start = tag.end()
        elif start >= 0:
            content, start = text[start : tag.start()].strip(), -1
    if start >= 0:
        return Extraction("", "answer_tag", TRUNCATED)
    if content is None:
        return None
    if not _is_answer(content):
        return Extraction("", "answer_tag", NONE)
    return Extraction(content, "answer_tag", FOUND)


def _hashed(text: str, style: str) -> Extraction | None:
    answer = None
    for match in _HASHES.finditer(text):
        content = match.group(1)[:_MAX_ANNOUNCED].rstrip("# \t\r")
        if _HEADING.match(content):
            content = text[match.end() : match.end() + _MAX_ANNOUNCED].lstrip().partition("\n")[0]
        content = undecorated(_unlabelled(content)).lstrip("*_` ")
        if _HASHED_ANSWER.match(content) and not _OTHER_HEADING.match(content):
            answer = content.strip()
    if answer is None:
        return None
    if style in NUMERIC_STYLES:
        answer = stated(answer) or answer
    elif style != "strategyqa":
        answer = without_remark(answer)
    return Extraction(answer, "hashes", FOUND)


def _unlabelled(content: str) -> str:
    label = _LABEL.match(content)
    return content[label.end() :] if label else content


def _announced(text: str, style: str) -> Extraction | None:
    last = _last_match(_ANSWER_IS, text)
    if last is None:
        return None
    whole = text[last.end() : last.end() + _MAX_ANNOUNCED]
    rest = whole.lstrip(" \t\r\n*:_`")
    if "\n" in whole[: len(whole) - len(rest)]:
        rest = _BULLET.sub("", rest, count=1)
    rest = undecorated(rest).lstrip("*_`")
    if not rest.strip():
        return Extraction("", "answer_is", TRUNCATED)
    answer = _first_answer(rest, style)
    return None if answer is None else Extraction(answer, "answer_is", FOUND)


def _first_answer(rest: str, style: str) -> str | None:
    end = SENTENCE_END.search(rest)
    sentence = rest[: end.start()] if end else rest
    if style == "strategyqa":
        return _polar_answer(sentence) if has_polar(sentence) else None
    if style in NUMERIC_STYLES:
        return stated(sentence)
    if rest.startswith(("$", "\\(", "\\[")):
        joined = _joined_formulas(rest)
        if joined:
            return joined
    return without_remark(sentence).strip(" \t*.`_") or None


def _polar_answer(sentence: str) -> str:
    """Return the word that a sentence commits itself to, or the whole sentence."""
    value = polar(sentence)
    if value is None:
        return sentence.strip()
    words = [word for word in _POLAR_WORD.findall(sentence) if POLAR[word.casefold()] == value]
    return words[0] if words else ("yes" if value else "no")


def _joined_formulas(rest: str) -> str:
    """Join the formulas that a text begins with: ``$3$ and $5$``."""
    parts: list[str] = []
    position = 0
    for start, end, content in _formulas(rest):
        if parts and (start - position > _MAX_JOIN or not _JOIN.fullmatch(rest, position, start)):
            break
        joined = parts and _OR.search(rest, position, start) and _INEQUALITY.search(content)
        parts.append(f" or {content}" if joined else f", {content}" if parts else content)
        position = end
    return "".join(parts)


def _formulas(text: str) -> list[tuple[int, int, str]]:
    """List formulas as (start, end, content), in one pass over the delimiters."""
    found: list[tuple[int, int, str]] = []
    opened: re.Match[str] | None = None
    for delimiter in _DELIMITER.finditer(text):
        token = delimiter.group()
        if opened is not None and token == _CLOSING[opened.group()]:
            content = text[opened.end() : delimiter.start()]
            if token == "$" and "\n" in content:
                opened = delimiter  # a lone dollar sign on an earlier line was a price
                continue
            if content.strip():
                found.append((opened.start(), delimiter.end(), content.strip()))
            opened = None
        elif token in _CLOSING and (opened is None or token != "$"):
            opened = delimiter
    return found


def _last(text: str, style: str) -> Extraction:
    if style == "strategyqa":
        word = _last_match(_POLAR, text)
        if word is None:
            return Extraction("", "", NONE)
        before = _last_match(SENTENCE_END, text[: word.start()])
        after = SENTENCE_END.search(text, word.end())
        sentence = text[before.end() if before else 0 : after.start() if after else len(text)]
        return _committed(Extraction(_polar_answer(sentence), "last_word", FOUND), style)
    formulas = [] if style in NUMERIC_STYLES else _formulas(text)
    if formulas:
        rule, (_, end, answer) = "last_formula", formulas[-1]
    else:
        found = last_stated(text)
        if found is None:
            return Extraction("", "", NONE)
        rule, (answer, end) = "last_number", found
    if _is_unfinished(text, end):
        return Extraction("", rule, TRUNCATED)
    return Extraction(answer, rule, FOUND)


def _is_unfinished(text: str, position: int) -> bool:
    """Whether a sentence begins after ``position`` and does not end: the text was cut off."""
    tail = text[position:]
    last_end = _last_match(SENTENCE_END, tail)
    if last_end is None:
        return False
    fragment = tail[last_end.end() :].strip()
    return bool(fragment) and not _PROSE_END.search(fragment)


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None
