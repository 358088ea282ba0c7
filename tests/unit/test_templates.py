"""Chat templates of the families: their quirks are found, not assumed."""

import pytest
from transformers import GenerationConfig

from plan_tuning.config.microworld import MicroworldConfig
from plan_tuning.students import micro, templates
from plan_tuning.students.templates import (
    TemplateError,
    batch_prompt_ids,
    end_ids,
    prompt_ids,
    template_date,
    turn_end_ids,
)
from plan_tuning.students.tiny import build_tokenizer

SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+3?"}]
USER = SYSTEM[1:]

PROMPTS = {
    "gemma3": "<bos><start_of_turn>user\n2+3?<end_of_turn>\n<start_of_turn>model\n",
    "qwen3": "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "llama": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n2+3?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
}
ENDS = {"gemma3": ["<end_of_turn>"], "qwen3": ["<|im_end|>"], "llama": ["<|eot_id|>"]}


@pytest.fixture(scope="module")
def tokenizers():
    return {family: build_tokenizer(family) for family in PROMPTS}


@pytest.mark.parametrize("family", PROMPTS)
def test_prompts_end_where_the_student_begins(tokenizers, family: str):
    tokenizer = tokenizers[family]
    ids = prompt_ids(tokenizer, USER)
    assert tokenizer.decode(ids) == PROMPTS[family]
    if tokenizer.bos_token_id is not None:
        assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("family", PROMPTS)
def test_turns_end_as_the_template_ends_them(tokenizers, family: str):
    tokenizer = tokenizers[family]
    assert tokenizer.convert_ids_to_tokens(turn_end_ids(tokenizer)) == ENDS[family]


@pytest.mark.parametrize("family", PROMPTS)
def test_a_system_message_is_carried_by_every_family(tokenizers, family: str):
    text = tokenizers[family].decode(prompt_ids(tokenizers[family], SYSTEM))
    assert text.count("Be brief.") == 1
    assert text.index("Be brief.") < text.index("2+3?")


def asked(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


TEXTS = ("2+3?", "", "  two  spaces\n", "Zoë has 3 ½ pies — why?", "<|im_end|><bos>", "2+3?" * 90)


@pytest.mark.parametrize("family", [*PROMPTS, "micro"])
def test_many_conversations_have_the_ids_that_each_has_alone(monkeypatch, tokenizers, family: str):
    monkeypatch.setattr(templates, "_AT_ONCE", 4)  # several calls, the last one of fewer
    if family == "micro":
        tokenizer = micro.build_tokenizer(micro.world_vocabulary(MicroworldConfig()))
    else:
        tokenizer = tokenizers[family]
    given = asked(*TEXTS)
    alone = [prompt_ids(tokenizer, messages) for messages in given]
    assert batch_prompt_ids(tokenizer, given) == alone
    assert batch_prompt_ids(tokenizer, [*given, SYSTEM]) == [*alone, prompt_ids(tokenizer, SYSTEM)]
    assert batch_prompt_ids(tokenizer, []) == []
    assert len(set(map(len, alone))) > 2  # nothing is padded


def test_the_first_refused_conversation_of_many_is_named():
    tokenizer = build_tokenizer("qwen3")
    tokenizer.chat_template = (
        "{% if 'x' in messages[0]['content'] %}"
        "{{ raise_exception('refused: ' + messages[0]['content']) }}{% endif %}"
        + tokenizer.chat_template
    )
    with pytest.raises(TemplateError, match=r"refuses the conversation: refused: 1x$"):
        batch_prompt_ids(tokenizer, asked("a", "1x", "b", "2x"))
    tokenizer.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        batch_prompt_ids(tokenizer, asked("a", "b"))


def test_all_ids_that_end_a_text_are_collected(tokenizers):
    tokenizer = tokenizers["gemma3"]
    found = end_ids(
        tokenizer, GenerationConfig(eos_token_id=[7, 9]), GenerationConfig(eos_token_id=11), None
    )
    expected = {7, 9, 11, tokenizer.eos_token_id, *turn_end_ids(tokenizer)}
    assert found == tuple(sorted(expected))


def test_without_a_template_or_with_one_that_refuses():
    tokenizer = build_tokenizer("qwen3")
    tokenizer.chat_template = "{{ raise_exception('users are not welcome') }}"
    with pytest.raises(TemplateError, match="users are not welcome"):
        prompt_ids(tokenizer, USER)
    tokenizer.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        prompt_ids(tokenizer, USER)


def test_a_template_that_drops_the_system_message_in_silence_is_noticed():
    tokenizer = build_tokenizer("qwen3")
    kept = tokenizer.chat_template
    tokenizer.chat_template = kept.replace(
        "{% for message in messages %}",
        "{% for message in messages if message['role'] != 'system' %}",
    )
    assert tokenizer.chat_template != kept
    text = tokenizer.decode(prompt_ids(tokenizer, SYSTEM))
    assert text.index("Be brief.") < text.index("2+3?")


def test_a_template_that_refuses_without_the_system_message_too():
    tokenizer = build_tokenizer("qwen3")
    tokenizer.chat_template = "{{ raise_exception('nobody is welcome') }}"
    with pytest.raises(TemplateError, match="nobody is welcome"):
        prompt_ids(tokenizer, SYSTEM)


def test_a_template_without_an_end_token_ends_with_end_of_text():
    tokenizer = build_tokenizer("qwen3")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}\n{% endfor %}"
    )
    assert turn_end_ids(tokenizer) == [tokenizer.eos_token_id]


# How Llama-3.2's template, and those that ask a clock themselves, come by a date.
DATED = {
    "llama": (
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        '{%- set date_string = strftime_now("%d %b %Y") %}'
        '{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}'
        "{{- 'Today Date: ' + date_string + '. ' }}"
    ),
    "clock": "{%- set today = strftime_now('%d %b %Y') %}{{- 'Today Date: ' + today + '. ' }}",
}


@pytest.mark.parametrize("kind", DATED)
def test_a_template_that_writes_the_date_writes_a_fixed_one(kind: str):
    tokenizer = build_tokenizer("llama")
    assert template_date(tokenizer) is None
    tokenizer.chat_template = DATED[kind] + tokenizer.chat_template
    ids = prompt_ids(tokenizer, USER)
    assert "Today Date: 26 Jul 2024. " in tokenizer.decode(ids)
    assert batch_prompt_ids(tokenizer, [USER, USER]) == [ids, ids]
    assert template_date(tokenizer) == "2024-07-26"
