"""Configuration -> one training call: corpus to student, or start and golden plans to student."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_tuning.artifacts import ArtifactError, folder_of, is_complete, read_manifest
from plan_tuning.config.extensions import record
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.model import MicroModelConfig, ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.config.sources import merged_students, source_config
from plan_tuning.distillation.corpus import OnUsage
from plan_tuning.job.cards import share_of_card
from plan_tuning.job.compute import facts_of_start
from plan_tuning.job.decoding_memory import served
from plan_tuning.job.inputs import load_problems
from plan_tuning.job.machine import device_of, loading, prepare_torch
from plan_tuning.job.models import Models, rank_models
from plan_tuning.job.pass_sizes import remembered, sizes_of
from plan_tuning.job.result import CURVES_FILE
from plan_tuning.job.stages import Stage
from plan_tuning.job.test_problems import FACT, facts_of_students, facts_of_training
from plan_tuning.job.train_spec import filter_spec, has_start
from plan_tuning.records import Ask, Problem
from plan_tuning.students import gguf
from plan_tuning.students.footprint import FLOAT, HALF
from plan_tuning.students.shapes import shape_of
from plan_tuning.tasks.published_tests import name_test_problems
from plan_tuning.tasks.regrading import VERSIONS
from plan_tuning.tracking.tracker import Tracker

if TYPE_CHECKING:
    from plan_tuning.training.lightning import TrainingRun
    from plan_tuning.training.validation import HeldOutEvaluation

logger = logging.getLogger(__name__)

_PLAIN_SHARE = 0.4  # of a card, for a server of a model whose shape nobody knows

Facts = Mapping[str, Any]
"""Of a training, for the manifest of its student."""
MakeStudent = Callable[[Path], Facts]


@dataclass(frozen=True)
class Process:
    """What only the job's own process has, and no process that it starts for a training."""

    models: Models
    tracker: Tracker
    on_usage: OnUsage  # told what the judge was paid


@dataclass(frozen=True)
class Training:
    """One training of a job; without its ``process`` it can be sent to other processes."""

    config: Config  # the job's, or that of the plain job which makes its start
    stage: Stage  # the student
    start: Path | str | None  # what is trained on; None: the untrained model of the job
    corpus: Path | None  # where the method learns from one
    run_dir: Path
    process: Process | None
    found_sizes: frozenset[str] = frozenset()  # keys of passes that were auto

    def begin(self) -> Path | str:
        """Name the folder or hub id of what is trained; a base of ours is made first, if need be.

        Raises:
            ValueError: a process that was started for the training was not told.
        """
        if self.start is not None:
            return self.start
        if self.process is None:
            raise ValueError("another process has to be told what the training begins from")
        return self.process.models.base

    def run(self, folder: Path, loggers: Sequence[Any] | None) -> TrainingRun:
        """Say where it is trained and shown; ``loggers`` are a rank's, None: this process's."""
        from plan_tuning.training.lightning import TrainingRun
        from plan_tuning.training.logs import CurveFile

        self.begin()  # a base of ours says in its manifest what a student's card repeats
        provenance = training_provenance(self.config, self.stage)
        seen = facts_of_training(self.config, self.corpus, self.start)
        if seen:
            provenance["trained on"] = name_test_problems(seen[FACT])
        sizes = sizes_of(self.config, self.found_sizes)
        if self.process is None:
            return TrainingRun(folder, self.run_dir, loggers or (), provenance, pass_sizes=sizes)
        tracker = self.process.tracker
        shown = [CurveFile(folder / CURVES_FILE), *tracker.lightning_loggers()]
        return TrainingRun(folder, self.run_dir, shown, provenance, tracker.log_table, sizes)

    def remembering(self, folder: Path) -> Training:
        """The same with the sizes of passes that a checkpoint in ``folder`` was made with."""
        return replace(self, config=remembered(self.config, self.found_sizes, folder))


def training_call(training: Training) -> Callable[[Path], Facts]:
    """Choose the one call that trains into a folder, in this process or in several."""
    train = train_with_rewards if _is_grpo(training) else train_sft
    if training.config.trainer.devices > 1:
        return partial(_train_in_ranks, train, training)
    return partial(train, training)


def _train_in_ranks(train: Callable[..., Facts], training: Training, folder: Path) -> Facts:
    """Train in several processes, and show here what they have left."""
    from plan_tuning.training.processes import train_in_ranks

    training = training.remembering(folder)
    config, process = training.config, training.process
    if process is not None and _validates(config) and _has_own_executor(config):
        process.models.build_executor()  # which every rank then loads
    if process is not None and _is_grpo(training) and config.reward.uses_frozen:
        process.models.build_frozen()
    sent = replace(training, start=training.begin(), process=None)
    curves = folder / CURVES_FILE
    facts = train_in_ranks(partial(train, sent, folder), config.trainer, curves)
    if process is not None:
        process.tracker.log_curves(curves)
        if _is_grpo(training):
            from plan_tuning.training.grpo.fit import COMPLETIONS_FILE

            process.tracker.log_rows("completions", folder / COMPLETIONS_FILE)
        else:
            from plan_tuning.training.sft.fit import SAMPLES_FILE

            process.tracker.log_rows("val_samples", folder / SAMPLES_FILE)
    return facts


