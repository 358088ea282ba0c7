"""A student for each source of a mixture.

A student that is merged may be named by the source of the data that it learns: it is the one which
the job of that source alone would train, with all other settings the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.merge import MergeConfig
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.run import Config


@dataclass(frozen=True)
class Merged:
    """One student that is merged."""

    source: str = ""  # of the data; empty: none is said
    given: str = ""  # fingerprint or folder; empty: the job of the source trains it


def merged_students(config: Config) -> list[Merged]:
    """Read ``merge.students``; without any, every source of the data has its own."""
    data, merge = config.data, config.merge
    sources = list(data.sources) if isinstance(data, MixtureDataConfig) else []
    if not merge.is_merged:
        return []
    found = []
    for entry in merge.students or sources:
        source, _, given = entry.partition("=")
        is_named = source in sources
        found.append(Merged(source, given) if is_named else Merged(given=entry))
    return found


def trains_sources(config: Config) -> bool:
    """Whether students are merged that the jobs of single sources train."""
    return any(not student.given for student in merged_students(config))


def source_config(config: Config, source: str) -> Config:
    """The job that trains the student of one source of a mixture; it evaluates nothing.

    Raises:
        ConfigError: the settings do not fit that source alone.
    """
    data = config.data
    if not isinstance(data, MixtureDataConfig):
        raise ConfigError("data", data.name, "a mixture", "data=gsm8k_math")
    return replace(
        config,
        data=data.parts()[source],
        merge=MergeConfig(),
        trainer=replace(config.trainer, pcgrad="none", cosine_every_n_steps=0),
        stages=["distill", "train"],
    )
