"""Conversations to token ids: the one rendering that training and generation share.

Special tokens are recognised by id and position. How a template ends an assistant's turn is found
by rendering two turns and comparing their ids, so no family needs a rule of its own.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from plan_tuning.records import Message

# What Llama-3.2's template writes where it knows no clock.
DATE, DATE_STRING = datetime.date(2024, 7, 26), "26 Jul 2024"
# The function that other templates ask for the time, in a template's own language: transformers
# hands no functions over.
_CLOCK = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(
        f" | replace('{code}', '{said}')"
        for code, said in (
            *(("%d", "26"), ("%-d", "26"), ("%b", "Jul"), ("%B", "July"), ("%m", "07")),
            *(("%Y", "2024"), ("%y", "24"), ("%A", "Friday"), ("%a", "Fri"), ("%H", "00")),
            *(("%M", "00"), ("%S", "00")),
        )
    )
    + " }}{%- endmacro -%}"
)

_PROBES = ("a", "b", "1", "2", "yes", "no")
_AT_ONCE = 256  # conversations of a call of the tokenizer, which keeps more than ids of each token


class TemplateError(ValueError):
    """A tokenizer has no chat template, or one that cannot carry the conversation."""


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Render a conversation up to where the student begins to write.

    Thinking is switched off where the template has that switch, and a template that writes the date
    writes a fixed one: another day's prompt would be another prompt. A system message that the
    template cannot carry is put in front of the first user message.

    Args:
        tokenizer: a tokenizer of transformers with a chat template.
        messages: the conversation; the last message is the user's.

    Returns:
        Token ids, begin-of-text token included where the template writes one.

    Raises:
        TemplateError: there is no chat template, or it refuses the conversation.
    """
    return _render(tokenizer, messages, add_generation_prompt=True)