def make_base(config: Config, model: ModelConfig, folder: Path) -> Facts:
    """Make an untrained model: the micro-world's, a tiny one with random weights, a GGUF file's."""
    prepare_torch(config.trainer)
    file = gguf.file_of(model.path)
    if file is not None:
        logger.info("dequantising %s: about a minute, once", file.name)
        return gguf.dequantise(folder, file)
    if isinstance(model, MicroModelConfig):
        with loading():
            from plan_tuning.training.microworld_base import train_base

        logger.info("training the micro-world's base model: about a minute, once")
        return train_base(folder, model, max_steps=config.debug.max_steps)
    from plan_tuning.students.tiny import make_tiny

    return make_tiny(folder, model.family, model.seed)


def merge_call(
    config: Config, students: Sequence[Stage], base: Callable[[], Path | str]
) -> MakeStudent:
    """Make the one call that merges finished students into a folder.

    Args:
        config: the job.
        students: those that are merged.
        base: names the folder or hub id of what they began from.
    """

    def merge(folder: Path) -> Facts:
        from plan_tuning.students import adapter_merging, merging
        from plan_tuning.students.loading import is_adapter

        chosen, extension = config.merge, record("merge", config.merge.name)
        folders = [student.folder for student in students]
        shares = chosen.shares_of(len(folders))
        rule = extension.load()
        if "problems" in extension.needs:
            named = [student.source for student in merged_students(config)]
            known = _problem_texts(config, named) if chosen.router == "nearest" else {}
            facts = rule(folder, dict(zip(named, folders, strict=True)), chosen, known)
        elif all(map(is_adapter, folders)) and not extension.is_outside:
            is_sum = chosen.name in ("linear", "task_arithmetic")
            entries = None if is_sum else rule
            facts = adapter_merging.merge_adapters(folder, folders, shares, chosen, entries)
        elif "base" in extension.needs:
            weights = merging.weights_folder(base(), config.model.revision)
            facts = merging.merge_differences(folder, folders, weights, shares, chosen, rule)
        else:
            facts = merging.merge_students(folder, folders, shares, rule)
        return {**facts, **facts_of_students(folders)}

    return merge


def _problem_texts(config: Config, sources: Sequence[str]) -> dict[str, list[str]]:
    """The training problems of each source, as a student is asked them."""
    jobs = {source: source_config(config, source) for source in sources}
    return {source: [p.problem for p in load_problems(job)] for source, job in jobs.items()}


def train_sft(training: Training, folder: Path, loggers: Sequence[Any] | None = None) -> Facts:
    """Corpus -> rows -> student.

    Args:
        training: what is trained.
        folder: receives the student.
        loggers: of a rank; None: this process trains alone.
    """
    with loading():
        from plan_tuning.training.sft.data import training_rows
        from plan_tuning.training.sft.fit import SFTSettings, train_student

    training = training.remembering(folder)
    config, corpus = training.config, training.corpus
    rows, selection = training_rows(
        method=config.method,
        prompt=config.prompt,
        chosen=config.filter,
        problems=load_problems(config) if corpus is None else (),
        corpus=corpus,
        mixture=config.data if isinstance(config.data, MixtureDataConfig) else None,
        order=config.trainer.order,
    )
    trainer = config.trainer
    if config.method.continued_steps:
        trainer = replace(trainer, max_steps=config.method.num_continued)
    settings = SFTSettings(config.model, config.adapter, trainer, config.method, config.seed)
    run = training.run(folder, loggers)
    with ExitStack() as resources:
        process = training.process
        models = rank_models(config, resources) if process is None else process.models
        evaluation = held_out_evaluation(training, models)
        facts = train_student(run, settings, training.begin(), rows, evaluation)
    seen = facts_of_training(config, corpus, training.start)
    begun = facts_of_start(training.start if has_start(config) else None)
    return {**facts, "selection": selection, **seen, **VERSIONS, **begun}


def train_with_rewards(
    training: Training, folder: Path, loggers: Sequence[Any] | None = None
) -> Facts:
    """Start, golden plans, rewards -> student.

    Args:
        training: what is trained.
        folder: receives the student.
        loggers: of a rank, which grades by itself; None: this process trains alone.

    Raises:
        ArtifactError: there is no corpus.
    """
    from plan_tuning.training.grpo.data import planned_problems
    from plan_tuning.training.grpo.fit import GRPOSettings, train_grpo

    training = training.remembering(folder)
    config, method, process = training.config, training.config.method, training.process
    if not isinstance(method, GRPOConfig) or training.corpus is None:
        raise ArtifactError("method=grpo needs a corpus of golden plans: corpus.path=FOLDER")
    problems, selection = planned_problems(training.corpus, config.filter)
    settings = GRPOSettings(
        model=config.model,
        adapter=config.adapter,
        trainer=config.trainer,
        method=method,
        reward=config.reward,
        prompt=config.prompt,
        evaluation=config.evaluation,
        seed=config.seed,
        server_share=_server_share(config),
    )
    open_ask = partial(open_judge, training) if config.reward.uses_judge else None
    run = training.run(folder, loggers)
    with ExitStack() as resources:
        models = rank_models(config, resources) if process is None else process.models
        begun = training.begin()
        frozen = partial(models.frozen, begun) if config.reward.uses_frozen else None
        facts = train_grpo(run, settings, begun, problems, models.grader, open_ask, frozen)
    seen = facts_of_training(config, training.corpus, training.start)
    had = facts_of_start(training.start if has_start(config) else None)
    graded = models.grader.facts()
    return {**facts, "selection": selection, **seen, **VERSIONS, **graded, **had}


