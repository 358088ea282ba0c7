"""The train stage in several processes of this machine: started here, and ended with this one.

Lightning starts further ranks by running the command line again, which is a whole job or a whole
sweep. Here the job does everything else by itself, once, and starts processes for nothing but the
training, so several devices work in a sweep as they do alone.
"""

from __future__ import annotations

import gc
import logging
import logging.handlers
import multiprocessing
import os
import pickle
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_tuning.config import outside  # noqa: F401 - a rank has the extensions of the job
from plan_tuning.config.training import TrainerConfig

if TYPE_CHECKING:
    from torch.multiprocessing.spawn import ProcessContext

logger = logging.getLogger(__name__)

Train = Callable[..., Mapping[str, Any]]
"""Called with ``loggers``; sent to other processes, so a function of a module or a partial one."""

_GRACE_S = 10.0  # for ranks that are told to end, and for their last log lines
_FACTS = "facts.pickle"


class RankError(ValueError):
    """A rank ended without a word, or with an error that cannot be sent."""

    exit_code = 1


class RemoteTraceback(Exception):  # noqa: N818 - the cause of an error, never raised alone
    """Where in a rank an error arose."""

    def __str__(self) -> str:
        """Show it as it was there."""
        return f"\n{self.args[0]}"


def train_in_ranks(train: Train, config: TrainerConfig, curves: Path) -> Mapping[str, Any]:
    """Train in ``config.devices`` processes and return what the first of them found.

    The first rank's log lines appear in this process's log, its curves in a file. An error of a
    rank ends the others, and is raised here as if it had arisen here.

    Args:
        train: the training.
        config: how many processes, and on what.
        curves: file of the training curves.

    Raises:
        RankError: a rank was killed.
        ConfigError: there are fewer cards than ranks.
    """
    import torch
    from torch.multiprocessing.spawn import ProcessException, start_processes

    from plan_tuning.training.lightning import check_cards

    check_cards(config)
    # That it ends the other ranks is meant; why, the error says.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    gc.collect()
    torch.cuda.empty_cache()  # what an earlier job of this process computed with
    logger.info("training in %d processes", config.devices)
    reader, writer = multiprocessing.get_context("spawn").Pipe(duplex=False)
    relay = threading.Thread(target=_relay, args=(reader,), daemon=True)
    relay.start()
    with tempfile.TemporaryDirectory(prefix="plan_tuning_ranks_") as name:
        folder = Path(name)
        level = logging.getLogger().level
        context = None
        failure: BaseException | None = None
        try:
            context = start_processes(
                _run,
                (train, config.devices, _free_port(), curves, folder, writer, level),
                nprocs=config.devices,
                join=False,
            )
            writer.close()  # from now on the ranks alone hold it, and the relay ends with them
            while not context.join():
                pass
        except ProcessException as ended:
            failure = _first_failure(folder, str(ended))
        finally:
            writer.close()
            if context is not None:
                _end(context)
            relay.join(_GRACE_S)
        if failure is not None:
            raise failure
        facts: Mapping[str, Any] = pickle.loads((folder / _FACTS).read_bytes())
    return facts


def _run(
    rank: int,
    train: Train,
    world: int,
    port: int,
    curves: Path,
    folder: Path,
    writer: Any,  # a Connection, which logging takes for a queue
    level: int,
) -> None:
    """Be one rank."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # As torchrun says it, which Lightning believes before a cluster's own variables.
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
        "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "plan_tuning",
    }  # fmt: skip
    if rank == 0:
        logging.getLogger().handlers = [_Sender(writer)]
        logging.getLogger().setLevel(level)
    else:  # the others would say the same
        writer.close()
        logging.getLogger().handlers = [logging.NullHandler()]
    import torch

    from plan_tuning.training.logs import CurveFile

    # As in the job's own process: tiny weights drift into numbers that a CPU is slow with.
    torch.set_flush_denormal(True)
    try:
        facts = train(loggers=[CurveFile(curves)] if rank == 0 else [])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # whatever it is, the job's process has to hear of it
        _write_failure(folder, rank, error)
        sys.exit(1)
    if rank == 0:
        (folder / _FACTS).write_bytes(pickle.dumps(dict(facts)))


def _end_with_parent() -> None:
    """End this process at once where the job's own one is gone, however it ended.

    torch asks the kernel for an interrupt, which a process inside a collective never notices.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Sender(logging.handlers.QueueHandler):
    """Sends log records through a pipe."""

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send one; nobody listens where the job's own process is gone."""
        with suppress(OSError):
            self.queue.send(record)  # type: ignore[attr-defined]


def _relay(reader: Connection) -> None:
    """Log here what a rank logs, until it ends."""
    while True:
        try:
            record = reader.recv()
        except (EOFError, OSError):  # the latter in the middle of a record, of a killed rank
            reader.close()
            return
        logging.getLogger(record.name).handle(record)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_failure(folder: Path, rank: int, error: BaseException) -> None:
    """Keep an error for the job's own process, as it is or, if it cannot be sent, as text."""
    where = "".join(traceback.format_exception(error))
    kept: BaseException = error
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError):
        kept = RankError(f"{type(error).__name__}: {error}")
    partial = folder / f"{rank}.part"
    partial.write_bytes(pickle.dumps((time.time(), kept, where)))
    partial.replace(folder / f"{rank}.failure")


def _first_failure(folder: Path, text: str) -> BaseException:
    """Find the error that the others followed from: the earliest one."""
    failures = [pickle.loads(path.read_bytes()) for path in folder.glob("*.failure")]
    if not failures:
        return RankError(
            f"{text}: a rank was ended from outside (was memory short?). The same command goes on "
            "from the last checkpoint"
        )
    _, error, where = min(failures, key=lambda failure: failure[0])
    found: BaseException = error
    found.__cause__ = RemoteTraceback(where)
    return found


def _end(context: ProcessContext) -> None:
    """End what is left of the ranks, where this process was interrupted."""
    for process in context.processes:
        if process is not None and process.is_alive():
            process.terminate()
    for process in context.processes:
        if process is not None:
            process.join(_GRACE_S)
            if process.is_alive():
                process.kill()
                process.join()
