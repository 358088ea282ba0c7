"""The decode loop's key-value cache: cohorts of rows that write their next token at one place.

A cohort holds one prefix a prompt, shared by its samples, and a short suffix a row. Prompts are
never copied to their samples: attention reads a prompt's keys once for all of its samples and then
each sample's own few keys. Rows that leave are replaced by the last ones, so nothing is moved but
them. Rows that come later make a cohort of their own, so nobody is padded to the longest; cohorts
are put together once there are too many, the shorter suffixes behind padding on their left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from plan_tuning.students.generation.sequences import Row

ROOM = 64  # tokens that suffixes grow by
WORTH_TRIMMING = 64  # columns of nothing but padding


class SuffixLayer:
    """One layer: prompts' keys and values (P, heads, T, size), and those of new tokens by row.

    Attributes:
        window: tokens that a sliding layer sees; None: all.
        prompt: keys and values of the prompts; a sliding layer has the last slots only.
    """

    def __init__(self, prompt: DynamicLayer, rows: int, capacity: int) -> None:
        self.window = (
            int(prompt.sliding_window) if isinstance(prompt, DynamicSlidingWindowLayer) else None
        )
        self.prompt = [prompt.keys, prompt.values]
        self._buffers = [states[:0] for states in self.prompt]
        self._buffers = [self._made(states, rows, capacity) for states in self.prompt]

    @property
    def width(self) -> int:
        """Slots of the prompts that are held."""
        return int(self.prompt[0].shape[2])

    @property
    def num_cells(self) -> int:
        """Tokens that there is memory for: those of the prompts and those of the rows."""
        held = (self.prompt[0], self._buffers[0])
        return sum(int(states.shape[0] * states.shape[2]) for states in held)

    def room(self, capacity: int) -> int:
        """New tokens that are held where the cohort has room for ``capacity``."""
        return capacity

    def _made(self, like: torch.Tensor, rows: int, capacity: int) -> torch.Tensor:
        # Zeros, since a masked value still takes part in a product: 0 times garbage may be NaN.
        return like.new_zeros((rows, like.shape[1], self.room(capacity), like.shape[3]))

    def append(
        self, states: Sequence[torch.Tensor], rows: int, place: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put one token a row, (B, K, 1, D) each; returns the rows' new tokens, (B, K, t, D)."""
        for buffer, fresh in zip(self._buffers, states, strict=True):
            buffer[:rows, :, place] = fresh[:, :, 0]
        keys, values = (buffer[:rows, :, : place + 1] for buffer in self._buffers)
        return keys, values

    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Copy rows (from, to)."""
        for source, target in moves:
            for buffer in self._buffers:
                buffer[target] = buffer[source]

    def resize(self, rows: int, capacity: int, *, held: int, shift: int = 0) -> None:
        """Make new buffers for the first rows.

        Args:
            rows: how many stay.
            capacity: new tokens that there shall be room for.
            held: new tokens that there are.
            shift: columns that are put in front of them; below 0: that are cut off there.
        """
        made = []
        for buffer in self._buffers:
            larger = self._made(buffer, rows, capacity)
            self._copy(buffer[:rows], larger, held, shift)
            made.append(larger)
        self._buffers = made

    def _copy(self, source: torch.Tensor, target: torch.Tensor, held: int, shift: int) -> None:
        """Copy the tokens of rows, which number ``held``, ``shift`` columns further."""
        first = max(0, held - source.shape[2], -shift)
        if first < held:
            target[:, :, first + shift : held + shift] = source[:, :, first:held]

    def absorb(self, other: SuffixLayer, capacity: int, mine: Span, theirs: Span) -> None:
        """Take the prompts and rows of another cohort behind one's own.

        Args:
            other: the same layer of the other cohort.
            capacity: new tokens that there shall be room for.
            mine: rows, tokens and shift of this cohort.
            theirs: of the other.
        """
        width = max(self.width, other.width)
        self.prompt = [
            torch.cat([_padded(ours, width), _padded(their, width)])
            for ours, their in zip(self.prompt, other.prompt, strict=True)
        ]
        made = []
        for ours, their in zip(self._buffers, other._buffers, strict=True):
            joined = self._made(ours, mine[0] + theirs[0], capacity)
            self._copy(ours[: mine[0]], joined[: mine[0]], *mine[1:])
            self._copy(their[: theirs[0]], joined[mine[0] :], *theirs[1:])
            made.append(joined)
        self._buffers = made


Span = tuple[int, int, int]
"""How many rows a cohort has, how many new tokens, and how far they are moved."""


def _padded(states: torch.Tensor, width: int) -> torch.Tensor:
    """Pad slots (…, T, size) on the left."""
    missing = width - states.shape[2]
    return torch.nn.functional.pad(states, (0, 0, missing, 0)) if missing else states


def _none_if_nowhere(padding: torch.Tensor) -> torch.Tensor | None:
    """Leave a mask out that hides nothing, so that it need not be applied at every step."""
    return padding if bool(padding.any()) else None


class Cohort:
    """Rows that share prompts and write their next token at one place.

    Attributes:
        layers: of the model.
        rows: the completions, in their places.
        owner: the prompt of each row.
        padding: (P, T) where prompts have no token; None: nowhere.
        lead: columns in front of each row's first new token.
        length: new tokens that are held, with the padding in front of them.
        capacity: new tokens that there is room for.
    """

    layer_class: type[SuffixLayer] = SuffixLayer

    def __init__(
        self,
        prompts: DynamicCache,
        mask: torch.Tensor,
        owner: Sequence[int],
        rows: Sequence[Row],
        capacity: int,
    ) -> None:
        """Begin to continue prompts.

        Args:
            prompts: what a forward pass over the prompts left, left-padded.
            mask: (P, T) 1 where a prompt has a token.
            owner: the prompt of each row.
            rows: the completions.
            capacity: new tokens to make room for.
        """
        self.layers: list[Any] = [
            self.layer_class(one, len(owner), capacity) for one in prompts.layers
        ]
        self.device = mask.device
        self.num_slots = int(mask.shape[1])
        self.padding = _none_if_nowhere(mask == 0)
        self.owner, self.rows = list(owner), list(rows)
        self.lead = [0] * len(owner)
        self.length = 0
        self.capacity = capacity
        self.arrange()

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def num_prompts(self) -> int:
        """Prompts that are held, with those that have lost their rows."""
        return int(self.layers[0].prompt[0].shape[0])

    @property
    def num_cells(self) -> int:
        """Tokens that the fullest layer has memory for."""
        return max(layer.num_cells for layer in self.layers)

    def cells_with(self, capacity: int) -> int:
        """Tokens that there is memory for after :meth:`resize` to ``capacity``."""
        return self.num_prompts * self.num_slots + len(self) * capacity

    def cells_of_live(self, expected: int) -> int:
        """Tokens that the rows which are not over, and their prompts, hold or will."""
        live = [
            prompt for prompt, row in zip(self.owner, self.rows, strict=True) if not row.is_over
        ]
        return len(set(live)) * self.num_slots + len(live) * max(self.capacity, expected)

    def arrange(self) -> None:
        """Lay the rows out as a grid of (prompt, place), which reads each prompt once."""
        counts: dict[int, int] = {}
        places = []
        for prompt in self.owner:
            places.append(counts.get(prompt, 0))
            counts[prompt] = places[-1] + 1
        self.across = max(counts.values())
        slots = [
            prompt * self.across + place for prompt, place in zip(self.owner, places, strict=True)
        ]
        self.grid = self.num_prompts * self.across
        is_plain = slots == list(range(self.grid))
        self.slots = None if is_plain else torch.tensor(slots, device=self.device)  # (B,)
        self._unseen: dict[tuple[int, int | None], torch.Tensor | None] = {}

    def keep(self, places: Sequence[int]) -> None:
        """Drop all rows but these; the last ones move into the places that become free."""
        stays, count = set(places), len(places)
        tail = iter([place for place in places if place >= count])
        order = [place if place in stays else next(tail) for place in range(count)]
        moves = [(row, place) for place, row in enumerate(order) if row != place]
        for layer in self.layers:
            layer.move(moves)
        self.rows = [self.rows[row] for row in order]
        self.owner = [self.owner[row] for row in order]
        self.lead = [self.lead[row] for row in order]
        if 2 * len(set(self.owner)) <= self.num_prompts:
            self._drop_prompts()
        self.arrange()

    def _drop_prompts(self) -> None:
        """Forget prompts without rows."""
        used = sorted(set(self.owner))
        if len(used) == self.num_prompts:
            return
        kept = torch.tensor(used, device=self.device)
        for layer in self.layers:
            layer.prompt = [states[kept] for states in layer.prompt]
        if self.padding is not None:
            self.padding = self.padding[kept]
        place = {prompt: index for index, prompt in enumerate(used)}
        self.owner = [place[prompt] for prompt in self.owner]

    def resize(self, capacity: int) -> None:
        """Make room for ``capacity`` new tokens; also gives back what rows that left had."""
        for layer in self.layers:
            layer.resize(len(self), capacity, held=self.length)
        self.capacity = capacity
        self.arrange()

    def shrink(self) -> None:
        """Give back the memory of rows and prompts that left, and of padding that all have."""
        self._drop_prompts()
        self._trim_prompts()
        cut = min(self.lead)
        cut = cut if cut >= WORTH_TRIMMING else 0
        for layer in self.layers:
            layer.resize(len(self), self.capacity - cut, held=self.length, shift=-cut)
        self.lead = [lead - cut for lead in self.lead]
        self.length, self.capacity = self.length - cut, self.capacity - cut
        self.arrange()

    def _trim_prompts(self) -> None:
        """Cut off the first slots where no prompt has a token."""
        if self.padding is None:
            return
        cut = int(self.padding.all(dim=0).sum())  # padding stands on the left
        if cut < WORTH_TRIMMING:
            return
        self.num_slots -= cut
        self.padding = _none_if_nowhere(self.padding[:, cut:])
        for layer in self.layers:
            first = max(0, layer.width - self.num_slots)
            layer.prompt = [states[:, :, first:].contiguous() for states in layer.prompt]

    def absorb(self, other: Cohort) -> None:
        """Take another cohort's rows behind one's own; the shorter suffixes get padding."""
        length, capacity = max(self.length, other.length), max(self.capacity, other.capacity)
        mine = (len(self), self.length, length - self.length)
        theirs = (len(other), other.length, length - other.length)
        num_slots = max(self.num_slots, other.num_slots)
        if (
            self.num_slots != other.num_slots
            or self.padding is not None
            or other.padding is not None
        ):
            self.padding = torch.cat(
                [self._hidden_slots(num_slots), other._hidden_slots(num_slots)]
            )
        owner = [self.num_prompts + prompt for prompt in other.owner]
        for layer, their in zip(self.layers, other.layers, strict=True):
            layer.absorb(their, capacity, mine, theirs)
        self.num_slots, self.length, self.capacity = num_slots, length, capacity
        self.owner += owner
        self.rows += other.rows
        self.lead = [lead + mine[2] for lead in self.lead]
        self.lead += [lead + theirs[2] for lead in other.lead]
        self.arrange()

    def padding_after(self, other: Cohort) -> int:
        """Count the tokens' places that a cohort of both would waste."""
        length, slots = max(self.length, other.length), max(self.num_slots, other.num_slots)
        return sum(
            one.num_prompts * (slots - one.num_slots) + len(one) * (length - one.length)
            for one in (self, other)
        )

    def _hidden_slots(self, num_slots: int) -> torch.Tensor:
        """Where prompts that are padded to ``num_slots`` have no token, (P, T)."""
        hidden = self.padding
        if hidden is None:
            hidden = torch.zeros(
                (self.num_prompts, self.num_slots), dtype=torch.bool, device=self.device
            )
        return torch.nn.functional.pad(hidden, (num_slots - self.num_slots, 0), value=True)

    def advance(self) -> None:
        """Go on by the token that every row has read."""
        self.length += 1
        self._unseen.clear()

    def append(
        self, index: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one token a row, (B, K, 1, D) each, to a layer; returns the new tokens."""
        return self.layers[index].append((key, value), len(self), self.length)

    def visible(self, layer: SuffixLayer) -> tuple[int, int]:
        """First prompt slot and first new token that any newest token sees."""
        if layer.window is None:
            return 0, 0
        # Slots count alike for all rows: prompts are padded on the left.
        reach = self.length + 1 - layer.window
        return min(max(0, layer.width + reach - max(self.lead)), layer.width), max(0, reach)

    def hidden_prompts(self, slots: int) -> torch.Tensor | None:
        """Mask (P, T) of the last ``slots`` of the prompts where they have no token."""
        return None if self.padding is None else self.padding[:, self.padding.shape[1] - slots :]

    def hidden(self, layer: SuffixLayer) -> torch.Tensor | None:
        """Mask (B or 1, T + t) of what a layer shows and a row's newest token does not see."""
        kind = (layer.width, layer.window)
        if kind not in self._unseen:
            self._unseen[kind] = self._unseen_by_row(layer) if any(self.lead) else None
        return self._unseen[kind]

    def _unseen_by_row(self, layer: SuffixLayer) -> torch.Tensor:
        first_slot, first_new = self.visible(layer)
        lead = torch.tensor(self.lead, device=self.device)[:, None]
        slots = torch.arange(first_slot, layer.width, device=self.device)[None]
        new = torch.arange(first_new, self.length + 1, device=self.device)[None]
        far = layer.width + self.length - (layer.window or layer.width + self.length + 1)
        return torch.cat([slots <= far - lead, new < lead], dim=1)

    def by_prompt(self, rows: torch.Tensor) -> torch.Tensor:
        """Put rows together by prompt: (B, K, G, N) to (P, K, across * G, N)."""
        _, kv_heads, groups, last = rows.shape
        if self.slots is not None:
            empty = rows.new_zeros((self.grid, kv_heads, groups, last))
            rows = empty.index_copy_(0, self.slots, rows)
        prompts = self.grid // self.across
        grid = rows.view(prompts, self.across, kv_heads, groups, last).transpose(1, 2)
        return grid.reshape(prompts, kv_heads, self.across * groups, last)

    def by_row(self, grid: torch.Tensor) -> torch.Tensor:
        """Take rows back from their prompts: (P, K, across * G, N) to (B, K, G, N)."""
        prompts, kv_heads, places, last = grid.shape
        groups = places // self.across
        rows = grid.view(prompts, kv_heads, self.across, groups, last).transpose(1, 2)
        rows = rows.reshape(self.grid, kv_heads, groups, last)
        return rows if self.slots is None else rows[self.slots]
