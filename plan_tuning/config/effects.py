"""What of a configuration has an effect: the content of a job, and words that change nothing."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from plan_tuning.config.command_line import split_word
from plan_tuning.config.conditions import CONDITIONS
from plan_tuning.config.run import Config
from plan_tuning.config.training_conditions import Condition


@dataclass(frozen=True)
class IdleWord:
    """An override that changes nothing in a job, why, and a word with which it would."""

    word: str
    reason: str
    cure: str

    def __str__(self) -> str:
        """As it is shown."""
        return f"{self.word} ({self.reason}; it needs {self.cure})"


@functools.cache
def conditions_of(key: str) -> tuple[Condition, ...]:
    """The conditions of a key, which may be a group or a part of one."""
    return tuple(
        condition
        for condition in CONDITIONS
        if any(f"{key}.".startswith(f"{part}.") for part in condition.keys)
    )


def failed_condition(job: Config, key: str) -> Condition | None:
    """The first condition of a key that does not hold; None: something reads the key."""
    return next((c for c in conditions_of(key) if not c.is_read(job)), None)


def effective(job: Config) -> Config:
    """Set every key that nothing reads to its first default, which is left out of fingerprints.

    The copy is for specs alone: its values are not checked again, and some are of other choices.
    """
    found: Config = _reset(job, job, "")
    return found


def _reset(job: Config, node: Any, prefix: str) -> Any:
    out = copy.copy(node)
    for f in fields(node):
        key = f"{prefix}{f.name}"
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            setattr(out, f.name, _reset(job, value, f"{key}."))
        elif failed_condition(job, key) is not None:
            setattr(out, f.name, _first_default(f))
    return out


def _first_default(f: dataclasses.Field[Any]) -> Any:
    if "hash_default" in f.metadata:
        return f.metadata["hash_default"]
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def key_of(word: str) -> str:
    """The key, or the group, that an override sets.

    >>> key_of("filter@start.filter=none"), key_of("+trainer.epochs=5")
    ('start.filter', 'trainer.epochs')
    """
    key, _ = split_word(word)
    return key.rpartition("@")[2].lstrip("/")


def idle_words(job: Config, words: Iterable[str]) -> list[IdleWord]:
    """List the overrides that change nothing in a job."""
    found = []
    for word in words:
        failed = failed_condition(job, key_of(word))
        if failed is not None:
            found.append(IdleWord(word, failed.reason.format(job=job), failed.cure))
    return found


def idle_line(words: Sequence[IdleWord]) -> str:
    """Say in one line which words do nothing."""
    return f"No effect: {'; '.join(map(str, words))}"


def idle_registration(job: Config) -> str:
    """Say that a job outside a sweep registers nothing; empty where it is not asked to."""
    if not job.registration.is_made:
        return ""
    return (
        "No effect: registration, for a single job compares nothing; a sweep registers (-m, or "
        "hydra.mode=MULTIRUN)"
    )
