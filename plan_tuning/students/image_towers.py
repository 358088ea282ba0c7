"""Image towers beside a language model: text has no use for them, an export of whole weights has.

Gemma-3's 4B and 12B carry 0.42B parameters that see images. They leave the model once it is loaded,
so that no card ever holds them, and come back when the whole weights are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def park_tower(causal_lm: Any) -> dict[str, Any]:
    """Take out what stands beside the decoder of a model that sees images.

    Args:
        causal_lm: a model of transformers, or an adapter around one; changed in place.

    Returns:
        The modules by name; none where the model only reads text.
    """
    inner = _around_decoder(causal_lm)
    if inner is None:
        return {}
    decoder = inner.get_decoder()
    tower = {
        name: child
        for name, child in inner.named_children()
        if child is not decoder and child is not None
    }
    for name in tower:
        setattr(inner, name, None)
    return tower


@contextmanager
def with_tower(causal_lm: Any, tower: Mapping[str, Any]) -> Iterator[None]:
    """Put the modules back while something is done with the whole model."""
    inner = _around_decoder(causal_lm) if tower else None
    for name, child in tower.items():
        setattr(inner, name, child)
    try:
        yield
    finally:
        for name in tower:
            setattr(inner, name, None)


def _around_decoder(causal_lm: Any) -> Any:
    """The module that holds the decoder and the tower; None for a model of text."""
    plain = causal_lm.get_base_model() if hasattr(causal_lm, "peft_config") else causal_lm
    if getattr(plain.config, "vision_config", None) is None:
        return None
    return plain.model
