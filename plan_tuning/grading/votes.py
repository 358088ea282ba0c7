r"""answer -> key: answers that are counted together when samples vote.

Only what text work can tell is unified: notation, exact values, order in lists, the name before an
equals sign. Two keys may differ although algebra would call the answers equal.
"""

from __future__ import annotations

import functools

from plan_tuning.grading.normalisation import MAX_DEPTH, MAX_LENGTH, depth, normalise
from plan_tuning.grading.quantities import conclusion, is_quantity, value_of
from plan_tuning.grading.sets import bare_set, real_set
from plan_tuning.grading.structure import bracketed, items, relation, set_content
from plan_tuning.grading.units import PERCENT, split_unit
from plan_tuning.grading.words import POLAR, number_of, unwrapped, without_lead


@functools.lru_cache(maxsize=8192)  # each k of maj@k asks for the same samples again
def vote_key(answer: str) -> str:
    r"""Write an answer as the key under which equal ones are counted.

    >>> [vote_key(text) for text in ("3.0", "$3$", "x=3", "3 apples", r"\frac{6}{2}")]
    ['3', '3', '3', '3', '3']
    >>> vote_key("2,1") == vote_key(r"\{1, 2\}") != vote_key("(2,1)")
    True
    """
    if len(answer) > MAX_LENGTH or depth(answer) > MAX_DEPTH:
        return " ".join(answer.split())
    text = conclusion(without_lead(normalise(answer)))
    word = unwrapped(text).casefold()
    if word in POLAR:
        return "yes" if POLAR[word] else "no"
    reals = real_set(text) or real_set(bare_set(text))
    if reals and reals.is_certain:
        return " ".join(sorted(map(str, reals.pieces)))
    text = bare_set(text)
    found = items(text)
    if len(found) > 1 or set_content(text) is not None:
        return ",".join(sorted(map(_key, found)))
    return _key(text)


def _key(text: str) -> str:
    equation = relation(text)
    if equation and equation.is_equation and all(map(is_quantity, equation.parts[:-1])):
        text = equation.parts[-1]
    number = number_of(text)
    if number is not None:
        return str(number)
    values = bracketed(text)
    if values is not None:
        return values[0] + ",".join(map(_key, values[1])) + values[2]
    quantity = split_unit(text)
    value = value_of(quantity.value)
    if value is None:
        return "".join(unwrapped(text).casefold().split())
    return f"{value * quantity.scale}" + ("%" if quantity.unit == PERCENT else "")
