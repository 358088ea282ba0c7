"""The words of a command line -> what Hydra takes, or one line that says how they are written."""

from __future__ import annotations

import re
import shlex
import typing
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import Config


def ordered(words: Sequence[str]) -> list[str]:
    """Put options before overrides, whose order stays: Hydra's parser wants it so.

    >>> ordered(["method=sft,m1", "-m", "seed=0,1"])
    ['-m', 'method=sft,m1', 'seed=0,1']
    """
    overrides = get_args_parser().parse_intermixed_args(list(words)).overrides
    left, options = list(overrides), []
    for word in words:
        if left and word == left[0]:
            left.pop(0)
        else:
            options.append(word)
    return [*options, *overrides]


def check_overrides(words: Sequence[str], subcommands: Sequence[str]) -> None:
    """Refuse overrides that Hydra's grammar cannot read, with the quoting that works.

    Args:
        words: of the command line, as :func:`ordered` returns them.
        subcommands: named where a word is no override at all.

    Raises:
        ConfigError: an override cannot be read, or is a sweep without ``-m``.
    """
    parsed = get_args_parser().parse_args(list(words))
    parser = OverridesParser.create()
    # An experiment may say by itself that it is a sweep.
    may_sweep = parsed.multirun or any(
        word.lstrip("+").startswith(("experiment=", "hydra.mode=")) for word in parsed.overrides
    )
    for word in parsed.overrides:
        key, equals, value = word.partition("=")
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            raise _unreadable(key, equals, value, error, subcommands) from error
        if override.is_sweep_override() and not may_sweep:
            whole = "one list" if _is_list(key) else "one text"
            raise ConfigError(
                key,
                value,
                "without -m a job has one value of each key",
                f"-m {shlex.quote(word)} for a job of each, "
                f"or {shlex.quote(_quoted(key, value))} for {whole}",
            )


def _unreadable(
    key: str, equals: str, value: str, error: Exception, subcommands: Sequence[str]
) -> ConfigError:
    if not equals:
        return ConfigError(
            f"{key}: neither KEY=VALUE nor a subcommand ({', '.join(subcommands)}). "
            "Try for example: plan-tuning --help"
        )
    reason = str(error).splitlines()[0]
    return ConfigError(
        key,
        value,
        f"Hydra cannot read it ({reason}); a value with =, (, a quote or a comma is quoted, and "
        "the whole once more for the shell",
        shlex.quote(_quoted(key, value)),
    )


def _quoted(key: str, value: str) -> str:
    """Write an override whose value is the text ``value``, or a list of such texts.

    >>> _quoted("data.path", "a=b"), _quoted("evaluation.benchmarks", "[gsm8k=DIR,math500]")
    ('data.path="a=b"', 'evaluation.benchmarks=["gsm8k=DIR",math500]')
    """
    whole = f"{key}={_text(value)}"
    is_listed = value.startswith("[") and value.endswith("]")
    if not is_listed and not _is_list(key):
        return whole
    items = [item.strip() for item in (value[1:-1] if is_listed else value).split(",")]
    listed = ",".join(item if _is_readable(f"{key}={item}") else _text(item) for item in items)
    return f"{key}=[{listed}]" if _is_readable(f"{key}=[{listed}]") else whole


def _is_list(key: str) -> bool:
    """Whether the schema has a list at a key."""
    hint: Any = Config
    for name in key.lstrip("+~").split("."):
        hint = typing.get_type_hints(hint).get(name) if is_dataclass(hint) else None
    return typing.get_origin(hint) is list


def _text(value: str) -> str:
    """Quote a text for Hydra: backslashes count before a quote only, and are doubled there."""
    inner = re.sub(r'(\\*)"', r'\1\1\\"', value)
    end = len(inner) - len(inner.rstrip("\\"))
    return f'"{inner}{inner[len(inner) - end :]}"'


def _is_readable(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True
