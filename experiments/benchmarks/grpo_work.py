"""The work of the GRPO benchmark: models, problems, a reward, and what a card could do at best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

GROUP, PROMPTS = 8, 8
# Bytes per second that a card's memory gives, by what its name holds; the first that fits.
BANDWIDTH = {
    "B200": 8.0e12,
    "H200": 4.8e12,
    "H100 PCIe": 2.0e12,
    "H100": 3.35e12,
    "A100": 2.0e12,
    "L4": 0.3e12,
}


@dataclass(frozen=True)
class Work:
    """What a step is made of."""

    prompt_tokens: int = 200
    new_tokens: int = 64
    vocabulary: int = 2048
    shape: tuple[int, ...] = (128, 256, 4, 4, 2, 32)  # width, inner, layers, heads, kv heads, head
    has_lora: bool = False
    beta: float = 0.0
    device: str = "cpu"


WORKS = {
    "plain": Work(),
    "lora": Work(has_lora=True, beta=0.04),
    "mixed": Work(),
    "gpu": Work(
        512, 512, 151_936, (1024, 3072, 28, 16, 8, 128), has_lora=True, device="cuda"
    ),
}  # fmt: skip


def build(work: str) -> tuple[Any, Any]:
    """Make model and tokenizer; the same for both sides."""
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    from plan_tuning.students.tiny import build_tokenizer

    size = WORKS[work]
    width, inner, layers, heads, kv_heads, head_dim = size.shape
    tokenizer = build_tokenizer("qwen3")
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=size.vocabulary, hidden_size=width, intermediate_size=inner,
            num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
            head_dim=head_dim, tie_word_embeddings=False,
            max_position_embeddings=2048, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    head = torch.nn.Linear(width, size.vocabulary, bias=True)
    with torch.no_grad():
        head.weight.copy_(model.get_input_embeddings().weight)
        head.bias.zero_()
        # All tokens are about equally likely: the bias sets the probability of the end.
        is_mixed = work == "mixed"
        head.bias[tokenizer.eos_token_id] = math.log(size.vocabulary / 26) if is_mixed else -30.0
    model.lm_head = head
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model, tokenizer


def problems(tokenizer: Any, count: int, prompt_tokens: int) -> list[str]:
    """Make texts whose rendered prompts have exactly so many tokens."""
    from plan_tuning.students.templates import prompt_ids
    from plan_tuning.text.formats import student_messages

    out = []
    for index in range(count):
        text = f"{index}"
        while True:
            messages = student_messages(text, method="m1", prompt="matched", style="math")
            missing = prompt_tokens - len(prompt_ids(tokenizer, messages))
            if missing <= 0:
                break
            text += " 7" * max(1, missing // 2)
        out.append(text)
    return out


def digit_share(text: str) -> float:
    """Reward both sides with the share of digits."""
    return sum(c.isdigit() for c in text) / max(len(text), 1)


def card_shares(causal_lm: Any, size: Work, seconds: dict[str, float]) -> dict[str, float]:
    """Say how near a step comes to what the card can do: bandwidth sampling, arithmetic training.

    The bound of sampling is the reading of all weights in bfloat16 and of the keys and values of
    all rows, once a token.
    """
    import torch

    from plan_tuning.training.sft.metrics import utilisation

    card, rows = torch.cuda.get_device_name(), PROMPTS * GROUP
    _, _, layers, _, kv_heads, head_dim = size.shape
    looked_up = causal_lm.get_input_embeddings().weight.numel()
    weights = 2.0 * (sum(p.numel() for p in causal_lm.parameters()) - looked_up)  # bytes
    length = size.prompt_tokens + (size.new_tokens + 1) / 2  # on average
    cached = 2.0 * 2 * layers * kv_heads * head_dim * length * rows
    found = {}
    bandwidth = next((value for name, value in BANDWIDTH.items() if name in card), None)
    if bandwidth is not None and seconds["rollout"]:
        least = size.new_tokens * (weights + cached) / bandwidth
        found["bandwidth_share"] = least / seconds["rollout"]
    # A prompt is read once for its group, so that is all the arithmetic that is needed.
    tokens = PROMPTS * (size.prompt_tokens + GROUP * size.new_tokens)
    if seconds["train"]:
        used = utilisation(
            causal_lm,
            card,
            tokens=tokens,
            supervised=rows * size.new_tokens,
            rows=rows,
            seconds=seconds["train"],
        )
        found |= {} if used is None else {"training_mfu": used}
    return found
