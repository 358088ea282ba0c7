"""Problems to groups of completions, and completions to the forward passes they are learned from.

What is sampled depends on (seed, step, problem, sample) alone, and which problems a step asks on
the position in an endless stream of shuffled problems, so a resumed run continues exactly.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from plan_tuning.config.grpo import ASKED_AS, GRPOConfig
from plan_tuning.config.training import PromptConfig
from plan_tuning.records import Completion, Problem
from plan_tuning.students.generation.native import generate
from plan_tuning.students.loading import Student
from plan_tuning.students.templates import prompt_ids
from plan_tuning.text.formats import has_plan, parse_plan, student_messages

_MAX_BUCKETS = 4
_BUCKET_OVERHEAD = 256  # tokens that a further part of a pass costs as much as


@dataclass(frozen=True, slots=True)
class GoldenProblem:
    """A training problem with the plan that the student's plan is compared with."""

    problem: Problem
    teacher_plan: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled completion of one problem."""

    case: GoldenProblem
    sample: int  # 0 .. group_size - 1
    prompt: tuple[int, ...]
    completion: Completion
    plan: str  # empty where the completion holds no finished plan
    num_plan_tokens: int  # tokens up to the end of the plan

    def __len__(self) -> int:
        return len(self.completion.token_ids)

    @property
    def is_truncated(self) -> bool:
        """Whether the completion was cut off."""
        return self.completion.finish_reason == "length"


def sample_groups(
    student: Student,
    cases: Sequence[GoldenProblem],
    *,
    method: GRPOConfig,
    prompt: PromptConfig,
    seed: int,
    step: int,
    stream: Sequence[int] | None = None,
) -> list[Rollout]:
    """Sample ``group_size`` completions of every case.

    Args:
        student: the sampler.
        cases: problems; the same one may come twice.
        method: sampling.
        prompt: suffixes of the prompt.
        seed: of the noise.
        step: GRPO step.
        stream: position of each case in the stream of problems; it is part of the noise's address.

    Returns:
        Rollouts, group by group.
    """
    seen: Counter[str] = Counter()
    prompts, keys = [], []
    for place, case in enumerate(cases):
        messages = student_messages(
            case.problem.problem, method=ASKED_AS, prompt=prompt, style=case.problem.style
        )
        ids = prompt_ids(student.tokenizer, messages)
        name = case.problem.id if stream is None else f"{stream[place]}/{case.problem.id}"
        for _ in range(method.group_size):
            prompts.append(ids)
            keys.append((f"grpo/{step}/{name}", seen[name]))
            seen[name] += 1
    completions = generate(
        student,
        prompts,
        keys=keys,
        max_new_tokens=method.max_new_tokens,
        temperature=method.temperature,
        top_p=method.top_p,
        top_k=method.top_k,
        seed=seed,
        return_log_probs=True,
        batch_tokens=method.generation_batch_tokens,
        decoding=method.decoding,
    )
    needs_split = method.credit != "uniform"
    return [
        _rollout(student.tokenizer, cases, method, index, ids, found, needs_split)
        for index, (ids, found) in enumerate(zip(prompts, completions, strict=True))
    ]


def _rollout(
    tokenizer: Any,
    cases: Sequence[GoldenProblem],
    method: GRPOConfig,
    index: int,
    ids: Sequence[int],
    completion: Completion,
    needs_split: bool,
) -> Rollout:
    group, sample = divmod(index, method.group_size)
    return Rollout(
        case=cases[group],
        sample=sample,
        prompt=tuple(ids),
        completion=completion,
        plan=parse_plan(completion.text) if has_plan(completion.text) else "",
        num_plan_tokens=plan_length(tokenizer, completion) if needs_split else 0,
    )


def plan_length(tokenizer: Any, completion: Completion) -> int:
    """Count the tokens up to and with the one that completes ``</plan>``.

    All of them where a plan was begun and never ended, none where there is no plan.
    """
    end = "</plan>"
    if end not in completion.text:
        return len(completion.token_ids) if "<plan>" in completion.text else 0
    ids = list(completion.token_ids)
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        if end in tokenizer.decode(ids[:middle], skip_special_tokens=True):
            high = middle
        else:
            low = middle + 1
    return low


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

    def to(self, device: torch.device) -> PolicyBatch:
        """Move the tensors."""
        return replace(
            self,
            prompt_ids=self.prompt_ids.to(device, non_blocking=True),
            prompt_mask=self.prompt_mask.to(device, non_blocking=True),
            origin=self.origin.to(device, non_blocking=True),
            completion_ids=self.completion_ids.to(device, non_blocking=True),
            lengths=self.lengths.to(device, non_blocking=True),
            cells=self.cells.to(device, non_blocking=True),
            rows=self.rows.to(device, non_blocking=True),
        )


def _cost(prompts: int, prompt_length: int, rows: int, length: int, is_shared: bool) -> int:
    return (prompts if is_shared else rows) * prompt_length + rows * length


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
    return _cost(len(prompts), widest, len(batch), longest, is_shared) <= budget


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
