"""Decoding by steps of one shape, which CUDA can record once and replay without the host.

A step reads the last token of every row, appends its keys and values to buffers that were made for
all of the completion, chooses the next token and writes it down, all on the device. The place in
the buffers is a tensor; what lies behind it is masked, not cut off. The host looks every
``CHECK_EVERY`` steps: it drops finished rows once half of them are, and lets attention reach
further into the buffers once the tokens fill what it reads. Either gives the step new shapes, so it
is recorded anew. On a CPU the same step runs as it is, which is how the tests prove it equal to the
loop of :mod:`plan_tuning.students.generation.native_engine` up to rounding in sums over masked
places.

What the step assumes of transformers 5.23, read in the source of ``cache.FAMILIES``: with an
attention implementation that has no mask function, mask creation returns at once
(``_preprocess_mask_arguments``) and neither the cache's length nor its offsets are asked for;
``position_ids`` are given, so ``get_seq_length`` is not called; the rotary embedding computes from
``position_ids`` on the device, except with ``rope_type="dynamic"``, which compares them on the host
and is refused here (``longrope`` chooses on the device, in place); the key-value cache is touched
by ``update`` alone; output recording and hub kernels are off unless asked for. Weights may change
between calls, in place or not: a recording lives no longer than a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from plan_tuning.students.generation import sampling
from plan_tuning.students.generation.cuda_graphs import RepeatedStep
from plan_tuning.students.generation.sequences import GenerationError, Row, Settings, has_ended
from plan_tuning.students.generation.shared_prefix import FAMILIES, shared_attention
from plan_tuning.students.generation.static_cache import StaticPrefixCache
from plan_tuning.students.loading import Student

CHECK_EVERY = 16  # steps between two looks of the host


def is_static(student: Student, decoding: str) -> bool:
    """Say whether a student is decoded by static steps.

    Args:
        student: who writes.
        decoding: dynamic, static, or auto: static on CUDA where the student allows it.

    Raises:
        GenerationError: static steps are asked for, and this student cannot be run by them.
    """
    if decoding == "dynamic":
        return False
    config = student.causal_lm.config.get_text_config()
    obstacle = None
    if config.model_type not in FAMILIES:
        obstacle = f"model type {config.model_type} is none of {', '.join(FAMILIES)}"
    elif "dynamic" in _rope_types(config):
        obstacle = "its rotary embedding (rope_type=dynamic) is computed on the host"
    if decoding == "static" and obstacle is not None:
        raise GenerationError(
            f"decoding=static cannot run this student: {obstacle}. Use evaluation.decoding=dynamic "
            "(GRPO's rollouts: method.decoding=dynamic)"
        )
    if decoding == "static":
        return True
    # Four-bit layers bring kernels that nobody has promised to be recordable.
    is_quantised = getattr(student.causal_lm, "is_quantized", False)
    return student.device.type == "cuda" and obstacle is None and not is_quantised


def _rope_types(config: Any) -> set[str]:
    """Collect the kinds of rotary embedding, which may differ by the kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    kinds = [found, *(part for part in found.values() if isinstance(part, dict))]
    return {str(kind["rope_type"]) for kind in kinds if "rope_type" in kind}


