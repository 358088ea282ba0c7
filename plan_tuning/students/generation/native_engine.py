"""Prompts to completions: the native inference engine, batched on the model's key-value cache.

Every distinct prompt is read once and its cache is expanded to its samples; rows that are finished
leave the batch; a row's tokens depend on (seed, problem, sample) and not on its neighbours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from transformers import DynamicCache

from plan_tuning import interruption
from plan_tuning.records import Completion
from plan_tuning.students.generation import sampling
from plan_tuning.students.generation.decoders import decoder_for
from plan_tuning.students.generation.sequences import GenerationError, Row, Settings, has_ended
from plan_tuning.students.generation.static_decoding import StaticDecoder, is_static
from plan_tuning.students.loading import Student

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (finished rows, generated tokens) whenever a batch is done."""


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
        batch_tokens: cached tokens (prompt + new, padded) of rows that are decoded at once.
        decoding: dynamic; static (fixed shapes, CUDA graphs on CUDA); auto: static on CUDA where
            the family allows it.
        progress: told about every finished batch.

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
    done: list[Completion | None] = [None] * len(prompts)
    start, tokens, finished = time.perf_counter(), 0, 0
    was_training = {module: module.training for module in student.model.modules()}
    student.model.eval()
    try:
        with torch.inference_mode():
            for batch in _batches(prompts, max_new_tokens, batch_tokens):
                rows = _decode(student, batch, prompts, keys, seed, settings)
                for row in rows:
                    done[row.index] = _completion(student, row, len(prompts[row.index]))
                    tokens += len(row.tokens)
                finished += len(rows)
                if progress is not None:
                    progress(finished, tokens)
    finally:
        for module, mode in was_training.items():
            module.training = mode
    seconds = time.perf_counter() - start
    logger.debug("%d completions, %d tokens, %.0f tokens/s", finished, tokens, tokens / seconds)
    return [completion for completion in done if completion is not None]


def _batches(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_tokens: int
) -> Iterator[list[list[int]]]:
    """Yield groups of row indices, one list per distinct prompt, sorted by prompt length.

    A batch's rows times (longest prompt + new tokens) stay under the budget; one row always fits.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(index)
    batch: list[list[int]] = []
    count = 0
    # The longest first: what does not fit into memory fails at once and not after an hour.
    for prompt, indices in sorted(groups.items(), key=lambda item: -len(item[0])):
        longest = len(prompts[batch[0][0]]) if batch else len(prompt)
        capacity = max(1, batch_tokens // (longest + max_new_tokens))
        for first in range(0, len(indices), capacity):
            part = indices[first : first + capacity]
            if batch and count + len(part) > capacity:
                yield batch
                batch, count = [], 0
                capacity = max(1, batch_tokens // (len(prompt) + max_new_tokens))
            batch.append(part)
            count += len(part)
    if batch:
        yield batch


def _decode(
    student: Student,
    batch: list[list[int]],
    prompts: Sequence[Sequence[int]],
    keys: Sequence[tuple[str, int]],
    seed: int,
    settings: Settings,
) -> list[Row]:
    """Read the batch's prompts and write until every row has ended."""
    logits, prompt_cache, mask = _prefill(student, [prompts[part[0]] for part in batch])
    rows = [
        Row(index, sampling.row_generator(seed, *keys[index]) if settings.temperature else None)
        for part in batch
        for index in part
    ]
    owner = [place for place, part in enumerate(batch) for _ in part]
    if settings.is_static:
        StaticDecoder(student, prompt_cache, mask, owner, rows, settings).write(logits)
        return rows
    origin = torch.tensor(owner, device=student.device)
    lengths, logits = mask.sum(dim=1)[origin], logits[origin]  # (B,) tokens read, (B, V)
    decoder = decoder_for(student.causal_lm, prompt_cache, mask, owner)
    live = rows
    for step in range(settings.max_new_tokens):
        interruption.check()
        tokens = _extend(live, logits, settings)
        ended = [has_ended(student, row, settings) for row in live]
        if step + 1 == settings.max_new_tokens or all(ended):
            break
        if any(ended):
            order = decoder.keep([place for place, is_over in enumerate(ended) if not is_over])
            live = [live[place] for place in order]
            kept = torch.tensor(order, device=student.device)
            lengths, tokens = lengths[kept], tokens[kept]
        logits = decoder.next_logits(tokens, lengths)
        lengths = lengths + 1
    return rows


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


def _extend(rows: list[Row], logits: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Give every row its next token; returns them, (B,)."""
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
    for row, token in zip(rows, tokens.tolist(), strict=True):
        row.tokens.append(token)
    if settings.return_log_probs:
        values = sampling.token_log_probs(logits, tokens, temperature=settings.temperature)
        for row, value in zip(rows, values.tolist(), strict=True):
            row.log_probs.append(value)
    return tokens


def _completion(student: Student, row: Row, prompt_tokens: int) -> Completion:
    text = student.tokenizer.decode(row.tokens, skip_special_tokens=True)
    return Completion(
        text=text,
        token_ids=tuple(row.tokens),
        finish_reason=row.finish_reason,
        prompt_tokens=prompt_tokens,
        log_probs=tuple(row.log_probs),
    )
