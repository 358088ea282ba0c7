"""The models of a job: the untrained one, the student, who is tested, and M2's executor.

Each is loaded when it is first asked for, so a job whose stages are finished loads nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.extensions import PLAIN, record
from plan_tuning.config.grpo import UNTRAINED
from plan_tuning.config.job_parts import asked_as_start
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.distillation.corpus import OnUsage
from plan_tuning.job.graph import JobGraph, job_graph
from plan_tuning.job.machine import device_of, prepare_torch
from plan_tuning.job.stages import Stage
from plan_tuning.records import Reply, Request

if TYPE_CHECKING:
    from plan_tuning.evaluation.identity import Identity
    from plan_tuning.evaluation.text_writers import AskAll
    from plan_tuning.evaluation.writers import Writer
    from plan_tuning.grading.grader import Grader
    from plan_tuning.students.generation.protocol import Engine
    from plan_tuning.students.loading import Student

logger = logging.getLogger(__name__)


class Models:
    """Who writes and who grades in one job, each made at its first use.

    Args:
        config: the job.
        graph: its stages; the student is that of its artifact.
        build_base: makes an untrained model of ours where it is absent, and names it otherwise.
        on_usage: told what large models were paid.
        resources: closes what has to be closed.
        folder: of the job, where a server that it starts writes its log.
        keeps_server: a server stays for the next job of this process.
    """

    def __init__(
        self,
        config: Config,
        graph: JobGraph,
        *,
        build_base: Callable[[Stage | None, ModelConfig], str | Path],
        on_usage: OnUsage,
        resources: ExitStack,
        folder: Path | None = None,
        keeps_server: bool = False,
    ) -> None:
        self.config = config
        self.graph = graph
        self._build_base = build_base
        self._on_usage = on_usage
        self._resources = resources
        self._folder = folder or Path()
        self._keeps_server = keeps_server

    @cached_property
    def base(self) -> str | Path:
        """The untrained model: a folder of ours, or the path or hub id that the user gave."""
        return self._build_base(self.graph.base, self.config.model)

    @property
    def _answering(self) -> tuple[str | Path, ModelConfig]:
        """The weights under test: trained by this job, given by path, or untrained."""
        stage = self.graph.student
        return self.base if stage is None else stage.folder, self.config.model

    @cached_property
    def student(self) -> Student:
        """The model under test, loaded here."""
        return self._load(*self._answering)

    @cached_property
    def tested(self) -> Writer:
        """Who answers the test problems: the student, here or behind a server."""
        evaluation = self.config.evaluation
        if self.graph.student is not None and self.config.merge.is_routed:
            from plan_tuning.evaluation.routed_writer import RoutedWriter

            return RoutedWriter(self.graph.student.folder, self._routed)
        needs = record("engine", evaluation.engine).needs
        if "server" in needs:
            return self._behind_server()
        if "folder" in needs:
            return self._served(*self._answering, self.identity)
        from plan_tuning.evaluation.writers import LocalWriter

        return LocalWriter(self.student, evaluation)

    def _routed(self, adapter: Path) -> Writer:
        """Who writes with an adapter that a router has chosen."""
        from plan_tuning.evaluation.writers import LocalWriter

        config = self.config
        if "folder" in record("engine", config.evaluation.engine).needs:
            return self._served(adapter, config.model)
        return LocalWriter(self._load(adapter, config.model), config.evaluation)

    @cached_property
    def identity(self) -> Identity:
        """Who a server should answer as: the student under test."""
        from plan_tuning.job.served_student import identity_of

        stage = self.graph.student or self.graph.base
        return identity_of(self._answering[0], stage, self.config.evaluation.max_probe_gap)

    def identity_facts(self, asked: Writer) -> dict[str, Any]:
        """Say whether the student was verified, where it is behind a server; of others nothing."""
        needs = set(record("engine", self.config.evaluation.engine).needs)
        is_behind = asked is self.tested and bool({"server", "folder"} & needs)
        return self.identity.facts() if is_behind else {}

    @cached_property
    def executor(self) -> Writer:
        """Who executes M2's plans; beside a server of others, models of ours are here."""
        from plan_tuning.evaluation.text_writers import FunctionWriter, TeacherWriter
        from plan_tuning.evaluation.writers import LocalWriter

        config = self.config
        extension = record("executor", config.executor.name)
        if extension.is_outside:
            return FunctionWriter(extension.load())
        if "student" in extension.needs:
            return self.tested
        if "ask" in extension.needs:
            return TeacherWriter(self._ask_all(config.executor_teacher), config.evaluation)
        if "folder" in record("engine", config.evaluation.engine).needs:
            return self._served(*self._executing_model())
        if "base" in extension.needs and self.graph.student is None:
            return LocalWriter(self.student, config.evaluation)  # the one that is tested
        return LocalWriter(self._load(*self._executing_model()), config.evaluation)

    @property
    def validation_executor(self) -> Writer:
        """Who executes M2's plans in a validation; a model of ours waits off the card."""
        from plan_tuning.evaluation.writers import WaitingWriter

        config = self.config
        extension = record("executor", config.executor.name)
        if extension.is_outside or "ask" in extension.needs:
            return self.executor

        def load() -> Student:
            return self._load(*self._executing_model(), waits=True)

        return WaitingWriter(load, device_of(config.trainer), config.evaluation)

    def _executing_model(self) -> tuple[str | Path, ModelConfig]:
        """The weights that execute plans: those of executor=model, or the untrained student's."""
        model = self.config.executor.model
        if self.config.executor.name == "model" and model is not None:
            return self._build_base(self.graph.executor_base, model), model
        return self.base, self.config.model

    @cached_property
    def follower(self) -> Student:
        """Who carries plans out here: M2's executor, or the student itself; a server's is loaded.

        Its weights tell log-probabilities, which no server is asked for.

        Raises:
            ConfigError: the executor is none of this machine.
        """
        from plan_tuning.evaluation.writers import LocalWriter

        self.end_server()  # its weights would lie beside these
        extension = record("executor", self.config.executor.name)
        if not self.config.method.has_two_calls or "student" in extension.needs:
            return self.student
        if extension.is_outside or "ask" in extension.needs:
            raise ConfigError(
                "executor",
                self.config.executor.name,
                "it tells no log-probabilities, by which plans are valued",
                "executor=base",
            )
        executor = self.executor
        if isinstance(executor, LocalWriter):
            return executor.student
        return self._load(*self._executing_model())

    def frozen(self, begun: str | Path) -> tuple[Student, str]:
        """Load the model that carries plans out for a reward, and say how it is asked.

        Args:
            begun: what the policy begins from: with executor=start it stays as that.
        """
        if self.config.reward.plan.executor == UNTRAINED:
            return self._load(self.base, self.config.model), PLAIN
        return self._load(begun, self.config.model), asked_as_start(self.config)

    def build_frozen(self) -> None:
        """Make that model's weights where they are ours and absent; nothing is loaded."""
        if self.config.reward.plan.executor == UNTRAINED:
            _ = self.base

    def build_executor(self) -> None:
        """Make the executor's weights where they are ours and absent; nothing is loaded."""
        chosen = self.config.executor
        if chosen.name == "model" and chosen.model is not None:
            self._build_base(self.graph.executor_base, chosen.model)
        elif chosen.name == "base":
            _ = self.base

    @cached_property
    def grader(self) -> Grader:
        """The grader with its worker pool; closed at the end of the job."""
        from plan_tuning.grading.grader import Grader

        return self._resources.enter_context(Grader(self.config.evaluation.grading))

    def _load(self, where: str | Path, model: ModelConfig, *, waits: bool = False) -> Student:
        from plan_tuning.students.loading import load_for_inference

        prepare_torch(self.config.trainer)
        device = device_of(self.config.trainer)
        return load_for_inference(where, model, device=device, waits=waits)

    def _served(
        self, where: str | Path, model: ModelConfig, identity: Identity | None = None
    ) -> Writer:
        """Weights that answer from a server of the job's own; they are not loaded here."""
        from plan_tuning.evaluation.writers import EngineWriter
        from plan_tuning.job.serving import HOST, LOG_FILE, Wanted, weights_of
        from plan_tuning.students.flops import writing
        from plan_tuning.students.outline import load_outline

        config = self.config
        weights, outline = weights_of(where), load_outline(where, model)
        device, log = device_of(config.trainer), self._folder / LOG_FILE
        if not self._keeps_server:
            self._resources.callback(HOST.close)

        @contextmanager
        def lend(tokens: int) -> Iterator[Engine]:
            wanted = Wanted(weights, outline.vocabulary, config, model, device, tokens, log)
            with HOST.lend(wanted) as engine:
                if identity is not None:
                    identity.check(engine.client)
                yield engine

        measure = partial(writing, outline.causal_lm)
        return EngineWriter(outline.vocabulary, lend, config.evaluation, measure)

    def end_server(self) -> None:
        """End a server that an earlier question or job left running: its card is needed."""
        from plan_tuning.job.serving import HOST

        HOST.close()

    def _behind_server(self) -> Writer:
        """The student behind a server that is there already, asked in tokens where it has them."""
        from plan_tuning.evaluation.text_writers import ServedWriter
        from plan_tuning.job.served_student import token_writer

        evaluation = self.config.evaluation
        writer = token_writer(evaluation, *self._answering, self.identity)
        return writer or ServedWriter(self._ask_server(), evaluation)

    def _ask_server(self) -> AskAll:
        """Ask the server of ``evaluation.server``; its answers belong to this student alone."""
        server = self.config.evaluation.server
        student = self.graph.student or self.graph.base
        teacher = TeacherConfig(
            backend="http",
            model=server.model,
            label=f"student {student.fingerprint if student else self.config.model.path}",
            provider="openai_compatible",
            api_base=server.api_base,
            api_key_env=server.api_key_env,
            concurrency=server.concurrency,
            timeout_s=server.timeout_s,
        )
        # A student's first answer counts, be it empty or cut.
        return self._ask_all(teacher, resamples=False)

    def _ask_all(self, teacher: TeacherConfig, *, resamples: bool = True) -> AskAll:
        """Make the way from requests to replies of a large model or a server."""

        async def ask_each(requests: Sequence[Request]) -> list[Reply]:
            from plan_tuning.teachers.factory import open_caller
            from plan_tuning.teachers.usage import Usage

            usage = Usage(teacher.model)
            try:
                async with open_caller(
                    teacher, self.config.paths.calls, resamples=resamples, usage=usage
                ) as caller:
                    return await asyncio.gather(*(caller.ask(request) for request in requests))
            finally:  # calls under way when it ended were paid too
                self._on_usage(usage.bought, usage.usd)

        return lambda requests: asyncio.run(ask_each(requests))


def rank_models(config: Config, resources: ExitStack) -> Models:
    """The models of a process that trains for a job: all bases are there already.

    Args:
        config: what is trained.
        resources: closes what has to be closed.
    """
    if device_of(config.trainer) == "cuda":
        import torch

        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))

    def existing(stage: Stage | None, model: ModelConfig) -> str | Path:
        return str(model.path) if stage is None else stage.folder

    return Models(
        config,
        job_graph(config),
        build_base=existing,
        on_usage=lambda *_: None,
        resources=resources,
    )
