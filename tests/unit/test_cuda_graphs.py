"""Captured steps: when they are warmed up, recorded and replayed, and what a failure says."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch

from plan_tuning.students.generation.cuda_graphs import RepeatedStep
from plan_tuning.students.generation.sequences import GenerationError


class _Card:
    """Stands in for CUDA: a graph that replays what was run while it was recording."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.failure: Exception | None = None
        card = self

        class Graph:
            def replay(self) -> None:
                card.events.append("replay")

        class Stream:
            def __init__(self, device: Any) -> None: ...

            def wait_stream(self, other: Any) -> None: ...

        @contextmanager
        def graph(made: Any, **options: Any) -> Any:
            if card.failure is not None:
                raise card.failure
            card.events.append("begin")
            yield
            card.events.append("end")

        @contextmanager
        def stream(chosen: Any) -> Any:
            yield

        for name, value in (("CUDAGraph", Graph), ("Stream", Stream), ("graph", graph),
                            ("stream", stream), ("current_stream", Stream)):  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)

    def step(self) -> None:
        self.events.append("step")


def test_a_step_is_warmed_up_captured_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    card = _Card(monkeypatch)
    repeated = RepeatedStep(card.step, torch.device("cuda"))
    repeated.run(5, 20)
    recorded = ["begin", "step", "end"]
    assert card.events == ["step", "step", *recorded, "replay", "replay", "replay"]
    repeated.run(2, 15)
    assert card.events[-2:] == ["replay", "replay"]
    card.events.clear()
    repeated.forget()
    repeated.run(3, 3)  # too few to pay for a capture
    assert card.events == ["step"] * 3
    card.events.clear()
    RepeatedStep(card.step, torch.device("cpu")).run(12, 12)
    assert card.events == ["step"] * 12


def test_a_failed_capture_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    card = _Card(monkeypatch)
    repeated = RepeatedStep(card.step, torch.device("cuda"))
    card.failure = RuntimeError("operation not permitted when stream is capturing")
    with pytest.raises(GenerationError, match=r"not permitted.*evaluation\.decoding=dynamic"):
        repeated.run(30, 30)
    card.failure = torch.OutOfMemoryError("no memory")
    with pytest.raises(torch.OutOfMemoryError):
        repeated.run(30, 30)
