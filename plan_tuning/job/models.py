"""Who takes part in a job: the untrained model, the student, M2's executor, and the grader.

Each is loaded when it is first asked for, so a job whose stages are finished loads nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_tuning.artifacts import build
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.model import MicroModelConfig, ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.job.graph import JobGraph, Stage
from plan_tuning.job.result import Outcome
from plan_tuning.job.specs import artifacts_root, calls_folder
from plan_tuning.records import Reply, Request

if TYPE_CHECKING:
    from plan_tuning.evaluation.writers import AskAll, Writer
    from plan_tuning.grading.grader import Grader
    from plan_tuning.students.loading import Student

logger = logging.getLogger(__name__)


class Roles:
    """The models of one job and its grader; ``resources`` closes what has to be closed."""

    def __init__(
        self, config: Config, graph: JobGraph, outcome: Outcome, resources: ExitStack
    ) -> None:
        self.config = config
        self.graph = graph
        self.outcome = outcome
        self._resources = resources

    @cached_property
    def device(self) -> str:
        """Where this job computes: ``cuda`` or ``cpu``.

        Raises:
            ConfigError: CUDA is asked for and absent.
        """
        import torch

        trainer = self.config.trainer
        has_cuda = torch.cuda.is_available()
        if trainer.accelerator == "cuda" and not has_cuda:
            raise ConfigError(
                "trainer.accelerator",
                "cuda",
                "this machine has no CUDA device",
                "trainer=cpu_small",
            )
        self.outcome.device = "cuda" if has_cuda and trainer.accelerator != "cpu" else "cpu"
        return self.outcome.device

    def check_machine(self) -> None:
        """Refuse a job whose training or evaluation this machine cannot do.

        Raises:
            ConfigError: CUDA, or what 4-bit weights need, is asked for and absent.
        """
        config, graph = self.config, self.graph
        student = graph.student
        is_trained = "train" in config.stages and student is not None and not student.is_available
        is_tested = any(
            not stage.is_done for stage in (*graph.predictions, *graph.executor_predictions)
        )
        if not is_trained and not (is_tested and "evaluate" in config.stages):
            return
        if config.trainer.accelerator == "cuda":
            _ = self.device
        if is_trained and config.adapter.name == "qlora":
            from plan_tuning.students.loading import check_four_bits

            check_four_bits()

    @cached_property
    def base(self) -> str | Path:
        """The untrained model: a folder of ours, or the path or hub id that the user gave."""
        return self._build_base(self.graph.base, self.config.model)

    @cached_property
    def student(self) -> Student:
        """The model under test: trained by this job, given by path, or untrained."""
        stage = self.graph.student
        return self._load(self.base if stage is None else stage.folder, self.config.model)

    @cached_property
    def tested(self) -> Writer:
        """Who answers the test problems: the student, here or behind a server."""
        evaluation = self.config.evaluation
        if evaluation.engine == "server":
            from plan_tuning.evaluation.writers import ServedWriter

            return ServedWriter(self._ask_server(), evaluation)
        from plan_tuning.evaluation.writers import LocalWriter

        return LocalWriter(self.student, evaluation)

    @cached_property
    def executor(self) -> Writer:
        """Who executes M2's plans."""
        from plan_tuning.evaluation.writers import LocalWriter, TeacherWriter

        config = self.config
        if config.executor.name == "self":
            return self.tested
        if config.executor.name == "teacher":
            return TeacherWriter(self._ask_all(config.executor_teacher), config.evaluation)
        if config.executor.name == "model" and config.executor.model is not None:
            model = config.executor.model
            where = self._build_base(self.graph.executor_base, model)
            return LocalWriter(self._load(where, model), config.evaluation)
        if self.graph.student is None:  # the untrained model is the one that is tested
            return LocalWriter(self.student, config.evaluation)
        return LocalWriter(self._load(self.base, config.model), config.evaluation)

    @cached_property
    def grader(self) -> Grader:
        """The grader with its worker pool; closed at the end of the job."""
        from plan_tuning.grading.grader import Grader

        return self._resources.enter_context(Grader(self.config.evaluation.grading))

    def _prepare_torch(self) -> None:
        """Choose the process's threads, before anything is computed."""
        import torch

        if self.config.trainer.threads:
            # On small models more threads than one are far slower beside another busy process.
            torch.set_num_threads(self.config.trainer.threads)
        # Tiny weights drift into denormal numbers, which a CPU handles many times slower.
        torch.set_flush_denormal(True)

    def _load(self, where: str | Path, model: ModelConfig) -> Student:
        from plan_tuning.students.loading import for_inference, load_student

        self._prepare_torch()
        return for_inference(load_student(where, model, device=self.device, for_training=False))

    def _build_base(self, stage: Stage | None, model: ModelConfig) -> str | Path:
        """Make an untrained model of ours where it is absent; name it otherwise."""
        self._prepare_torch()
        if stage is None:
            return str(model.path)
        started = time.perf_counter()
        is_cached = True  # another process may build it while this one waits

        def make(folder: Path) -> Mapping[str, Any]:
            nonlocal is_cached
            is_cached = False
            if isinstance(model, MicroModelConfig):
                from plan_tuning.training.microworld_base import train_base

                logger.info("training the micro-world's base model: about a minute, once")
                return train_base(folder, model, max_steps=self.config.debug.max_steps)
            from plan_tuning.students.tiny import make_tiny

            return make_tiny(folder, model.family, model.seed)

        folder = build(
            artifacts_root(self.config), "bases", stage.fingerprint, make, spec=stage.spec
        )
        self.outcome.add_stage("base", time.perf_counter() - started, is_cached=is_cached)
        return folder

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
        return self._ask_all(teacher, asks_again=False)

    def _ask_all(self, teacher: TeacherConfig, *, asks_again: bool = True) -> AskAll:
        """Make the way from requests to replies of a large model or a server."""

        async def ask_each(requests: Sequence[Request]) -> list[Reply]:
            from plan_tuning.teachers.factory import open_caller
            from plan_tuning.teachers.usage import Usage

            usage = Usage(teacher.model)
            calls = calls_folder(self.config)
            try:
                async with open_caller(
                    teacher, calls, asks_again=asks_again, usage=usage
                ) as caller:
                    return await asyncio.gather(*(caller.ask(request) for request in requests))
            finally:  # calls under way when it ended were paid too
                self.outcome.add_calls(usage.bought, usage.usd)

        return lambda requests: asyncio.run(ask_each(requests))
