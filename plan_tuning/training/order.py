"""Which rows a step trains on, and its noise: pure functions of (seed, step).

A resumed run therefore needs nothing but its step to go on with the same data.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

Places = np.ndarray[tuple[int], np.dtype[np.integer[Any]]]

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
    *,
    seed: int,
    step: int,
    levels: Sequence[int],
    batch_size: int,
    total_rows: int,
    replay: float = 0.0,
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
        replay: share of each window but the last that is kept back and comes evenly among the
            later levels' rows; every level keeps its number of rows.
    """
    numbers = np.asarray(levels)
    members = [np.flatnonzero(numbers == level) for level in np.unique(numbers)]
    shares = np.cumsum([0, *(len(rows) for rows in members)]) / len(numbers)
    starts = np.round(shares * total_rows).astype(int)
    chosen = []
    for place in range(step * batch_size, min((step + 1) * batch_size, total_rows)):
        level, nth = _place_of(place, starts.tolist(), replay)
        rows = members[level]
        epoch, index = divmod(nth, len(rows))
        order = np.random.default_rng([seed, epoch, level]).permutation(len(rows))
        chosen.append(int(rows[order[index]]))
    return chosen


def _place_of(place: int, starts: Sequence[int], replay: float) -> tuple[int, int]:
    """Find whose row stands at a place of the stream, and which of that level's rows it is."""
    if replay:
        levels, nth = replayed(tuple(starts), replay)
        return int(levels[place]), int(nth[place])
    level = int(np.searchsorted(starts, place, side="right")) - 1
    return level, place - starts[level]


@lru_cache(maxsize=4)
def replayed(starts: tuple[int, ...], replay: float) -> tuple[Places, Places]:
    """Lay out a curriculum in which a share of each level's rows comes back later.

    Args:
        starts: where the levels' windows begin, and the end of the last one.
        replay: share of each window but the last that is kept back.

    Returns:
        The level at each place, and which of its level's rows stands there, counted from 0.

    >>> replayed((0, 4, 8), 0.5)[0].tolist()
    [0, 0, 1, 0, 1, 1, 0, 1]
    """
    sizes = np.diff(starts)
    kept = np.round(sizes * replay).astype(int)
    kept[-1] = 0
    ends = np.cumsum(sizes - kept)  # of the windows, without what is kept back
    moments, levels, nth = [], [], []
    for level, (size, back) in enumerate(zip(sizes, kept, strict=True)):
        own = size - back
        moments.append(ends[level] - own + np.arange(own) + 0.5)
        moments.append(
            ends[level] + (np.arange(back) + 0.5) / max(back, 1) * (ends[-1] - ends[level])
        )
        levels.append(np.full(size, level))
        nth.append(np.arange(size))
    order = np.argsort(np.concatenate(moments), kind="stable")
    return np.concatenate(levels)[order], np.concatenate(nth)[order]
