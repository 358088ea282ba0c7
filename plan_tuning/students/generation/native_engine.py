"""Prompts to completions: the native inference engine, batched on the model's key-value cache.

Every distinct prompt is read once and shared by its samples. Rows join as there is memory for what
they use, not for the longest completion allowed, and others take the places of those that end. A
row's tokens depend on (seed, problem, sample) and not on its neighbours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from transformers import DynamicCache

from plan_tuning import interruption
from plan_tuning.records import Completion
from plan_tuning.students import onednn
from plan_tuning.students.generation import sampling
from plan_tuning.students.generation.admission import Group, Lengths, Waiting
from plan_tuning.students.generation.decoders import Decoder, choose_next, decoder_for
from plan_tuning.students.generation.sequences import GenerationError, Row, Settings
from plan_tuning.students.generation.static_decoding import StaticDecoder, is_static
from plan_tuning.students.loading import Student

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (finished rows, their tokens) whenever rows end."""

_SET_ASIDE = 8  # one row in so many is set aside where memory is short


def generate(
    student: Student,
    prompts: Sequence[Sequence[int]],
    *,
    keys: Sequence[tuple[str, int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 42,
    stop_strings: Sequence[str] = (),
    return_log_probs: bool = False,
    batch_tokens: int = 16384,
    decoding: str = "auto",
    progress: Progress | None = None,
) -> list[Completion]:
    """Continue every prompt.

    Args:
        student: whose words.
        prompts: token ids; equal prompts are read once.
        keys: (problem id, sample) of each prompt: the address of its noise.
        max_new_tokens: longest completion, end-of-text token included.
        temperature: 0 is greedy.
        top_p: nucleus; 1 is off.
        top_k: most probable tokens; 0 is off.
        seed: of the noise.
        stop_strings: a completion ends with the first of these that appears, which stays in it.
        return_log_probs: keep the log-probability of each token at the sampling temperature
            (before top-k and top-p).
        batch_tokens: tokens (prompts and new, with padding) that the cache has memory for; a
            single row may exceed it.
        decoding: dynamic; static (fixed shapes, CUDA graphs on CUDA); auto: static on CUDA where
            the family allows it.
        progress: told whenever rows end.

    Returns:
        Completions in the order of ``prompts``.

    Raises:
        GenerationError: a prompt is empty, keys and prompts do not pair up, or the student cannot
            be decoded as asked.
    """
    if len(keys) != len(prompts):
        raise GenerationError(f"{len(prompts)} prompts need as many keys, not {len(keys)}")
    if any(not prompt for prompt in prompts):
        raise GenerationError("an empty prompt cannot be continued")
    settings = Settings(
        max_new_tokens,
        temperature,
        top_p,
        top_k,
        tuple(stop_strings),
        return_log_probs,
        is_static(student, decoding),
    )
    rows = [
        Row(index, tuple(prompt), sampling.row_generator(seed, *key) if temperature else None)
        for index, (prompt, key) in enumerate(zip(prompts, keys, strict=True))
    ]
    done: list[Completion | None] = [None] * len(prompts)
    start, tokens, finished = time.perf_counter(), 0, 0
    was_training = {module: module.training for module in student.model.modules()}
    student.model.eval()
    try:
        with torch.inference_mode(), onednn.linears(student.model):
            for ended in _Call(student, settings, rows, batch_tokens).run():
                for row in ended:
                    done[row.index] = _completion(student, row)
                    tokens += len(row.tokens)
                finished += len(ended)
                if progress is not None:
                    progress(finished, tokens)
    finally:
        for module, mode in was_training.items():
            module.training = mode
    seconds = time.perf_counter() - start
    logger.debug("%d completions, %d tokens, %.0f tokens/s", finished, tokens, tokens / seconds)
    return [completion for completion in done if completion is not None]


class _Call:
    """The rows of one call on their way from the queue to their ends."""

    def __init__(
        self, student: Student, settings: Settings, rows: Sequence[Row], budget: int
    ) -> None:
        self._student, self._settings, self._budget = student, settings, budget
        self._decoder: Decoder = (
            StaticDecoder(student, settings, budget)
            if settings.is_static
            else decoder_for(student, settings, budget)
        )
        self._waiting = Waiting(rows, budget, shares_prompts=self._decoder.shares_prompts)
        self._lengths = Lengths(settings.max_new_tokens)

    def run(self) -> Iterator[list[Row]]:
        """Write until every row has ended; yields those that end together."""
        while self._waiting or self._decoder.rows:
            interruption.check()
            yield from self._admit()
            if not self._decoder.rows:
                continue
            self._make_room()
            yield from self._told(self._decoder.rows, self._decoder.write)
            self._decoder.leave()

    def _told(self, rows: Sequence[Row], write: Callable[[], list[Row]]) -> Iterator[list[Row]]:
        """Let rows be written on, and count; yields those that end."""
        before = sum(len(row.tokens) for row in rows)
        ended = write()
        self._lengths.tell(sum(len(row.tokens) for row in rows) - before, len(ended))
        if ended:
            yield ended

    def _admit(self) -> Iterator[list[Row]]:
        """Read the prompts of waiting rows, pass by pass, as long as there is memory for them."""
        decoder, is_first = self._decoder, True
        while decoder.takes_more:
            expected = self._lengths.expected
            used = decoder.cells_expected(expected)
            if is_first and not self._waiting.has_room(used, expected):
                return
            groups = self._waiting.take(used, expected, is_empty=not decoder.rows)
            if not groups:
                return
            if is_first:
                decoder.leave(at_once=True)
            is_first = False
            yield from self._read(groups)

    def _read(self, groups: Sequence[Group]) -> Iterator[list[Row]]:
        """Read the texts of groups and write one token a row; yields rows that end with it."""
        texts = [group.text for group in groups]
        coming = max(map(len, texts)) * len(texts)
        coming += sum(len(group.rows) for group in groups) * self._lengths.expected
        if self._decoder.num_cells() + coming > self._budget:
            self._decoder.shrink()
        logits, cache, mask = _prefill(self._student, texts)
        owners = [place for place, group in enumerate(groups) for _ in group.rows]
        rows = [row for group in groups for row in group.rows]
        origin = torch.tensor(owners, device=self._student.device)

        def choose() -> list[Row]:
            choose_next(self._student, rows, logits[origin], self._settings)
            return [row for row in rows if row.is_over]

        yield from self._told(rows, choose)
        stay = [place for place, row in enumerate(rows) if not row.is_over]
        if stay:
            self._decoder.join(
                cache, mask, [owners[place] for place in stay], [rows[place] for place in stay]
            )

    def _make_room(self) -> None:
        """Set rows aside until there is memory for the next tokens of the others."""
        decoder = self._decoder
        if decoder.cells_ahead() <= self._budget:
            return
        decoder.leave(at_once=True)
        decoder.shrink()
        while decoder.cells_ahead() > self._budget and len(decoder.rows) > 1:
            self._waiting.put_back(decoder.set_aside(1 + len(decoder.rows) // _SET_ASIDE))
            decoder.shrink()


def _prefill(
    student: Student, prompts: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, DynamicCache, torch.Tensor]:
    """Read prompts, padded on the left; logits of what follows (B, V), cache, mask (B, T)."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), student.pad_id)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for place, prompt in enumerate(prompts):
        ids[place, longest - len(prompt) :] = torch.tensor(prompt)
        mask[place, longest - len(prompt) :] = 1
    ids, mask = ids.to(student.device), mask.to(student.device)
    model = student.causal_lm
    cache = DynamicCache(config=model.config)
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1], cache, mask


def _completion(student: Student, row: Row) -> Completion:
    text = student.tokenizer.decode(row.tokens, skip_special_tokens=True)
    return Completion(
        text=text,
        token_ids=tuple(row.tokens),
        finish_reason=row.finish_reason,
        prompt_tokens=len(row.prompt),
        log_probs=tuple(row.log_probs),
    )
