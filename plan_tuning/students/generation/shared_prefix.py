"""The decode loop's key-value cache: one prefix a prompt, shared by its samples; short suffixes.

Prompts are never copied to their samples: attention reads a prompt's keys once for all of its
samples and then each sample's own few keys. Rows that leave are replaced by the last ones, so
nothing is moved but them. Exact: one softmax runs over both parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

ATTENTION = "plan_tuning_shared_prefix"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
"""Model types whose attention takes nothing beyond what :func:`shared_prefix_attention` reads."""

_ROOM = 64  # tokens that a suffix grows by at least


class SuffixLayer(DynamicLayer):
    """One layer: prompts' keys and values (P, heads, T, size), and those of new tokens by row."""

    def __init__(self, prompt: DynamicLayer, rows: int) -> None:
        super().__init__()
        self.window = (
            int(prompt.sliding_window) if isinstance(prompt, DynamicSlidingWindowLayer) else None
        )
        self.prompt = [prompt.keys, prompt.values]
        self.dtype, self.device = prompt.keys.dtype, prompt.keys.device
        self.is_initialized = True
        self.length = 0  # new tokens
        shape = (rows, prompt.keys.shape[1], _ROOM, prompt.keys.shape[3])
        self._buffers = [prompt.keys.new_empty(shape), prompt.values.new_empty(shape)]
        self._rows = rows

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one token a row, (B, K, 1, D) each; returns the rows' new tokens, (B, K, t, D)."""
        if self.length == self._buffers[0].shape[2]:
            self._buffers = [self._enlarged(buffer) for buffer in self._buffers]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[: self._rows, :, self.length] = states[:, :, 0]
        self.length += 1
        self.keys, self.values = (b[: self._rows, :, : self.length] for b in self._buffers)
        return self.keys, self.values

    def _enlarged(self, buffer: torch.Tensor) -> torch.Tensor:
        rows, heads, length, size = buffer.shape
        larger = buffer.new_empty((rows, heads, length + max(_ROOM, length), size))
        larger[:, :, :length] = buffer
        return larger

    def get_seq_length(self) -> int:
        """Tokens held: the widest prompt and the new ones."""
        return int(self.prompt[0].shape[2]) + self.length

    def visible(self) -> tuple[int, int]:
        """First prompt slot and first new token that the newest token sees."""
        width = self.prompt[0].shape[2]
        if self.window is None:
            return 0, 0
        # Slots count alike for all rows: prompts are padded on the left.
        first = width + self.length - self.window
        return min(max(0, first), width), max(0, first - width)

    def move(self, moves: Sequence[tuple[int, int]], rows: int) -> None:
        """Copy rows (from, to) and forget those from ``rows`` on."""
        for source, target in moves:
            for buffer in self._buffers:
                buffer[target, :, : self.length] = buffer[source, :, : self.length]
        self._rows = rows


