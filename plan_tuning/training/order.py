"""Which rows a step trains on, and its noise: pure functions of (seed, step).

A resumed run therefore needs nothing but its step to go on with the same data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_STEPS_APART = 1_000_003  # between seeds, in noise
_RANKS_APART = 1_009  # between steps


def noise_seed(seed: int, step: int, rank: int) -> int:
    """Derive the seed of a rank's dropout and noise in a step, from that of the training."""
    return (seed * _STEPS_APART + step) * _RANKS_APART + rank


def stream_rows(*, seed: int, first: int, count: int, num_rows: int) -> list[int]:
    """Name rows ``first .. first + count`` of the endless stream of shuffled epochs.

    >>> sorted(stream_rows(seed=0, first=4, count=4, num_rows=4))
    [0, 1, 2, 3]
    """
    orders = {
        epoch: np.random.default_rng([seed, epoch]).permutation(num_rows)
        for epoch in range(first // num_rows, (first + count - 1) // num_rows + 1)
    }
    return [int(orders[i // num_rows][i % num_rows]) for i in range(first, first + count)]


def step_rows(
    *, seed: int, step: int, num_rows: int, batch_size: int, total_rows: int
) -> list[int]:
    """Name the rows of an optimizer step: a window of that stream.

    Args:
        seed: of the order.
        step: counted from 0.
        num_rows: rows of an epoch.
        batch_size: rows of a step.
        total_rows: where the stream ends; the last step may be smaller.
    """
    first = step * batch_size
    count = min(batch_size, total_rows - first)
    return stream_rows(seed=seed, first=first, count=count, num_rows=num_rows)


def curriculum_rows(
    *, seed: int, step: int, levels: Sequence[int], batch_size: int, total_rows: int
) -> list[int]:
    """Name the rows of an optimizer step when easier rows come first.

    The stream of rows is cut once into one window a level, in proportion to the levels' rows; each
    window is an endless stream of shuffled epochs of its own level.

    Args:
        seed: of the order within a level.
        step: counted from 0.
        levels: the level of every row.
        batch_size: rows of a step.
        total_rows: where the stream ends; the last step may be smaller.
    """
    numbers = np.asarray(levels)
    members = [np.flatnonzero(numbers == level) for level in np.unique(numbers)]
    shares = np.cumsum([0, *(len(rows) for rows in members)]) / len(numbers)
    starts = np.round(shares * total_rows).astype(int)
    chosen = []
    for place in range(step * batch_size, min((step + 1) * batch_size, total_rows)):
        level = int(np.searchsorted(starts, place, side="right")) - 1
        rows = members[level]
        epoch, index = divmod(place - int(starts[level]), len(rows))
        order = np.random.default_rng([seed, epoch, level]).permutation(len(rows))
        chosen.append(int(rows[order[index]]))
    return chosen
