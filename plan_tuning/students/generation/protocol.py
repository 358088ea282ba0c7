"""Prompts as token ids → completions as token ids: what every engine of inference is asked.

Evaluation, validations and GRPO ask an :class:`Engine` and do not know which it is: this project's
own, transformers' continuous batching, a server that is there already, or one that the job starts.
Text is made into tokens before and read from tokens after it, so that no engine tokenises again and
what is learned from is what was sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from plan_tuning.records import Completion

Key = tuple[str, int]
"""Problem id and sample: several samples of a prompt are as many equal prompts of other keys."""

Progress = Callable[[int, int], None]
"""Called with (finished rows, their tokens) whenever rows end."""


class EngineError(ValueError):
    """An engine that cannot do what it is asked for; the message says what would help."""


class EngineLostError(EngineError):
    """An engine that ended while it was asked: opened again, it may be asked the same again."""


class StaleWeightsError(EngineError):
    """Completions of other weights than those that were loaded last."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What turns texts into tokens and back, without any weights."""

    tokenizer: Any
    end_ids: tuple[int, ...]  # every id that ends a generation


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the completions of a call are drawn.

    Args:
        max_new_tokens: longest completion, end-of-text token included.
        temperature: 0 is greedy.
        top_p: nucleus; 1 is off.
        top_k: most probable tokens; 0 is off.
        seed: of the noise; an engine that takes keys draws each row by (seed, key) alone.
        stop_strings: a completion ends with the first of these that appears, which stays in it.
        return_log_probs: keep the log-probability of each token as the engine had it: natural
            logarithm, at the sampling temperature. With top_k and top_p off it is that of the
            distribution which was drawn from.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 42
    stop_strings: tuple[str, ...] = ()
    return_log_probs: bool = False


class Engine(Protocol):
    """Whoever continues prompts with the weights of one student.

    Opened by ``with``, asked any number of times, and closed. One that was closed, or was lost, can
    be opened again; it then has the weights that it was made with.
    """

    @property
    def weight_version(self) -> str:
        """Which weights it answers with: "" those that it was made with, else the adapter's."""

    def facts(self) -> Mapping[str, Any]:
        """Say what its answers hang on beside the Spec, for the manifest of predictions."""

    def __enter__(self) -> Self:
        """Make it ready: load, connect or start, and find out whether it can do what is needed.

        Raises:
            EngineError: it cannot.
        """

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give back what it holds."""

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
            prompts: token ids; equal ones are best read once.
            keys: of each prompt; see :data:`Key`.
            sampling: the same for all.
            progress: told whenever rows end.

        Returns:
            Completions in the order of ``prompts``, each with the version of its weights and, where
            asked for, one log-probability a token.

        Raises:
            EngineLostError: it ended meanwhile; nothing of the call is returned.
            StaleWeightsError: it answered with other weights than :attr:`weight_version`.
            EngineError: it refused, or answers are missing.
        """

    def load_adapter(self, folder: Path, version: str) -> None:
        """Answer with an adapter of peft's from now on, in place of the one before it.

        Args:
            folder: where the engine reads it: adapter_config.json and safetensors.
            version: its name, another one for other weights; not "".

        Raises:
            EngineLostError: it ended meanwhile.
            EngineError: this engine, or the server behind it, takes none.
        """


def check_call(prompts: Sequence[Sequence[int]], keys: Sequence[Key]) -> None:
    """Refuse a call that cannot be done.

    Args:
        prompts: token ids.
        keys: of each prompt.

    Raises:
        EngineError: a prompt is empty, or keys and prompts do not pair up.
    """
    if len(keys) != len(prompts):
        raise EngineError(f"{len(prompts)} prompts need as many keys, not {len(keys)}")
    if any(not prompt for prompt in prompts):
        raise EngineError("an empty prompt cannot be continued")
