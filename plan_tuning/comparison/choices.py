"""Runs -> what was swept: the choices that tell the rows of the table apart.

A choice that cannot change a run's result is shown as ``-`` there, so a baseline that was run once
under three filters is one row and not three.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from plan_tuning.comparison.runs import Run
from plan_tuning.config.extensions import Extension, find

IRRELEVANT = "-"
_NEVER_SWEPT = frozenset(
    {"seed", "experiment", "logger", "debug", "paths", "sweep_name", "stages", "tags", "dry_run"}
    | {"comparison", "registration"}
)
_OF_TEACHER = frozenset({"filter", "teacher", "distillation", "corpus"})
_OF_TRAINING = frozenset({*_OF_TEACHER, "adapter", "trainer", "start"})
_OF_GRPO = frozenset({"reward", "start", "grpo", "rollouts"})
_OF_PLANS = frozenset(
    {
        "executor",
        "evaluation.max_plan_tokens",
        "evaluation.plan",
        "evaluation.plan_corpus",
        "method.plan_weight",
    }
)
_TEACHER_SPEC = frozenset(
    {
        "teacher",
        "teacher.backend",
        "teacher.model",
        "teacher.label",
        "teacher.seeded",
        "teacher.thinking",
    }
)
_COLUMNS = frozenset({"evaluation.benchmarks", "data.benchmarks"})
_MIXING = ("data.mixing.", "data.sources.")
_TRAINING_DATA = frozenset(
    f"data.{name}" for name in ("name", "path", "revision", "split", "limit", "fraction", "seed")
)


def method_of(run: Run) -> str:
    """Name the run's method, empty where none is recorded."""
    return run.choices.get("method") or str(run.settings.get("method.name", ""))


def record_of(run: Run) -> Extension | None:
    """Look up what the run's method needs and learns; None where it is not known here."""
    return find("method", method_of(run))


def values_of(run: Run) -> dict[str, str]:
    """Flatten a run's choices and settings into texts; a choice stands for its group's name."""
    values = {
        key: _text(value)
        for key, value in run.settings.items()
        if not (key.endswith(".name") and key.removesuffix(".name") in run.choices)
    }
    return values | dict(run.choices)


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_text(item) for item in value) + "]"
    return str(value)


def is_seedless(run: Run) -> bool:
    """Whether the seed cannot change the run: greedy, and nobody whom this seed trained answers.

    A student given by its path was trained elsewhere, and a plan swap may need no student at all.
    """
    if run.settings.get("evaluation.temperature", 0):
        return False
    method = record_of(run)
    if (method is not None and not method.is_trained) or run.settings.get("student.path"):
        return True
    if run.settings.get("merge.students"):
        return not any(is_source(run, entry) for entry in run.settings["merge.students"])
    return run.result.fingerprints.student is None


def is_source(run: Run, name: str) -> bool:
    """Whether a mixture of the run's data has a source of that name."""
    return any(key.startswith(f"data.sources.{name}.") for key in run.settings)


def can_matter(run: Run, key: str) -> bool:
    """Whether the choice or setting ``key`` can change the run's predictions."""
    method = record_of(run)
    if not _is_choice(run, key):
        return False
    if method is not None and not _can_matter_to(method, run, key):
        return False
    if key.startswith("merge.") and not _merge_reads(run, key):
        return False
    if key.startswith("reward.plan.") and key != "reward.plan.weight":
        return bool(run.settings.get("reward.plan.weight", 1.0))
    if key == "filter.plan_score_threshold":
        return bool(run.settings.get("filter.plan", True))
    return not (key.startswith("adapter.") and run.choices.get("adapter") == "full")


def _merge_reads(run: Run, key: str) -> bool:
    """Whether the way in which students become one has a knob; a router has three of its own."""
    chosen = run.choices.get("merge") or str(run.settings.get("merge.name", "none"))
    of_router = key in ("merge.router", "merge.neighbours", "merge.encoder")
    return chosen != "none" and (key == "merge.students" or of_router == (chosen == "router"))


def _is_choice(run: Run, key: str) -> bool:
    """Whether ``key`` could tell rows apart: it is no seed, no place, no pace and no column."""
    group = key.partition(".")[0]
    if group in _NEVER_SWEPT or key in _COLUMNS or key in _runtime_keys():
        return False
    if group == "teacher" and not _is_of_spec(key):
        return False
    return not _repeats_seed(run, key)


def _can_matter_to(method: Extension, run: Run, key: str) -> bool:
    """Whether a method reads ``key`` at all."""
    group = key.partition(".")[0]
    if not method.is_trained and (
        group in _OF_TRAINING or key == "data" or key in _TRAINING_DATA or key.startswith(_MIXING)
    ):
        return False
    if "corpus" not in method.needs and group in _OF_TEACHER:
        return run.settings.get("method.problems") == "kept"
    learns_rewards = "rewards" in method.needs
    if not learns_rewards and group in _OF_GRPO:
        return False
    if learns_rewards and key == "method.continued_steps":  # of supervised training alone
        return False
    if not method.writes_plan and key in _OF_PLANS:
        return False
    return method.calls == 2 or group != "executor"


def _is_of_spec(key: str) -> bool:
    """Whether a teacher's key is part of its spec; its address, price and pace are not."""
    return key in _TEACHER_SPEC or key.startswith("teacher.scripted.")


def _repeats_seed(run: Run, key: str) -> bool:
    return key.endswith(".seed") and run.settings.get(key) == run.seed


