"""One token a row and step: two decoders that go on from the key-value caches of prompts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from plan_tuning.students.generation import sampling
from plan_tuning.students.generation.cohorts import ROOM, WORTH_TRIMMING, Cohort
from plan_tuning.students.generation.sequences import Row, Settings, extend
from plan_tuning.students.generation.shared_prefix import (
    FAMILIES,
    CohortCache,
    shared_attention,
)
from plan_tuning.students.loading import Student


class Decoder(Protocol):
    """Writes rows that join and leave; each has one token that it has not read yet."""

    shares_prompts: bool  # rows of one prompt hold it together

    @property
    def rows(self) -> list[Row]:
        """The rows under way."""

    @property
    def takes_more(self) -> bool:
        """Whether rows may join those under way."""

    def join(
        self, prompts: DynamicCache, mask: torch.Tensor, owner: Sequence[int], rows: Sequence[Row]
    ) -> None:
        """Take rows over, from the cache of their prompts (P, T) with its mask."""

    def write(self) -> list[Row]:
        """Give every row its next tokens; returns the rows that are over."""

    def leave(self, *, at_once: bool = False) -> None:
        """Let rows that are over go; not ``at_once``: where that is worth its price."""

    def set_aside(self, count: int) -> list[Row]:
        """Take ``count`` rows away; their caches are lost."""

    def shrink(self) -> None:
        """Give back the memory of rows that left."""

    def num_cells(self) -> int:
        """Tokens that there is memory for."""

    def cells_ahead(self) -> int:
        """Tokens that there is memory for once the next tokens are written."""

    def cells_expected(self, expected: int) -> int:
        """Tokens that the rows under way hold, or will with ``expected`` new ones each."""


def choose_next(
    student: Student, rows: Sequence[Row], logits: torch.Tensor, settings: Settings
) -> None:
    """Give every row its next token, from logits (B, V)."""
    uniforms = None
    if settings.temperature:
        numbers = [row.noise.random() for row in rows if row.noise is not None]
        uniforms = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
    tokens = sampling.choose(
        logits,
        uniforms,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
    )
    found = None
    if settings.return_log_probs:
        values = sampling.token_log_probs(logits, tokens, temperature=settings.temperature)
        found = values.tolist()
    for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
        extend(student, row, (token,), None if found is None else (found[place],), settings)


def newest(rows: Sequence[Row], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's newest token and its position, (B,) both."""
    numbers = [[row.tokens[-1] for row in rows],
               [len(row.prompt) + len(row.tokens) - 1 for row in rows]]  # fmt: skip
    tokens, positions = torch.tensor(numbers, device=device)
    return tokens, positions


def youngest(rows: Sequence[Row], count: int) -> list[Row]:
    """The rows that have written least, which cost least to be read again."""
    return sorted(rows, key=lambda row: len(row.tokens))[:count]


