"""Checks of precision that span groups: what a card could only refuse after the job has begun."""

from __future__ import annotations

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.grpo import GIVEN, UNTRAINED, GRPOConfig, StartConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig

_HALF = ("bfloat16", "float16")


def check_base(adapter: AdapterConfig, trainer: TrainerConfig) -> None:
    """Refuse to round a frozen base that float32 passes read.

    Raises:
        ConfigError: ``adapter.base_dtype=bfloat16`` with ``trainer.precision=fp32``.
    """
    is_rounded = adapter.name == "lora" and adapter.base_dtype == "bfloat16"
    if is_rounded and trainer.precision == "fp32":
        raise ConfigError(
            "adapter.base_dtype",
            adapter.base_dtype,
            "the passes of trainer.precision=fp32 would read other weights than the model has",
            "adapter.base_dtype=auto, or trainer.precision=bf16",
        )


def check_four_bits_start(adapter: AdapterConfig, method: MethodConfig, start: StartConfig) -> None:
    """Refuse to go on from a qlora student: it is an adapter, which 4-bit weights cannot take up.

    Raises:
        ConfigError: the job would train such a start.
    """
    if adapter.name != "qlora":
        return
    if isinstance(method, GRPOConfig):
        goes_on = start.name not in (UNTRAINED, GIVEN)
        what = f"method=grpo start={start.name} adapter"
    else:
        goes_on = method.continued_steps > 0
        what = "method.continued_steps with adapter"
    if goes_on:
        raise ConfigError(
            what,
            "qlora",
            "its start would be an adapter, which weights of 4 bits cannot take up",
            "adapter=lora; or train the start with adapter=lora adapter.export=merged, then "
            "method=grpo start=path start.path=FOLDER adapter=qlora",
        )


def check_attention(model: ModelConfig, method: MethodConfig, trainer: TrainerConfig) -> None:
    """Refuse flash attention, which computes in half precision only, where it would meet float32.

    Raises:
        ConfigError: passes or rollouts would be in float32.
    """
    if model.attention != "flash_attention_2" or model.dtype in _HALF:
        return
    if trainer.precision == "fp32":
        raise ConfigError(
            "model.attention",
            model.attention,
            "flash attention knows no float32, which trainer.precision=fp32 computes in",
            "trainer.precision=bf16, or model.attention=sdpa",
        )
    if isinstance(method, GRPOConfig) and method.sampler_dtype == "float32":
        raise ConfigError(
            "method.sampler_dtype",
            method.sampler_dtype,
            "flash attention knows no float32, and rollouts would be computed in it",
            "method.sampler_dtype=bfloat16, or model.attention=sdpa",
        )
