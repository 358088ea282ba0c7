"""Cohorts for static steps: the place of the newest token is a tensor, and nothing is cut off.

What a step must not see is masked, so every step has the same shapes and no numbers of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from plan_tuning.students.generation.cohorts import Cohort, SuffixLayer


class StaticLayer(SuffixLayer):
    """One layer, with buffers that are read whole.

    A sliding layer has room for a window of new tokens and writes in a circle; keys carry their
    positions, so attention does not mind their order.
    """

    def room(self, capacity: int) -> int:
        """New tokens that are held where the cohort has room for ``capacity``."""
        return capacity if self.window is None else min(capacity, self.window)

    @property
    def circle(self) -> int:
        """New tokens that the buffers hold."""
        return int(self._buffers[0].shape[2])

    def write(
        self, states: Sequence[torch.Tensor], rows: int, place: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put one token a row at ``place`` (1,); returns all the rows hold, (B, K, t, D)."""
        keys, values = (buffer[:rows] for buffer in self._buffers)
        keys.index_copy_(2, place, states[0])
        values.index_copy_(2, place, states[1])
        return keys, values

    def _copy(self, source: torch.Tensor, target: torch.Tensor, held: int, shift: int) -> None:
        """Copy the tokens of rows, which number ``held``, ``shift`` columns further."""
        tokens = range(max(0, held - source.shape[2], -shift), held)
        if not tokens:
            return
        old = [token % source.shape[2] for token in tokens]
        new = [(token + shift) % target.shape[2] for token in tokens]
        device = source.device
        target.index_copy_(
            2, torch.tensor(new, device=device), source[:, :, torch.tensor(old, device=device)]
        )


class StaticCohort(Cohort):
    """A cohort of one shape at every step.

    Attributes:
        place: (1,) new tokens that are held.
    """

    layer_class = StaticLayer

    def arrange(self) -> None:
        """Lay the rows out, and make what a step's masks are computed from."""
        super().arrange()
        self.place = torch.tensor([self.length], device=self.device)
        self._lead: torch.Tensor | None = None  # (B, 1)
        if any(self.lead):
            self._lead = torch.tensor(self.lead, device=self.device)[:, None]
        self._by_row: torch.Tensor | None = None  # (B, T)
        if self.padding is not None:
            self._by_row = self.padding[torch.tensor(self.owner, device=self.device)]
        self._kinds = {(layer.width, layer.window): layer.circle for layer in self.layers}
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}
        self._places: dict[int, torch.Tensor] = {}

    def look(self) -> None:
        """Work out where the newest token is put and what it must not see."""
        lead = 0 if self._lead is None else self._lead
        for (width, window), circle in self._kinds.items():
            self._places[circle] = self.place.remainder(circle)
            spots = torch.arange(circle, device=self.device)[None]
            # The number of the token at each spot: below 0 where nothing was written yet.
            token = self.place - (self.place - spots).remainder(circle)  # (1, t)
            new = token < lead  # (B or 1, t)
            slots = torch.arange(width, device=self.device)[None]
            hidden = slots < 0
            if window is not None:
                # Slots count alike for all rows: prompts are padded on the left.
                hidden = slots <= self.place + (width - window) - lead
            if self._by_row is not None:
                # A sliding layer holds the last slots of the prompts only.
                hidden = hidden | self._by_row[:, self._by_row.shape[1] - width :]
            rows = max(len(hidden), len(new))
            self._masks[width, window] = torch.cat(
                [hidden.expand(rows, -1), new.expand(rows, -1)], dim=1
            )

    def step(self) -> None:
        """Move the place on by one; part of what is captured."""
        self.place.add_(1)

    def append(
        self, index: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one token a row, (B, K, 1, D) each, to a layer; returns the new tokens."""
        layer = self.layers[index]
        return layer.write((key, value), len(self), self._places[layer.circle])

    def visible(self, layer: SuffixLayer) -> tuple[int, int]:
        """Attention reads everything; the mask hides what is not to be seen."""
        return 0, 0

    def hidden_prompts(self, slots: int) -> torch.Tensor | None:
        """Padding is hidden by row, with new tokens."""
        return None

    def hidden(self, layer: SuffixLayer) -> torch.Tensor | None:
        """Mask (B or 1, T + t) of what a layer shows and a row's newest token does not see."""
        return self._masks[layer.width, layer.window]