class StaticDecoder:
    """Writes the rows of a batch to their ends."""

    def __init__(
        self,
        student: Student,
        prompts: DynamicCache,
        mask: torch.Tensor,
        owner: Sequence[int],
        rows: Sequence[Row],
        settings: Settings,
    ) -> None:
        """Make the buffers.

        Args:
            student: who writes.
            prompts: cache of the left-padded prompts.
            mask: (P, T) 1 where a prompt has a token.
            owner: prompt of each row.
            rows: the completions; they receive what is written.
            settings: of the writing.
        """
        device, count, steps = student.device, len(rows), settings.max_new_tokens
        self._student, self._settings = student, settings
        self._rows = list(rows)
        self._cache = StaticPrefixCache(prompts, mask, owner, steps - 1)
        self._origin = torch.tensor(list(owner), device=device)
        self._lengths = mask.sum(dim=1)[self._origin]  # (B,) tokens read
        self._tokens = self._lengths.new_zeros(count)  # (B,) the newest
        self._ended = torch.zeros(count, dtype=torch.bool, device=device)
        self._counts = self._lengths.new_zeros(count)  # (B,) tokens up to the end
        self._written = self._lengths.new_zeros((steps, count))
        self._log_probs: torch.Tensor | None = None  # (S, B)
        if settings.return_log_probs:
            self._log_probs = torch.zeros((steps, count), device=device)
        self._uniforms: torch.Tensor | None = None  # (S, B)
        if settings.temperature:  # the very numbers that single draws would give
            noise = np.stack([row.noise.random(steps) for row in rows if row.noise is not None])
            self._uniforms = torch.from_numpy(noise.T.copy()).to(device)
        self._ends = torch.tensor(student.end_ids, dtype=torch.long, device=device)
        self._searched = 0  # tokens of each row in which stop strings have been looked for
        self._repeated = RepeatedStep(self._step, device)

    def write(self, logits: torch.Tensor) -> None:
        """Write until every row has ended.

        Args:
            logits: (P, V) of what follows the prompts.
        """
        self._choose(logits[self._origin])
        limit, done = self._settings.max_new_tokens, 1
        while (alive := self._look(done)) and done < limit:
            # What has been written but the newest is in the cache.
            is_full = done > self._cache.reach
            few = 2 * len(alive) <= len(self._rows)
            if few or is_full:
                self._repeated.forget()
            if few or (is_full and len(alive) < len(self._rows)):
                self._keep(alive, done)
            if is_full:
                self._cache.reach_further()
            left = min(limit, self._cache.reach + 1) - done
            count = min(CHECK_EVERY, left)
            self._repeated.run(count, left)
            done += count
        self._collect(range(len(self._rows)), done)

    def _step(self) -> None:
        """Read every row's newest token and choose the next; captured, so see ``graphs``."""
        self._cache.look()
        model = self._student.causal_lm
        with shared_attention(model):
            output = model(
                input_ids=self._tokens[:, None],
                position_ids=self._lengths[:, None],
                past_key_values=self._cache,
                use_cache=True,
                shared_prefix=self._cache,
            )
        self._lengths.add_(1)
        self._cache.place.add_(1)
        self._choose(output.logits[:, -1])

    def _choose(self, logits: torch.Tensor) -> None:
        """Choose and write down every row's token number ``place`` from logits (B, V)."""
        place, settings = self._cache.place, self._settings
        uniforms = None if self._uniforms is None else self._uniforms.index_select(0, place)[0]
        tokens = sampling.choose(
            logits,
            uniforms,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
        )
        self._tokens.copy_(tokens)
        self._written.index_copy_(0, place, tokens[None])
        if self._log_probs is not None:
            values = sampling.token_log_probs(logits, tokens, temperature=settings.temperature)
            self._log_probs.index_copy_(0, place, values[None])
        self._counts.add_(~self._ended)
        self._ended.logical_or_((tokens[:, None] == self._ends).any(dim=1))

    def _look(self, done: int) -> list[int]:
        """Ask the device once which rows go on; returns their places."""
        if not self._settings.stop_strings:
            return [place for place, is_over in enumerate(self._ended.tolist()) if not is_over]
        fresh = self._written[self._searched : done].T.tolist()
        self._searched = done
        for row, tokens in zip(self._rows, fresh, strict=True):
            if row.finish_reason == "length":
                self._search(row, tokens)
        return [place for place, row in enumerate(self._rows) if row.finish_reason == "length"]

    def _search(self, row: Row, tokens: Sequence[int]) -> None:
        """Give a row its new tokens up to the one that ends it, each looked at as it came."""
        for token in tokens:
            row.tokens.append(token)
            if has_ended(self._student, row, self._settings):
                return

    def _keep(self, alive: Sequence[int], done: int) -> None:
        """Let all rows but these go."""
        stays = set(alive)
        self._collect([place for place in range(len(self._rows)) if place not in stays], done)
        order = self._cache.keep(alive)
        self._rows = [self._rows[place] for place in order]
        kept = torch.tensor(order, device=self._tokens.device)
        self._lengths, self._tokens = self._lengths[kept], self._tokens[kept]
        self._ended, self._counts = self._ended[kept], self._counts[kept]
        self._written = self._written[:, kept]
        if self._log_probs is not None:
            self._log_probs = self._log_probs[:, kept]
        if self._uniforms is not None:
            self._uniforms = self._uniforms[:, kept]

    def _collect(self, places: Sequence[int], done: int) -> None:
        """Give rows what was written for them, up to their ends."""
        chosen = torch.tensor(list(places), device=self._tokens.device)
        written = self._written[:done, chosen].T.tolist()
        counts = self._counts[chosen].tolist()
        rows = [self._rows[place] for place in places]
        if not self._settings.stop_strings:
            for row, tokens, count in zip(rows, written, counts, strict=True):
                row.tokens = tokens[:count]
                has_ended(self._student, row, self._settings)  # for the reason
        if self._log_probs is not None:
            log_probs = self._log_probs[:done, chosen].T.tolist()
            for row, values in zip(rows, log_probs, strict=True):
                row.log_probs = values[: len(row.tokens)]
