"""A student in this process → an engine: this project's own, transformers', or one from outside.

What continues prompts here is a function of the student and of the prompts, named by its record; it
is handed what the record says that it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from plan_tuning.config.extensions import OWN_ENGINE, Extension, record
from plan_tuning.records import Completion
from plan_tuning.students.generation.protocol import (
    EngineError,
    Key,
    Progress,
    Sampling,
    check_call,
)
from plan_tuning.students.generation.static_decoding import is_static
from plan_tuning.students.loading import Student

ELSEWHERE = {"server", "folder"}  # what engines are handed that hold the weights themselves


def runs_here(engine: Extension) -> bool:
    """Whether an engine continues prompts with a student of this process."""
    return not ELSEWHERE & set(engine.needs)


class InProcessEngine:
    """Continues prompts with the weights of a student as they are at that moment.

    Args:
        student: whose words.
        engine: the record of the function; where it holds its weights elsewhere, a student that is
            here is continued by this project's own.
        batch_tokens: tokens, of prompts and new, that the cache has memory for.
        decoding: dynamic, static or auto, where the function knows the difference.
    """

    weight_version = ""  # those of the student

    def __init__(
        self, student: Student, engine: Extension, *, batch_tokens: int, decoding: str = "auto"
    ) -> None:
        self.student = student
        self._engine = engine if runs_here(engine) else record("engine", OWN_ENGINE)
        self._batch_tokens = batch_tokens
        self._decoding = decoding

    def facts(self) -> Mapping[str, Any]:
        """Say what rounding hangs on where it is coarse.

        The kernels of half precision depend on the shape of a batch, so that other batches may
        choose other tokens.
        """
        dtype = next(p.dtype for p in self.student.model.parameters() if p.is_floating_point())
        if dtype == torch.float32:
            return {}
        return {
            "decoding": {
                "precision": str(dtype).removeprefix("torch."),
                "batch_tokens": self._batch_tokens,
                "decoding": "static" if is_static(self.student, self._decoding) else "dynamic",
            }
        }

    def __enter__(self) -> Self:
        """Change nothing: the student is there."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Change nothing: the student stays."""

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
            progress: told whenever rows end.

        Returns:
            Completions in the order of ``prompts``.

        Raises:
            EngineError: completions are missing, or the function tells no log-probabilities.
        """
        engine = self._engine
        check_call(prompts, keys)
        if sampling.return_log_probs and "log_probs" not in engine.needs:
            raise EngineError(f"engine={engine.name} tells no log-probabilities of its tokens")
        offered = {
            "keys": keys,
            "stop_strings": sampling.stop_strings,
            "decoding": self._decoding,
            "log_probs": sampling.return_log_probs,
        }
        names = {"log_probs": "return_log_probs"}
        found: list[Completion] = engine.load()(
            self.student,
            prompts,
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=sampling.seed,
            batch_tokens=self._batch_tokens,
            progress=progress or _silent,
            **{names.get(need, need): offered[need] for need in engine.needs},
        )
        if len(found) != len(prompts):
            raise EngineError(
                f"engine={engine.name} returned {len(found)} completions of {len(prompts)}"
            )
        return found

    def load_adapter(self, folder: Path, version: str) -> None:
        """Refuse: the weights of this engine are the student's own.

        Raises:
            EngineError: always.
        """
        raise EngineError(
            f"engine={self._engine.name} writes with the student in this process; the adapter "
            f"{version} in {folder} is loaded with the student"
        )


def _silent(rows: int, tokens: int) -> None:
    """Take what nobody wants to be told."""
