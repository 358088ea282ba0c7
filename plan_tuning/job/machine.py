"""The machine of a job: what it cannot do is refused, its threads are chosen."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import Config
from plan_tuning.config.training import TrainerConfig
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.memory_report import check_memory

logger = logging.getLogger(__name__)


def check_machine(config: Config, graph: JobGraph) -> str:
    """Refuse a job whose training or evaluation this machine cannot do.

    Returns:
        Where the job computes: ``cuda`` or ``cpu``, also where nothing is left to compute.

    Raises:
        ConfigError: CUDA, or what 4-bit weights or a GGUF file need, is asked for and absent, or
            the card is too small.
    """
    student = graph.student
    is_trained = "train" in config.stages and student is not None and not student.is_available
    is_tested = "evaluate" in config.stages and not all(
        stage.is_done
        for stage in (*graph.predictions, *graph.executor_predictions, *graph.plan_values)
    )
    if not is_trained and not is_tested:
        return "cpu"
    from plan_tuning.students.gguf import check_reader

    for base, model in (
        (graph.base, config.model),
        (graph.executor_base, config.executor.model),
    ):
        if base is not None and model is not None and model.path and not base.is_available:
            check_reader(model.path)
    device = device_of(config.trainer)
    if is_trained and config.adapter.name == "qlora":
        from plan_tuning.students.loading import check_four_bits, check_quantisable

        if config.start.path is not None:
            check_quantisable(Path(config.start.path).expanduser())
        check_four_bits()
    if device == "cuda":
        for job in graph.jobs(config):
            check_memory(*job)
    return device


def device_of(trainer: TrainerConfig) -> str:
    """Say where a job computes: ``cuda`` or ``cpu``.

    Raises:
        ConfigError: CUDA is asked for and absent.
    """
    if trainer.accelerator == "cpu":
        return "cpu"
    load_libraries()
    import torch

    has_cuda = torch.cuda.is_available()
    if trainer.accelerator == "cuda" and not has_cuda:
        raise ConfigError(
            "trainer.accelerator",
            "cuda",
            "this machine has no CUDA device",
            "trainer=cpu_small",
        )
    return "cuda" if has_cuda else "cpu"


@cache
def load_libraries() -> None:
    """Load torch, transformers and Lightning, and say what a fresh process is silent about."""
    if "pytorch_lightning" in sys.modules:
        return
    logger.info("loading torch, transformers and Lightning: 10 to 20 s, once a process")
    with loading():
        import pytorch_lightning  # noqa: F401
        import torch  # noqa: F401
        import transformers.modeling_utils  # noqa: F401


@contextmanager
def loading() -> Iterator[None]:
    """Import what a job needs without looking for garbage among modules, then or later.

    The first job of a process would spend over a second on it, and find none.
    """
    is_fresh, is_enabled = "pytorch_lightning" not in sys.modules, gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()
        if is_fresh:  # modules outlive every job
            gc.freeze()


def prepare_torch(trainer: TrainerConfig) -> None:
    """Choose the process's threads, before anything is computed."""
    import torch

    if trainer.threads:
        # On small models more threads than one are far slower beside another busy process.
        torch.set_num_threads(trainer.threads)
    # Tiny weights drift into denormal numbers, which a CPU handles many times slower.
    torch.set_flush_denormal(True)
