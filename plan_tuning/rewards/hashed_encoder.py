"""Texts to vectors without any model: hashed n-grams of words and characters.

A feature is a word, a pair of words, or a run of three to five characters of a word with its ends
marked; each is hashed to one of D places with a sign (Weinberger et al. 2009), counts enter by
1 + log, and the vector has length one. It knows no meaning: two texts are as alike as the words and
word stems that they share. It costs nothing, needs nothing, and is the same everywhere.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from plan_tuning.rewards.plan_cases import Array

DIMENSIONS = 1024
_REMEMBERED = 8192  # texts, of 4 KiB each
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_SHORTEST, _LONGEST = 3, 5  # characters


def features(text: str) -> Iterator[str]:
    """List the n-grams of a text.

    >>> list(features("Add it"))[:3]
    ['w add', 'w it', 'p add it']
    """
    words = _WORD.findall(text.lower())
    yield from (f"w {word}" for word in words)
    yield from (f"p {first} {second}" for first, second in itertools.pairwise(words))
    for word in words:
        marked = f"<{word}>"
        for size in range(_SHORTEST, _LONGEST + 1):
            yield from (f"c {marked[i : i + size]}" for i in range(len(marked) - size + 1))


class HashedEncoder:
    """A sentence encoder; the latest vectors are remembered by text.

    Args:
        dimensions: places that features are hashed to.
    """

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        self._dimensions = dimensions
        self._encode = lru_cache(_REMEMBERED)(self._computed)

    def __call__(self, texts: Sequence[str]) -> Array:
        """Encode N texts, (N, D); one without a word is the zero vector."""
        return np.stack([self._encode(text) for text in texts])

    def _computed(self, text: str) -> Array:
        vector = np.zeros(self._dimensions, np.float32)
        for feature, count in Counter(features(text)).items():
            code = zlib.crc32(feature.encode())
            sign = 1.0 if code & 1 else -1.0
            vector[(code >> 1) % self._dimensions] += sign * (1.0 + math.log(count))
        length = float(np.linalg.norm(vector))
        return vector / length if length else vector
