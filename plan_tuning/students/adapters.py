"""Which weights of a loaded model are trained: all of its language model, or low-rank updates."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.model import AdapterConfig, ModelConfig

# Attention and feed-forward projections, which these families name alike.
_FAMILIES = ("qwen3", "gemma3", "llama")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def wrap(loaded: Any, model: ModelConfig, adapter: AdapterConfig) -> Any:
    """Freeze what is not trained, and put an adapter around the model where one is asked for.

    Args:
        loaded: a causal language model of transformers.
        model: how it was loaded; names its family.
        adapter: which weights are trained.

    Raises:
        ConfigError: a module that the adapter shall change is not in the model.
    """
    loaded.config.use_cache = False
    if adapter.name == "full":
        # An image tower beside the language model is loaded and left alone.
        loaded.requires_grad_(False)
        loaded.get_decoder().requires_grad_(True)
        loaded.get_output_embeddings().requires_grad_(True)
        return loaded
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    settings = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=_targets(loaded, model, adapter),
        task_type="CAUSAL_LM",
    )
    if adapter.name == "qlora":
        loaded = prepare_model_for_kbit_training(loaded, use_gradient_checkpointing=False)
    with quiet_peft():
        return get_peft_model(loaded, settings)


def merge_rounding_once(wrapped: Any, dtype: torch.dtype) -> Any:
    """Fold an adapter into weights of ``dtype``: the sum is float32's and rounded once.

    Args:
        wrapped: a peft model; its own merge would round the update before it is added.
        dtype: of the merged weights.

    Returns:
        The model without adapter layers.
    """
    for module in wrapped.modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer"):
            weight = module.base_layer.weight
            total = weight.data.float()
            for name in module.active_adapters:
                total += module.get_delta_weight(name)
            weight.data = total.to(dtype)
    return wrapped.unload()


def _targets(loaded: Any, model: ModelConfig, adapter: AdapterConfig) -> list[str] | str:
    """Name the modules that get updates, in peft's words; the head is never among them."""
    has_tower = getattr(loaded.config, "vision_config", None) is not None
    if adapter.target_modules != "family":
        names = list(adapter.target_modules)
        _check(loaded, names, f"adapter.target_modules=[{','.join(names)}]", "family")
        return names
    if model.family in _FAMILIES:
        names = list(PROJECTIONS)
        _check(loaded, names, f"model.family={model.family}", "auto")
    elif has_tower:
        names = _linear_names(loaded.get_decoder())
    else:
        return "all-linear"
    if has_tower:
        return rf".*language_model\..*\.({'|'.join(names)})"  # image towers name them alike
    return names


def _check(loaded: Any, names: Sequence[str], given: str, instead: str) -> None:
    """Refuse names that no module bears; peft would pass over them as long as one is found."""
    modules = [name for name, _ in loaded.named_modules()]
    absent = [
        name
        for name in names
        if not any(module == name or module.endswith(f".{name}") for module in modules)
    ]
    if absent:
        key, _, value = given.partition("=")
        raise ConfigError(
            key,
            value,
            f"{type(loaded).__name__} has no {', '.join(absent)}; its linear layers are "
            f"{', '.join(_linear_names(loaded.get_decoder()))}",
            f"{key}={instead}",
        )


def _linear_names(decoder: torch.nn.Module) -> list[str]:
    """List the last parts of the names of a decoder's linear layers."""
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in decoder.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D)
        }
    )


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence what peft's use of a renamed property of transformers makes transformers say."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield
