"""Rollouts to forward passes: completions of similar lengths, prompts that they may share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from plan_tuning.students.flops import Passes
from plan_tuning.training.grpo.rollout import Rollout

_MAX_BUCKETS = 4
_BUCKET_OVERHEAD = 256  # tokens that a further part of a pass costs as much as


@dataclass(frozen=True, slots=True)
class PolicyBatch:
    """One forward pass: P prompts padded on the left, B completions padded on the right.

    ``cells`` are the N real tokens among the (B * T) of the completions, completion by completion.
    """

    indices: tuple[int, ...]  # the completions' places in the list that was batched
    prompt_ids: torch.Tensor  # (P, S)
    prompt_mask: torch.Tensor  # (P, S)
    origin: torch.Tensor  # (B,) prompt of each completion
    completion_ids: torch.Tensor  # (B, T)
    lengths: torch.Tensor  # (B,)
    cells: torch.Tensor  # (N,)
    rows: torch.Tensor  # (N,) completion of each token
    is_shared: bool  # prompts are read once for all their completions
    buckets: tuple[tuple[int, int, int], ...]  # first row, last row + 1, width: read together

    @property
    def padded_tokens(self) -> int:
        """Tokens that the pass computes."""
        prompts = self.prompt_ids if self.is_shared else self.origin
        read = len(prompts) * self.prompt_ids.shape[1]
        return read + sum((last - first) * width for first, last, width in self.buckets)

    @property
    def num_tokens(self) -> int:
        """Of these, without padding."""
        prompts = self.prompt_mask.sum(dim=1)
        read = prompts.sum() if self.is_shared else prompts[self.origin].sum()
        return int(read + self.lengths.sum())

    @property
    def passes(self) -> Passes:
        """What the model reads of it; the last token of a completion counts as read."""
        prompts = self.prompt_mask.sum(dim=1)
        own = prompts[self.origin].tolist()
        read = prompts.tolist() if self.is_shared else own
        return Passes.of_completions(read, zip(own, self.lengths.tolist(), strict=True))

    def to(self, device: torch.device) -> PolicyBatch:
        """Move the tensors."""
        tensors: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return replace(self, **tensors)


def policy_batches(
    rollouts: Sequence[Rollout], *, budget: int, is_shared: bool, pad_id: int = 0
) -> list[PolicyBatch]:
    """Split completions into forward passes of similar lengths.

    Args:
        rollouts: of one optimizer step, in any order.
        budget: padded tokens of a pass; a longer completion goes alone.
        is_shared: read a prompt once for all its completions in the pass.
        pad_id: fills; never attended to.
    """
    prompts: dict[tuple[int, ...], list[int]] = {}
    for index, rollout in enumerate(rollouts):
        prompts.setdefault(rollout.prompt, []).append(index)
    if is_shared:
        order = sorted(prompts.items(), key=lambda item: -len(item[0]))
        queue = [
            index
            for _, members in order
            for index in sorted(members, key=lambda i: -len(rollouts[i]))
        ]
    else:
        queue = sorted(
            range(len(rollouts)), key=lambda i: -len(rollouts[i].prompt) - len(rollouts[i])
        )
    batches: list[list[int]] = []
    for index in queue:
        if batches and _fits([*batches[-1], index], rollouts, budget, is_shared):
            batches[-1].append(index)
        else:
            batches.append([index])
    return [_collate(batch, rollouts, is_shared, pad_id) for batch in batches]


def _fits(batch: Sequence[int], rollouts: Sequence[Rollout], budget: int, is_shared: bool) -> bool:
    prompts = {rollouts[i].prompt for i in batch}
    widest = max(len(prompt) for prompt in prompts)
    longest = max(len(rollouts[i]) for i in batch)
    return (len(prompts) if is_shared else len(batch)) * widest + len(batch) * longest <= budget


def length_buckets(lengths: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Split rows that come longest first into up to four parts of one width each.

    Completions that share their prompts need not share a width: a part more costs some overhead
    and saves the padding of its rows.

    Returns:
        (first row, last row + 1, width) of each part.

    >>> length_buckets([900, 900, 100, 100])
    ((0, 2, 900), (2, 4, 100))
    >>> length_buckets([9, 8, 7])
    ((0, 3, 9),)
    """
    rows = len(lengths)
    best: tuple[tuple[int, int, int], ...] = ()
    best_cost = 0
    for parts in range(1, min(_MAX_BUCKETS, rows) + 1):
        edges = [round(k * rows / parts) for k in range(parts + 1)]
        made = tuple((first, last, lengths[first]) for first, last in itertools.pairwise(edges))
        cost = sum((last - first) * width + _BUCKET_OVERHEAD for first, last, width in made)
        if not best or cost < best_cost:
            best, best_cost = made, cost
    return best


def _collate(
    batch: Sequence[int], rollouts: Sequence[Rollout], is_shared: bool, pad_id: int
) -> PolicyBatch:
    batch = sorted(batch, key=lambda index: -len(rollouts[index]))
    places: dict[tuple[int, ...], int] = {}
    for index in batch:
        places.setdefault(rollouts[index].prompt, len(places))
    widest = max(len(prompt) for prompt in places)
    prompt_ids = torch.full((len(places), widest), pad_id)
    prompt_mask = torch.zeros((len(places), widest), dtype=torch.long)
    for prompt, place in places.items():
        prompt_ids[place, widest - len(prompt) :] = torch.tensor(prompt)
        prompt_mask[place, widest - len(prompt) :] = 1
    lengths = torch.tensor([len(rollouts[index]) for index in batch])
    longest = int(lengths.max())
    completion_ids = torch.full((len(batch), longest), pad_id)
    for row, index in enumerate(batch):
        ids = rollouts[index].completion.token_ids
        completion_ids[row, : len(ids)] = torch.tensor(ids)
    is_real = torch.arange(longest)[None, :] < lengths[:, None]  # (B, T): from lengths, never ids
    return PolicyBatch(
        indices=tuple(batch),
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        origin=torch.tensor([places[rollouts[index].prompt] for index in batch]),
        completion_ids=completion_ids,
        lengths=lengths,
        cells=is_real.flatten().nonzero()[:, 0],
        rows=torch.repeat_interleave(torch.arange(len(batch)), lengths),
        is_shared=is_shared,
        buckets=length_buckets(lengths.tolist()) if is_shared else ((0, len(batch), longest),),
    )


def gather_tokens(batch: PolicyBatch, values: Sequence[Any]) -> torch.Tensor:
    """Line values by completion (each (T_i,)) up with the batch's tokens: (N,) float32."""
    parts = [torch.as_tensor(np.asarray(values[i]), dtype=torch.float32) for i in batch.indices]
    return torch.cat(parts).to(batch.rows.device)