@cache
def _runtime_keys() -> frozenset[str]:
    """Keys of the configuration that are marked as not changing any result."""
    from plan_tuning.config.run import Config

    return frozenset(_marked(Config, ""))


def _marked(config: type, prefix: str) -> list[str]:
    hints = typing.get_type_hints(config)
    variants: list[type] = config.__subclasses__()
    keys = [key for variant in variants for key in _marked(variant, prefix)]
    for f in fields(config):
        kind = hints[f.name]
        if f.metadata.get("runtime", False):
            keys.append(prefix + f.name)
        elif isinstance(kind, type) and is_dataclass(kind):
            keys += _marked(kind, f"{prefix}{f.name}.")
    return keys


def swept_choices(runs: Sequence[Run]) -> list[str]:
    """List the keys that tell the runs apart, in the order: overridden, groups, other settings.

    A key that was overridden is listed whenever it varies. Any other key is listed only where the
    ones before it do not determine it already: ``filter.answer`` says nothing beside ``filter``.
    """
    values = [values_of(run) for run in runs]
    overridden = {
        text.lstrip("+~").partition("=")[0].partition("@")[0]
        for run in runs
        for text in run.result.overrides
    }
    groups = {key for run in runs for key in run.choices}
    keys = {key for flat in values for key in flat}
    ordered = sorted(keys, key=lambda key: (key not in overridden, key not in groups, _rank(key)))
    chosen: list[str] = []
    for key in ordered:
        shown = [
            (run, flat[key])
            for run, flat in zip(runs, values, strict=True)
            if key in flat and can_matter(run, key)
        ]
        if len({value for _, value in shown}) < 2:
            continue
        if key in overridden or not _is_determined(shown, chosen):
            chosen.append(key)
    return sorted(chosen, key=_rank)


_ORDER = ("data", "model", "adapter", "start", "method", "reward", "teacher", "filter", "executor")


def _rank(key: str) -> tuple[int, str]:
    group = key.partition(".")[0]
    return (_ORDER.index(group) if group in _ORDER else len(_ORDER), key)


def _is_determined(shown: Sequence[tuple[Run, str]], chosen: Sequence[str]) -> bool:
    seen: dict[tuple[str, ...], str] = {}
    return all(seen.setdefault(row_values(run, chosen), value) == value for run, value in shown)


def row_values(run: Run, swept: Sequence[str]) -> tuple[str, ...]:
    """Describe a run by its swept choices, with ``-`` where a choice cannot matter."""
    flat = values_of(run)
    return tuple(flat.get(key, IRRELEVANT) if can_matter(run, key) else IRRELEVANT for key in swept)


def distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Count the choices in which two rows differ; ``-`` agrees with everything.

    >>> distance(("m1", "two_stage"), ("sft", "-"))
    1
    """
    return sum(a != b and IRRELEVANT not in (a, b) for a, b in zip(first, second, strict=True))


def row_label(run: Run) -> str:
    """Describe a job without its seed: its method, and every choice that its command line made.

    A choice that cannot matter is ``-``, so that jobs which mean the same have one label.

    >>> from pathlib import Path
    >>> from plan_tuning.comparison.runs import run_of
    >>> from plan_tuning.job_record import JobResult
    >>> chosen = {"method": "sft", "filter": "none"}
    >>> result = JobResult(seed=3, choices=chosen, overrides=("filter=none", "seed=3"))
    >>> row_label(run_of(Path(), result))
    'method=sft filter=-'
    """
    flat = values_of(run)
    flat.setdefault("method", method_of(run))
    named = [text.lstrip("+~/").partition("=")[0] for text in run.result.overrides]
    keys = {key if key in flat else key.partition("@")[0] for key in ("method", *named)}
    shown = {
        key: flat[key] for key in sorted(keys & flat.keys(), key=_rank) if _is_choice(run, key)
    }
    return " ".join(
        f"{key}={value if can_matter(run, key) else IRRELEVANT}" for key, value in shown.items()
    )


def group_runs(runs: Sequence[Run], swept: Sequence[str]) -> dict[tuple[str, ...], list[Run]]:
    """Group runs that differ in nothing but the seed; the same result counts once.

    Should a choice that was taken to be irrelevant have changed the predictions after all, the
    runs keep it in their row: two results of one seed are never averaged silently.
    """
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(row_values(run, swept), []).append(run)
    rows: dict[tuple[str, ...], list[Run]] = {}
    for values, members in groups.items():
        if not conflicts(members):
            rows.setdefault(values, []).extend(members)
            continue
        for run in members:
            flat = values_of(run)
            exact = tuple(flat.get(key, IRRELEVANT) for key in swept)
            rows.setdefault(exact, []).append(run)
    return {values: sorted(members, key=_newest_first) for values, members in rows.items()}


def _newest_first(run: Run) -> tuple[int, list[int]]:
    return (run.seed, [-ord(c) for c in run.result.created])


def conflicts(runs: Sequence[Run]) -> int:
    """Count the results that disagree with another one of the same benchmark and seed."""
    found: dict[tuple[str, int], set[str]] = {}
    for run in runs:
        for benchmark in run.result.metrics:
            key = run.result.fingerprints.predictions.get(benchmark) or str(run.folder)
            found.setdefault((benchmark, seed_of(run)), set()).add(key)
    return sum(len(keys) - 1 for keys in found.values())


def seed_of(run: Run) -> int:
    """The seed that tells repetitions apart; all repetitions of a seedless run are one."""
    return -1 if is_seedless(run) else run.seed
