"""Rollouts from a server that holds the start and is given each step's adapter.

Before a step the first rank writes the adapter into a folder of its own, and the server loads it
under a name of its own, that of the training and the step; the one before it is unloaded. Every
completion comes back with that name. After each load a few log-probabilities are compared, so that
a server which says that it has loaded an adapter and answers with another one is found out.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

from plan_tuning.records import Completion
from plan_tuning.students.generation.probe import MAX_GAP, Probe, next_log_probs, probe_of
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

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3  # of a server, until a step is done
_RECONNECT_S, _LOOKS_EVERY_S = 120.0, 2.0
_EXACT_GAP, _EXACT_BOUND = 1e-3, 0.01  # nats: where both sides compute in float32
_SHIFT = 0.02  # spread of the updates of the adapter that a server is tried with
_COLD = 0.5  # temperature at which log-probabilities show whether they are those of the drawing

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
        self._bound, self._gap = MAX_GAP, 0.0

    @property
    def weight_version(self) -> str:
        """The name of this step's adapter."""
        return f"{self._name}-{self._step:06d}"

    def facts(self) -> Mapping[str, Any]:
        """Say what rollouts hang on beside the Spec."""
        return {} if self._server is None else self._server.facts()

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
        if ranks.rank == 0:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
        self._connect()
        if ranks.rank == 0:
            try:
                self._check(self._opened)
            except RefusedError as refused:
                raise EngineError(f"{refused}. A server that would do: {self._line}") from refused
        ranks.gather(None)

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
        if versions - {self.weight_version}:
            raise StaleWeightsError(
                f"rollouts of step {self._step} come from the weights {', '.join(versions)}, not "
                f"{self.weight_version}: nothing is learned from them"
            )
        return found

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
            if self._server is None:  # who does not come back within minutes is not waited for
                self._connect(is_patient=True)
            try:
                if self._opened.weight_version != self.weight_version:
                    self._load()
                found = ask(self._opened)
            except EngineLostError as error:
                lost = str(error)
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
        """
        found: Address | EngineLostError | None = None
        if self._ranks.rank == 0:
            try:
                opened = self._server = self._first(is_patient)
                found = (opened.api_base, opened.served_model, opened.api_key)
            except EngineLostError as lost:
                found = lost
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
        version, lost = self.weight_version, None
        if self._ranks.rank == 0:
            try:
                self._opened.load_adapter(self._folder / version, version)
                self._compare(self._opened)
            except EngineLostError as error:
                lost = error
        lost = self._ranks.gather(lost)[0]
        if lost is not None:
            raise lost
        if self._ranks.rank != 0:
            self._opened.adopt(version)

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
        self._student.model.save_pretrained(self._folder / version, save_embedding_layers=False)

    def _check(self, server: TokenServer) -> None:
        """Try an adapter that changes every word: is it taken, applied, and told of?"""
        student, version = self._student, f"{self._name}-trial"
        with student.model.disable_adapter():
            base = probe_of(student, self._text)
        gap = base.gap(server.next_tokens(base.prompt))
        if gap > MAX_GAP:
            raise EngineError(
                f"{server.api_base} serves other weights than the start that is trained: "
                f"log-probabilities differ by {gap:.3g} nats on average. A server that would do: "
                f"{self._line}"
            )
        with shifted(student.model):
            self._write(version)
            server.load_adapter(self._folder / version, version)
            own = probe_of(student, self._text)
            told = server.next_tokens(own.prompt)
            self._check_applied(own, base, told)
            if self._is_tempered:
                self._check_mode(server, own.prompt)
        gap = max(gap, own.gap(told))
        self._bound = _EXACT_BOUND if gap < _EXACT_GAP else MAX_GAP
        logger.info(
            "rollouts come from %s: it takes adapters, and its log-probabilities differ from the "
            "trainer's by %.2g nats on average",
            server.api_base,
            gap,
        )

    def _check_applied(self, own: Probe, base: Probe, told: Mapping[int, float]) -> None:
        if own.gap(told) > 0.5 * base.gap(told):
            raise EngineError(
                f"the server took an adapter and answers without it: {own.gap(told):.3g} nats from "
                f"it and {base.gap(told):.3g} from the start. A server that would do: {self._line}"
            )

    def _check_mode(self, server: TokenServer, prompt: Sequence[int]) -> None:
        """Find out whether log-probabilities are of what was drawn from, or of temperature 1."""
        sampling = Sampling(1, temperature=_COLD, return_log_probs=True)
        (row,) = server.generate([prompt], keys=[("probe", 0)], sampling=sampling)
        own = [
            float(next_log_probs(self._student, prompt, temperature=t)[row.token_ids[0]])
            for t in (_COLD, 1.0)
        ]
        far = [abs(value - row.log_probs[0]) for value in own]
        if far[1] < far[0]:
            raise EngineError(
                "the server's log-probabilities are those of temperature 1, and rollouts are drawn "
                f"at another one. A server that would do: {self._line}"
            )


@contextmanager
def shifted(model: Any) -> Iterator[None]:
    """Let an adapter change every word while the block runs; it is as before afterwards."""
    updates = [p for name, p in model.named_parameters() if "lora_B" in name]
    kept = [p.detach().clone() for p in updates]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in updates:
            p.copy_(torch.randn(p.shape, generator=generator) * _SHIFT)
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        with torch.no_grad():
            for p, before in zip(updates, kept, strict=True):
                p.copy_(before)
        torch.clear_autocast_cache()
