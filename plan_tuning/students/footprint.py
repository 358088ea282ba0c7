"""A shape and how it is trained to bytes: what a pass over a student holds in memory, and when.

Counted are tensors, as autograd, autocast and the optimizer of this project hold them with the
models of transformers 5; ``experiments/benchmarks/memory.py`` counts the same with real code on
tensors without contents. A card's context, cuBLAS and the gaps of its allocator come on top.
h, f, q, k below are the widths of hidden states, feed-forward, all queries, all keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from plan_tuning.students.shapes import Shape

FLOAT, HALF = 4, 2  # bytes of a number
PROJECTIONS = 7  # linear layers of a decoder layer
LOGITS_AT_ONCE = {"cuda": 2**27, "cpu": 2**24}  # a chunk: tokens x vocabulary
MIN_CHUNK = 1024  # tokens of a supervised chunk at the least
_FOUR_BIT = 0.5 + 1 / 8 / 4  # bytes of a weight in nf4, with doubly quantised scales
_BYTES_PER_LOGIT = {
    False: 12,
    True: 16,
}  # of GRPO or not: logits, probabilities and their gradients, in float32


@dataclass(frozen=True)
class Training:
    """What of a training's settings decides how much memory its passes take.

    Args:
        adapter: full, lora or qlora.
        rank: of the updates.
        is_bf16: passes are computed under autocast.
        rounds_base: frozen weights are stored in bfloat16.
        recomputes: layers are computed again in the backward pass (gradient checkpointing).
        shares_prompts: GRPO reads a prompt once for its group.
        is_grpo: the loss needs entropies.
        device: cuda or cpu: how many logits are held at once.
        group: completions of a prompt.
        dropout: of the adapter.
        shards: devices that weights, gradients and AdamW's state are spread over (FSDP): nothing
            has counted a training of several.
        is_eager: attention writes its scores out.
    """

    adapter: str = "full"
    rank: int = 16
    is_bf16: bool = True
    rounds_base: bool = False
    recomputes: bool = False
    shares_prompts: bool = False
    is_grpo: bool = False
    device: str = "cuda"
    group: int = 8
    dropout: float = 0.0
    shards: int = 1
    is_eager: bool = False

    @property
    def is_full(self) -> bool:
        """Whether all weights are trained."""
        return self.adapter == "full"

    @property
    def width(self) -> int:
        """Bytes of a number that a linear layer reads."""
        return HALF if self.is_bf16 else FLOAT


@dataclass(frozen=True)
class Rows:
    """The rows of a pass: ``length`` tokens each, of which ``prompt`` are the prompt's."""

    length: int
    prompt: int = 0

    def new_share(self, training: Training) -> float:
        """Share of a pass's tokens that the output layer reads; supervised: all at the most."""
        if not training.is_grpo:
            return 1.0
        new = self.length - self.prompt
        read = self.prompt / training.group if training.shares_prompts else self.prompt
        return new / (read + new)


def trained_parameters(shape: Shape, training: Training) -> int:
    """Count the weights that have gradients."""
    if training.is_full:
        return shape.parameters
    return shape.layers * shape.linear_sides * training.rank


def weight_bytes(shape: Shape, training: Training) -> int:
    """Bytes of the student's weights while it is trained, adapter included."""
    if training.is_full:
        return shape.parameters * FLOAT
    update = trained_parameters(shape, training) * FLOAT
    matrices = shape.layers * shape.linear_weights
    if training.adapter == "qlora":  # the linear layers but the head; peft keeps the rest in fp32
        rest = shape.parameters - matrices
        return round(matrices * _FOUR_BIT) + rest * FLOAT + update
    if not training.rounds_base:
        return shape.parameters * FLOAT + update
    norms = shape.parameters - matrices - shape.tables
    return (matrices + shape.tables) * HALF + norms * FLOAT + update


def cast_bytes(shape: Shape, training: Training) -> int:
    """Bytes of the rounded copies of trained matrices that autocast keeps for a whole step.

    Weights that are spread are gathered as bfloat16, so autocast has nothing to round.
    """
    if not training.is_bf16 or training.shards > 1:
        return 0
    if training.is_full:
        return shape.matrices * HALF
    return trained_parameters(shape, training) * HALF


def frozen_cast_bytes(shape: Shape, training: Training) -> int:
    """Bytes of rounded copies of frozen float32 matrices, kept until the backward pass."""
    if training.is_full or not training.is_bf16 or training.rounds_base or training.shards > 1:
        return 0
    if training.adapter == "qlora":  # unpacked again, layer by layer
        return shape.embedding * HALF
    matrices = shape.linear_weights * (1 if training.recomputes else shape.layers)
    return (matrices + shape.embedding) * HALF


def layer_bytes(shape: Shape, training: Training, rows: Rows) -> float:
    """Bytes a token that one layer keeps for its backward pass.

    Args:
        shape: of the model.
        training: how it is trained.
        rows: of the pass; long rows of a sliding layer, and padded prompts, bring a mask.
    """
    h, f, q, k, width = shape.width, shape.inner, shape.query, shape.key, training.width
    kept = float(shape.norms * (FLOAT * h + FLOAT))  # inputs of norms, in float32, their scales
    if training.is_full:
        kept += shape.norms * FLOAT * h  # normalised, for the norms' own weights
    # Autocast rounds the input of each linear layer anew: five copies of two inputs.
    kept += 5 * HALF * h if training.is_bf16 else 2 * FLOAT * h
    if shape.has_head_norms:
        kept += FLOAT * (q + k) + FLOAT * (shape.heads + shape.kv_heads)
        if training.is_full:
            is_rounded = training.is_bf16 and shape.family == "qwen3"
            kept += (HALF if is_rounded else FLOAT) * (q + k)
    kept += width * (q + 2 * k) + FLOAT * shape.heads + width * q  # attention, its sums, output
    if training.is_eager:
        kept += _score_bytes(shape, training, rows)
    kept += 4 * width * f  # gate, its activation, up, their product
    if not training.is_full:
        kept += PROJECTIONS * width * training.rank
        kept += HALF * q if training.is_bf16 else 0  # the adapter's own copy of an input
        kept += (5 * h + q + f) if training.dropout else 0  # one byte each
    return kept + _mask_bytes(shape, training, rows)


def _score_bytes(shape: Shape, training: Training, rows: Rows) -> float:
    """Bytes a token of eager attention: probabilities of all heads, and keys and values repeated.

    Probabilities are kept in float32, where the softmax is computed, rounded, and behind dropout.
    """
    probabilities = shape.heads * rows.length * (FLOAT + 2 * training.width)
    return probabilities + 2 * training.width * (shape.query - shape.key)


def _mask_bytes(shape: Shape, training: Training, rows: Rows) -> float:
    """Bytes a token of a layer, on average, where attention has a mask.

    A mask of rows x length x length is rounded for every layer, and keys and values are repeated
    for the queries that share them. Supervised rows need one in sliding layers beyond the window.
    """
    if training.is_grpo:
        masked = 1.0
    elif _has_window_mask(shape, training, rows):
        masked = shape.sliding_layers / shape.layers
    else:
        return 0.0
    copies = 2 if shape.kv_heads > 1 else 1  # a single head is repeated without a copy
    repeated = copies * training.width * (shape.query - shape.key)
    return masked * (training.width * rows.length + repeated)


def token_bytes(shape: Shape, training: Training, rows: Rows) -> float:
    """Bytes a token at the start of the backward pass; with recomputation at its widest layer."""
    layer = layer_bytes(shape, training, rows)
    if training.recomputes:
        inputs = input_bytes(shape, training, rows)
        return inputs + layer + _layer_work(shape, training)
    outer = outer_bytes(shape, training)
    return shape.layers * layer + outer + _prefix_bytes(shape, training, rows)


def input_bytes(shape: Shape, training: Training, rows: Rows) -> int:
    """Bytes a token of what recomputation begins from: inputs of all layers, and masks.

    Layers share a mask of one byte a cell; a family with sliding layers has two kinds.
    """
    kinds = int(training.is_grpo) + int(_has_window_mask(shape, training, rows))
    return shape.layers * FLOAT * shape.width + kinds * rows.length