class CohortDecoder:
    """Rows of one prompt read its cache together; what steps of any kind have in common."""

    shares_prompts = True
    takes_more = True
    cohort_class: type[Cohort] = Cohort
    most_cohorts = 3

    def __init__(self, student: Student, settings: Settings, budget: int) -> None:
        """Begin without rows.

        Args:
            student: who writes.
            settings: of the call.
            budget: tokens that there is memory for; cohorts are not put together beyond it.
        """
        self.student, self.settings = student, settings
        self.cohorts: list[Any] = []
        self._budget = budget
        self._cache = CohortCache(self.cohorts)

    @property
    def rows(self) -> list[Row]:
        """The rows under way."""
        return [row for cohort in self.cohorts for row in cohort.rows]

    def join(
        self, prompts: DynamicCache, mask: torch.Tensor, owner: Sequence[int], rows: Sequence[Row]
    ) -> None:
        """Take rows over, from the cache of their prompts (P, T) with its mask."""
        capacity = self.first_capacity(self._needed(rows))
        self.cohorts.append(self.cohort_class(prompts, mask, owner, rows, capacity))
        while len(self.cohorts) > self.most_cohorts and self._put_two_together():
            pass
        self.rearranged()

    def _put_two_together(self) -> bool:
        """Put those two cohorts together that waste least; says whether there is memory for it."""
        pairs = itertools.combinations(self.cohorts, 2)
        one, other = min(pairs, key=lambda pair: pair[0].padding_after(pair[1]))
        capacity, slots = (
            max(getattr(one, name), getattr(other, name)) for name in ("capacity", "num_slots")
        )
        prompts, rows = one.num_prompts + other.num_prompts, len(one) + len(other)
        together = prompts * slots + rows * capacity
        if self.num_cells() - one.num_cells - other.num_cells + together > self._budget:
            return False
        one.absorb(other)
        self.cohorts.remove(other)
        return True

    def _needed(self, rows: Sequence[Row]) -> int:
        """New tokens of which rows may yet read the most; the last one is never read."""
        return max(self.settings.max_new_tokens - len(row.tokens) for row in rows)

    def first_capacity(self, needed: int) -> int:
        """Room for new tokens that rows begin with."""
        return min(ROOM, needed)

    def next_capacity(self, cohort: Cohort) -> int:
        """Room for new tokens once a cohort's is full."""
        return cohort.capacity + min(ROOM, self._needed(cohort.rows))

    def leave(self, *, at_once: bool = False) -> None:
        """Let rows that are over go."""
        for cohort in list(self.cohorts):
            alive = [place for place, row in enumerate(cohort.rows) if not row.is_over]
            if not alive:
                self.cohorts.remove(cohort)
            elif len(alive) < len(cohort):
                cohort.keep(alive)
        self.rearranged()

    def set_aside(self, count: int) -> list[Row]:
        """Take ``count`` rows away; their caches are lost."""
        self.leave(at_once=True)
        chosen = youngest(self.rows, count)
        for row in chosen:
            row.is_over = True
        self.leave(at_once=True)
        for row in chosen:
            row.is_over = False
        return chosen

    def shrink(self) -> None:
        """Give back the memory of rows that left."""
        for cohort in self.cohorts:
            cohort.shrink()
        self.rearranged()

    def grow(self) -> None:
        """Make room for the next token of every row."""
        if any(cohort.length == cohort.capacity for cohort in self.cohorts):
            self.leave(at_once=True)
            for cohort in self.cohorts:
                if cohort.length == cohort.capacity:
                    cohort.resize(self.next_capacity(cohort))
            self.rearranged()

    def rearranged(self) -> None:
        """Rows, their places or the shapes of their caches have changed."""

    def num_cells(self) -> int:
        """Tokens that there is memory for."""
        return sum(cohort.num_cells for cohort in self.cohorts)

    def cells_ahead(self) -> int:
        """Tokens that there is memory for once the next tokens are written."""
        return sum(
            cohort.num_cells
            if cohort.length < cohort.capacity
            else cohort.cells_with(self.next_capacity(cohort))
            for cohort in self.cohorts
        )

    def cells_expected(self, expected: int) -> int:
        """Tokens that the rows under way hold, or will with ``expected`` new ones each."""
        return sum(cohort.cells_of_live(expected) for cohort in self.cohorts)


class SharedDecoder(CohortDecoder):
    """Writes one token at a time; attention reads what there is and no more."""

    def write(self) -> list[Row]:
        """Give every row its next token; returns the rows that are over."""
        self.grow()
        rows, model = self.rows, self.student.causal_lm
        tokens, positions = newest(rows, self.student.device)
        with shared_attention(model):
            output = model(
                input_ids=tokens[:, None],
                position_ids=positions[:, None],
                past_key_values=self._cache,
                use_cache=True,
                shared_prefix=self._cache,
            )
        for cohort in self.cohorts:
            cohort.advance()
        choose_next(self.student, rows, output.logits[:, -1], self.settings)
        return [row for row in rows if row.is_over]


