"""What a stage holds at its widest moments, and the sizes of its passes with which it fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

MICRO = "trainer.micro_batch_tokens"
ROLLOUTS = "method.generation_batch_tokens"
DECODED = "evaluation.batch_tokens"
PROMPT_TOKENS = 256  # of a problem with its instructions, where nobody has counted
_GRANULE = 256  # tokens that found sizes are multiples of
SHORT_ROW = 256  # tokens of a supervised row below which nothing is promised
MOST = 2**19  # tokens beyond which a card is busy enough

Causes = dict[str, float]
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Phase:
    """A moment of a stage, and what lies on the card then, in bytes by cause."""

    name: str
    causes: Causes

    @property
    def total(self) -> float:
        """All causes together."""
        return sum(self.causes.values())


@dataclass(frozen=True, eq=False)
class StageMemory:
    """What a stage holds, as a function of the sizes of its passes.

    Args:
        name: start, train or evaluate.
        model: the preset, and where its shape is from.
        phases: from sizes (tokens by key) to the widest moments.
        needed: sizes below which nothing can be done: one row.
        given: sizes that the configuration gives, as far as a step can fill them; auto is absent.
        ceilings: sizes beyond which nothing is gained: all rows of a step at once.
        host: bytes of the machine's memory while weights are loaded.
    """

    name: str
    model: str
    phases: Callable[[Sizes], list[Phase]]
    needed: Sizes
    given: Sizes
    ceilings: Sizes
    host: float

    def widest(self, sizes: Sizes) -> Phase:
        """The phase that holds most."""
        return max(self.phases(sizes), key=lambda phase: phase.total)

    @property
    def least(self) -> Phase:
        """The widest moment with one row a pass."""
        return self.widest(self.needed)

    @property
    def shortest(self) -> Phase:
        """The widest moment with rows that data may well have; GRPO's are as long as they come."""
        if ROLLOUTS in self.needed or MICRO not in self.needed:
            return self.least
        return self.widest({**self.needed, MICRO: min(self.needed[MICRO], SHORT_ROW)})

    def longest_row(self, usable: float) -> int | None:
        """The longest row of a supervised training that fits; None: not even a short one."""
        if self.shortest.total > usable or ROLLOUTS in self.needed or MICRO not in self.needed:
            return None
        rows = {**self.needed, MICRO: min(self.needed[MICRO], SHORT_ROW)}
        return replace(self, needed=rows).largest(MICRO, usable)

    def largest(self, key: str, usable: float) -> int | None:
        """The most tokens of one key that fit beside the least of the others; None: not a row."""

        def fits(tokens: int) -> bool:
            return self.widest({**self.needed, key: tokens}).total <= usable

        low = self.needed[key]
        if not fits(low):
            return None
        high = max(low, min(self.ceilings[key], MOST))
        if fits(high):
            return high
        while high - low > _GRANULE:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return max(low // _GRANULE * _GRANULE, self.needed[key])

    def sizes(self, usable: float | None) -> dict[str, int]:
        """The sizes that the stage would run with: those that are given, else the largest."""
        found = {}
        for key, least in self.needed.items():
            largest = None if usable is None else self.largest(key, usable)
            found[key] = self.given.get(key) or largest or least
        return found