def batch_prompt_ids(tokenizer: Any, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Render many conversations, each as :func:`prompt_ids` does, in few calls of the tokenizer.

    Args:
        tokenizer: a tokenizer of transformers with a chat template.
        conversations: the last message of each is the user's.

    Returns:
        Token ids of each.

    Raises:
        TemplateError: there is no chat template, or it refuses a conversation; of the first such.
    """
    found: list[list[int]] = []
    for first in range(0, len(conversations), _AT_ONCE):
        found += _render_at_once(tokenizer, conversations[first : first + _AT_ONCE])
    return found


def template_date(tokenizer: Any) -> str | None:
    """Say which date a student's prompts carry; None: its template writes none."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    has_date = "date_string" in template or "strftime_now" in template
    return DATE.isoformat() if has_date else None


def turn_end_ids(tokenizer: Any) -> list[int]:
    """Find the tokens with which the template ends an assistant's turn, up to the one that stops.

    That is what the student learns to write behind its completion: ``<|im_end|>`` for Qwen3 (the
    line break behind it belongs to the next turn), ``<end_of_turn>`` for Gemma-3, ``<|eot_id|>``
    for Llama-3. A template that ends turns with ordinary text only gets the end-of-text token.

    Raises:
        TemplateError: there is no chat template, or neither it nor the tokenizer ends a text.
    """
    turns = [
        _render(
            tokenizer,
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": probe}],
            add_generation_prompt=False,
        )
        for probe in _two_probes(tokenizer)
    ]
    tail: list[int] = []
    for first, second in zip(reversed(turns[0]), reversed(turns[1]), strict=False):
        if first != second:
            break
        tail.insert(0, first)
    special = special_ids(tokenizer)
    for index, token in enumerate(tail):
        if token in special:
            return tail[: index + 1]
    if tokenizer.eos_token_id is None:
        raise TemplateError("neither the chat template nor the tokenizer has a token to end a turn")
    return [int(tokenizer.eos_token_id)]


def _two_probes(tokenizer: Any) -> tuple[str, str]:
    """Choose two texts that the tokenizer tells apart; a closed vocabulary may know few words."""
    known: dict[tuple[int, ...], str] = {}
    for text in (*_PROBES, *sorted(tokenizer.get_vocab())):
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        if ids and tokenizer.unk_token_id not in ids and not special_ids(tokenizer) & set(ids):
            known.setdefault(ids, text)
        if len(known) == 2:
            first, second = known.values()
            return first, second
    raise TemplateError("the student's tokenizer has fewer than two words")


def end_ids(tokenizer: Any, *configs: Any) -> tuple[int, ...]:
    """Collect every id that ends a generation.

    Args:
        tokenizer: the student's tokenizer.
        configs: generation config and model config; their ``eos_token_id`` is one id, a list or
            None.
    """
    found = {turn_end_ids(tokenizer)[-1]}
    if tokenizer.eos_token_id is not None:
        found.add(int(tokenizer.eos_token_id))
    for config in configs:
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            found.update(int(token) for token in (ids if isinstance(ids, list | tuple) else [ids]))
    return tuple(sorted(found))


@functools.lru_cache(maxsize=4)  # some families have thousands of them
def special_ids(tokenizer: Any) -> frozenset[int]:
    """Collect the ids that stand for no text: turns, padding, begin and end of a text."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def _render_at_once(tokenizer: Any, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
    import jinja2

    given = [[dict(message) for message in messages] for messages in conversations]
    # Whether a template carries a system message is found out for each conversation with one.
    has_system = any(_without_system(messages) != messages for messages in given)
    if getattr(tokenizer, "chat_template", None) and not has_system:
        try:
            rendered = _tokenised(tokenizer, given, generation=True)
        except jinja2.exceptions.TemplateError:
            pass  # it refuses one of them, which is told where that one is rendered
        else:
            return [[int(token) for token in ids] for ids in rendered]
    return [prompt_ids(tokenizer, messages) for messages in conversations]


def _render(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool
) -> list[int]:
    import jinja2

    if not getattr(tokenizer, "chat_template", None):
        raise TemplateError(
            "the student's tokenizer has no chat template: choose an instruction-tuned model"
        )
    conversation = [dict(message) for message in messages]
    merged = _without_system(conversation)
    try:
        try:
            ids = _apply(tokenizer, conversation, add_generation_prompt)
        except jinja2.exceptions.TemplateError:
            if merged == conversation:
                raise
            return _apply(tokenizer, merged, add_generation_prompt)
        if merged != conversation:
            # Some templates pass over a system message without a word.
            other = [conversation[0] | {"content": ""}, *conversation[1:]]
            if _apply(tokenizer, other, add_generation_prompt) == ids:
                return _apply(tokenizer, merged, add_generation_prompt)
    except jinja2.exceptions.TemplateError as error:
        raise TemplateError(f"the chat template refuses the conversation: {error}") from error
    return ids


def _apply(tokenizer: Any, messages: list[dict[str, str]], generation: bool) -> list[int]:
    return [int(token) for token in _tokenised(tokenizer, messages, generation=generation)]


def _tokenised(tokenizer: Any, given: list[Any], *, generation: bool) -> list[Any]:
    """Have a conversation rendered, or many at once: its ids, or those of each."""
    template = tokenizer.chat_template
    is_timed = isinstance(template, str) and "strftime_now" in template
    ids: list[Any] = tokenizer.apply_chat_template(
        given,
        chat_template=_CLOCK + template if is_timed else None,
        add_generation_prompt=generation,
        enable_thinking=False,  # templates without the switch ignore it
        date_string=DATE_STRING,  # Llama-3's word
        tokenize=True,
        return_dict=False,
    )
    return ids


def _without_system(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    plain = [dict(message) for message in messages]
    if len(plain) > 1 and plain[0]["role"] == "system" and plain[0]["content"]:
        system = plain.pop(0)
        plain[0]["content"] = f"{system['content']}\n\n{plain[0]['content']}"
    return plain
