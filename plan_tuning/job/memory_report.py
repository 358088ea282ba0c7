"""What the ledger says to a user: a job's stages, a sweep's line, notes, refusals with cures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from plan_tuning.config.checks import ConfigError, Finding
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import AdapterConfig
from plan_tuning.config.run import Config
from plan_tuning.config.training import CARDS, TrainerConfig
from plan_tuning.job.cards import GB, USABLE, Card, host_bytes, planned_card, smallest_card
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.ledger import MICRO, Phase, StageMemory, job_memory

_SHOWN_SHARE = 0.01  # of a peak; smaller causes are named together
_SHORTEST = 256  # tokens of a row below which no max_length is advised


def memory_lines(config: Config, graph: JobGraph) -> Iterator[str]:
    """Describe what each stage of a job holds, and which sizes of its passes fit."""
    card = planned_card(config.trainer)
    for stage in job_memory(config, graph):
        sizes = stage.sizes(None if card is None else card.usable)
        phase = stage.widest(sizes)
        tokens = ", ".join(f"{key}={count}" for key, count in sizes.items())
        yield (
            f"memory: {stage.name} ({stage.model}): {_gb(phase.total)} GB at most ({phase.name}; "
            f"{tokens}): {_causes(phase)}; {_gb(stage.host)} GB of the machine's memory to load it"
        )
        yield f"        {_place(config, stage, card)}"


def _place(config: Config, stage: StageMemory, card: Card | None) -> str:
    """Say where a stage fits."""
    if config.trainer.accelerator == "cpu":
        free = host_bytes()
        return "on the CPU" + ("" if free is None else f", {_gb(free)} GB of memory are free")
    if card is None:
        smallest = smallest_card(stage.widest(stage.sizes(None)).total)
        return f"{_cards(smallest)}; with one row a pass {_cards(smallest_card(stage.least.total))}"
    largest = {key: stage.largest(key, card.usable) for key in stage.needed}
    if None in largest.values():
        return f"does not fit on {card.name}, which has {_gb(card.usable)} GB for tensors"
    listed = ", ".join(f"{key}={count}" for key, count in largest.items())
    return f"on {card.name} ({_gb(card.usable)} GB for tensors) fit at most: {listed}"


def _cards(smallest: int | None) -> str:
    """Name the cards from one on."""
    return f"more than {CARDS[-1]} GB" if smallest is None else f"cards from {smallest} GB on"


def _causes(phase: Phase) -> str:
    """List what a phase holds, the largest first, in GB."""
    listed = sorted(phase.causes.items(), key=lambda item: -item[1])
    shown = [(name, size) for name, size in listed if size >= _SHOWN_SHARE * phase.total]
    rest = phase.total - sum(size for _, size in shown)
    parts = [f"{name} {_gb(size)}" for name, size in shown]
    return " + ".join([*parts, *([f"others {_gb(rest)}"] if rest > 0 else [])])


def _gb(number: float) -> str:
    return f"{number / GB:.3g}"


@dataclass(frozen=True)
class _Widest:
    """The most that a job of a sweep holds."""

    total: float
    what: str


def memory_line(jobs: Iterable[tuple[Config, JobGraph]]) -> str | None:
    """Say what the jobs of a sweep hold at most, and which cards that needs.

    Returns:
        None where nothing is computed on a card.
    """
    as_given = least = _Widest(0.0, "")
    cards: dict[str, int] = {}  # jobs that do not fit, by card
    for config, graph in jobs:
        if config.trainer.accelerator == "cpu":
            continue
        card = planned_card(config.trainer)
        is_too_large = False
        for stage in job_memory(config, graph):
            what = f"{stage.name}, {stage.model}, method={config.method.name}"
            usable = None if card is None else card.usable
            total = stage.widest(stage.sizes(usable)).total
            as_given = max(as_given, _Widest(total, what), key=lambda one: one.total)
            least = max(least, _Widest(stage.least.total, what), key=lambda one: one.total)
            is_too_large |= card is not None and stage.least.total > card.usable
        if card is not None:
            cards[card.name] = cards.get(card.name, 0) + is_too_large
    if not as_given.total:
        return None
    line = (
        f"Memory: at most {_gb(as_given.total)} GB on a card ({as_given.what}), "
        f"{_cards(smallest_card(as_given.total))}; with one row a pass {_gb(least.total)} GB, "
        f"{_cards(smallest_card(least.total))}"
    )
    refused = [f"{count} jobs do not fit on {name}" for name, count in cards.items() if count]
    return "; ".join([line, *refused]) + "."


def memory_findings(config: Config, graph: JobGraph) -> Iterator[Finding]:
    """Find what does not fit on the card that is named or at hand."""
    card = planned_card(config.trainer)
    if card is None:
        return
    for stage in job_memory(config, graph):
        if stage.least.total > card.usable:
            yield Finding("error", _refusal(config, graph, stage, card))
            continue
        if stage.widest(stage.sizes(card.usable)).total <= card.usable:
            continue
        for key, tokens in stage.given.items():
            largest = stage.largest(key, card.usable)
            if largest is not None and largest < tokens:
                yield Finding(
                    "note",
                    f"{stage.name}: {key}={tokens} does not fit on {card.name}, at most "
                    f"{key}={largest} does; {key}=auto takes what fits",
                )


def check_memory(config: Config, graph: JobGraph) -> None:
    """Refuse a job that cannot hold one row on its card.

    Raises:
        ConfigError: it cannot; the message names settings with which it can.
    """
    for finding in memory_findings(config, graph):
        if finding.kind == "error":
            raise ConfigError(finding.text)


def _refusal(config: Config, graph: JobGraph, stage: StageMemory, card: Card) -> str:
    """Say what does not fit, and with which settings it would."""
    phase = stage.least
    cures = [*_cures(config, graph, stage.name, card)]
    size = smallest_card(phase.total)
    cures += [] if size is None else [f"a card of {size} GB"]
    advice = ", or ".join(cures) or "choose a smaller model"
    return (
        f"{stage.name} ({stage.model}) does not fit on {card.name}, {_gb(card.usable)} GB of which "
        f"are for tensors ({USABLE:.0%}): one row a pass takes {_gb(phase.total)} GB "
        f"({phase.name}: {_causes(phase)}). Try for example: {advice}"
    )


def _cures(config: Config, graph: JobGraph, name: str, card: Card) -> Iterator[str]:
    """Find the first settings of a training that fit, from the least change to the largest."""
    if name == "evaluate":
        yield "evaluation.engine=server"
        return
    for words, changed in _changes(config, name):
        for stage in job_memory(changed, graph):
            if stage.name != name:
                continue
            if stage.least.total <= card.usable:
                yield words
                return
            shorter = _shorter(stage, card)
            if shorter is not None:
                yield f"{words} trainer.max_length={shorter}"
                return


def _shorter(stage: StageMemory, card: Card) -> int | None:
    """The longest row that fits, where that still is one."""
    brief = replace(stage, needed={**stage.needed, MICRO: _SHORTEST})
    is_supervised = set(stage.needed).isdisjoint({"method.generation_batch_tokens"})
    return brief.largest(MICRO, card.usable) if is_supervised else None


def _changes(config: Config, name: str) -> Iterator[tuple[str, Config]]:
    """Settings that take less memory, and the words that choose them."""
    recomputing = _recomputing(config, name)
    is_full = config.adapter.name == "full"
    if recomputing is not None:
        yield "trainer.gradient_checkpointing=true", recomputing
    method = config.method
    if is_full and isinstance(method, GRPOConfig) and method.reference_dtype == "float32":
        rounded = replace(method, reference_dtype="bfloat16")
        yield "method.reference_dtype=bfloat16", replace(config, method=rounded)
    if is_full:
        adapter = AdapterConfig(name="lora")
        yield "adapter=lora", replace(config, adapter=adapter)
        if recomputing is not None:
            words = "adapter=lora trainer.gradient_checkpointing=true"
            yield words, replace(recomputing, adapter=adapter)
    if config.adapter.name != "qlora":
        small = recomputing or config
        words = "adapter=qlora" + (
            "" if recomputing is None else " trainer.gradient_checkpointing=true"
        )
        yield words, replace(small, adapter=AdapterConfig(name="qlora"))


def _recomputing(config: Config, name: str) -> Config | None:
    """The same with activations computed twice; None where they are already."""
    trainer: TrainerConfig = config.start_trainer if name == "start" else config.trainer
    if trainer.gradient_checkpointing:
        return None
    changed = replace(config, trainer=replace(config.trainer, gradient_checkpointing=True))
    own = config.start.trainer
    if own is not None and own.gradient_checkpointing is False:
        started = replace(config.start, trainer=replace(own, gradient_checkpointing=True))
        changed = replace(changed, start=started)
    return changed
