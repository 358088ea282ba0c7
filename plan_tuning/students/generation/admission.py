"""Which waiting rows are decoded next: as many as there is memory for what they will use.

Nobody knows how long a completion becomes, so a row is admitted with room for what completions of
the call use on average. Where rows use more than that, the youngest are set aside and read again
later; a text that loops to the limit holds its own few places and nobody else's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from plan_tuning.students.generation.sequences import Row

PASS_TOKENS = 16384  # padded tokens of prompts that are read at once
_GUESS = 256  # tokens of a completion while none has ended
_TRUST = 8  # completions that the guess counts for
_REFILL = 4  # rows are admitted once one part in so many of the memory is free
_PADDING = 64  # tokens of padding that are cheaper than a further pass


@dataclass
class Group:
    """Rows that continue one text."""

    text: tuple[int, ...]
    rows: list[Row]


class Lengths:
    """How many tokens a completion of this call is expected to have."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._tokens = _GUESS * _TRUST
        self._ended = _TRUST

    def tell(self, tokens: int, ended: int) -> None:
        """Count tokens that were written, and rows that ended with one of them."""
        self._tokens += tokens
        self._ended += ended

    @property
    def expected(self) -> int:
        """Tokens written for each row that ended: what is not finished counts as well."""
        return max(1, min(self._longest, self._tokens // self._ended))


class Waiting:
    """The queue of groups, the longest first: what does not fit fails at once, not in an hour."""

    def __init__(self, rows: Iterable[Row], budget: int, *, shares_prompts: bool) -> None:
        """Line up.

        Args:
            rows: those of equal prompts are read together.
            budget: tokens that there is memory for.
            shares_prompts: whether the rows of a prompt hold it together.
        """
        groups: dict[tuple[int, ...], Group] = {}
        for row in rows:
            groups.setdefault(row.text, Group(row.text, [])).rows.append(row)
        self._groups = deque(sorted(groups.values(), key=lambda group: -len(group.text)))
        self._budget = budget
        self._shares = shares_prompts
        self._rows = sum(len(group.rows) for group in self._groups)
        self._texts = sum(self._texts_of(group) for group in self._groups)  # tokens

    def __len__(self) -> int:
        return self._rows

    def put_back(self, rows: Sequence[Row]) -> None:
        """Let rows that were set aside be the next ones."""
        for row in rows:
            self._groups.appendleft(Group(row.text, [row]))
            self._count(self._groups[0], 1)

    def has_room(self, used: int, expected: int) -> bool:
        """Say whether enough is free for a pass over further prompts to be worth it.

        Args:
            used: tokens that the rows under way hold or will.
            expected: tokens of a new completion.
        """
        wanted = self._texts + self._rows * expected
        return self._rows > 0 and self._budget - used >= min(self._budget // _REFILL, wanted)

    def take(self, used: int, expected: int, *, is_empty: bool) -> list[Group]:
        """Take the groups of one pass off the queue.

        Args:
            used: tokens that the rows under way hold or will.
            expected: tokens of a new completion.
            is_empty: no row is under way, so at least one is taken.

        Returns:
            Groups of similar lengths; none where the next does not fit.
        """
        taken: list[Group] = []
        free = self._budget - used
        longest = rows = tokens = 0
        while self._groups:
            group = self._groups[0]
            longest = max(longest, len(group.text))
            padded, tokens = longest * (len(taken) + 1), tokens + len(group.text)
            rows += len(group.rows)
            is_ragged = padded - tokens > max(_PADDING, tokens // 16)
            if taken and (padded > PASS_TOKENS or is_ragged):
                break
            if (padded if self._shares else longest * rows) + rows * expected > free:
                if not taken and is_empty:
                    taken.append(self._part(group, free, expected))
                break
            taken.append(self._groups.popleft())
            self._count(group, -1)
        return taken

    def _part(self, group: Group, free: int, expected: int) -> Group:
        """Take as many rows of the first group as there is room for, and at least one."""
        text = len(group.text)
        room = (free - text) // expected if self._shares else free // (text + expected)
        self._count(self._groups.popleft(), -1)
        part, rest = (Group(group.text, rows) for rows in _cut(group.rows, max(1, room)))
        if rest.rows:
            self._groups.appendleft(rest)
            self._count(rest, 1)
        return part

    def _count(self, group: Group, sign: int) -> None:
        self._rows += sign * len(group.rows)
        self._texts += sign * self._texts_of(group)

    def _texts_of(self, group: Group) -> int:
        """Tokens that the group's text takes in memory."""
        return len(group.text) * (1 if self._shares else len(group.rows))


def _cut(rows: list[Row], count: int) -> tuple[list[Row], list[Row]]:
    return rows[:count], rows[count:]
