"""A stage that does not fit to the settings with which it would, for whoever is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.extensions import record
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.precision import check_precision
from plan_tuning.config.run import Config
from plan_tuning.job.cards import Card
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.ledger import job_memory
from plan_tuning.job.stage_memory import StageMemory

Change = tuple[str, Callable[[], Config]]
"""The words of a command line, and the settings that they make."""


def cures_of(config: Config, graph: JobGraph, name: str, card: Card) -> Iterator[str]:
    """Find the first settings of a stage that fit, from the least change to the largest.

    Args:
        config: of the job that does not fit.
        graph: its stages.
        name: of the stage: start, train or evaluate.
        card: what it shall fit on.

    Yields:
        One line of words at the most; no settings that are themselves refused.
    """
    changes = _of_evaluation(config) if name == "evaluate" else _of_training(config, name)
    for words, make in changes:
        try:
            changed = make()
            check_precision(changed)
        except ConfigError:  # says why these settings do not go together: none to advise
            continue
        stage = next((one for one in job_memory(changed, graph) if one.name == name), None)
        if stage is None or stage.least.total <= card.usable:
            yield words
            return
        longest = _row_to_advise(stage, card)
        if longest is not None:
            yield f"{words} trainer.max_length={longest}"
            return


def _row_to_advise(stage: StageMemory, card: Card) -> int | None:
    """A row that fits, in place of one that does not."""
    longest = stage.longest_row(card.usable)
    return None if longest is None or stage.least.total <= card.usable else longest


def _of_evaluation(config: Config) -> Iterator[Change]:
    """Who answers elsewhere."""
    evaluation = config.evaluation
    if "server" not in record("engine", evaluation.engine).needs:
        known = evaluation.server
        address, label = known.api_base or "http://127.0.0.1:8000/v1", known.model or "student"
        served = replace(known, api_base=address, model=label)

        def ask() -> Config:
            return replace(config, evaluation=replace(evaluation, engine="server", server=served))

        words = "evaluation.engine=server"
        if not (known.api_base and known.model):
            words += f" evaluation.server.api_base={address} evaluation.server.model={label}"
        yield words, ask
    if config.method.has_two_calls and config.executor.name != "self":
        executor = replace(config.executor, name="self", model=None)
        yield "executor=self", lambda: replace(config, executor=executor)


def _of_training(config: Config, name: str) -> Iterator[Change]:
    """Settings of a training that take less memory."""
    is_full, recomputes = config.adapter.name == "full", _recomputes(config, name)
    again = "" if recomputes else " trainer.gradient_checkpointing=true"
    if not recomputes:
        yield again.strip(), lambda: _recomputing(config)
    method = config.method
    if is_full and isinstance(method, GRPOConfig) and method.reference_dtype == "float32":
        yield (
            "method.reference_dtype=bfloat16",
            lambda: replace(config, method=replace(method, reference_dtype="bfloat16")),
        )
    if is_full:
        yield "adapter=lora", lambda: _adapted(config, "lora")
        if not recomputes:
            yield f"adapter=lora{again}", lambda: _adapted(_recomputing(config), "lora")
    if config.adapter.name != "qlora":
        yield f"adapter=qlora{again}", lambda: _adapted(_recomputing(config), "qlora")


def _adapted(config: Config, name: str) -> Config:
    """The same with other weights that are trained; what else is said of them stays said."""
    return replace(config, adapter=replace(config.adapter, name=name))


def _recomputes(config: Config, name: str) -> bool:
    trainer = config.start_trainer if name == "start" else config.trainer
    return trainer.gradient_checkpointing


def _recomputing(config: Config) -> Config:
    """The same with activations computed twice, in the start's training too."""
    changed = replace(config, trainer=replace(config.trainer, gradient_checkpointing=True))
    own = config.start.trainer
    if own is not None and own.gradient_checkpointing is False:
        started = replace(config.start, trainer=replace(own, gradient_checkpointing=True))
        changed = replace(changed, start=started)
    return changed
