"""What a plan's text gives away, and how alike plans are: leak, spoiler, repetition, diversity."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from plan_tuning.grading.words import number_of

_NUMBERING = re.compile(
    r"(?im)^\s*(?:[-*•]\s+)?(?:(?:step|goal|sub-?goal)\s*\d+\s*[.:)]?|\(?\d+[.):])\s*"
)
_BULLET = re.compile(r"(?m)^\s*[-*•]\s+")
_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_ANSWER_PHRASE = re.compile(
    r"(?i)\b(?:final )?(?:answer|result)\s*(?:is|equals|=|:|will be|should be)"
    r"\s*:?\s*\$?\s*([^\s,;$]+)"
)
_EQUATION = re.compile(r"[0-9)]\s*=\s*[-−$]?\s*[0-9]")
_WORD = re.compile(r"[^\W_]+")
_NAME = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_NUMERIC = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?")
_LETTERS = re.compile(r"[^\W\d_]+")
_MAX_DIGITS = 50  # nobody's answer is longer, and reading very long ones is refused by Python
_number_of = functools.lru_cache(maxsize=4096)(number_of)  # of words, which plans repeat
_EVERYDAY = 3  # one, two and three are words of any plan: "add the two amounts"


def steps(plan: str) -> list[str]:
    r"""Split a plan into its steps, without their numbers.

    >>> steps("1. Find the total.\n2) Halve it.\nStep 3: Report.")
    ['Find the total.', 'Halve it.', 'Report.']
    """
    return [text for _, text in marked_steps(plan)]


def marked_steps(plan: str) -> list[tuple[str, str]]:
    r"""Split a plan into its steps, each behind its number or bullet, which may be empty.

    >>> marked_steps("1. Find the total.\nHalve it.")
    [('1. ', 'Find the total.'), ('', 'Halve it.')]
    """
    found = []
    for line in plan.split("\n"):
        text = _BULLET.sub("", _NUMBERING.sub("", line)).strip()
        if text:
            mark = line.rstrip()[: -len(text)].lstrip()
            found.append((mark, text))
    return found


def has_box(plan: str) -> bool:
    """Whether a plan holds a boxed answer."""
    return _BOX.search(plan) is not None


def leaks(plan: str, answer: str, problem: str) -> bool:
    r"""Whether a plan holds a box or the gold answer.

    Numbers are compared by value, however they are written: 61, 61.0 and sixty-one are the same. A
    numeric answer counts where the problem itself does not hold that number, and where a phrase
    like "the answer is" precedes it; step numbers never count.

    >>> leaks("1. Add.\n2. So the final answer is 35.", "35", "What is 30 + 5?")
    True
    >>> leaks("1. Take the 5.", "5", "Cut 5 in 1 part?"), leaks("2. Add.", "2", "1+1?")
    (False, False)
    >>> leaks("1. Find the thirty-five rolls.", "35", "What is 30 + 5?")
    True
    """
    if has_box(plan):
        return True
    gold = _plain(answer)
    if not gold:
        return False
    body = "\n".join(steps(plan))
    stated = [_plain(found[1]) for found in _ANSWER_PHRASE.finditer(body)]
    if gold in stated:
        return True
    value = _value(gold)
    if value is not None:
        told = _numbers(body) | {number for number in _spelt(body) if number > _EVERYDAY}
        is_told = value in told and value not in _numbers(problem) | _spelt(problem)
        return is_told or value in map(_value, stated)
    is_telling = len(gold) >= 4
    return is_telling and gold in _plain(body) and gold not in _plain(problem)


def _plain(text: str) -> str:
    return re.sub(r"[\s$,]|\\[,;! ]", "", text).replace("−", "-").strip(".").lower()


def _value(text: str) -> Fraction | None:
    """Read a number in digits or in a word; None where the text is no number."""
    if _NUMERIC.fullmatch(text) and len(text) <= _MAX_DIGITS:
        return Fraction(text)
    word = number_of(text)
    return None if word is None else Fraction(word)


def _numbers(text: str) -> set[Fraction]:
    found = (_plain(number) for number in _NUMERIC.findall(text))
    return {Fraction(number) for number in found if len(number) <= _MAX_DIGITS}


def _spelt(text: str) -> set[Fraction]:
    """Read the number words of a text, up to ninety-nine."""
    words = _LETTERS.findall(text)
    found, place = set(), 0
    while place < len(words):
        pair = _number_of(" ".join(words[place : place + 2]))
        value = _number_of(words[place]) if pair is None else pair
        if value is not None:
            found.add(Fraction(value))
        place += 1 if pair is None else 2
    return found


def is_spoiler(plan: str) -> bool:
    """Whether a plan already calculates: it holds an equation with a value on its right side.

    >>> is_spoiler("1. 12 * 8 = 96 rolls."), is_spoiler("1. Multiply trays by rolls (12 * 8).")
    (True, False)
    """
    return _EQUATION.search(plan) is not None


def repetition(plan: str) -> float:
    """Share of the steps that repeat an earlier one, 0 to 1."""
    words = [" ".join(_words(step)) for step in steps(plan)]
    return 1.0 - len(set(words)) / len(words) if words else 0.0


def similarity(first: str, second: str) -> float:
    """F1 over the words of two plans with their counts, 0 to 1; step numbers do not count.

    >>> similarity("1. Add the apples.", "2) add the apples"), similarity("Add.", "Halve it.")
    (1.0, 0.0)
    """
    a = Counter(word for step in steps(first) for word in _words(step))
    b = Counter(word for step in steps(second) for word in _words(step))
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 1.0


def distinct_n(plans: Sequence[str], n: int = 2) -> float:
    """Share of different n-grams among those of several plans, 0 to 1; higher: more diverse."""
    grams = [gram for plan in plans for gram in _grams(plan, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(plans: Sequence[str], max_n: int = 4) -> float:
    """Mean BLEU of each plan against the others, 0 to 1; lower: more diverse; 0 for one plan.

    Uniform weights up to ``max_n``, add-one smoothing above unigrams, closest reference length
    (Zhu et al. 2018, Texygen).
    """
    if len(plans) < 2:
        return 0.0
    tokens = [_tokens(plan) for plan in plans]
    bleus = [_bleu(own, tokens[:i] + tokens[i + 1 :], max_n) for i, own in enumerate(tokens)]
    return sum(bleus) / len(bleus)


def _bleu(candidate: list[str], references: list[list[str]], max_n: int) -> float:
    if not candidate:
        return 0.0
    log_sum = 0.0
    for n in range(1, max_n + 1):
        own = Counter(_ngrams(candidate, n))
        most: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            most |= Counter(_ngrams(reference, n))
        smoothing = 0 if n == 1 else 1
        matches = (own & most).total() + smoothing
        total = own.total() + smoothing
        if matches == 0 or total == 0:
            return 0.0
        log_sum += math.log(matches / total)
    closest = min((abs(len(r) - len(candidate)), len(r)) for r in references)[1]
    brevity = min(0.0, 1.0 - closest / len(candidate))
    return math.exp(brevity + log_sum / max_n)


def strategy(plan: str, problem: str) -> tuple[str, ...]:
    r"""Say how a plan goes about it: the first word of each step, a word of the problem's as ``·``.

    A plan of one line is read word by word, so that of a plan of names its length is left.

    >>> strategy("1. Find Ann's share.\n2. Halve it.", "Ann has 4.")
    ('find', 'halve')
    >>> strategy("Bob's Eve's ;", "4 pens are Eve's . 1-more-than Eve is Bob's .")
    ('·', '·')
    """
    told = set(_words(problem))
    lines = [words for step in steps(plan) if (words := _names(step))]
    first = (
        [words[0] for words in lines]
        if len(lines) > 1
        else [word for line in lines for word in line]
    )
    return tuple("·" if set(_words(word)) <= told else word for word in first)


def strategy_entropy(plans: Sequence[tuple[str, str]]) -> float:
    r"""Entropy of the strategies of several plans in bits; 0 where all go about it alike.

    Args:
        plans: each with its problem's text.

    >>> strategy_entropy([("1. Add.\n2. Halve.", ""), ("1. Halve.\n2. Add.", "")])
    1.0
    """
    counts = Counter(strategy(plan, problem) for plan, problem in plans)
    total = counts.total()
    return sum(count / total * math.log2(total / count) for count in counts.values())


def _names(text: str) -> list[str]:
    """Words with what stands behind their apostrophe."""
    return _NAME.findall(text.lower())


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _tokens(plan: str) -> list[str]:
    return [word for step in steps(plan) for word in _words(step)]


def _grams(plan: str, n: int) -> list[tuple[str, ...]]:
    return _ngrams(_tokens(plan), n)


def _ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
