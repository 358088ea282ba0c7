"""Steps to the share of a card's arithmetic that they use (MFU, Chowdhery et al. 2022, app. B)."""

from __future__ import annotations

from typing import Any

# Dense bfloat16 arithmetic of one card, in floating-point operations per second, by what its name
# holds; the first that fits. From the vendor's data sheets.
_PEAKS = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A10", 125e12),
    ("4090", 165e12),
)


def peak_flops(card: str) -> float | None:
    """Look up a card's bfloat16 arithmetic per second; None where it is not known.

    >>> peak_flops("NVIDIA H100 80GB HBM3")
    989000000000000.0
    >>> peak_flops("a card of tomorrow") is None
    True
    """
    return next((peak for name, peak in _PEAKS if name in card), None)


def model_flops(
    *, parameters: int, trained: int, tokens: float, layers: int, width: int, length: int
) -> float:
    """Count the arithmetic that a step needs: nothing that is computed twice counts twice.

    A weight costs two operations a token forward and two for the gradient of its input; two more
    for its own gradient where it is trained. Attention reads ``length`` positions.

    Args:
        parameters: weights that multiply, the output layer among them, without the embeddings.
        trained: of these.
        tokens: of the step, without padding.
        layers: of attention.
        width: of attention: heads times their size.
        length: positions of a row.

    >>> model_flops(parameters=10, trained=10, tokens=1, layers=0, width=0, length=0)
    60.0
    """
    linear = 4.0 * parameters + 2.0 * trained
    return tokens * (linear + 12.0 * layers * width * length / 2)  # causal: half of the positions


def pass_overhead(causal_lm: Any, device: str) -> int:
    """Say how many tokens a pass costs before its first one: launches, and adding up gradients.

    From the arithmetic that fits into some milliseconds of launching, and the traffic of one more
    gradient; the order of magnitude is what matters.

    Args:
        causal_lm: the model.
        device: cpu or cuda.
    """
    launching, adding = (2.5e12, 256) if device == "cuda" else (8e7, 32)
    parameters = sum(p.numel() for p in causal_lm.parameters())
    return round(adding + launching / parameters)


def utilisation(
    causal_lm: Any, card: str, *, tokens: float, supervised: float, rows: float, seconds: float
) -> float | None:
    """Say which share of a card's arithmetic a training step used; None: the card is not known.

    Args:
        causal_lm: the model; its input embeddings are looked up and not multiplied.
        card: the device's name.
        tokens: of the step, without padding.
        supervised: of these, that are projected onto the vocabulary.
        rows: of the step.
        seconds: that it took, times the number of cards.
    """
    peak = peak_flops(card)
    if peak is None:
        return None
    config = causal_lm.config.get_text_config()
    head = causal_lm.get_output_embeddings().weight
    others = {id(causal_lm.get_input_embeddings().weight), id(head)}
    weights = [p for p in causal_lm.parameters() if p.ndim > 1 and id(p) not in others]
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    flops = model_flops(
        parameters=sum(p.numel() for p in weights),
        trained=sum(p.numel() for p in weights if p.requires_grad),
        tokens=tokens,
        layers=config.num_hidden_layers,
        width=config.num_attention_heads * size,
        length=round(tokens / rows),
    ) + model_flops(
        parameters=head.numel(),
        trained=head.numel() if head.requires_grad else 0,
        tokens=supervised,
        layers=0,
        width=0,
        length=0,
    )
    return flops / seconds / peak
