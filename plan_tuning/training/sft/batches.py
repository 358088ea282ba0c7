"""Rows of segments to micro-batches: tokens, loss weights, padding or packing, token budgets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from plan_tuning.config.training import MethodConfig
from plan_tuning.records import Message, Segment, SegmentKind
from plan_tuning.students.templates import TemplateError, batch_prompt_ids, special_ids

KINDS = (SegmentKind.PROMPT, SegmentKind.PLAN, SegmentKind.SOLUTION, SegmentKind.END)
"""A token's kind is the index of its segment's kind in this tuple."""


_AT_ONCE = 256  # rows of a call of the tokenizer, which keeps more than ids of each token


class RowError(ValueError):
    """A training row that cannot be learned from.

    Attributes:
        reason: overlong, special_token, no_loss; empty where no single row is meant.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """What a student is asked and what it shall answer."""

    problem_id: str
    messages: tuple[Message, ...]
    segments: tuple[Segment, ...]
    level: int = 0  # of a curriculum
    source: str = ""  # the data set


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row in tokens; the weight and kind of a token are those of predicting it."""

    problem_id: str
    ids: torch.Tensor  # (T,) int64
    weights: torch.Tensor  # (T,) float32; 0 on the prompt
    kinds: torch.Tensor  # (T,) int64, index into KINDS
    level: int = 0  # of a curriculum
    source: str = ""  # the data set

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def supervised_tokens(self) -> int:
        """Tokens that carry loss."""
        return int((self.weights > 0).sum())


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of one forward pass, padded on the right, or packed: several rows in one sequence.

    ``positions`` index the flattened (B * T) hidden states from which the supervised tokens
    ``targets`` are predicted, so prompts and padding are never projected onto the vocabulary.
    """

    problem_ids: tuple[str, ...]
    input_ids: torch.Tensor  # (B, T)
    positions: torch.Tensor  # (N,)
    targets: torch.Tensor  # (N,)
    weights: torch.Tensor  # (N,)
    kinds: torch.Tensor  # (N,)
    num_tokens: int  # without padding
    lengths: torch.Tensor  # (B,) the same, of each sequence
    position_ids: torch.Tensor | None = None  # (B, T) where packed: from 0 in every row
    row_lengths: tuple[int, ...] = ()  # of the rows packed into one sequence, and of its padding
    source: str = ""  # of the first row

    def to(self, device: torch.device) -> MicroBatch:
        """Move the tensors."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: v for name, v in values.items() if isinstance(v, torch.Tensor)}
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        return MicroBatch(**values | moved)


@dataclass(frozen=True, slots=True)
class RowTokens:
    """What the tokenizer makes of a row."""

    prompt: list[int]
    completion: list[int]  # without the turn's end
    starts: list[int]  # of each token of the completion, its first character


def tokenise(tokenizer: Any, rows: Sequence[TrainingRow]) -> Iterator[RowTokens]:
    """Tokenise rows, many with one call, which takes about as long as the text of a short row.

    A prompt is rendered as at generation, so both see the same ids. A completion is tokenised as
    one text, as a student would write it.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        rows: messages and segments.

    Yields:
        The tokens of each row.

    Raises:
        TemplateError: the template refuses a row, in whose place this is raised.
    """
    for first in range(0, len(rows), _AT_ONCE):
        yield from _tokenise_at_once(tokenizer, rows[first : first + _AT_ONCE])


def _tokenise_at_once(tokenizer: Any, rows: Sequence[TrainingRow]) -> Iterator[RowTokens]:
    try:
        prompts = batch_prompt_ids(tokenizer, [row.messages for row in rows])
    except TemplateError:
        if len(rows) == 1:
            raise
        for row in rows:  # those before the refused one come first
            yield from _tokenise_at_once(tokenizer, [row])
        return
    texts = ["".join(segment.text for segment in row.segments) for row in rows]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    for prompt, ids, spans in zip(prompts, encoded["input_ids"], offsets, strict=True):
        yield RowTokens(prompt, ids, [start for start, _ in spans])


def encode(
    tokenizer: Any,
    row: TrainingRow,
    tokens: RowTokens,
    turn_end: Sequence[int],
    *,
    method: MethodConfig,
    max_length: int,
) -> EncodedRow:
    """Say which of a row's tokens carry loss; one belongs to the segment of its first character.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        row: messages and segments.
        tokens: of the row, see :func:`tokenise`.
        turn_end: ids that end the turn, supervised with the last segment's weight.
        method: loss weights of the segment kinds.
        max_length: longest row, in tokens of prompt and completion.

    Raises:
        RowError: the row is too long, its text holds what the tokenizer reads as a special token
            (a student that writes one ends or breaks its turn there), or nothing carries loss.
    """
    prompt, written = tokens.prompt, tokens.completion
    ids = [*prompt, *written, *turn_end]
    if len(ids) > max_length:
        raise RowError(
            f"problem {row.problem_id}: {len(ids)} tokens exceed trainer.max_length={max_length}",
            "overlong",
        )
    special = special_ids(tokenizer)
    forbidden = {
        token
        for token in set(written)
        if token == turn_end[-1] or (token in special and token != tokenizer.unk_token_id)
    }
    if forbidden:
        raise RowError(
            f"problem {row.problem_id}: its completion holds the text of a special token, "
            f"{tokenizer.convert_ids_to_tokens(min(forbidden))}",
            "special_token",
        )
    ends = np.cumsum([len(segment.text) for segment in row.segments])
    owner = np.minimum(np.searchsorted(ends, tokens.starts, side="right"), len(ends) - 1)
    scale = {
        SegmentKind.PLAN: method.plan_weight,
        SegmentKind.SOLUTION: method.solution_weight,
    }
    of_segment = np.array([s.weight * scale.get(s.kind, 1.0) for s in row.segments])
    weights = np.zeros(len(ids))
    weights[len(prompt) :] = of_segment[-1]
    weights[len(prompt) : len(prompt) + len(written)] = of_segment[owner]
    if not weights.any():
        raise RowError(f"problem {row.problem_id}: no token of it carries loss", "no_loss")
    kinds = np.full(len(ids), KINDS.index(SegmentKind.PROMPT))
    kinds[len(prompt) :] = KINDS.index(SegmentKind.END)
    of_segment = np.array([KINDS.index(segment.kind) for segment in row.segments])
    kinds[len(prompt) : len(prompt) + len(written)] = of_segment[owner]
    return EncodedRow(
        row.problem_id,
        torch.tensor(ids),
        torch.from_numpy(weights.astype(np.float32)),
        torch.from_numpy(kinds),
        row.level,
        row.source,
    )


def micro_batches(
    rows: Sequence[EncodedRow], *, budget: int, overhead: int = 0
) -> list[MicroBatch]:
    """Split the rows of a step into forward passes of similar lengths.

    Of all ways to cut the rows, sorted by length, into passes under the budget this is the one with
    the fewest padded tokens, when each pass costs ``overhead`` tokens more.

    Args:
        rows: of one step, in any order.
        budget: padded tokens of a forward pass; a longer row goes alone.
        overhead: what a pass costs beside its tokens, in tokens.
    """
    ordered = sorted(rows, key=len, reverse=True)
    lengths = [len(row) for row in ordered]  # the length of a tensor takes a microsecond
    # costs[n]: of the first n rows, and where their last pass begins
    costs: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(ordered) + 1):
        first = end - 1
        best = (costs[first][0] + lengths[first] + overhead, first)
        while first > 0 and lengths[first - 1] * (end - first + 1) <= budget:
            first -= 1
            best = min(best, (costs[first][0] + lengths[first] * (end - first) + overhead, first))
        costs.append(best)
    batches: list[MicroBatch] = []
    end = len(ordered)
    while end:
        first = costs[end][1]
        batches.insert(0, collate(ordered[first:end]))
        end = first
    return batches


def packed_batches(
    rows: Sequence[EncodedRow], *, budget: int, capacity: int | None = None, multiple: int = 1
) -> list[MicroBatch]:
    """Pack the rows of a step into sequences, and these into forward passes.

    Longer rows come first and each goes into the first sequence that has room for it. Positions
    begin anew with every row, which is where the models of transformers (and their kernels for
    variable lengths) keep rows apart, so no row sees another one.

    Args:
        rows: of one step, in any order.
        budget: padded tokens of a forward pass; a longer row goes alone.
        capacity: tokens of a sequence; None: as many as the longest row.
        multiple: what a sequence is padded to a multiple of; a row that goes alone, too.
    """
    ordered = sorted(rows, key=len, reverse=True)
    room = max(capacity or 0, len(ordered[0]))
    bins: list[list[EncodedRow]] = []
    for row in ordered:
        fitting = (b for b in bins if sum(map(len, b)) + len(row) <= room)
        place = next(fitting, None)
        if place is None:
            bins.append([row])
        else:
            place.append(row)
    at_once = max(1, budget // max(sum(map(len, b)) for b in bins))
    groups = [bins[first : first + at_once] for first in range(0, len(bins), at_once)]
    return [collate_packed(group, multiple=multiple) for group in groups]


def collate(rows: Sequence[EncodedRow]) -> MicroBatch:
    """Pad rows on the right; causal attention never looks there, so no mask is needed."""
    return _collate([[row] for row in rows], is_packed=False)


def collate_packed(bins: Sequence[Sequence[EncodedRow]], *, multiple: int = 1) -> MicroBatch:
    """Make one sequence of every group of rows."""
    return _collate(bins, is_packed=True, multiple=multiple)


def _collate(
    bins: Sequence[Sequence[EncodedRow]], *, is_packed: bool, multiple: int = 1
) -> MicroBatch:
    longest = math.ceil(max(sum(map(len, group)) for group in bins) / multiple) * multiple
    ids = torch.zeros((len(bins), longest), dtype=torch.long)
    weights = torch.zeros((len(bins), longest))
    kinds = torch.zeros((len(bins), longest), dtype=torch.long)
    position_ids = torch.zeros((len(bins), longest), dtype=torch.long)
    for place, group in enumerate(bins):
        first = 0
        for row in group:
            last = first + len(row)
            ids[place, first:last] = row.ids
            weights[place, first:last] = row.weights
            weights[place, first] = 0.0  # nothing predicts a row's first token
            kinds[place, first:last] = row.kinds
            position_ids[place, first:last] = torch.arange(len(row))
            first = last
    flat = weights.flatten()
    supervised = flat.nonzero()[:, 0]  # (N,)
    rows = [row for group in bins for row in group]
    num_tokens = sum(len(row) for row in rows)
    lengths = [len(row) for row in rows] + [longest - num_tokens] * (num_tokens < longest)
    return MicroBatch(
        problem_ids=tuple(row.problem_id for row in rows),
        input_ids=ids,
        positions=supervised - 1,
        targets=ids.flatten()[supervised],
        weights=flat[supervised],
        kinds=kinds.flatten()[supervised],
        num_tokens=num_tokens,
        lengths=torch.tensor([sum(map(len, group)) for group in bins]),
        position_ids=position_ids if is_packed else None,
        row_lengths=tuple(lengths) if is_packed and len(bins) == 1 else (),
        source=rows[0].source,
    )


def split_validation(
    rows: Sequence[EncodedRow], *, fraction: float, seed: int
) -> tuple[list[EncodedRow], list[EncodedRow]]:
    """Hold out a share of the problems; all rows of a problem go the same way.

    Returns:
        (training rows, validation rows), each in the given order.
    """
    ids = sorted({row.problem_id for row in rows})
    count = min(max(round(fraction * len(ids)), 1), len(ids) - 1) if fraction > 0 else 0
    chosen = np.random.default_rng([seed, len(ids), 1]).permutation(len(ids))[:count]
    held_out = {ids[index] for index in chosen}
    return (
        [row for row in rows if row.problem_id not in held_out],
        [row for row in rows if row.problem_id in held_out],
    )
