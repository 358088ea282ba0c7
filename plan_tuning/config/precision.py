"""Checks of precision that span groups: what a card could only refuse after the job has begun."""

from __future__ import annotations

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.grpo import GIVEN, UNTRAINED, GRPOConfig
from plan_tuning.config.run import Config

_HALF = ("bfloat16", "float16")


def check_precision(config: Config) -> None:
    """Refuse precisions that do not go together in a training.

    Raises:
        ConfigError: a base of 4 bits would have to take up its start's adapter, flash attention
            would meet float32, or a base is to be rounded that float32 passes read.
    """
    is_given = config.student.path is not None or config.merge.is_merged
    if "train" not in config.stages or not config.method.is_trained or is_given:
        return
    _check_base(config)
    _check_four_bits(config)
    _check_attention(config)


def _check_base(config: Config) -> None:
    adapter, precision = config.adapter, config.trainer.precision
    if adapter.name == "lora" and adapter.base_dtype == "bfloat16" and precision == "fp32":
        raise ConfigError(
            "adapter.base_dtype",
            adapter.base_dtype,
            "the passes of trainer.precision=fp32 would read other weights than the model has",
            "adapter.base_dtype=auto, or trainer.precision=bf16",
        )


def _check_four_bits(config: Config) -> None:
    """A qlora student is an adapter, and a base of 4 bits cannot take up one."""
    if config.adapter.name != "qlora":
        return
    if isinstance(config.method, GRPOConfig):
        goes_on = config.start.name not in (UNTRAINED, GIVEN)
        what = f"method=grpo start={config.start.name} adapter"
    else:
        goes_on = config.method.is_continued
        what = "method.continued_steps with adapter"
    if goes_on:
        raise ConfigError(
            what,
            "qlora",
            "its start would be an adapter, which weights of 4 bits cannot take up",
            "adapter=lora; or train the start with adapter=lora adapter.export=merged, then "
            "method=grpo start=path start.path=FOLDER adapter=qlora",
        )


def _check_attention(config: Config) -> None:
    """Flash attention computes in half precision only."""
    model, trainer, method = config.model, config.trainer, config.method
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
