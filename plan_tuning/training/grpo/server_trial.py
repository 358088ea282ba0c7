"""Does a server take adapters, apply them, and tell the log-probabilities of what it drew?

It is given one that changes every word, and its answers are compared with the trainer's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from plan_tuning.students.generation.probe import MAX_GAP, Probe, next_log_probs, probe_of
from plan_tuning.students.generation.protocol import EngineError, Sampling
from plan_tuning.students.generation.token_server import TokenServer
from plan_tuning.students.loading import Student

logger = logging.getLogger(__name__)

_EXACT_GAP, _EXACT_BOUND = 1e-3, 0.01  # nats: where both sides compute in float32
_SHIFT = 0.02  # spread of the updates of the adapter that a server is tried with
_COLD = 0.5  # temperature at which log-probabilities show whether they are those of the drawing


def tried(
    server: TokenServer,
    student: Student,
    text: Sequence[int],
    *,
    folder: Path,
    version: str,
    line: str,
    is_tempered: bool,
) -> float:
    """Try a server with an adapter.

    Args:
        server: open, with the weights of the start.
        student: that is trained upon the start; has an adapter.
        text: token ids that the comparisons are made behind.
        folder: receives the adapter.
        version: its name.
        line: how a server that would do is started.
        is_tempered: rollouts are drawn at a temperature other than 1.

    Returns:
        Nats by which log-probabilities may differ from here on, on average.

    Raises:
        EngineError: it does not do.
    """
    with student.model.disable_adapter():
        base = probe_of(student, text)
    gap = base.gap(server.next_tokens(base.prompt))
    if gap > MAX_GAP:
        raise EngineError(
            f"{server.api_base} serves other weights than the start that is trained: "
            f"log-probabilities differ by {gap:.3g} nats on average. A server that would do: {line}"
        )
    with shifted(student.model):
        write_adapter(student, folder / version)
        server.load_adapter(folder / version, version)
        own = probe_of(student, text)
        told = server.next_tokens(own.prompt)
        _check_applied(own, base, told, line)
        if is_tempered:
            _check_mode(server, student, own.prompt, line)
    gap = max(gap, own.gap(told))
    logger.info(
        "rollouts come from %s: it takes adapters, and its log-probabilities differ from the "
        "trainer's by %.2g nats on average",
        server.api_base,
        gap,
    )
    return _EXACT_BOUND if gap < _EXACT_GAP else MAX_GAP


def write_adapter(student: Student, folder: Path) -> None:
    """Write the adapter as it is, for a server to read."""
    student.model.save_pretrained(folder, save_embedding_layers=False)


def _check_applied(own: Probe, base: Probe, told: Mapping[int, float], line: str) -> None:
    if own.gap(told) > 0.5 * base.gap(told):
        raise EngineError(
            f"the server took an adapter and answers without it: {own.gap(told):.3g} nats from "
            f"it and {base.gap(told):.3g} from the start. A server that would do: {line}"
        )


def _check_mode(server: TokenServer, student: Student, prompt: Sequence[int], line: str) -> None:
    """Find out whether log-probabilities are of what was drawn from, or of temperature 1."""
    sampling = Sampling(1, temperature=_COLD, return_log_probs=True)
    (row,) = server.generate([prompt], keys=[("probe", 0)], sampling=sampling)
    own = [
        float(next_log_probs(student, prompt, temperature=t)[row.token_ids[0]])
        for t in (_COLD, 1.0)
    ]
    far = [abs(value - row.log_probs[0]) for value in own]
    if far[1] < far[0]:
        raise EngineError(
            "the server's log-probabilities are those of temperature 1, and rollouts are drawn "
            f"at another one. A server that would do: {line}"
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
