"""Rows of several sources -> one training set: which rows, how often, and in what order.

Pure functions over what a row is: its source, its key, its length and difficulty. A mixture is
chosen after distillation and filtering, so one corpus serves every way of mixing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from plan_tuning.config.mixture import MixingConfig

_QUARTERS = 4
_TOKEN = re.compile(r"\w+|[^\w\s]")


class MixtureError(ValueError):
    """Rows that cannot be mixed as asked."""


@dataclass(frozen=True, slots=True)
class Item:
    """What mixing looks at in a training row."""

    source: str
    key: str  # names the row in draws, whatever other rows there are
    tokens: int  # of what is learned, see :func:`count_tokens`
    difficulty: str = ""


def count_tokens(text: str) -> int:
    """Count words and signs: a length that does not depend on any student's tokenizer.

    >>> count_tokens("Eve has 2+3 = 5.")
    8
    """
    return len(_TOKEN.findall(text))


def tagged(problem: str, tag: str) -> str:
    """Write a domain tag before a problem; an empty tag changes nothing.

    >>> tagged("What is 1 + 1?", "gsm8k")
    'gsm8k : What is 1 + 1?'
    """
    return f"{tag} : {problem}" if tag else problem


def mix(items: Sequence[Item], sources: Iterable[str], config: MixingConfig) -> list[int]:
    """Choose the rows of a mixture.

    - ``concatenate``: every row once. Over whole epochs a source then gives exactly the rows and
      tokens that it gives a student of its own.
    - ``tempered``: a source of n rows gets a share in proportion to ``n ** (1 / temperature)``; a
      source that is too small for its share repeats.
    - ``equal_tokens``: every source is cut to the tokens of the smallest one.

    Args:
        items: all rows, in their order.
        sources: names of the sources; each must have rows.
        config: strategy and seed; draws depend on it and on a row's key alone.

    Returns:
        Indices of ``items`` in their order, with repeats.

    Raises:
        MixtureError: a source has no rows.
    """
    groups: dict[str, list[int]] = {name: [] for name in sources}
    for index, item in enumerate(items):
        groups.setdefault(item.source, []).append(index)
    empty = [name for name, rows in groups.items() if not rows]
    if empty:
        raise MixtureError(
            f"no row of {', '.join(empty)} is left to mix: train on the other source alone, raise "
            "data.limit, or, where the rows are plans that a filter drops, loosen it (filter=none)"
        )
    if config.strategy == "concatenate":
        return list(range(len(items)))
    drawn: list[int] = []
    if config.strategy == "tempered":
        counts = tempered_counts(
            {name: len(rows) for name, rows in groups.items()},
            total=config.rows or len(items),
            temperature=config.temperature,
        )
        for name, rows in groups.items():
            copies, rest = divmod(counts[name], len(rows))
            drawn += rows * copies + _shuffled(rows, items, config.seed)[:rest]
        return sorted(drawn)
    budget = min(sum(items[row].tokens for row in rows) for rows in groups.values())
    for rows in groups.values():
        left = budget
        for row in _shuffled(rows, items, config.seed):
            left -= items[row].tokens
            if left < 0:
                break
            drawn.append(row)
    return sorted(drawn)


def tempered_counts(sizes: dict[str, int], *, total: int, temperature: float) -> dict[str, int]:
    """Share ``total`` rows among sources; every source gets at least one.

    >>> tempered_counts({"gsm8k": 100, "math": 400}, total=300, temperature=2)
    {'gsm8k': 100, 'math': 200}
    """
    weights = {name: size ** (1.0 / temperature) for name, size in sizes.items()}
    scale = total / sum(weights.values())
    exact = {name: weight * scale for name, weight in weights.items()}
    counts = {name: max(1, int(share)) for name, share in exact.items()}
    # Largest remainders get what rounding down left over.
    by_remainder = sorted(sizes, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: max(0, total - sum(counts.values()))]:
        counts[name] += 1
    return counts


def _shuffled(rows: Sequence[int], items: Sequence[Item], seed: int) -> list[int]:
    """Order rows by lot: the order of two rows never depends on which others there are."""

    def lot(row: int) -> tuple[bytes, int]:
        return hashlib.sha256(f"{seed}\x1f{items[row].key}".encode()).digest(), row

    return sorted(rows, key=lot)


def levels(items: Sequence[Item], order: str) -> list[int]:
    """Number the levels of a curriculum, from 0, row by row.

    Args:
        items: the rows.
        order: ``shuffled`` (one level), ``by_source`` (in the order of their first rows),
            ``by_difficulty`` (numbers before words, each in its order), or ``by_length``
            (quarters, short completions first).

    Raises:
        MixtureError: ``by_difficulty``, and a row has no difficulty.
    """
    if order == "by_source":
        names = list(dict.fromkeys(item.source for item in items))
        return [names.index(item.source) for item in items]
    if order == "by_difficulty":
        missing = next((item for item in items if not item.difficulty), None)
        if missing is not None:
            raise MixtureError(
                f"trainer.order=by_difficulty: {missing.source or 'the data'} says nothing about "
                f"difficulty (row {missing.key}). Try trainer.order=by_length or by_source"
            )
        known = sorted({item.difficulty for item in items}, key=_level)
        return [known.index(item.difficulty) for item in items]
    if order == "by_length":
        ranked = sorted(range(len(items)), key=lambda index: (items[index].tokens, index))
        quarter = {index: rank * _QUARTERS // len(items) for rank, index in enumerate(ranked)}
        return [quarter[index] for index in range(len(items))]
    return [0] * len(items)


def _level(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)
