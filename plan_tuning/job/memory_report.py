"""What the ledger says to a user: a job's stages, a sweep's line, notes, refusals with cures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from plan_tuning.config.checks import ConfigError, Finding
from plan_tuning.config.run import Config
from plan_tuning.config.training import CARDS
from plan_tuning.job.cards import GB, USABLE, Card, host_bytes, planned_card, smallest_card
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.ledger import job_memory, unknown_models
from plan_tuning.job.memory_cures import cures_of
from plan_tuning.job.stage_memory import MICRO, Phase, StageMemory

_SHOWN_SHARE = 0.01  # of a peak; smaller causes are named together


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
    for model in unknown_models(config, graph):
        yield f"memory: unknown where {model} takes part, whose shape nobody knows"


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
    for config, graph in (one for given, of in jobs for one in of.jobs(given)):
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
            is_too_large |= card is not None and stage.shortest.total > card.usable
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


def memory_findings(config: Config, graph: JobGraph, *, starts: bool = False) -> Iterator[Finding]:
    """Find what does not fit on the card that is named or at hand, and in the machine's memory.

    Args:
        config: of the job.
        graph: its stages.
        starts: the job is about to begin on this machine.
    """
    card = planned_card(config.trainer, starts=starts)
    is_elsewhere = config.trainer.card is not None and not starts
    for stage in job_memory(config, graph):
        if not is_elsewhere:
            yield from _host_findings(config, stage, is_here=card is not None)
        if card is not None:
            yield from _card_findings(config, graph, stage, card)
    if card is not None:
        for model in unknown_models(config, graph):
            yield Finding("note", f"nobody knows the shape of {model}: whether it fits is not said")


def _host_findings(config: Config, stage: StageMemory, *, is_here: bool) -> Iterator[Finding]:
    """Compare what the machine's own memory holds with what is available; it may yet swap."""
    is_cpu, free = config.trainer.accelerator == "cpu", host_bytes()
    if free is None or not (is_cpu or is_here):
        return
    needed = max(stage.host, stage.least.total) if is_cpu else stage.host
    if needed > free:
        yield Finding(
            "note",
            f"{stage.name} ({stage.model}) takes {_gb(needed)} GB of the machine's memory at the "
            f"least, of which {_gb(free)} GB are available",
        )


def _card_findings(
    config: Config, graph: JobGraph, stage: StageMemory, card: Card
) -> Iterator[Finding]:
    """Refuse what can have no row, and note rows and passes that would be too large."""
    if stage.shortest.total > card.usable:
        yield Finding("error", _refusal(config, graph, stage, card))
        return
    if stage.least.total > card.usable:
        longest, row = stage.longest_row(card.usable), stage.needed[MICRO]
        cures = ", or ".join(cures_of(config, graph, stage.name, card))
        yield Finding(
            "note",
            f"{stage.name} ({stage.model}): rows of up to {longest} tokens fit on {card.name}; a "
            f"row of trainer.max_length={row} takes {_gb(stage.least.total)} GB, of which "
            f"{_gb(card.usable)} GB are for tensors: the training ends where it meets one"
            + (f". Try for example: {cures}" if cures else ""),
        )
        return
    if stage.widest(stage.sizes(card.usable)).total <= card.usable:
        return
    for key, tokens in stage.given.items():
        largest = stage.largest(key, card.usable)
        if largest is not None and largest < tokens:
            yield Finding(
                "note",
                f"{stage.name}: passes of {tokens} tokens ({key}) do not fit on {card.name}, "
                f"{key}={largest} does; {key}=auto takes what fits",
            )


def check_memory(config: Config, graph: JobGraph) -> None:
    """Refuse a job that cannot hold one row on the card that it is about to begin on.

    Raises:
        ConfigError: it cannot; the message names settings with which it can.
    """
    for finding in memory_findings(config, graph, starts=True):
        if finding.kind == "error":
            raise ConfigError(finding.text)


def _refusal(config: Config, graph: JobGraph, stage: StageMemory, card: Card) -> str:
    """Say what does not fit, and with which settings it would."""
    phase = stage.least
    cures = [*cures_of(config, graph, stage.name, card)]
    size = smallest_card(phase.total)
    cures += [] if size is None else [f"a card of {size} GB"]
    advice = ", or ".join(cures) or "choose a smaller model"
    return (
        f"{stage.name} ({stage.model}) does not fit on {card.name}, {_gb(card.usable)} GB of which "
        f"are for tensors ({USABLE:.0%}): one row a pass takes {_gb(phase.total)} GB "
        f"({phase.name}: {_causes(phase)}). Try for example: {advice}"
    )
