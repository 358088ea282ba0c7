"""A step that is repeated: run as it is on a CPU, captured once and replayed on CUDA.

What a captured step must be, since a replay runs the recorded kernels and no Python:

* every tensor that it reads or writes stays where it is, at the same shape, until :meth:`forget`;
* nothing in it asks the device for a value (``item``, ``tolist``, ``if tensor``, boolean indexing);
* no number that changes from step to step is a Python number: counters are tensors that the step
  moves on by itself;
* it draws no random numbers of torch's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from plan_tuning.students.generation.sequences import GenerationError

_WARM_UP = 2  # steps before a capture: libraries set themselves up, which must not be recorded
_WORTH_IT = 8  # replays that pay for a capture


class RepeatedStep:
    """Runs ``step`` any number of times; see the module's docstring."""

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        self._step = step
        self._device = device
        # Warm-up and capture share a stream of their own: the default one cannot be captured.
        self._aside = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warmed = 0

    def forget(self) -> None:
        """Drop the recording: shapes or places of tensors change; no replay may be under way."""
        self._graph = None
        self._warmed = 0

    def run(self, count: int, expected: int) -> None:
        """Run the step ``count`` times; about ``expected`` runs are left before it changes.

        Raises:
            GenerationError: the step cannot be captured.
        """
        for done in range(count):
            if self._graph is not None:
                self._graph.replay()
            elif self._aside is None:
                self._step()
            elif self._warmed < _WARM_UP or expected - done < _WORTH_IT:
                self._warm(self._aside)
            else:
                self._graph = self._capture(self._aside)
                self._graph.replay()

    def _warm(self, aside: torch.cuda.Stream) -> None:
        """Run a step that counts, on the stream of the capture to come."""
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            self._step()
        torch.cuda.current_stream(self._device).wait_stream(aside)
        self._warmed += 1

    def _capture(self, aside: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads (a logger, a loader) may go on using the device meanwhile.
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                self._step()
        except torch.OutOfMemoryError:
            raise  # says itself what is wrong, and decoding without graphs needs memory as well
        except RuntimeError as error:
            raise GenerationError(
                f"the decoding step cannot be captured in a CUDA graph: {error}. Decode without: "
                "evaluation.decoding=dynamic (GRPO's rollouts: method.decoding=dynamic)"
            ) from error
        return graph
