"""Counts the bytes of a training step of a real shape without a weight: fake tensors, real code.

Model, adapter, losses, optimizer and their order are the project's own; only the tensors are fake
(shapes and types without contents), under the autocast of the training. Every storage is counted
from the operation that makes it to the moment it is freed, and every tensor that is kept for the
backward pass as well. The kernels are those that a CPU's attention would choose, which keep what
flash attention keeps on a card; a card's allocator, its context and cuBLAS are not in the count.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import TrainerConfig
from plan_tuning.records import Completion, Problem
from plan_tuning.students.adapters import wrap
from plan_tuning.students.footprint import LOGITS_AT_ONCE
from plan_tuning.students.loading import Student
from plan_tuning.students.log_probs import token_log_probs
from plan_tuning.students.rounding import as_float32, round_frozen
from plan_tuning.students.shapes import Shape
from plan_tuning.training.grpo.policy import Policy, completion_log_probs
from plan_tuning.training.grpo.rollout import Rollout
from plan_tuning.training.lightning import checkpoint_activations
from plan_tuning.training.optim import build_optimizer


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages that operations made and nobody has freed yet, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = 0
        self.peak = 0

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = storage.nbytes()
        self.now += self.sizes[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out


class EqualLengths(TorchFunctionMode):
    """Reads a mask of real tokens as all of them: how many there are, fake tensors cannot say."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_mask = (
            func is torch.Tensor.__getitem__
            and isinstance(args[1], torch.Tensor)
            and args[1].dtype == torch.bool
        )
        if not is_mask:
            return func(*args, **(kwargs or {}))
        flat = args[0].flatten(0, args[1].ndim - 1)
        return flat[torch.arange(len(flat))]


@dataclass(frozen=True)
class Count:
    """What a training holds, in bytes.

    Args:
        model: weights of the student, trained and frozen, and of its copies.
        kept: what one pass keeps for its backward pass.
        peak: at most, over two passes and an optimizer step, of a step that is not the first.
    """

    model: int
    kept: int
    peak: int


def transformers_config(shape: Shape) -> Any:
    """Write a shape as a configuration of transformers."""
    from transformers import Gemma3TextConfig, LlamaConfig, Qwen3Config

    shared: dict[str, Any] = {
        "vocab_size": shape.vocabulary, "hidden_size": shape.width,
        "intermediate_size": shape.inner, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim, "tie_word_embeddings": shape.is_tied,
        "max_position_embeddings": 32_768,
    }  # fmt: skip
    if shape.family == "llama":
        return LlamaConfig(**shared)
    if shape.window is None:
        return Qwen3Config(**shared)
    full = shape.layers - shape.sliding_layers
    kinds = ["sliding_attention"] * shape.sliding_layers + ["full_attention"] * full
    made = Gemma3TextConfig if shape.family == "gemma3" else Qwen3Config
    extra = {} if shape.family == "gemma3" else {"use_sliding_window": True}
    return made(**shared, **extra, sliding_window=shape.window, layer_types=kinds)


@contextlib.contextmanager
def fake_tensors() -> Iterator[FakeTensorMode]:
    """Make tensors without contents, and keep transformers from looking into them."""
    from transformers import masking_utils

    looked, logits = masking_utils.find_packed_sequence_indices, LOGITS_AT_ONCE["cpu"]
    masking_utils.find_packed_sequence_indices = lambda *_: None  # rows are not packed
    LOGITS_AT_ONCE["cpu"] = LOGITS_AT_ONCE["cuda"]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    finally:
        masking_utils.find_packed_sequence_indices = looked
        LOGITS_AT_ONCE["cpu"] = logits


