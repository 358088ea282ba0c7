r"""gold, answer -> equal or not: the typed comparison of final answers.

The gold's kind decides how an answer is compared: a list as a multiset, an interval by its brackets
and ends, a number exactly. What only algebra can decide is left to ``symbolic``; without it the
result is None: undecided. Everything here is plain text work that cannot hang.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from plan_tuning.config.grading import grading_from
from plan_tuning.grading.arithmetic import evaluate, is_plain
from plan_tuning.grading.guards import is_safe
from plan_tuning.grading.normalisation import MAX_DEPTH, MAX_LENGTH, depth, normalise
from plan_tuning.grading.quantities import conclusion, holds, same_side, turned, unknowns
from plan_tuning.grading.scalars import Criteria, same_base, same_number, same_ratio
from plan_tuning.grading.sets import bare_set, real_set, same_set
from plan_tuning.grading.structure import (
    APPROXIMATELY,
    Relation,
    bare_name,
    bracketed,
    interval,
    is_name,
    items,
    matrix,
    relation,
    set_content,
    union,
)
from plan_tuning.grading.units import DEGREE, PERCENT, split_unit, units_differ
from plan_tuning.grading.words import (
    POLAR,
    SHORT_SYMBOLS,
    number_of,
    polar,
    same_choice,
    unwrapped,
    without_lead,
    words_of,
)

_MAX_ITEMS = 60
_INTEGER = re.compile(r"[-+]?\d{1,1000}")
_SPACED_INTEGER = re.compile(r"\s*([-+]?)\s*(\d{1,1000})\s*")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4}")
_BARE_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2}")
_FUNCTION = re.compile(r"([A-Za-z])\(([A-Za-z])\)")
_MEMBERSHIP = re.compile(r"(?:[A-Za-z]\w*|\([\w,]+\))\s?\\in\s?(?=[(\[\\])")
Symbolic = Callable[[str, str, str, float], bool]
"""mode (value or equation), gold, answer, relative rounding -> equal; may take arbitrarily long."""


def compare(
    gold: str, answer: str, criteria: Criteria, symbolic: Symbolic | None = None
) -> bool | None:
    """Compare a raw answer with a raw gold answer.

    Args:
        gold: the gold answer as the data set writes it.
        answer: the extracted answer.
        criteria: policy and what the problem says about its answers.
        symbolic: decides what text work cannot; with it the result is never None.

    Returns:
        True or False, or None where ``symbolic`` is needed and absent.
    """
    if not gold.strip() or not answer.strip():
        return False
    quick = _quick(gold, answer, criteria)
    if quick is not None:
        return quick
    if len(gold) > MAX_LENGTH or len(answer) > MAX_LENGTH:
        return gold.split() == answer.split()
    grouping = not criteria.is_multiple_answer
    if depth(gold) > MAX_DEPTH or depth(answer) > MAX_DEPTH:
        return gold.split() == answer.split()
    return _Comparison(criteria, symbolic).equal(
        normalise(gold, grouping=grouping), normalise(answer, grouping=grouping)
    )


def request_fields(gold: str, answer: str, criteria: Criteria) -> dict[str, Any]:
    """Write a comparison as plain JSON values, for a worker process."""
    return {"gold": gold, "answer": answer, "criteria": dataclasses.asdict(criteria)}


def compare_fields(fields: Mapping[str, Any], symbolic: Symbolic) -> bool:
    """Run a comparison that :func:`request_fields` wrote, to its end."""
    criteria = dict(fields["criteria"])
    criteria["config"] = grading_from(criteria["config"])
    return bool(compare(fields["gold"], fields["answer"], Criteria(**criteria), symbolic))


def _quick(gold: str, answer: str, criteria: Criteria) -> bool | None:
    """Decide the common case, two plain integers, without any parsing."""
    first, second = _SPACED_INTEGER.fullmatch(gold), _SPACED_INTEGER.fullmatch(answer)
    if first and second and criteria.tolerance is None and not criteria.unit:
        return int(first.group(1) + first.group(2)) == int(second.group(1) + second.group(2))
    if criteria.style == "microworld":  # exact integers and nothing else
        return False
    return None


def gold_defect(answer: str, style: str = "math") -> str | None:
    """Say why a gold answer cannot be graded against; None where it can.

    >>> gold_defect("", "math"), gold_defect("12", "aime"), gold_defect("maybe", "strategyqa")
    ('the gold answer is empty', None, 'the gold answer is neither yes nor no')
    """
    if not answer.strip():
        return "the gold answer is empty"
    if len(answer) > MAX_LENGTH or depth(answer) > MAX_DEPTH:
        return f"the gold answer is longer than {MAX_LENGTH} characters or nested too deeply"
    text = normalise(answer)
    if not any(character.isalnum() for character in text):
        return "the gold answer has neither letter nor digit"
    if _unbalanced(answer) or _unbalanced(text):
        return "the braces of the gold answer do not match"
    if style == "strategyqa" and text.casefold() not in POLAR:
        return "the gold answer is neither yes nor no"
    if style in ("gsm8k", "microworld") and evaluate(split_unit(text).value) is None:
        return "the gold answer is no number"
    if style == "microworld" and not _SPACED_INTEGER.fullmatch(answer):
        return "the gold answer is no integer"
    if style == "aime" and not (_INTEGER.fullmatch(text) and 0 <= int(text) <= 999):
        return "the gold answer is no integer of 0 to 999"
    return None


def _unbalanced(text: str) -> bool:
    level = 0
    for position, character in enumerate(text):
        if text[position - 1 : position] == "\\" or character not in "{}":
            continue
        level += 1 if character == "{" else -1
        if level < 0:
            return True
    return level != 0


class _Comparison:
    """One comparison of canonical texts; results are True, False or None (undecided)."""

    def __init__(self, criteria: Criteria, symbolic: Symbolic | None) -> None:
        self.criteria = criteria
        self.symbolic = symbolic

    def equal(self, gold: str, answer: str) -> bool | None:
        if not gold or not answer:
            return False
        if self.criteria.style == "strategyqa":
            return polar(gold) is not None and polar(gold) == polar(answer)
        if _squashed(gold) == _squashed(answer):
            return True
        if same_choice(gold, answer):
            return True
        answer = conclusion(without_lead(answer))
        choice = same_choice(gold, answer)
        if choice is not None:
            return choice
        gold_reals = real_set(gold) or real_set(bare_set(gold))
        answer_reals = real_set(answer) or real_set(bare_set(answer))
        if gold_reals and answer_reals and (gold_reals.is_certain or answer_reals.is_certain):
            return same_set(gold_reals, answer_reals, self.same_items)
        gold, answer = bare_set(gold), bare_set(answer)
        if _squashed(gold) == _squashed(answer):
            return True
        words = words_of(gold)
        if words is not None:
            return words == (words_of(answer) or "")
        gold_set, answer_set = items(gold), items(answer)
        if len(gold_set) > 1 or len(answer_set) > 1:
            return self.same_items(gold_set, answer_set)
        if set_content(gold) is not None:
            gold = gold_set[0] if gold_set else gold
        if set_content(answer) is not None:
            answer = answer_set[0] if answer_set else answer
        return self.one(gold, answer)

    def one(self, gold: str, answer: str) -> bool | None:
        """Compare two single values."""
        gold, answer = _MEMBERSHIP.sub("", gold), _MEMBERSHIP.sub("", answer)
        if _squashed(gold) == _squashed(answer):
            return True
        gold_relation, answer_relation = relation(gold), relation(answer)
        if gold_relation or answer_relation:
            return self.related(gold, gold_relation, answer, answer_relation)
        gold_sets, answer_sets = union(gold), union(answer)
        if len(gold_sets) > 1 or len(answer_sets) > 1:
            return self.same_items(gold_sets, answer_sets)
        gold_matrix, answer_matrix = matrix(gold), matrix(answer)
        if gold_matrix is not None or answer_matrix is not None:
            return self.same_matrix(gold_matrix, answer_matrix)
        gold_tuple, answer_tuple = bracketed(gold), bracketed(answer)
        if gold_tuple is not None or answer_tuple is not None:
            if gold_tuple is None or answer_tuple is None:
                return False
            if (gold_tuple[0], gold_tuple[2]) != (answer_tuple[0], answer_tuple[2]):
                return False
            return self.all_equal(gold_tuple[1], answer_tuple[1])
        return self.scalar(gold, answer)

    def same_items(self, gold: Sequence[str], answer: Sequence[str]) -> bool | None:
        """Compare as multisets: every value has its partner."""
        if len(gold) != len(answer) or len(gold) > _MAX_ITEMS:
            return False
        left = list(answer)
        undecided = False
        open_gold = []
        for value in gold:  # exact partners first: they keep the costly comparisons few
            partner = next((other for other in left if _squashed(other) == _squashed(value)), None)
            if partner is None:
                open_gold.append(value)
            else:
                left.remove(partner)
        for value in open_gold:
            maybe = False
            for other in left:
                result = self.one(value, other)
                if result:
                    left.remove(other)
                    break
                maybe = maybe or result is None
            else:
                if not maybe:
                    return False
                undecided = True
        return None if undecided else True

    def all_equal(self, gold: Sequence[str], answer: Sequence[str]) -> bool | None:
        """Compare position by position."""
        if len(gold) != len(answer):
            return False
        undecided = False
        for first, second in zip(gold, answer, strict=True):
            result = self.one(first, second) if first and second else False
            if result is False:
                return False
            undecided = undecided or result is None
        return None if undecided else True

    def same_matrix(
        self, gold: list[list[str]] | None, answer: list[list[str]] | None
    ) -> bool | None:
        if gold is None or answer is None or list(map(len, gold)) != list(map(len, answer)):
            return False
        return self.all_equal(
            [entry for row in gold for entry in row], [entry for row in answer for entry in row]
        )

    def related(
        self, gold: str, first: Relation | None, answer: str, second: Relation | None
    ) -> bool | None:
        """Compare where at least one side has a relation sign."""
        gold_interval = interval(first) if first else None
        answer_interval = interval(second) if second else None
        if gold_interval or answer_interval:
            if gold_interval and answer_interval and gold_interval[0] != answer_interval[0]:
                return False
            return (
                self.one(
                    gold_interval[1] if gold_interval else gold,
                    answer_interval[1] if answer_interval else answer,
                )
                if (gold_interval or not first) and (answer_interval or not second)
                else False
            )
        if first is None:
            return self.against_value(gold, second)
        if not first.is_equation or (second and not second.is_equation):
            return self.same_inequality(first, second)
        lhs, rhs = first.parts[0], first.parts[-1]
        if second is None:
            return self.one(rhs, answer) if is_name(lhs) else False
        if is_name(lhs) and is_name(second.parts[0]):
            if _same_name(lhs, second.parts[0]):
                return self.one(rhs, second.parts[-1]) and holds(second, self.one)
            renamed = _renamed(lhs, second)
            if renamed is not None:
                return self.one(rhs, renamed)
        if len(first.parts) > 2 or len(second.parts) > 2:
            return self.all_equal(first.parts, second.parts)
        return self.algebra("equation", "=".join(first.parts), "=".join(second.parts))

    def against_value(self, gold: str, second: Relation | None) -> bool | None:
        """Compare a gold value with what an equation of the answer ends in."""
        if second is None or not second.is_equation:
            return False
        found = turned(second)
        result = self.one(gold, found.parts[-1])
        if result is not False:
            held = holds(found, self.one)
            return result and held if held is not None else None
        before = found.parts[-2]
        if found.operators[-1] != APPROXIMATELY or unknowns(before):
            return False
        if same_side(before, found.parts[-1], is_approximate=True) is False:
            return False
        if len(found.parts) == 2:  # exact value, then a rounded one
            return self.one(gold, before)
        return self.against_value(gold, Relation(found.parts[:-1], found.operators[:-1]))

    def same_inequality(self, first: Relation, second: Relation | None) -> bool | None:
        if second is None or first.operators != second.operators:
            return False
        return self.all_equal(first.parts, second.parts)

    def scalar(self, gold: str, answer: str) -> bool | None:
        """Compare two numbers or expressions, with their units."""
        base = same_base(gold, answer, self.criteria.config.accept_missing_base)
        if base is not None:
            return base
        expected, given = split_unit(gold), split_unit(answer)
        expected_unit = expected.unit or self.criteria.unit
        if PERCENT not in (expected_unit, given.unit) and units_differ(expected_unit, given.unit):
            return False
        if (
            self.criteria.config.units == "required"
            and expected_unit not in ("", PERCENT, DEGREE)
            and not given.unit
        ):
            return False
        ratio = same_ratio(expected.value, given.value)
        if ratio is not None:
            return ratio
        first, second = evaluate(expected.value), _value(given.value)
        if first is not None and second is not None:
            # whether eggs or dozens were asked for is not known here: 2 dozen is 24, and 2
            is_dozens = self.criteria.style == "gsm8k" and "dozen" in answer.casefold()
            return any(
                same_number(
                    first * expected.scale,
                    second * scale,
                    (expected_unit == PERCENT, given.is_percent),
                    (expected.value, given.value),
                    self.criteria,
                )
                for scale in ((given.scale, given.scale // 12) if is_dozens else (given.scale,))
            )
        if expected.scale != given.scale or expected_unit != given.unit == PERCENT:
            return False
        if not self.criteria.config.accept_unsimplified and is_plain(expected.value):
            return False
        if words_of(given.value) is not None and len(given.value) > SHORT_SYMBOLS:
            return False
        if first is not None and _BARE_WORD.search(given.value):
            return False  # no product of variables is a number
        return self.algebra("value", expected.value, given.value)

    def algebra(self, mode: str, gold: str, answer: str) -> bool | None:
        """Ask for a symbolic comparison where the texts are safe for one."""
        if not is_safe(gold) or not is_safe(answer, like=gold):
            return False
        if _PROSE.search(gold) or _PROSE.search(answer):
            # the parser would read a sentence as a product of its letters
            return _as_text(gold) == _as_text(answer)
        if self.symbolic is None:
            return None
        return self.symbolic(mode, gold, answer, self.criteria.config.rounding)


def _value(text: str) -> Fraction | None:
    number = number_of(text)
    return evaluate(text) if number is None else Fraction(number)


def _as_text(text: str) -> str:
    return "".join(unwrapped(text).casefold().split())


def _squashed(text: str) -> str:
    """Drop the spaces that mean nothing: all but those between two digits or two words."""
    return re.sub(r"(?<![0-9]) | (?![0-9])", "", text) if " " in text else text


def _same_name(first: str, second: str) -> bool:
    return bare_name(first).casefold() == bare_name(second).casefold()


def _renamed(gold_name: str, second: Relation) -> str | None:
    """Rewrite ``g(t) = …`` in the gold's variable: a function's argument may have any name."""
    gold_function = _FUNCTION.fullmatch(gold_name)
    answer_function = _FUNCTION.fullmatch(second.parts[0])
    if gold_function is None or answer_function is None:
        return None
    if gold_function.group(1) != answer_function.group(1):
        return None
    new, old = gold_function.group(2), answer_function.group(2)
    rhs = second.parts[-1]
    if re.search(rf"(?<![\\A-Za-z]){new}(?![A-Za-z])", rhs):
        return None
    return re.sub(rf"(?<![\\A-Za-z]){old}(?![A-Za-z])", new, rhs)
