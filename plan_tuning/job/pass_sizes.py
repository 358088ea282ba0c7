"""How many tokens a pass takes where the configuration says ``auto``: as many as memory holds.

Found out once, when a job starts, from what the ledger says of its stages and from the free memory
of the card; on a CPU from a quarter of the available memory, and no more than the presets of a
card would take. Numbers go on in the configuration; a training writes its own into its checkpoints
and goes on with them on whatever card it is resumed, for the same passes give the same sums.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from plan_tuning.config.checks import AUTO, ConfigError
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.run import Config
from plan_tuning.config.training import StartTrainerConfig
from plan_tuning.job.cards import GB, host_bytes, planned_card
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.ledger import job_memory
from plan_tuning.job.stage_memory import DECODED, MICRO, ROLLOUTS, StageMemory

logger = logging.getLogger(__name__)

# Where no shape is known; and what a CPU takes at the most.
PLAIN_SIZES = {MICRO: 16_384, ROLLOUTS: 65_536, DECODED: 65_536}
_CPU_SHARE = 0.25  # of the available memory: other jobs run beside this one
_CPU_MEMORY = 4 * GB  # where the system does not say what is available


@dataclass(frozen=True)
class SettledPasses:
    """Settings with numbers in place of ``auto``, and which keys that was.

    Args:
        config: the job's.
        found: keys that were ``auto`` for the job's own training.
        found_of_start: keys that were for the training of its start, which may have a size of its
            own.
    """

    config: Config
    found: frozenset[str] = frozenset()
    found_of_start: frozenset[str] = frozenset()


def auto_keys(config: Config) -> frozenset[str]:
    """The sizes that a job's configuration leaves open."""
    method, own = config.method, config.start.trainer
    said = {
        MICRO: AUTO in (config.trainer.micro_batch_tokens, own and own.micro_batch_tokens),
        ROLLOUTS: isinstance(method, GRPOConfig) and method.generation_batch_tokens == AUTO,
        DECODED: config.evaluation.batch_tokens == AUTO,
    }
    return frozenset(key for key, is_open in said.items() if is_open)


def settled(config: Config, graph: JobGraph, device: str) -> SettledPasses:
    """Find out what is left open.

    Args:
        config: of the job.
        graph: its stages; those that are there already need nothing.
        device: cuda or cpu, where the job computes.

    Raises:
        ConfigError: nobody says how much of a card is free.
    """
    keys = auto_keys(config)
    if not keys:
        return SettledPasses(config)
    seen, is_cpu = config, device == "cpu"
    if is_cpu:
        seen = replace(config, trainer=replace(config.trainer, accelerator="cpu"))
        usable = _CPU_SHARE * (host_bytes() or _CPU_MEMORY / _CPU_SHARE)
        place = "the machine's memory"
    else:
        card = planned_card(config.trainer, starts=True)
        if card is None:
            raise ConfigError(
                "trainer.card",
                None,
                "neither torch nor the driver says how much of the card is free, which auto asks",
                "trainer.card=80",
            )
        usable, place = card.usable, card.name
    stages = job_memory(seen, graph)
    sizes = {key: _least(stages, key, usable, is_cpu=is_cpu) for key in keys}
    own = config.start.trainer or StartTrainerConfig()
    start = own.micro_batch_tokens or config.trainer.micro_batch_tokens
    if MICRO in keys:
        by_name = {stage.name: [stage] for stage in stages}
        sizes[MICRO] = _least(by_name.get("train", []), MICRO, usable, is_cpu=is_cpu)
        if config.trainer.micro_batch_tokens != AUTO:
            del sizes[MICRO]
        if start == AUTO:
            start = _least(by_name.get("start", []), MICRO, usable, is_cpu=is_cpu)
    for key, tokens in sorted(sizes.items()):
        logger.info("%s=auto: %d, for %.3g GB of %s", key, tokens, usable / GB, place)
    begun = replace(config.start, trainer=replace(own, micro_batch_tokens=start))
    open_in_start = own.micro_batch_tokens or config.trainer.micro_batch_tokens
    others = keys - {MICRO}
    return SettledPasses(
        replace(with_sizes(config, sizes), start=begun),
        others | ({MICRO} if config.trainer.micro_batch_tokens == AUTO else frozenset()),
        others | ({MICRO} if open_in_start == AUTO else frozenset()),
    )


def _least(stages: list[StageMemory], key: str, usable: float, *, is_cpu: bool) -> int:
    """The most tokens that fit in every stage that has such passes.

    A stage that has room for all its rows at once, a validation most often, limits no other one.
    """
    concerned = [stage for stage in stages if key in stage.needed]
    if not concerned:
        return PLAIN_SIZES[key]
    found = {stage: stage.largest(key, usable) or stage.needed[key] for stage in concerned}
    limited = [tokens for stage, tokens in found.items() if tokens < stage.ceilings[key]]
    least = min(limited) if limited else max(found.values())
    return min(least, PLAIN_SIZES[key]) if is_cpu else least


def with_sizes(config: Config, sizes: Mapping[str, int]) -> Config:
    """Put numbers of tokens into a configuration.

    Args:
        config: of the job, or of one of its trainings.
        sizes: tokens by key; other keys stay as they are.
    """
    trainer, method, evaluation = config.trainer, config.method, config.evaluation
    if MICRO in sizes:
        trainer = replace(trainer, micro_batch_tokens=sizes[MICRO])
    if isinstance(method, GRPOConfig) and ROLLOUTS in sizes:
        method = replace(method, generation_batch_tokens=sizes[ROLLOUTS])
    if DECODED in sizes:
        evaluation = replace(evaluation, batch_tokens=sizes[DECODED])
    return replace(config, trainer=trainer, method=method, evaluation=evaluation)


def sizes_of(config: Config, keys: frozenset[str]) -> dict[str, int]:
    """The numbers of some keys, as a training with these settings has them."""
    method = config.method
    said = {MICRO: config.trainer.micro_batch_tokens, DECODED: config.evaluation.batch_tokens}
    if isinstance(method, GRPOConfig):
        said[ROLLOUTS] = method.generation_batch_tokens
    return {key: int(value) for key, value in said.items() if key in keys}


def remembered(config: Config, keys: frozenset[str], folder: Path) -> Config:
    """Go on with the sizes that an interrupted training has had.

    Args:
        config: of the training, with the sizes of today.
        keys: those that were found out.
        folder: of the student, with what an earlier attempt has left in it.
    """
    if not keys:
        return config
    from plan_tuning.training.checkpoints import latest_checkpoint, pass_sizes_in
    from plan_tuning.training.lightning import CHECKPOINTS

    checkpoint = latest_checkpoint(folder / CHECKPOINTS)
    kept = {} if checkpoint is None else pass_sizes_in(checkpoint)
    kept = {key: value for key, value in kept.items() if key in keys}
    if not kept:
        return config
    logger.info(
        "passes are those of the checkpoint: %s", ", ".join(f"{k}={v}" for k, v in kept.items())
    )
    return with_sizes(config, kept)
