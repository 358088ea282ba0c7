"""Problem, plan, constraints -> request: every prompt for a large model, read from its YAML file.

A file has the keys ``user`` and, where wanted, ``system`` and ``reminder`` (appended to a request
whose first reply could not be read). ``{{field}}`` is replaced by the field's text in a single
pass, so braces, percent signs and even ``{{field}}`` inside a problem or a plan stay what they are.

The files speak of mathematics. A task of another kind (:mod:`plan_tuning.tasks.task`) has words of
its own for what it would say otherwise; the rest it says in these.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import yaml

from plan_tuning.config.extensions import extension_spec, record, task_of
from plan_tuning.records import Message

REQUESTS = ("constraints", "plan", "verify", "execute")

Words = Mapping[str, Mapping[str, Any]]
"""A task's own requests by name, each with user, system and reminder; and ``student``."""

_FIELD = re.compile(r"\{\{(\w+)\}\}")
_FINGERPRINT_LENGTH = 16


class PromptError(ValueError):
    """A prompt that does not exist, or a field that is missing or unknown."""


@functools.cache
def _read(name: str) -> str:
    file = resources.files("plan_tuning.text").joinpath(f"prompts/{name}.yaml")
    if not file.is_file():
        raise PromptError(f"prompt {name!r} is unknown: text/prompts/{name}.yaml does not exist")
    return file.read_text(encoding="utf-8")


@functools.cache
def read_words(name: str) -> Words:
    """Read the words of a task from text/prompts.

    Raises:
        PromptError: there is no such file.
    """
    loaded: Words = yaml.safe_load(_read(name))
    return loaded


def words_of(style: str) -> Words:
    """A task's own words, by the style of its problems; nothing where it speaks as mathematics."""
    found: Words = task_of(style).load().words
    return found


@functools.cache
def _load(name: str) -> dict[str, tuple[str, ...]]:
    """Split each template at its fields: even parts are text, odd parts are field names."""
    return _split(yaml.safe_load(_read(name)))


def _split(texts: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(_FIELD.split(text)) for key, text in texts.items()}


@functools.cache
def _field_names(name: str) -> frozenset[str]:
    return frozenset(part for parts in _load(name).values() for part in parts[1::2])


def render(
    name: str, *, style: str = "math", is_reminded: bool = False, **fields: str
) -> tuple[Message, ...]:
    """Make the messages of one request.

    Args:
        name: the prompt, one of the files in text/prompts.
        style: of the problem; its task may ask in words of its own.
        is_reminded: append the file's reminder of the reply's form.
        fields: the text of each ``{{field}}``.

    Raises:
        PromptError: the prompt is unknown, or the fields are not exactly those it has.

    >>> [m["role"] for m in render("plan", problem="What is {{plan}} + {0}?")]
    ['system', 'user']
    >>> "What is {{plan}} + {0}?" in render("plan", problem="What is {{plan}} + {0}?")[1]["content"]
    True
    """
    own = words_of(style).get(name)
    parts = _load(name) if own is None else _split(own)
    if fields.keys() != _field_names(name):
        raise PromptError(
            f"prompt {name!r} takes the fields {', '.join(sorted(_field_names(name)))}; "
            f"given: {', '.join(sorted(fields))}"
        )
    unknown = {part for texts in parts.values() for part in texts[1::2]} - fields.keys()
    if unknown:
        raise PromptError(f"the task of {style} has no {', '.join(sorted(unknown))} in {name!r}")
    user = _fill(parts["user"], fields)
    if is_reminded:
        user = f"{user}\n\n{_fill(parts['reminder'], fields)}"
    message: Message = {"role": "user", "content": user}
    if "system" not in parts:
        return (message,)
    return ({"role": "system", "content": _fill(parts["system"], fields)}, message)


def _fill(parts: tuple[str, ...], fields: dict[str, str]) -> str:
    return "".join(fields[part] if i % 2 else part for i, part in enumerate(parts))


@functools.cache
def prompt_fingerprint(name: str) -> str:
    """Hash a prompt's file: 16 hex digits of SHA-256, part of a corpus's fingerprint.

    Only what reaches a model counts, so a comment in the file orphans nothing.

    Raises:
        PromptError: the prompt is unknown.
    """
    text = yaml.safe_dump(yaml.safe_load(_read(name)), sort_keys=True, allow_unicode=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_FINGERPRINT_LENGTH]


def words_fingerprint(tasks: Iterable[str]) -> str:
    """Hash the words that tasks have of their own; empty where all of them speak as mathematics.

    Of a task from outside its whole file counts: it may extract and grade otherwise too.

    Args:
        tasks: their names.
    """
    found = []
    for name in sorted(set(tasks)):
        outside = extension_spec("task", name)
        words = record("task", name).load().words
        if words or outside:
            text = yaml.safe_dump([dict(words), outside], sort_keys=True, allow_unicode=True)
            digest = hashlib.sha256(text.encode()).hexdigest()[:_FINGERPRINT_LENGTH]
            found.append(f"{name}:{digest}")
    return ",".join(found)
