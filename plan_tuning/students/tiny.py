"""Random students of real families, small enough for tests: a folder like any pretrained model.

Each keeps the quirks of its family's chat template: Gemma-3 has no system role and two ids that
end a text, Qwen3 a thinking switch, Llama-3 a begin-of-text token and no padding token. Tokenizers
are trained here, on text of our own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plan_tuning.students.loading import without_bars

VOCABULARY_SIZE = 1024
_MAX_POSITIONS = 4096

_GEMMA3 = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_QWEN3 = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
_LLAMA = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# family: chat template; special tokens by role; further special tokens; ids that end a text
_FAMILIES: dict[str, dict[str, Any]] = {
    "gemma3": {
        "template": _GEMMA3,
        "roles": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        "more": ["<start_of_turn>", "<end_of_turn>"],
        "ends": ["<eos>", "<end_of_turn>"],
    },
    "qwen3": {
        "template": _QWEN3,
        "roles": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "more": ["<|im_start|>"],
        "ends": ["<|im_end|>", "<|endoftext|>"],
    },
    "llama": {
        "template": _LLAMA,
        "roles": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
        "more": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "ends": ["<|end_of_text|>", "<|eot_id|>"],
    },
}


class TinyError(ValueError):
    """A family that has no tiny configuration."""


def make_tiny(folder: Path, family: str, seed: int) -> dict[str, Any]:
    """Write a random student of ``family`` into ``folder``.

    Args:
        folder: receives config, weights, tokenizer, chat template and generation config.
        family: gemma3, qwen3 or llama.
        seed: of the weights; the tokenizer is always the same.

    Returns:
        Facts: parameters, vocabulary size.

    Raises:
        TinyError: the family is unknown.
    """
    model, tokenizer = build_tiny(family, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with without_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "family": family,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
    }


def build_tiny(family: str, seed: int) -> tuple[Any, Any]:
    """Make the model and the tokenizer of :func:`make_tiny` in memory.

    Raises:
        TinyError: the family is unknown.
    """
    import torch
    from transformers import GenerationConfig

    if family not in _FAMILIES:
        raise TinyError(
            f"model.family={family} has no tiny configuration: choose one of "
            f"{', '.join(_FAMILIES)}, for example model=tiny_qwen3"
        )
    tokenizer = build_tokenizer(family)
    ends = tokenizer.convert_tokens_to_ids(_FAMILIES[family]["ends"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build_model(family, tokenizer, ends)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model, tokenizer


def build_tokenizer(family: str) -> Any:
    """Train the family's byte-level BPE tokenizer on sentences of our own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    settings = _FAMILIES[family]
    special = [*settings["roles"].values(), *settings["more"]]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_sentences(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        extra_special_tokens=settings["more"],
        padding_side="left",
        model_max_length=_MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        **settings["roles"],
    )
    tokenizer.chat_template = settings["template"]
    return tokenizer


def _build_model(family: str, tokenizer: Any, ends: list[int]) -> Any:
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    shared: dict[str, Any] = {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": _MAX_POSITIONS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": ends,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "gemma3":
        layers = ["sliding_attention", "full_attention"]
        return Gemma3ForCausalLM(
            Gemma3TextConfig(
                **shared, sliding_window=16, layer_types=layers, query_pre_attn_scalar=16
            )
        )
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**shared, tie_word_embeddings=True))
    return LlamaForCausalLM(LlamaConfig(**shared, tie_word_embeddings=False))


def _sentences() -> Iterator[str]:
    """Make the text that the tokenizers are trained on: sums, plans and solutions, seeded."""
    draw = random.Random(0)
    names = ("Ada", "Ben", "Chloe", "Dev", "Ella", "Farid", "Grace", "Hugo")
    things = ("apples", "pages", "dollars", "hours", "boxes", "tickets", "miles", "cups")
    verbs = ("buys", "gives away", "finds", "sells", "reads", "needs", "collects", "shares")
    steps = (
        "Find the number of {b}.",
        "Multiply the price by the number of {b}.",
        "Add both amounts.",
        "Subtract what {a} {v} from the total.",
        "Divide the total by {n} and state the answer.",
    )
    for _ in range(400):
        values: dict[str, Any] = {
            "a": draw.choice(names),
            "b": draw.choice(things),
            "v": draw.choice(verbs),
            "n": draw.randint(2, 999),
            "m": draw.randint(2, 999),
        }
        yield (
            "<input>{a} has {n} {b} and {v} {m} more each day. How many {b} does {a} have in the "
            "end?</input>"
        ).format(**values)
        plan = "\n".join(f"{k + 1}. {s.format(**values)}" for k, s in enumerate(steps))
        yield f"<plan>\n{plan}\n</plan>"
        yield (
            "<output>\nThere are {n} + {m} = {t} {b}, so the answer is \\boxed{{{t}}}.\n</output>"
        ).format(**values, t=values["n"] + values["m"])