def fake_student(shape: Shape, adapter: AdapterConfig, trainer: TrainerConfig) -> Student:
    """Build a student of a shape, as the training would have it; call it under fake tensors."""
    from transformers import AutoModelForCausalLM

    # An adapter is put around a model without storage: peft moves weights, which fake ones are
    # not made for.
    is_rounded = adapter.rounds_base(trainer.precision)
    with torch.utils._python_dispatch._disable_current_modes(), torch.device("meta"):
        made = AutoModelForCausalLM.from_config(
            transformers_config(shape),
            dtype=torch.bfloat16 if is_rounded else torch.float32,
            attn_implementation="sdpa",
        )
        with as_float32(made) if is_rounded else contextlib.nullcontext():
            wrapped = wrap(made, ModelConfig("counted", "tiny", family=shape.family), adapter)
        if is_rounded:
            round_frozen(wrapped)
    filled: dict[int, torch.nn.Parameter] = {}
    for module in wrapped.modules():
        for name, weight in module._parameters.items():
            if weight is None:
                continue
            if id(weight) not in filled:
                empty = torch.empty(weight.shape, dtype=weight.dtype)
                filled[id(weight)] = torch.nn.Parameter(empty, weight.requires_grad)
            module._parameters[name] = filled[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    wrapped.train()
    return Student(wrapped, SimpleNamespace(pad_token_id=0), (0,), (0,))


class _Kept:
    """What is kept for a backward pass, beside the weights: each storage once."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._weights = {
            tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())
        }
        self._sizes: dict[int, int] = {}  # by storage

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Note a tensor that an operation keeps."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._sizes[storage._cdata] = storage.nbytes()
        return tensor

    @property
    def bytes(self) -> int:
        """All that is kept."""
        return sum(self._sizes.values())


def count_sft(
    shape: Shape,
    adapter: AdapterConfig,
    trainer: TrainerConfig,
    *,
    rows: int,
    length: int,
) -> Count:
    """Count a supervised training: passes of ``rows`` rows of ``length`` supervised tokens."""
    with fake_tensors():
        student = fake_student(shape, adapter, trainer)
        if trainer.gradient_checkpointing:
            checkpoint_activations(student)
        ids = torch.zeros((rows, length), dtype=torch.long)
        places = torch.arange(rows * length)
        targets = torch.zeros(rows * length, dtype=torch.long)

        def loss() -> torch.Tensor:
            found = token_log_probs(student.causal_lm, ids, places, targets)
            return -found.log_probs.sum()

        return _count(student, trainer, loss, [student.model])


def count_grpo(
    shape: Shape,
    adapter: AdapterConfig,
    trainer: TrainerConfig,
    method: GRPOConfig,
    *,
    groups: int,
    prompt: int,
    length: int,
) -> Count:
    """Count a GRPO training's update: passes of ``groups`` groups, all completions equally long.

    Args:
        shape: of the model.
        adapter: which weights are trained.
        trainer: precision, and whether activations are computed twice.
        method: which copies there are, how large a group is.
        groups: of a pass.
        prompt: tokens of a prompt.
        length: tokens of a completion.
    """
    rollouts = [
        Rollout(
            Problem(str(place), "", ""), "", sample, (*(1,) * (prompt - 1), place + 2),
            Completion("", (1,) * length, "length", prompt), "", 0,
        )
        for place in range(groups) for sample in range(method.group_size)
    ]  # fmt: skip
    with fake_tensors():
        student = fake_student(shape, adapter, trainer)
        if trainer.gradient_checkpointing:
            checkpoint_activations(student)
        policy = Policy(student, method=method, trainer=trainer)
        with torch.utils._python_dispatch._disable_current_modes():
            (batch,) = policy.batches(rollouts)
        batch = batch.to(torch.device("cpu"))
        models = [student.model, policy._reference]
        models.append(None if policy._sampler is None else policy._sampler.model)

        def loss() -> torch.Tensor:
            with EqualLengths():
                found = completion_log_probs(
                    student.causal_lm,
                    batch,
                    temperature=method.temperature,
                    with_entropy=True,
                    logits_at_once=2**27,
                )
            return -found.log_probs.sum()

        return _count(student, trainer, loss, [model for model in models if model is not None])


def _count(
    student: Student, trainer: TrainerConfig, loss: Any, models: list[torch.nn.Module]
) -> Count:
    """Do a whole step, then count another one: its optimizer's state is there by then."""
    live = LiveBytes()
    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            live.add(tensor)
    weights = live.now
    optimizer = build_optimizer(student.model, trainer)
    is_bf16 = trainer.precision == "bf16"
    with live:
        for is_counted in (False, True):
            live.peak = live.now
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                for _ in range(2):
                    kept = _Kept(student.model)
                    hooks = torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda t: t)
                    with hooks if is_counted else contextlib.nullcontext():
                        value = loss()
                    value.backward()
                    del value
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    return Count(weights, kept.bytes, live.peak)
