"""A key or a choice that does not exist: which one of the whole configuration may be meant."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import Config

# Keys that were spelled otherwise; hashes hold the old names.
RENAMED = {
    **{
        f"distillation.max_tokens_{role}": f"distillation.max_{role}_tokens"
        for role in ("constraints", "plan", "verify", "execute")
    },
    "reward.plan.max_tokens": "reward.plan.max_reply_tokens",
}
# What other programs call it.
OTHER_NAMES = {
    "lr": ["trainer.learning_rate"],
    "num_generations": ["method.group_size"],
    "num_train_epochs": ["trainer.epochs"],
    "max_seq_length": ["trainer.max_length"],
    "per_device_train_batch_size": ["trainer.batch_size", "trainer.micro_batch_tokens"],
    "max_completion_length": ["method.max_new_tokens", "evaluation.max_new_tokens"],
    "kl_coef": ["method.beta"],
}
_SHOWN = 3
_ELSEWHERE = 0.75  # how alike a choice of another group has to be
_LEAST = 0.55  # of a likeness, 0 to 1, to be shown


Schemas = Mapping[str, Sequence[tuple[str, type]]]
"""Of groups whose choices differ in their keys: the schemas of each, by name."""


def known_keys(conf: Path, schemas: Schemas) -> dict[str, str]:
    """List the keys of all choices, each with the words that it needs, if it needs any.

    Args:
        conf: folder of the groups.
        schemas: beside the configuration's own.
    """
    found = dict.fromkeys(_keys_of(Config, ""), "")
    for group, named in schemas.items():
        for name, kind in named:
            schema = f"/schema/{group}@_here_: {name}\n"
            files = sorted((conf / group).glob("*.yaml"))
            users = [p.stem for p in files if schema in p.read_text(encoding="utf-8")]
            for key in _keys_of(kind, f"{group}.") if users else ():
                found.setdefault(key, f"{group}={users[0]}")
    return found


def _keys_of(kind: type, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for f in dataclasses.fields(kind):
        key, hint = f"{prefix}{f.name}", hints[f.name]
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        inner = next((one for one in options if dataclasses.is_dataclass(one)), None)
        if inner is None:
            yield key
        else:
            yield from _keys_of(typing.cast(type, inner), f"{key}.")


def choices(folders: Iterable[Path]) -> dict[str, list[str]]:
    """List the choices of each group in folders like conf/."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*/*.yaml")):
            found.setdefault(path.parent.name, []).append(path.stem)
    return found


def nearest_keys(key: str, keys: Iterable[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Find the keys that a wrong one may mean, the likeliest first.

    Args:
        key: what there is not.
        keys: what there is.
        groups: choices by group; naming a choice is as good as naming its group.

    >>> nearest_keys("lora_rank", ["adapter.rank", "seed"], {"adapter": ["full", "lora"]})
    ['adapter.rank']
    """
    last = key.rpartition(".")[2]
    given = OTHER_NAMES.get(last, [])
    rated = sorted((-_likeness(key, one, groups), one.count("."), one) for one in keys)
    near = [one for rate, _, one in rated if -rate >= _LEAST and one not in given]
    return [*given, *near][:_SHOWN]


def _likeness(key: str, known: str, groups: Mapping[str, Sequence[str]]) -> float:
    words = set(re.split(r"[._]", key))
    group, _, _ = known.partition(".")
    last, own = known.rpartition(".")[2], key.rpartition(".")[2]
    own_words = {word for word in re.split(r"[._]", own) if word not in groups.get(group, ())}
    ratio = difflib.SequenceMatcher(
        None, "_".join(sorted(own_words)) or own, "_".join(sorted(re.split(r"_", last)))
    ).ratio()
    if last.startswith(own) and group in words:  # the beginning of a word
        ratio = max(ratio, 0.7)
    is_near = bool(words & {*known.split(".")[:-1], *groups.get(group, ())})
    return 0.8 * ratio + (0.2 if is_near else 0.0)


def unknown_key(
    key: str, value: str, known: Mapping[str, str], folders: Sequence[Path]
) -> ConfigError:
    """Say what a key that does not exist may mean.

    Args:
        key: what was given.
        value: its value.
        known: the keys that there are, see :func:`known_keys`.
        folders: those of the groups, the user's own ones too.
    """
    if key in RENAMED:
        new = RENAMED[key]
        return ConfigError(key, value, f"it is spelled {new}", f"{new}={value}")
    if needs := known.get(key):
        return ConfigError(
            key, value, f"a key of {needs}, which is not chosen", f"{needs} {key}={value}"
        )
    groups = choices(folders)
    is_name = "." not in key
    near = difflib.get_close_matches(key, groups, n=1) if is_name else []
    found = [f"{name}={value}" for name in near]
    for one in nearest_keys(key, known, groups):
        found.append(" ".join(filter(None, (known.get(one, ""), f"{one}={value}"))))
    example = ", or ".join(found[:_SHOWN]) or "plan-tuning --cfg job"
    return ConfigError(key, value, "there is no such key", example)


def unknown_choice(group: str, choice: str, known: Mapping[str, Sequence[str]]) -> ConfigError:
    """Say what a choice that does not exist may mean: of its group, or of another one."""
    own = list(known.get(group, ()))
    near = [f"{group}={one}" for one in difflib.get_close_matches(choice, own, n=2, cutoff=0.5)]
    others = [
        f"{name}={choice}" for name, names in known.items() if choice in names and name != group
    ]
    for name, names in known.items():
        if name != group and not near and not others:
            matches = difflib.get_close_matches(choice, names, n=1, cutoff=_ELSEWHERE)
            others += [f"{name}={one}" for one in matches]
    mine = f"plan-tuning --config-dir FOLDER {group}={choice}, where {choice}.yaml is your own"
    found = [*near, *others][:_SHOWN] or [*(f"{group}={one}" for one in own[:1]), mine]
    return ConfigError(group, choice, f"choose one of {', '.join(own)}", ", or ".join(found))
