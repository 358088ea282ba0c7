"""A vLLM server of this job's own, asked in tokens: the engine ``vllm``.

The server (:mod:`plan_tuning.students.generation.vllm_server`) has whole weights; adapters are
loaded upon them while it runs, so students that were trained from one base share one server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from plan_tuning.records import Completion
from plan_tuning.students.generation.protocol import (
    EngineLostError,
    Key,
    Progress,
    Sampling,
    Vocabulary,
)
from plan_tuning.students.generation.token_server import TokenServer
from plan_tuning.students.generation.vllm_server import VLLMServer


class VLLMEngine:
    """Starts a server when it is opened and ends it when it is closed.

    Args:
        server: not started.
        vocabulary: of the weights that it serves.
        concurrency: requests under way.
        timeout_s: of one answer.
    """

    def __init__(
        self,
        server: VLLMServer,
        vocabulary: Vocabulary,
        *,
        concurrency: int = 256,
        timeout_s: float = 3600.0,
    ) -> None:
        self.server = server
        self._vocabulary = vocabulary
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._client: TokenServer | None = None

    @property
    def weight_version(self) -> str:
        """Which weights it answers with: "" those that it serves, else the adapter's name."""
        return "" if self._client is None else self._client.weight_version

    @property
    def client(self) -> TokenServer:
        """The way to the server.

        Raises:
            EngineLostError: there is no server.
        """
        if self._client is None:
            raise EngineLostError("the vLLM server is not open")
        return self._client

    def facts(self) -> Mapping[str, Any]:
        """Say what its answers hang on beside the Spec: vLLM's version and how it was started."""
        serving = self.server.serving
        return {"vllm": {"version": self.server.version, "options": dict(serving.options)}}

    def __enter__(self) -> Self:
        """Start the server, and find out that it gives token ids.

        Raises:
            EngineError: it does not start, or is no server of tokens.
        """
        with ExitStack() as started:
            started.callback(self.close)
            self.server.__enter__()
            self._client = self._connected()
            started.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the server."""
        self.close()

    def close(self) -> None:
        """End the server; it takes what was loaded with it."""
        self._client = None
        self.server.close()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        keys: Sequence[Key],
        sampling: Sampling,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """Continue every prompt.

        Args:
            prompts: token ids.
            keys: of each prompt.
            sampling: the same for all.
            progress: told whenever a row ends.

        Returns:
            Completions in the order of ``prompts``.

        Raises:
            EngineLostError: the server ended; the message has its last words.
            StaleWeightsError: it answered with other weights.
            EngineError: it refused.
        """
        try:
            return self.client.generate(prompts, keys=keys, sampling=sampling, progress=progress)
        except EngineLostError as error:
            if self.server.is_alive:
                raise
            said = self.server.last_words()
            raise EngineLostError(
                f"the vLLM server ended: {said} (whole log: {self.server.log})"
            ) from error

    def load_adapter(self, folder: Path, version: str) -> None:
        """Answer with an adapter from now on, in place of the one before it.

        Args:
            folder: where the server reads it.
            version: its name; vLLM keeps what it has read of prompts by it.

        Raises:
            EngineLostError: the server ended.
            EngineError: it does not take this adapter.
        """
        self.client.load_adapter(folder, version)

    def drop_adapter(self) -> None:
        """Answer with the weights of the server from now on.

        Raises:
            EngineLostError: the server ended.
        """
        if self.weight_version:
            self.client.__exit__(None, None, None)
            self._client = self._connected()

    def _connected(self) -> TokenServer:
        server = self.server
        return TokenServer(
            server.api_base,
            server.served_model,
            self._vocabulary,
            api_key=server.api_key,
            concurrency=self._concurrency,
            timeout_s=self._timeout_s,
        ).__enter__()
