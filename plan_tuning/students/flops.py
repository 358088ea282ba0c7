"""The floating-point operations that a model's passes need, from the sizes of its weights.

A weight that multiplies costs two operations a token forward, two for the gradient of its input
and two for its own gradient where it is trained (Kaplan et al. 2020, appendix B; PaLM,
arXiv 2204.02311, appendix B). So a token that is trained on costs 4 N + 2 trained, one that is only
read or written costs 2 N. Attention costs four operations a width, layer and pair of a query and a
key that it may see, three times as many with gradients. Embeddings are looked up and cost nothing;
the output layer counts for the tokens that are projected. What is computed twice (checkpointed
activations, padding, idle ranks) counts once, or not at all. Of a mixture of experts all weights
count, of a sliding window all positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from plan_tuning.job_record import Compute


@dataclass(frozen=True, slots=True)
class Passes:
    """What goes through a model, without padding."""

    tokens: int = 0  # that its layers read
    projected: int = 0  # of these, onto the vocabulary
    pairs: float = 0  # of a query and a key, in one layer

    def __add__(self, other: Passes) -> Passes:
        """Add passes up."""
        return Passes(
            self.tokens + other.tokens,
            self.projected + other.projected,
            self.pairs + other.pairs,
        )

    def __mul__(self, times: int) -> Passes:
        """Repeat passes."""
        return Passes(times * self.tokens, times * self.projected, times * self.pairs)

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[int, int]]) -> Passes:
        """Add up rows that are read on their own.

        Args:
            rows: tokens of each, and how many of them are projected.

        >>> Passes.of_rows([(4, 3)])
        Passes(tokens=4, projected=3, pairs=10)
        """
        parts = (cls(size, projected, size * (size + 1) // 2) for size, projected in rows)
        return sum(parts, cls())

    @classmethod
    def of_completions(
        cls, prompts: Iterable[int], completions: Iterable[tuple[int, int]]
    ) -> Passes:
        """Add up prompts and the completions behind them.

        Args:
            prompts: tokens of each prompt, as often as it is read.
            completions: of each the tokens of its prompt, and its own, which are all projected.

        >>> Passes.of_completions([4], [(4, 2), (4, 2)])
        Passes(tokens=8, projected=4, pairs=32)
        """
        total = cls.of_rows((size, 0) for size in prompts)
        for before, size in completions:
            total += cls(size, size, size * before + size * (size + 1) // 2)
        return total


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The weights of a model that multiply."""

    layers_weights: int  # of all layers
    layers_trained: int  # of these
    head_weights: int  # of the output layer
    head_trained: int
    layers: int
    width: int  # of attention: heads times their size

    @classmethod
    def of(cls, causal_lm: Any) -> ModelSize:
        """Measure a causal language model of transformers, adapters included."""
        config = causal_lm.config.get_text_config()
        head = causal_lm.get_output_embeddings().weight
        others = {id(causal_lm.get_input_embeddings().weight), id(head)}
        weights = [p for p in causal_lm.parameters() if p.ndim > 1 and id(p) not in others]
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            layers_weights=sum(_count(p) for p in weights),
            layers_trained=sum(_count(p) for p in weights if p.requires_grad),
            head_weights=head.numel(),
            head_trained=head.numel() if head.requires_grad else 0,
            layers=config.num_hidden_layers,
            width=config.num_attention_heads * size,
        )

    def reading(self, passes: Passes) -> float:
        """Count the operations of passes without gradients."""
        return (
            2.0 * self.layers_weights * passes.tokens
            + 2.0 * self.head_weights * passes.projected
            + 4.0 * self.layers * self.width * passes.pairs
        )

    def training(self, passes: Passes) -> float:
        """Count the operations of passes with gradients.

        >>> ModelSize(10, 10, 0, 0, layers=0, width=0).training(Passes(tokens=1))
        60.0
        """
        return (
            (4.0 * self.layers_weights + 2.0 * self.layers_trained) * passes.tokens
            + (4.0 * self.head_weights + 2.0 * self.head_trained) * passes.projected
            + 12.0 * self.layers * self.width * passes.pairs
        )


def writing(
    causal_lm: Any, prompts: Iterable[int], completions: Sequence[tuple[int, int]]
) -> Compute:
    """Sum up what a model computes to answer; seconds are not known here.

    Args:
        causal_lm: a causal language model of transformers.
        prompts: tokens of each prompt, as often as it is read.
        completions: of each the tokens of its prompt, and its own.
    """
    passes = Passes.of_completions(prompts, completions)
    return Compute(
        generated_tokens=passes.projected,
        read_tokens=passes.tokens - passes.projected,
        flops=ModelSize.of(causal_lm).reading(passes),
    )


def _count(weight: Any) -> int:
    """Count the numbers of a weight; of four bits two lie in a byte."""
    is_packed = hasattr(weight, "quant_state")
    return int(weight.numel() * 2 * weight.element_size() if is_packed else weight.numel())
