"""Rollouts from a server that holds the start and is given each step's adapter.

Before a step the first rank writes the adapter into a folder of its own, and the server loads it
under a name of its own, that of the training and the step; the one before it is unloaded. Every
completion comes back with that name. After each load a few log-probabilities are compared, so that
a server which says that it has loaded an adapter and answers with another one is found out.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from plan_tuning.records import Completion
from plan_tuning.students.generation.probe import MAX_GAP, probe_of
from plan_tuning.students.generation.protocol import (
    EngineError,
    EngineLostError,
    Key,
    Progress,
    Sampling,
    StaleWeightsError,
)
from plan_tuning.students.generation.server_calls import RefusedError
from plan_tuning.students.generation.token_server import TokenServer
from plan_tuning.students.loading import Student
from plan_tuning.training.distributed import Ranks
from plan_tuning.training.grpo.server_trial import tried, write_adapter

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3  # of a server, until a step is done
_RECONNECT_S, _LOOKS_EVERY_S = 120.0, 2.0

Address = tuple[str, str, str | None]
"""Of a server that another rank has opened: api_base, served model, key."""

Open = Callable[[Address | None], AbstractContextManager[TokenServer]]
"""Opens the way to the server; with an address to the one that is open already."""

T = TypeVar("T")


class RolloutServer:
    """An engine whose weights are those of the policy, step by step.

    Args:
        student: is trained; has an adapter.
        open_server: opens the way; called again where the server was lost.
        name: of the training; begins the names of its adapters, and of nobody else's.
        folder: receives them.
        text: token ids that the comparisons are made behind.
        line: how a server that would do is started.
        temperature: of the rollouts.
    """

    def __init__(
        self,
        student: Student,
        open_server: Open,
        *,
        name: str,
        folder: Path,
        text: Sequence[int],
        line: str,
        temperature: float,
    ) -> None:
        self._student = student
        self._open = open_server
        self._name = name
        self._folder = folder
        self._text = text
        self._line = line
        self._is_tempered = temperature != 1.0
        self._ranks = Ranks()
        self._stack = ExitStack()
        self._server: TokenServer | None = None
        self._step = 0
        self._attempt = ""  # of this process: adapters of equal names are equal to a server
        self._facts: Mapping[str, Any] = {}
        self._bound, self._gap = MAX_GAP, 0.0

    @property
    def weight_version(self) -> str:
        """The name of this step's adapter."""
        return f"{self._name}-{self._step:06d}"

    def facts(self) -> Mapping[str, Any]:
        """Say what rollouts hang on beside the Spec: how the server names its weights."""
        return self._facts

    @property
    def _served_version(self) -> str:
        """What the server knows this step's adapter by.

        A step that is done again after a checkpoint has other weights, and a server that goes on
        keeps what it read of prompts by an adapter's name.
        """
        return f"{self.weight_version}-{self._attempt}"

    def __enter__(self) -> Self:
        """Change nothing yet: the server is opened by :meth:`begin`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the server, and remove the adapters."""
        self._close()
        if self._ranks.rank == 0:
            shutil.rmtree(self._folder, ignore_errors=True)

    def begin(self, ranks: Ranks) -> None:
        """Open the server, and find out whether it can do what a training needs.

        Args:
            ranks: all of them call this.

        Raises:
            EngineError: it cannot; the message has the command line of one that would do.
        """
        self._ranks = ranks
        self._attempt = ranks.gather(secrets.token_hex(3))[0]
        if ranks.rank == 0:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
        self._connect()
        failed: EngineError | None = None
        if ranks.rank == 0:
            try:
                self._bound = tried(
                    self._opened,
                    self._student,
                    self._text,
                    folder=self._folder,
                    version=f"{self._name}-trial-{self._attempt}",
                    line=self._line,
                    is_tempered=self._is_tempered,
                )
            except RefusedError as refused:
                failed = EngineError(f"{refused}. A server that would do: {self._line}")
            except EngineError as error:
                failed = error
        self._agree(failed)

    def _agree(self, failed: EngineError | None) -> None:
        """Let what one rank ran into end all of them: the others would wait for it.

        Raises:
            EngineError: one of them failed; on that one what it was.
        """
        texts = self._ranks.gather("" if failed is None else str(failed))
        if failed is not None:
            raise failed
        if any(texts):
            raise EngineError(next(filter(None, texts)))

    def sync(self, step: int) -> float:
        """Have the server answer with the policy as it is now.

        Args:
            step: of the training.

        Returns:
            Mean difference of log-probabilities behind the probe, in nats.

        Raises:
            StaleWeightsError: it answers with other weights.
            EngineError: it takes no adapters any more, or is lost again and again.
        """
        self._step = step
        if self._ranks.rank == 0:
            self._write(self.weight_version)
        self._insist(lambda server: None)
        if self._ranks.rank == 0:
            for older in self._folder.iterdir():
                if older.name != self.weight_version:
                    shutil.rmtree(older)
        return float(self._ranks.gather(self._gap)[0])

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        keys: Sequence[Key],
        sampling: Sampling,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """Continue every prompt with this step's weights; where the server is lost, all anew.

        Args:
            prompts: token ids, of this rank.
            keys: of each prompt.
            sampling: the same for all.
            progress: told whenever rows end.

        Returns:
            Completions in the order of ``prompts``.

        Raises:
            StaleWeightsError: one is of other weights.
            EngineError: the server refuses, or is lost again and again.
        """
        found = self._insist(
            lambda server: server.generate(prompts, keys=keys, sampling=sampling, progress=progress)
        )
        versions = {completion.weight_version for completion in found}
        if versions - {self._served_version}:
            raise StaleWeightsError(
                f"rollouts of step {self._step} come from the weights {', '.join(versions)}, not "
                f"{self._served_version}: nothing is learned from them"
            )
        return [replace(one, weight_version=self.weight_version) for one in found]

    def load_adapter(self, folder: Path, version: str) -> None:
        """Refuse: the weights are the policy's, by :meth:`sync`.

        Raises:
            EngineError: always.
        """
        raise EngineError(f"{version} in {folder} is not the policy that is trained")

    @property
    def _opened(self) -> TokenServer:
        if self._server is None:
            raise EngineError("the server of the rollouts is not open")
        return self._server

    def _insist(self, ask: Callable[[TokenServer], T]) -> T:
        """Do something on all ranks; where one of them loses the server, all do it once more."""
        said: list[str] = []
        for attempt in range(1 + MAX_RESTARTS):
            if said:
                logger.warning(
                    "step %d: %s. The server is opened again and asked anew (%d of %d times); "
                    "nothing is learned from what it had written",
                    self._step,
                    said[0],
                    attempt,
                    MAX_RESTARTS,
                )
            lost = ""
            failed: EngineError | None = None
            if self._server is None:  # who does not come back within minutes is not waited for
                self._connect(is_patient=True)
            try:
                if self._opened.weight_version != self._served_version:
                    self._load()
                found = ask(self._opened)
            except EngineLostError as error:
                lost = str(error)
            except EngineError as error:  # all ranks come here, of whichever it is
                failed = error
            self._agree(failed)
            said = [one for one in self._ranks.gather(lost) if one]
            if not said:
                return found
            self._close()
        raise EngineLostError(
            f"step {self._step}: the server was lost {1 + MAX_RESTARTS} times: {said[0]}. The same "
            "command goes on from the last checkpoint"
        )

    def _close(self) -> None:
        self._server = None
        self._stack.close()

    def _connect(self, *, is_patient: bool = False) -> None:
        """Open the way to the server: the first rank, and then the others to the same one.

        Args:
            is_patient: it may be about to be started again.

        Raises:
            EngineLostError: on all ranks, where nobody answers.
            EngineError: on all ranks, where it does not start.
        """
        found: Address | EngineLostError | None = None
        failed: EngineError | None = None
        if self._ranks.rank == 0:
            try:
                opened = self._server = self._first(is_patient)
                found = (opened.api_base, opened.served_model, opened.api_key)
                self._facts = opened.facts()
            except EngineLostError as lost:
                found = lost
            except EngineError as error:
                failed = error
        self._agree(failed)
        found = self._ranks.gather(found)[0]
        if isinstance(found, EngineLostError):
            raise found
        if self._server is None:
            self._server = self._stack.enter_context(self._open(found))

    def _first(self, is_patient: bool) -> TokenServer:
        until = time.monotonic() + (_RECONNECT_S if is_patient else 0.0)
        while True:
            try:
                opened = self._stack.enter_context(self._open(None))
                opened.unload_adapters(f"{self._name}-")  # of an attempt that was killed
                return opened
            except EngineLostError:
                self._stack.close()
                if time.monotonic() >= until:
                    raise
                time.sleep(_LOOKS_EVERY_S)

    def _load(self) -> None:
        """Load this step's adapter and compare; the other ranks then ask by its name.

        Raises:
            EngineLostError: on all ranks, where the server has ended.
            StaleWeightsError: it answers with other weights.
        """
        lost: EngineLostError | None = None
        failed: EngineError | None = None
        if self._ranks.rank == 0:
            try:
                self._opened.load_adapter(self._folder / self.weight_version, self._served_version)
                self._compare(self._opened)
            except EngineLostError as error:
                lost = error
            except EngineError as error:
                failed = error
        self._agree(failed)
        lost = self._ranks.gather(lost)[0]
        if lost is not None:
            raise lost
        if self._ranks.rank != 0:
            self._opened.adopt(self._served_version)

    def _compare(self, server: TokenServer) -> None:
        own = probe_of(self._student, self._text)
        self._gap = own.gap(server.next_tokens(own.prompt))
        if self._gap > self._bound:
            raise StaleWeightsError(
                f"{server.api_base} was given the adapter {self.weight_version} and answers with "
                f"other weights: log-probabilities differ by {self._gap:.3g} nats on average, more "
                f"than {self._bound:g}. Start it anew; the same command goes on from the last "
                "checkpoint"
            )

    def _write(self, version: str) -> None:
        write_adapter(self._student, self._folder / version)
