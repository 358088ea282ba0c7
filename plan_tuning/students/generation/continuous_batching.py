"""Prompts to completions by transformers' continuous batching: an engine for evaluation.

Rows enter and leave a paged cache while others go on, as those of
:func:`plan_tuning.students.generation.native_engine.generate` do; this is the same work by an
implementation that shares no line with it. Greedy decoding is the same up to rounding. Sampled
tokens come from one stream of random numbers, so with a temperature a row's text depends on the
rows around it: other content than the native engine's, which is why it is a choice of its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from plan_tuning.records import Completion
from plan_tuning.students.generation.sequences import GenerationError
from plan_tuning.students.loading import Student

logger = logging.getLogger(__name__)

_PAGE_TOKENS = 256
_LOGGER = "transformers.generation.continuous_batching"  # its loop reports every start and stop


def generate_continuously(
    student: Student,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int,
    batch_tokens: int,
    progress: Callable[[int, int], None],
) -> list[Completion]:
    """Continue every prompt; see :func:`plan_tuning.students.generation.native_engine.generate`.

    Args:
        student: whose words; an adapter has to be merged before.
        prompts: token ids.
        max_new_tokens: longest completion, end-of-text token included.
        temperature: 0 is greedy.
        top_p: nucleus; 1 is off.
        top_k: most probable tokens; 0 is off.
        seed: of the whole call.
        batch_tokens: tokens that the cache holds.
        progress: told once, at the end.

    Returns:
        Completions in the order of ``prompts``.

    Raises:
        GenerationError: a prompt is empty, or a completion failed or is missing.
    """
    from transformers import ContinuousBatchingConfig, GenerationConfig

    if any(not prompt for prompt in prompts):
        raise GenerationError("an empty prompt cannot be continued")
    if not prompts:
        return []
    sampled: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampled = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    longest = max(len(prompt) for prompt in prompts) + max_new_tokens
    pages = math.ceil(max(batch_tokens, longest) / _PAGE_TOKENS) + 1
    model = student.causal_lm
    modes = {module: module.training for module in model.modules()}
    attention = model.config._attn_implementation
    engine = logging.getLogger(_LOGGER)
    level = engine.level
    engine.setLevel(logging.ERROR)
    try:
        outputs = model.generate_batch(
            inputs=[list(prompt) for prompt in prompts],
            generation_config=GenerationConfig(
                max_new_tokens=max_new_tokens,
                eos_token_id=list(student.end_ids),
                pad_token_id=student.pad_id,
                **sampled,
            ),
            # Without a size it takes most of the free memory for its cache.
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=_PAGE_TOKENS, num_blocks=pages, seed=seed
            ),
            progress_bar=False,
        )
    finally:
        engine.setLevel(level)
        model.set_attn_implementation(attention)
        for module, mode in modes.items():
            module.training = mode
    # A request that failed is only logged there.
    completions = [
        _completion(student, output, prompt, max_new_tokens)
        for output, prompt in zip(outputs.values(), prompts, strict=False)
    ]
    if len(completions) != len(prompts):
        raise GenerationError(
            f"continuous batching returned {len(completions)} of {len(prompts)} completions; use "
            "evaluation.engine=native, or give it more room by evaluation.batch_tokens"
        )
    progress(len(completions), sum(len(c.token_ids) for c in completions))
    return completions


def _completion(
    student: Student, output: Any, prompt: Sequence[int], max_new_tokens: int
) -> Completion:
    tokens = [int(token) for token in output.generated_tokens]
    has_stopped = bool(tokens) and tokens[-1] in student.end_ids
    if output.error or list(output.prompt_ids) != list(prompt) or not tokens:
        raise GenerationError(f"continuous batching failed on a prompt: {output.error}")
    if not has_stopped and len(tokens) < max_new_tokens:
        raise GenerationError(
            f"continuous batching cut a completion after {len(tokens)} of {max_new_tokens} tokens: "
            "raise evaluation.batch_tokens, or use evaluation.engine=native"
        )
    return Completion(
        text=student.tokenizer.decode(tokens, skip_special_tokens=True),
        token_ids=tuple(tokens),
        finish_reason="stop" if has_stopped else "length",
        prompt_tokens=len(prompt),
    )
