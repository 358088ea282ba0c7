"""The policy that is trained, the copy that writes rollouts, and the frozen reference model.

Adapter layers cost several small kernels a layer at every token, and merging them in place would
round the base a little with every cycle; so an adapter is merged into a copy. On a card a token
costs the reading of all weights, so the copy is in bfloat16 there, half of the float32 masters that
an optimizer needs. A copy is refreshed after each step. Quantised weights are never copied: what is
packed four bits at a time cannot take up an adapter.

Log-probabilities of completions read the prompt of a group only once. Its keys and values are
computed with gradients, repeated for its completions and continued, which gives exactly what
separate passes would give and costs P + G * R tokens instead of G * (P + R).
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from plan_tuning.config.extensions import OWN_ENGINE, record
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.training import TrainerConfig
from plan_tuning.students.flops import Passes
from plan_tuning.students.generation.in_process import InProcessEngine
from plan_tuning.students.loading import Student, has_bfloat16
from plan_tuning.students.log_probs import (
    TokenLogProbs,
    chunk_logits,
    log_probs_of_states,
    tokens_of_logits,
)
from plan_tuning.training.grpo.batch import PolicyBatch, policy_batches
from plan_tuning.training.grpo.rollout import Rollout

logger = logging.getLogger(__name__)


def sampler_dtype(choice: str, trainer: TrainerConfig) -> torch.dtype | None:
    """Choose the precision of the weights that rollouts come from; None: that of the trained ones.

    Args:
        choice: ``method.sampler_dtype``: auto is bfloat16 where a card trains in it.
        trainer: hardware and precision.
    """
    if choice != "auto":
        return torch.bfloat16 if choice == "bfloat16" else torch.float32
    is_real = trainer.accelerator != "cpu" and has_bfloat16()
    return torch.bfloat16 if is_real and trainer.precision == "bf16" else None


def place_of(student: Student, trainer: TrainerConfig) -> torch.device:
    """Say where a copy of a student is made: on the card that trains it, where there is one."""
    if trainer.accelerator != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return student.device


def shares_prompts(method: GRPOConfig, trainer: TrainerConfig) -> bool:
    """Whether a pass reads a prompt once for all its completions."""
    # A checkpointed layer drops the keys that a shared prompt would have to keep.
    return method.shared_prompt and not trainer.gradient_checkpointing


class Policy:
    """The trained weights, the copy that writes rollouts, the frozen reference.

    Built before a checkpoint is loaded: the reference is the start of the training.

    Args:
        student: is trained.
        method: which copies there are.
        trainer: hardware, precision, budget of a pass.
    """

    def __init__(self, student: Student, *, method: GRPOConfig, trainer: TrainerConfig) -> None:
        self.student = student
        self._method = method
        self._temperature = method.temperature
        self._budget = trainer.micro_batch_tokens
        self._is_shared = shares_prompts(method, trainer)
        self._sampler: Student | None = None
        self._layers: list[tuple[Any, torch.nn.Parameter]] = []  # with adapters, and their copies
        self._weights: list[tuple[torch.nn.Parameter, torch.nn.Parameter]] = []
        own = next(p.dtype for p in student.model.parameters() if p.requires_grad)
        dtype = sampler_dtype(method.sampler_dtype, trainer)
        place = place_of(student, trainer)
        has_adapter = hasattr(student.model, "peft_config")
        if method.is_served:
            pass  # a server has the copy
        elif is_quantised(student):
            logger.info("rollouts are sampled from the quantised weights, adapters unmerged")
        elif method.merged_sampler and has_adapter:
            merged = copy_of(student.model, dtype or own, place).unload()
            self._sampler = replace(student, model=merged, is_rounded=False)
            self._layers = [
                (module, self._sampler.model.get_submodule(name).weight)
                for name, module in student.causal_lm.named_modules()
                if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer")
            ]
        elif dtype not in (None, own):
            rounded = copy_of(student.model, dtype, place)
            self._sampler = replace(student, model=rounded, is_rounded=False)
            copies = dict(self._sampler.model.named_parameters())
            self._weights = [
                (weight, copies[name])
                for name, weight in student.model.named_parameters()
                if weight.requires_grad
            ]
        needs_copy = method.has_reference and not has_adapter
        kind = torch.bfloat16 if method.reference_dtype == "bfloat16" else None
        self._reference = frozen_copy(student, kind, place) if needs_copy else None

    @property
    def samples_in_autocast(self) -> bool:
        """Whether rollouts come from the trained model, whose base only autocast can read."""
        return self._sampler is None and self.student.is_rounded

    @property
    def dtypes(self) -> set[torch.dtype]:
        """Precisions of the weights that are trained and of those that tokens come from."""
        students = (self.student, self._sampler or self.student)
        return {p.dtype for student in students for p in student.model.parameters()}

    def sampler(self) -> Student:
        """Return the student that writes rollouts, up to date with the trained weights."""
        if self._sampler is None:
            return self.student
        self._sampler.model.to(self.student.device)
        with torch.no_grad():
            for module, weight in self._layers:
                merged = module.base_layer.weight
                for name in module.active_adapters:
                    delta = module.get_delta_weight(name)
                    merged = merged.to(delta.dtype) + delta  # rounded once, when it is copied
                weight.copy_(merged)
            for trained, weight in self._weights:
                weight.copy_(trained)
        return self._sampler

    def engine(self) -> InProcessEngine:
        """Return what writes rollouts in this process, up to date with the trained weights."""
        return InProcessEngine(
            self.sampler(),
            record("engine", OWN_ENGINE),
            batch_tokens=self._method.generation_batch_tokens,
            decoding=self._method.decoding,
        )

    @contextlib.contextmanager
    def reference(self) -> Iterator[Any]:
        """Give the model that training began from: a frozen copy, or the base of an adapter."""
        if self._reference is not None:
            yield self._reference.to(self.student.device)
            return
        with self.student.model.disable_adapter():
            yield self.student.causal_lm

    def batches(self, rollouts: Sequence[Rollout]) -> list[PolicyBatch]:
        """Split rollouts into forward passes."""
        return policy_batches(
            rollouts, budget=self._budget, is_shared=self._is_shared, pad_id=self.student.pad_id
        )

    @torch.no_grad()
    def log_probs(
        self, causal_lm: Any, rollouts: Sequence[Rollout]
    ) -> tuple[list[torch.Tensor], Passes]:
        """Compute the log-probabilities of completions under the policy or its reference.

        Returns:
            Those of each rollout, (T_i,) on the CPU, and what was read for them.
        """
        found = [torch.empty(0)] * len(rollouts)
        passes = Passes()
        for batch in self.batches(rollouts):
            passes += batch.passes
            on_device = batch.to(self.student.device)
            values = completion_log_probs(causal_lm, on_device, temperature=self._temperature)
            parts = values.log_probs.split(batch.lengths.tolist())
            for place, part in zip(batch.indices, parts, strict=True):
                found[place] = part.cpu()
        # Before torch 2.11 a cast that autocast keeps from here would have no gradient later.
        torch.clear_autocast_cache()
        return found, passes


def is_quantised(student: Student) -> bool:
    """Whether the base weights are packed, as ``adapter=qlora`` loads them."""
    return bool(getattr(student.causal_lm, "is_quantized", False))


def copy_of(model: Any, dtype: torch.dtype | None, place: torch.device) -> Any:
    """Copy a model for inference, weight by weight into its precision and place.

    No second copy in the precision of the masters is made on the way. A frozen weight that is
    already in that precision is shared, and goes to the card with the model.

    Args:
        model: its buffers are copied as they are: rotary frequencies stay float32.
        dtype: of the copy's weights; None: as they are.
        place: where they lie.
    """
    memo: dict[int, Any] = {}
    layers = {id(p) for m in model.modules() if hasattr(m, "base_layer") for p in m.parameters()}
    for weight in model.parameters():
        kind = dtype if dtype is not None and weight.is_floating_point() else weight.dtype
        is_own = weight.requires_grad or id(weight) in layers  # an update is merged into those
        if not is_own and weight.dtype == kind:
            memo[id(weight)] = weight
            continue
        values = weight.detach().to(place, kind, copy=True)
        memo[id(weight)] = torch.nn.Parameter(values, requires_grad=False)
    copied = copy.deepcopy(model, memo)
    copied.eval()
    return copied


def frozen_copy(student: Student, dtype: torch.dtype | None, place: torch.device) -> Any:
    """Copy the model before it is trained: the reference where all weights are trained.

    Args:
        student: is trained.
        dtype: of the copy's weights; None: as they are.
        place: where they lie.
    """
    return copy_of(student.causal_lm, dtype, place)


def completion_log_probs(
    causal_lm: Any,
    batch: PolicyBatch,
    *,
    temperature: float,
    with_entropy: bool = False,
    entropy_has_gradient: bool = False,
    logits_at_once: int | None = None,
) -> TokenLogProbs:
    """Compute the log-probabilities of a pass's N completion tokens.

    Args:
        causal_lm: a causal language model of transformers.
        batch: on the model's device.
        temperature: of the sampling.
        with_entropy: also return the entropy of each token's distribution.
        entropy_has_gradient: for an entropy bonus.
        logits_at_once: tokens x vocabulary; None: as the device has it.
    """
    read = _states_of_shared_prompts if batch.is_shared else _states_of_copies
    logits = logits_at_once or chunk_logits(batch.completion_ids.device)
    return log_probs_of_states(
        causal_lm,
        read(causal_lm, batch),  # (N, H)
        batch.completion_ids.flatten()[batch.cells],  # (N,)
        chunk_tokens=tokens_of_logits(causal_lm, logits),
        temperature=temperature,
        with_entropy=with_entropy,
        entropy_has_gradient=entropy_has_gradient,
    )


def _states_of_copies(causal_lm: Any, batch: PolicyBatch) -> torch.Tensor:
    """Read every completion behind a copy of its prompt; states (N, H) before each token."""
    mask = batch.prompt_mask[batch.origin]  # (B, S)
    inputs = torch.cat([batch.prompt_ids[batch.origin], batch.completion_ids[:, :-1]], dim=1)
    mask = torch.cat([mask, mask.new_ones(len(mask), batch.completion_ids.shape[1] - 1)], dim=1)
    output = causal_lm.get_decoder()(
        input_ids=inputs,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
    )
    states: torch.Tensor = output.last_hidden_state[:, batch.prompt_ids.shape[1] - 1 :]  # (B, T, H)
    return states.flatten(0, 1)[batch.cells]


def _states_of_shared_prompts(causal_lm: Any, batch: PolicyBatch) -> torch.Tensor:
    """Read every prompt once and continue it with its completions; states (N, H)."""
    from transformers import DynamicCache

    mask = batch.prompt_mask
    cache = DynamicCache(config=causal_lm.config)
    output = causal_lm.get_decoder()(
        input_ids=batch.prompt_ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    first = output.last_hidden_state[:, -1]  # (P, H): it predicts the first token
    parts = []
    for begin, end, width in batch.buckets:
        rows = slice(begin, end)
        origin = batch.origin[rows]
        states = first[origin][:, None]  # (R, 1, H)
        if width > 1:
            rest = batch.completion_ids[rows, : width - 1]
            states = torch.cat([states, _continue(causal_lm, cache, mask, origin, rest)], dim=1)
        is_real = torch.arange(width, device=mask.device)[None, :] < batch.lengths[rows, None]
        parts.append(states[is_real])
    return torch.cat(parts)


def _continue(
    causal_lm: Any, cache: Any, mask: torch.Tensor, origin: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    """Read ``ids`` (R, T) behind the cached prompts ``origin`` (R,); states (R, T, H)."""
    own = copy.copy(cache)  # the cached tensors stay shared, and stay as they are
    own.layers = [copy.copy(layer) for layer in cache.layers]
    own.batch_select_indices(origin)
    mask = mask[origin]
    steps = torch.arange(ids.shape[1], device=ids.device)
    output = causal_lm.get_decoder()(
        input_ids=ids,
        attention_mask=torch.cat([mask, mask.new_ones(ids.shape)], dim=1),
        position_ids=mask.sum(dim=1, keepdim=True) + steps[None, :],
        past_key_values=own,
        use_cache=True,
    )
    states: torch.Tensor = output.last_hidden_state
    return states