def _has_window_mask(shape: Shape, training: Training, rows: Rows) -> bool:
    """Whether sliding layers have a mask of their own."""
    if shape.window is None or not shape.sliding_layers:
        return False
    return training.is_grpo or rows.length >= shape.window


def outer_bytes(shape: Shape, training: Training) -> float:
    """Bytes a token of the last norm and of the states that the output layer reads."""
    h = shape.width
    return 2 * FLOAT * h + 12 + (2 * FLOAT * h if training.is_full else 0)


def _layer_work(shape: Shape, training: Training) -> float:
    """Bytes a token beside what a layer keeps, where it has been computed again."""
    h, f = shape.width, shape.inner
    is_gemma = shape.family == "gemma3"  # whose last norm is not yet computed at the widest place
    if training.is_bf16:
        if not training.is_full:
            return 6 * f + 10 * h  # an input of the adapter in float32, the product, residuals
        return max(4 * f - 8 * h, 16 * h) if is_gemma else 4 * f
    saved = (8 * h if training.is_full else 4 * h) if is_gemma else 0
    return 8 * f - saved


def _prefix_bytes(shape: Shape, training: Training, rows: Rows) -> float:
    """Bytes a token for completions that are read behind a shared prompt, prompts apart.

    Attention of a completion keeps keys and values of its prompt as well, one copy a row.
    """
    if not training.shares_prompts:
        return 0.0
    new = max(rows.length - rows.prompt, 1)
    copies = 2 if shape.kv_heads > 1 else 1
    a_row = copies * training.width * shape.query * rows.prompt + training.width * rows.prompt * new
    tokens = rows.prompt / training.group + new  # of the pass, for one row
    return shape.layers * a_row / tokens


def head_bytes(shape: Shape, training: Training, tokens: int) -> int:
    """Bytes of the output layer's work on a chunk of a pass of ``tokens``."""
    limit = max(1, LOGITS_AT_ONCE[training.device] // shape.vocabulary)
    chunk = min(tokens, limit if training.is_grpo else max(MIN_CHUNK, limit))
    each = _BYTES_PER_LOGIT[training.is_grpo]
    work = chunk * shape.vocabulary * each
    return work + head_gradient_bytes(shape, training)


def head_gradient_bytes(shape: Shape, training: Training) -> int:
    """Bytes of a trained output layer's gradient, which waits while layers are gone through."""
    return training.width * shape.embedding if training.is_full else 0


def end_bytes(shape: Shape, training: Training) -> int:
    """Bytes beside weights, gradients and casts at the end of a backward pass.

    The embedding's gradient is dense: a part of it, the sum so far and the new sum. From the second
    pass of a step on, gradients of the copies that autocast keeps wait until all else is done. Of
    spread weights the gradient of one unit is there whole, the largest for embedding and output
    layer, and once more in float32 for the sum over devices.
    """
    if not training.is_full:
        return 0
    if training.shards > 1:
        return shape.tables * (training.width + FLOAT)
    waiting = shape.layers * shape.linear_weights * HALF if training.is_bf16 else 0
    if training.shares_prompts:
        return waiting + (3 * FLOAT + (HALF if training.is_bf16 else 0)) * shape.embedding
    if shape.is_tied:
        return waiting + 3 * FLOAT * shape.embedding
    return waiting + (FLOAT + (HALF if training.is_bf16 else 0)) * shape.embedding


def cache_bytes(shape: Shape, width: int) -> int:
    """Bytes of keys and values of one token, at the most.

    Of a sliding layer the prompts' part, and with static steps the new tokens' as well, ends with
    its window; it is counted whole, for dynamic steps keep every new token.
    """
    return 2 * shape.layers * shape.key * width


def read_bytes(shape: Shape, width: int) -> int:
    """Bytes a token of reading prompts without gradients: the widest place of a layer."""
    return width * (3 * shape.inner + 2 * shape.query) + 3 * FLOAT * shape.width
