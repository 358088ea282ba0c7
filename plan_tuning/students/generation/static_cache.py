"""The key-value cache of static steps: shared prompts, and buffers that never grow.

The place of the newest token is a tensor, and what a step must not see is masked and not cut off,
so every step has the same shapes and no numbers of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from plan_tuning.students.generation.shared_prefix import SharedPrefixCache

FIRST_REACH = 256  # new tokens that attention reads at first; it doubles when they are full
_ROUND = 16  # buffers hold a multiple of so many tokens


class StaticLayer(DynamicLayer):
    """One layer: prompts' keys and values, and room for those of new tokens by row.

    A sliding layer has room for a window of new tokens and writes in a circle; keys carry their
    positions, so attention does not mind their order.
    """

    def __init__(self, prompt: DynamicLayer, rows: int, *, room: int) -> None:
        super().__init__()
        self.window = (
            int(prompt.sliding_window) if isinstance(prompt, DynamicSlidingWindowLayer) else None
        )
        self.room = room if self.window is None else min(room, self.window)
        self.prompt = [prompt.keys, prompt.values]
        self.kind = (int(prompt.keys.shape[2]), self.window)
        self.dtype, self.device = prompt.keys.dtype, prompt.keys.device
        self.is_initialized = True
        shape = (rows, prompt.keys.shape[1], self.room, prompt.keys.shape[3])
        # Zeros, since a masked value still takes part in a product: 0 times garbage may be NaN.
        self._buffers = [prompt.keys.new_zeros(shape), prompt.values.new_zeros(shape)]
        self._rows = rows

    def write(
        self, states: Sequence[torch.Tensor], place: torch.Tensor, reach: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put one token a row at ``place`` (1,); returns the first ``reach`` tokens of the rows."""
        keys, values = (buffer[: self._rows, :, :reach] for buffer in self._buffers)
        keys.index_copy_(2, place, states[0])
        values.index_copy_(2, place, states[1])
        return keys, values

    def visible(self) -> tuple[int, int]:
        """Attention reads everything; the cache's mask hides what is not to be seen."""
        return 0, 0

    def move(self, moves: Sequence[tuple[int, int]], rows: int) -> None:
        """Copy rows (from, to) and forget those from ``rows`` on."""
        if moves:
            sources, targets = torch.tensor(moves, device=self.device).T
            for buffer in self._buffers:
                buffer[targets] = buffer[sources]
        self._rows = rows


@dataclass
class _Masks:
    """What a step works out once for all layers of a kind."""

    slots: torch.Tensor  # (1, T + t) of prompts and new tokens
    prompt_slots: torch.Tensor  # (1, T + t) the same, beyond reach for new tokens
    padding: torch.Tensor | None  # (B, T + t)
    room: int
    unseen: torch.Tensor  # (B or 1, T + t) what the newest tokens must not see
    place: torch.Tensor  # (1,) where they are put


class StaticPrefixCache(SharedPrefixCache):
    """Cache of rows that share prompts, of one shape at every step.

    Attributes:
        place: (1,) new tokens that are held.
        reach: new tokens that attention reads.
        room: new tokens that the buffers hold.
    """

    def __init__(
        self, prompts: DynamicCache, mask: torch.Tensor, owner: Sequence[int], new_tokens: int
    ) -> None:
        """Begin to continue prompts, as :class:`SharedPrefixCache`, by at most ``new_tokens``."""
        self.room = max(1, -(-new_tokens // _ROUND)) * _ROUND
        self.reach = min(self.room, FIRST_REACH)
        self.place = torch.zeros(1, dtype=torch.long, device=mask.device)
        super().__init__(
            prompts, mask, owner, lambda layer, rows: StaticLayer(layer, rows, room=self.room)
        )
        self._padding: torch.Tensor | None = None  # (B, T)
        if self.padding is not None:  # hidden by row, with new tokens, and no more by prompt
            self._padding = self.padding[torch.tensor(list(owner), device=mask.device)]
            self.padding = None
        self._lay_out()

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these, as :meth:`SharedPrefixCache.keep`."""
        order = super().keep(rows)
        if self._padding is not None:
            self._padding = self._padding[torch.tensor(order, device=self.place.device)]
        self._lay_out()
        return order

    def reach_further(self) -> None:
        """Let attention read twice as many new tokens."""
        self.reach = min(self.room, 2 * self.reach)
        self._lay_out()

    def _lay_out(self) -> None:
        """Make what a step's masks are computed from; rows or reach have changed."""
        kinds = {layer.kind: layer for layer in self.layers}
        self._masks = {kind: self._masks_of(layer) for kind, layer in kinds.items()}

    def _masks_of(self, layer: StaticLayer) -> _Masks:
        width, reach = layer.kind[0], min(self.reach, layer.room)
        slots = torch.arange(width + reach, device=self.place.device)[None]  # (1, T + t)
        prompt_slots = slots.masked_fill(slots >= width, width + self.room)
        padding = None
        if self._padding is not None:
            # A sliding layer holds the last slots of the prompts only.
            padding = self._padding[:, self._padding.shape[1] - width :]
            padding = torch.nn.functional.pad(padding, (0, reach))  # (B, T + t)
        return _Masks(slots, prompt_slots, padding, layer.room, slots < 0, self.place)

    def look(self) -> None:
        """Work out where the newest token is put and what it must not see."""
        for (width, window), masks in self._masks.items():
            newest = self.place + width
            masks.unseen = masks.slots > newest
            masks.place = self.place
            if window is not None:
                # Slots count alike for all rows: prompts are padded on the left. Of the new
                # tokens a sliding layer holds no more than it sees.
                masks.unseen = masks.unseen | (masks.prompt_slots <= newest - window)
                masks.place = self.place.remainder(masks.room)
            if masks.padding is not None:
                masks.unseen = masks.unseen | masks.padding

    def hidden(self, layer: StaticLayer) -> torch.Tensor:
        """Mask (B or 1, T + t) of what a layer returns and the newest tokens do not see."""
        return self._masks[layer.kind].unseen

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one token a row, (B, K, 1, D) each; returns those within reach, (B, K, t, D)."""
        layer = self.layers[layer_idx]
        return layer.write((key_states, value_states), self._masks[layer.kind].place, self.reach)
