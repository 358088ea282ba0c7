"""Checks that span groups: students of several sources, and gradients that are told apart."""

from __future__ import annotations

from plan_tuning.config.checks import require
from plan_tuning.config.extensions import record
from plan_tuning.config.job_parts import trainings
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.run import Config
from plan_tuning.config.sources import Merged, merged_students, trains_sources


def check_sources(config: Config) -> None:
    """Refuse what cannot be done with the sources of the data.

    Raises:
        ConfigError: students are merged that nobody knows, a router has nothing to choose from, or
            gradients of sources are told apart of weights that are too many.
    """
    if config.merge.is_merged:
        _check_merge(config)
        return
    if not isinstance(config.data, MixtureDataConfig):
        return
    for trainer in trainings(config):
        key, value = "trainer.pcgrad", trainer.pcgrad
        if value == "none":
            key, value = "trainer.cosine_every_n_steps", str(trainer.cosine_every_n_steps)
            if not trainer.cosine_every_n_steps:
                continue
        require(
            config.adapter.name != "full",
            key,
            value,
            "for adapters: a gradient of every source is held at once",
            f"adapter=lora {key}={value}",
        )
        require(
            config.trainer.devices == 1,
            key,
            value,
            "for one device",
            f"trainer.devices=1 {key}={value}",
        )


def _check_merge(config: Config) -> None:
    data, merge = config.data, config.merge
    found = merged_students(config)
    require(
        len(found) >= 2,
        "merge.students",
        merge.students,
        f"data={data.name} has no sources with a student each: name two finished students or more",
        f"merge={merge.name} 'merge.students=[FINGERPRINT,FOLDER]', or data=microworld_mixed",
    )
    require(
        not merge.weights or len(merge.weights) == len(found),
        "merge.weights",
        merge.weights,
        f"one a student, {len(found)} here",
        "'merge.weights=[0.7,0.3]'",
    )
    if trains_sources(config) and isinstance(data, MixtureDataConfig):
        require(
            not data.mixing.domain_tag,
            "data.mixing.domain_tag",
            True,
            "false where students of single sources are merged: none of them has seen a tag",
            "data.mixing.domain_tag=false",
        )
    if merge.is_routed:
        _check_router(config, found)


def _check_router(config: Config, found: list[Merged]) -> None:
    merge, evaluation = config.merge, config.evaluation
    nameless = next((student.given for student in found if not student.source), None)
    require(
        nameless is None,
        "merge.students",
        nameless,
        "sources of the data, or SOURCE=FINGERPRINT: the router chooses between sources",
        f"data=microworld_mixed merge={merge.name} "
        f"'merge.students=[\"microworld_a={nameless}\",microworld_b]'",
    )
    require(
        config.adapter.name != "full" or not trains_sources(config),
        "adapter",
        config.adapter.name,
        "adapters of one base, of which the router chooses one",
        f"adapter=lora merge={merge.name}",
    )
    require(
        not {"server", "folder"} & set(record("engine", evaluation.engine).needs),
        "evaluation.engine",
        evaluation.engine,
        "an engine of this machine, which loads the adapter that the router chooses",
        "evaluation.engine=native",
    )
    require(
        not evaluation.plan_value,
        "evaluation.plan_value",
        True,
        "false with a router: plans are valued by one student",
        "evaluation.plan_value=false",
    )