def _server_share(config: Config) -> float | None:
    """Say how much of the card a server of rollouts gets: what the ledger counts it with."""
    method, found = config.method, shape_of(config.model)
    if not isinstance(method, GRPOConfig) or method.engine != "vllm":
        return None
    if device_of(config.trainer) == "cpu":
        return None
    if found is None:
        return _PLAIN_SHARE
    width = HALF if config.trainer.precision == "bf16" else FLOAT
    held = served(found[0], width, int(method.generation_batch_tokens), "cuda")
    return share_of_card(sum(held.values()))


def _is_grpo(training: Training) -> bool:
    return isinstance(training.config.method, GRPOConfig)


@asynccontextmanager
async def open_judge(training: Training) -> AsyncIterator[Ask]:
    """Open the way to the judge; its answers lie in the same store as the teacher's."""
    from plan_tuning.teachers.factory import open_caller
    from plan_tuning.teachers.usage import Usage

    config, process = training.config, training.process
    usage = Usage(config.judge.model)
    try:
        async with open_caller(config.judge, config.paths.calls, usage=usage) as caller:
            yield caller.ask
    finally:  # calls under way when it ended were paid too
        if process is not None:
            process.on_usage(usage.bought, usage.usd)


def _validates(config: Config) -> bool:
    """Whether a supervised training solves held-out problems."""
    return bool(config.trainer.val_problems and config.trainer.val_fraction)


def _has_own_executor(config: Config) -> bool:
    """Whether m2's plans are executed by another one than the student as it is at that moment."""
    needs = record("executor", config.executor.name).needs
    return config.method.has_two_calls and "student" not in needs


def _is_beneath_adapter(config: Config) -> bool:
    """Whether m2's executor is the very model that the student's adapter is trained upon."""
    is_base = "base" in record("executor", config.executor.name).needs
    return is_base and config.adapter.name == "lora" and not config.method.continued_steps


def held_out_evaluation(training: Training, models: Models) -> HeldOutEvaluation | None:
    """Say how a student solves held-out training problems while it is trained, as at test time.

    Args:
        training: what is trained.
        models: of this process, be it a rank.

    Returns:
        None where no held-out problem is to be solved.
    """
    config, corpus = training.config, training.corpus
    if not _validates(config):
        return None
    from plan_tuning.distillation.corpus import PROBLEMS, read_problems
    from plan_tuning.training.validation import HeldOutEvaluation

    if corpus is not None and not (corpus / PROBLEMS).is_file():
        return None  # trajectories from elsewhere: nobody says how their problems are graded
    problems = load_problems(config) if corpus is None else read_problems(corpus)
    is_base = _has_own_executor(config) and _is_beneath_adapter(config)
    return HeldOutEvaluation(
        _tagged(problems, config),
        config.method.name,
        config.prompt,
        config.evaluation,
        models.grader,
        models.validation_executor if _has_own_executor(config) and not is_base else None,
        executes_with_base=is_base,
    )


def _tagged(problems: Sequence[Problem], config: Config) -> Sequence[Problem]:
    """Write each problem as a student of a mixture sees it."""
    if not isinstance(config.data, MixtureDataConfig):
        return problems
    from plan_tuning.tasks.mixture import tagged

    tags = {name: config.data.tag_of(name) for name in {p.source for p in problems}}
    return [replace(p, problem=tagged(p.problem, tags[p.source])) for p in problems]


def training_provenance(config: Config, stage: Stage) -> dict[str, Any]:
    """Say for a model card what a student stands on; nothing of it is a path."""
    held = f", without an internal split of {config.data.holdout}" if config.data.holdout else ""
    known = {
        "method": config.method.name,
        "training problems": f"{config.data.name} ({config.data.split}){held}",
        "seed": config.seed,
        "fingerprint": stage.fingerprint,
        **{f"fingerprint of the {role}": value for role, value in stage.upstream.items()},
    }
    if (base := stage.upstream.get("base")) is not None:
        folder = folder_of(config.paths.artifacts, "bases", base)
        facts = read_manifest(folder)["facts"] if is_complete(folder) else {}
        if gguf.ROUNDING in facts:
            known["weights of the base"] = facts[gguf.ROUNDING]
    if not config.method.needs_corpus:
        return known
    if config.corpus.path is None:
        known["teacher"] = config.teacher.model
    return known | {"filter": ", ".join(f"{k} {v}" for k, v in filter_spec(config).items())}
