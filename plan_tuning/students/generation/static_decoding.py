"""Decoding by steps of one shape, which CUDA can record once and replay without the host.

A step reads the last token of every row, appends its keys and values to buffers, chooses the next
token and writes it down, all on the device. The place in the buffers is a tensor; what lies behind
it is masked, not cut off. The host looks every ``CHECK_EVERY`` steps: it drops finished rows once
half of them are or others can take their places, and doubles the buffers that are full. Either
gives the step new shapes, so it is recorded anew. On a CPU the same step runs as it is, which is
how the tests prove it equal to :class:`plan_tuning.students.generation.decoders.SharedDecoder` up
to rounding in sums over masked places.

What the step assumes of transformers 5.23, read in the source of the families: with an
attention implementation that has no mask function, mask creation returns at once
(``_preprocess_mask_arguments``) and neither the cache's length nor its offsets are asked for;
``position_ids`` are given, so ``get_seq_length`` is not called; the rotary embedding computes from
``position_ids`` on the device, except with ``rope_type="dynamic"``, which compares them on the host
and is refused here (``longrope`` chooses on the device, in place); the key-value cache is touched
by ``update`` alone; output recording and hub kernels are off unless asked for. Weights may change
between calls, in place or not: a recording lives no longer than a call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from plan_tuning.students.generation import sampling
from plan_tuning.students.generation.cohorts import Cohort
from plan_tuning.students.generation.cuda_graphs import RepeatedStep
from plan_tuning.students.generation.decoders import CohortDecoder, newest
from plan_tuning.students.generation.sequences import GenerationError, Row, Settings, extend
from plan_tuning.students.generation.shared_prefix import FAMILIES, shared_attention
from plan_tuning.students.generation.static_cache import StaticCohort
from plan_tuning.students.loading import Student

CHECK_EVERY = 16  # steps between two looks of the host
FIRST_ROOM = 256  # new tokens that there is room for at first; it doubles when they are full
_ROUND = 16  # buffers hold a multiple of so many tokens


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


class StaticDecoder(CohortDecoder):
    """Writes rows by steps that are all alike until rows join or leave."""

    cohort_class = StaticCohort
    most_cohorts = 2  # every further one adds kernels to each layer of a step

    def __init__(self, student: Student, settings: Settings, budget: int) -> None:
        """Begin without rows, as :class:`CohortDecoder`."""
        super().__init__(student, settings, budget)
        self._repeated = RepeatedStep(self._step, student.device)

    def first_capacity(self, needed: int) -> int:
        """Room for new tokens that rows begin with."""
        return min(FIRST_ROOM, _rounded(needed))

    def next_capacity(self, cohort: Cohort) -> int:
        """Room for new tokens once a cohort's is full."""
        live = [row for row in cohort.rows if not row.is_over]
        if not live:
            return cohort.capacity
        return min(2 * cohort.capacity, _rounded(cohort.length + self._needed(live)))

    def leave(self, *, at_once: bool = False) -> None:
        """Let rows that are over go; not ``at_once``: once they are half of all."""
        rows = self.rows
        live = sum(not row.is_over for row in rows)
        if live < len(rows) and (at_once or 2 * live <= len(rows)):
            super().leave(at_once=True)

    def rearranged(self) -> None:
        """Make what steps read and write, at places that stay; what was recorded is void."""
        self._repeated.forget()
        if not (rows := self.rows):
            return
        device = self.student.device
        self._tokens, self._positions = newest(rows, device)  # (B,) both
        self._tick = torch.zeros(1, dtype=torch.long, device=device)  # steps since the last look
        shape = (CHECK_EVERY, len(rows))
        self._written = self._tokens.new_zeros(shape)
        self._log_probs: torch.Tensor | None = None
        if self.settings.return_log_probs:
            self._log_probs = torch.zeros(shape, device=device)
        self._uniforms: torch.Tensor | None = None
        if self.settings.temperature:
            self._uniforms = torch.zeros(shape, dtype=torch.float64, device=device)

    def write(self) -> list[Row]:
        """Give every row its next tokens; returns the rows that are over."""
        self.grow()
        rows = self.rows
        live = [row for row in rows if not row.is_over]
        left = min(self._needed(live), *(one.capacity - one.length for one in self.cohorts))
        steps = min(CHECK_EVERY, left)
        self._draw(rows, steps)
        self._tick.zero_()
        self._repeated.run(steps, left)
        for cohort in self.cohorts:
            cohort.length += steps
        written = self._written[:steps].T.tolist()
        log_probs: list[Any] = [None] * len(rows)
        if self._log_probs is not None:
            log_probs = self._log_probs[:steps].T.tolist()
        for row, tokens, values in zip(rows, written, log_probs, strict=True):
            if not row.is_over:
                extend(self.student, row, tokens, values, self.settings)
        return [row for row in live if row.is_over]

    def _draw(self, rows: list[Row], steps: int) -> None:
        """Give every row the very numbers that single draws would give."""
        if self._uniforms is None:
            return
        still = np.zeros(steps)
        noise = [
            still if row.is_over or row.noise is None else row.noise.random(steps) for row in rows
        ]
        self._uniforms[:steps].copy_(torch.from_numpy(np.stack(noise, axis=1)))

    def _step(self) -> None:
        """Read every row's newest token and choose the next; captured, so see ``cuda_graphs``."""
        model, settings = self.student.causal_lm, self.settings
        for cohort in self.cohorts:
            cohort.look()
        with shared_attention(model):
            output = model(
                input_ids=self._tokens[:, None],
                position_ids=self._positions[:, None],
                past_key_values=self._cache,
                use_cache=True,
                shared_prefix=self._cache,
            )
        for cohort in self.cohorts:
            cohort.step()
        logits, uniforms = output.logits[:, -1], None
        if self._uniforms is not None:
            uniforms = self._uniforms.index_select(0, self._tick)[0]
        tokens = sampling.choose(
            logits,
            uniforms,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
        )
        self._positions.add_(1)
        self._tokens.copy_(tokens)
        self._written.index_copy_(0, self._tick, tokens[None])
        if self._log_probs is not None:
            values = sampling.token_log_probs(logits, tokens, temperature=settings.temperature)
            self._log_probs.index_copy_(0, self._tick, values[None])
        self._tick.add_(1)


def _rounded(tokens: int) -> int:
    return -(-tokens // _ROUND) * _ROUND
