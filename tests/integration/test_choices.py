"""Every file of conf/ composes to a checked configuration; presets never beat explicit choices."""

from __future__ import annotations

import pytest
from composition import CONF, GROUPS, composed, config_of
from omegaconf import OmegaConf

pytestmark = pytest.mark.integration

CHOICES = [
    f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))
]
# What a choice needs beside it to make sense.
COMPANIONS = {
    "data": ["model=tiny_qwen3", "method=sft"],
    "teacher": ["data=gsm8k", "model=tiny_qwen3", "teacher.api_base=http://127.0.0.1:1/v1"],
    "model": ["data=gsm8k", "method=sft"],
}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes(choice: str) -> None:
    group, name = choice.split("=")
    extra = COMPANIONS.get(group, [])
    if choice in ("data=microworld", "model=micro", "teacher=scripted"):
        extra = []
    if choice == "data=jsonl":
        extra = [*extra, "data.name=jsonl"]
    if choice == "teacher=dataset":
        extra = [*extra, "filter=recompute"]
    if choice == "filter=recompute":
        extra = ["corpus.path=somewhere"]
    if choice == "start=path":
        extra = ["start.path=somewhere"]
    if group == "merge" and name != "none":
        extra = ["merge.students=[one,other]"]
    if choice == "merge=router":  # between students of sources
        extra = ["data=microworld_mixed", "adapter=lora"]
    if choice == "model=micro_domains":
        extra = ["data=microworld_yes_no"]
    if choice == "model=path":
        extra = [*extra, "model.path=somewhere"]
    config = config_of(choice, *[item for item in extra if not item.startswith(f"{group}=")])
    chosen = getattr(config, group)
    if hasattr(chosen, "name") and group not in ("debug",):
        assert chosen.name == name


@pytest.mark.parametrize(
    ("preset", "explicit", "key", "value"),
    [
        ("model=tiny_llama", "trainer=gpu_bf16", "trainer.micro_batch_tokens", 32768),
        ("model=tiny_gemma3", "trainer=micro", "trainer.max_steps", 200),
        ("model=micro", "trainer=paper", "trainer.batch_size", 8),
        ("model=tiny_qwen3", "evaluation=paper", "evaluation.max_new_tokens", 4096),
        ("data=microworld", "distillation=paper", "distillation.num_candidates", 5),
        ("data=microworld_b", "distillation=paper", "distillation.num_candidates", 5),
        ("data=microworld_mixed", "distillation=paper", "distillation.num_candidates", 5),
        ("model=tiny_qwen3", "trainer.learning_rate=3", "trainer.learning_rate", 3),
        ("experiment=main", "trainer=cpu_small", "trainer.accelerator", "cpu"),
    ],
)
def test_a_preset_never_beats_an_explicit_choice(
    preset: str, explicit: str, key: str, value: object
) -> None:
    """Whatever the order of the words."""
    for words in ([preset, explicit], [explicit, preset]):
        assert OmegaConf.select(composed(*words), key) == value