class CopyingDecoder:
    """Every row has its own copy of its prompt's cache: for any family of transformers.

    All rows end at one column; the shorter ones have padding on their left.
    """

    shares_prompts = False

    def __init__(self, student: Student, settings: Settings) -> None:
        self._student, self._settings = student, settings
        self.rows: list[Row] = []
        self._cache: Any = None
        self._mask = torch.zeros((0, 0), dtype=torch.long)  # (B, T)

    @property
    def takes_more(self) -> bool:
        """Whether rows may join those under way: states that are no keys cannot be padded."""
        plain = (DynamicLayer, DynamicSlidingWindowLayer)
        return not self.rows or all(type(layer) in plain for layer in self._cache.layers)

    def join(
        self, prompts: DynamicCache, mask: torch.Tensor, owner: Sequence[int], rows: Sequence[Row]
    ) -> None:
        """Take rows over, from the cache of their prompts (P, T) with its mask."""
        origin = torch.tensor(list(owner), device=mask.device)
        prompts.batch_select_indices(origin)
        mask = mask[origin]
        if self.rows:
            width = max(mask.shape[1], self._mask.shape[1])
            for mine, theirs in zip(self._cache.layers, prompts.layers, strict=True):
                _join_layers(mine, theirs)
            mask = torch.cat([_padded(self._mask, width), _padded(mask, width)])
        else:
            self._cache = prompts
        self._mask = mask
        self.rows = [*self.rows, *rows]

    def write(self) -> list[Row]:
        """Give every row its next token; returns the rows that are over."""
        tokens, positions = newest(self.rows, self._mask.device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        output = self._student.causal_lm(
            input_ids=tokens[:, None],
            attention_mask=self._mask,
            position_ids=positions[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        choose_next(self._student, self.rows, output.logits[:, -1], self._settings)
        return [row for row in self.rows if row.is_over]

    def leave(self, *, at_once: bool = False) -> None:
        """Let rows that are over go."""
        alive = [place for place, row in enumerate(self.rows) if not row.is_over]
        if len(alive) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in alive]
        if not self.rows:
            self._cache = None
            return
        kept = torch.tensor(alive, device=self._mask.device)
        self._cache.batch_select_indices(kept)
        self._mask = self._mask[kept]

    def set_aside(self, count: int) -> list[Row]:
        """Take ``count`` rows away; their caches are lost."""
        self.leave(at_once=True)
        chosen = youngest(self.rows, count)
        for row in chosen:
            row.is_over = True
        self.leave(at_once=True)
        for row in chosen:
            row.is_over = False
        return chosen

    def shrink(self) -> None:
        """Cut off the first columns where no row has a token."""
        cut = int((self._mask.sum(dim=0) == 0).sum())  # padding stands on the left
        if not self.takes_more or cut < WORTH_TRIMMING:
            return
        self._mask = self._mask[:, cut:]
        for layer in self._cache.layers:
            held = layer.keys.shape[2]
            if isinstance(layer, DynamicSlidingWindowLayer):
                layer.cumulative_length -= cut
                held = min(held, layer.cumulative_length)
            else:
                held -= cut
            layer.keys, layer.values = (s[:, :, -held:] for s in (layer.keys, layer.values))

    def num_cells(self) -> int:
        """Tokens that there is memory for."""
        return len(self.rows) * int(self._mask.shape[1])

    def cells_ahead(self) -> int:
        """Tokens that there is memory for once the next tokens are written."""
        return len(self.rows) * (int(self._mask.shape[1]) + 1)

    def cells_expected(self, expected: int) -> int:
        """Tokens that the rows under way hold, or will with ``expected`` new ones each."""
        width = int(self._mask.shape[1])
        longest = max((len(row.prompt) for row in self.rows), default=0)
        return len(self.rows) * max(width, longest + expected)


def _padded(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """Pad columns (B, T) on the left."""
    return torch.nn.functional.pad(tensor, (width - tensor.shape[1], 0))


def _join_layers(mine: Any, theirs: Any) -> None:
    """Put another cache's rows behind those of a layer, padded on the left."""
    width = max(mine.keys.shape[2], theirs.keys.shape[2])
    for name in ("keys", "values"):
        both = [getattr(layer, name) for layer in (mine, theirs)]
        wide = [torch.nn.functional.pad(one, (0, 0, width - one.shape[2], 0)) for one in both]
        setattr(mine, name, torch.cat(wide))
    if isinstance(mine, DynamicSlidingWindowLayer):
        mine.cumulative_length = max(mine.cumulative_length, theirs.cumulative_length)


def decoder_for(
    student: Student, settings: Settings, budget: int
) -> SharedDecoder | CopyingDecoder:
    """Choose the decoder: shared prefixes where the family is known, else copies of the cache.

    Args:
        student: who writes.
        settings: of the call.
        budget: tokens that there is memory for.
    """
    if student.causal_lm.config.get_text_config().model_type in FAMILIES:
        return SharedDecoder(student, settings, budget)
    return CopyingDecoder(student, settings)
