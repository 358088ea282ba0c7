"""The micro-world's student before any training: a Qwen3 of 0.2M parameters and its tokenizer.

Saved into a folder it is an ordinary pretrained model: ``config.json``, weights, tokenizer, chat
template, generation config; ``AutoModelForCausalLM`` and ``AutoTokenizer`` open it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from plan_tuning.config.microworld import MicroBaseConfig, MicroworldConfig
from plan_tuning.students.loading import without_bars
from plan_tuning.tasks.microworld_text import SPECIAL_TOKENS, vocabulary

MAX_POSITIONS = 512

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ ' <' + message['role'] + '> ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <assistant> ' }}{% endif %}"
)
"""Roles are single tokens; an assistant's turn ends with the end-of-text token."""

_TAGS = r"</?(?:input|plan|output)>|\\boxed\{|\}"


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Make a word-level tokenizer in which tags and the box are ordinary single tokens.

    Tags need no spaces around them: ``<input>22 pens are Cara's .</input>`` is read as if it had
    them. Only roles, padding and the ends of a text are special, so ``skip_special_tokens`` keeps
    tags. Nothing is added to a text by itself; the chat template writes the begin-of-text token.
    """
    backend = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_TAGS), behavior="isolated"),
            pre_tokenizers.WhitespaceSplit(),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=[
            token for token in SPECIAL_TOKENS if token in ("<user>", "<assistant>", "<system>")
        ],
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def world_vocabulary(world: MicroworldConfig, *, domains: bool = False) -> list[str]:
    """List the student's tokens for a world, with those of all questions where it has domains."""
    return vocabulary(
        num_names=world.num_names,
        max_value=world.max_value,
        max_operand=world.max_operand,
        domains=domains,
    )


def build_model(
    config: MicroBaseConfig, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> Qwen3ForCausalLM:
    """Make the untrained student; its weights depend on ``seed`` alone."""
    layers = config.num_layers
    architecture = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        head_dim=config.head_dim,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        initializer_range=config.initializer_range,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        use_sliding_window=True,
        sliding_window=config.sliding_window,
        layer_types=["sliding_attention", *(["full_attention"] * (layers - 1))],
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(architecture)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def save_micro(folder: Path, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write model and tokenizer into ``folder`` as a pretrained model."""
    with without_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