class SharedPrefixCache(Cache):
    """Cache of rows that share the prompts they continue."""

    def __init__(
        self,
        prompts: DynamicCache,
        mask: torch.Tensor,
        owner: Sequence[int],
        make_layer: Callable[[DynamicLayer, int], Any] = SuffixLayer,
    ) -> None:
        """Begin to continue prompts.

        Args:
            prompts: what a forward pass over the prompts left, left-padded.
            mask: (P, T) 1 where a prompt has a token.
            owner: the prompt of each row.
            make_layer: from a layer of ``prompts`` and the number of rows to one of this cache.
        """
        super().__init__(layers=[make_layer(layer, len(owner)) for layer in prompts.layers])
        self.padding = None if bool(mask.all()) else mask == 0  # (P, T)
        self._owner = list(owner)
        self._arrange()

    def _arrange(self) -> None:
        """Lay the rows out as a grid of (prompt, place), which reads each prompt once."""
        counts: dict[int, int] = {}
        places = []
        for prompt in self._owner:
            places.append(counts.get(prompt, 0))
            counts[prompt] = places[-1] + 1
        self.width = max(counts.values())
        num_prompts = int(self.layers[0].prompt[0].shape[0])
        slots = [
            prompt * self.width + place for prompt, place in zip(self._owner, places, strict=True)
        ]
        self.grid = num_prompts * self.width
        is_plain = slots == list(range(self.grid))
        device = self.layers[0].device
        self.slots = None if is_plain else torch.tensor(slots, device=device)  # (B,)

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these; the last ones move into the places that become free.

        Returns:
            The order of what is left: place i holds the row that was at ``order[i]``.
        """
        stays, count = set(rows), len(rows)
        tail = iter([row for row in rows if row >= count])
        order = [place if place in stays else next(tail) for place in range(count)]
        moves = [(row, place) for place, row in enumerate(order) if row != place]
        for layer in self.layers:
            layer.move(moves, count)
        self._owner = [self._owner[row] for row in order]
        self._drop_prompts()
        self._arrange()
        return order

    def _drop_prompts(self) -> None:
        """Forget prompts without rows once they are half of all."""
        used = sorted(set(self._owner))
        if 2 * len(used) > int(self.layers[0].prompt[0].shape[0]):
            return
        kept = torch.tensor(used, device=self.layers[0].device)
        for layer in self.layers:
            layer.prompt = [states[kept] for states in layer.prompt]
        if self.padding is not None:
            self.padding = self.padding[kept]
        place = {prompt: index for index, prompt in enumerate(used)}
        self._owner = [place[prompt] for prompt in self._owner]

    def hidden(self, layer: Any) -> torch.Tensor | None:
        """Mask (B or 1, T + t) of what a layer returns and the newest tokens do not see."""
        return None

    def by_prompt(self, rows: torch.Tensor) -> torch.Tensor:
        """Put rows together by prompt: (B, K, G, N) to (P, K, width * G, N)."""
        _, kv_heads, groups, last = rows.shape
        if self.slots is not None:
            empty = rows.new_zeros((self.grid, kv_heads, groups, last))
            rows = empty.index_copy_(0, self.slots, rows)
        prompts = self.grid // self.width
        grid = rows.view(prompts, self.width, kv_heads, groups, last).transpose(1, 2)
        return grid.reshape(prompts, kv_heads, self.width * groups, last)

    def by_row(self, grid: torch.Tensor) -> torch.Tensor:
        """Take rows back from their prompts: (P, K, width * G, N) to (B, K, G, N)."""
        prompts, kv_heads, places, last = grid.shape
        groups = places // self.width
        rows = grid.view(prompts, kv_heads, self.width, groups, last).transpose(1, 2)
        rows = rows.reshape(self.grid, kv_heads, groups, last)
        return rows if self.slots is None else rows[self.slots]


def shared_prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    shared_prefix: SharedPrefixCache,
    softcap: float | None = None,
    **ignored: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from one new token a row to its prompt and to its own earlier tokens.

    Args:
        module: the attention layer.
        query: (B, H, 1, D).
        key: (B, K, t, D) of the new tokens.
        value: as ``key``.
        attention_mask: not read; new tokens have no padding and the cache knows the prompts'.
        scaling: of the attention logits.
        shared_prefix: the cache.
        softcap: bound of the attention logits (Gemma-2).
        ignored: settings of other implementations.

    Returns:
        (B, 1, H, D) and None.
    """
    layer = shared_prefix.layers[module.layer_idx]
    first_slot, first_new = layer.visible()
    rows, heads, _, size = query.shape
    kv_heads = key.shape[1]
    prompt_keys, prompt_values = (states[:, :, first_slot:] for states in layer.prompt)
    slots = prompt_keys.shape[2]
    asked = (query * scaling).view(rows, kv_heads, heads // kv_heads, size)  # (B, K, G, D)
    logits = _bounded(asked @ key[:, :, first_new:].transpose(-1, -2), softcap)  # (B, K, G, t)
    if slots:  # a sliding window may have left the prompts behind
        on_prompt = shared_prefix.by_prompt(asked) @ prompt_keys.transpose(-1, -2)
        on_prompt = _bounded(on_prompt, softcap)
        if shared_prefix.padding is not None:
            # After the cap, which would bring minus infinity back to a finite logit. A sliding
            # layer holds the last slots of the prompts only.
            hidden = shared_prefix.padding[:, shared_prefix.padding.shape[1] - slots :]
            on_prompt = on_prompt.masked_fill(hidden[:, None, None], float("-inf"))
        logits = torch.cat([shared_prefix.by_row(on_prompt), logits], dim=-1)  # (B, K, G, T + t)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if (unseen := shared_prefix.hidden(layer)) is not None:
        logits = logits.masked_fill(unseen[:, None, None], float("-inf"))
    weights = torch.softmax(logits, dim=-1).to(query.dtype)
    output = weights[..., slots:] @ value[:, :, first_new:]  # (B, K, G, D)
    if slots:
        on_prompt = shared_prefix.by_prompt(weights[..., :slots]) @ prompt_values
        output = output + shared_prefix.by_row(on_prompt)
    return output.reshape(rows, 1, heads, size), None


def _bounded(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Bound logits softly; before any masking, since a bounded -inf would be seen again."""
    if softcap is None:
        return logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.tanh(wide / softcap) * softcap


AttentionInterface.register(ATTENTION, shared_prefix_attention)


@contextmanager
def shared_attention(causal_lm: Any) -> Iterator[None]:
    """Let a model's layers attend by :func:`shared_prefix_attention`."""
    config = causal_lm.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before
