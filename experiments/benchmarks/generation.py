"""Decoding speed: this project's loop against ``generate`` of transformers, interleaved.

    python experiments/benchmarks/generation.py                      # tiny model, one thread
    python experiments/benchmarks/generation.py --shape 30m --repeats 3
    python experiments/benchmarks/generation.py --device cuda --shape 0.6b --dtype bfloat16

Both arms answer the same prompts with the same number of samples: ``generate`` gets every prompt
repeated, as trainers do. Two settings: every completion has exactly the asked length, or a set of
end tokens (about one token in 25) makes lengths vary. Random weights; prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plan_tuning.students.generation import generate
from plan_tuning.students.loading import Student
from plan_tuning.students.tiny import build_tokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "head_dim": 32},
    "30m": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "head_dim": 64},
    "0.6b": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
}


def build_model(shape: str, device: str, dtype: str) -> Any:
    """Make a random Qwen3 of the given shape."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": 2048,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": None,
        **SHAPES[shape],
    }
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**settings)).to(device, getattr(torch, dtype)).eval()


def hf_arm(
    model: Any, prompts: list[list[int]], samples: int, new_tokens: int, ends: list[int]
) -> int:
    """Run ``generate`` on repeated prompts; returns the number of useful tokens."""
    ids = torch.tensor([p for p in prompts for _ in range(samples)], device=model.device)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        eos_token_id=ends or None,
        pad_token_id=0,
    )[:, ids.shape[1] :]
    if not ends:
        return out.numel()
    is_end = torch.isin(out, torch.tensor(ends, device=out.device))
    first = torch.where(is_end.any(1), is_end.long().argmax(1) + 1, out.shape[1])
    return int(first.sum())


def our_arm(
    student: Student, prompts: list[list[int]], samples: int, new_tokens: int, seed: int
) -> int:
    """Run this project's loop; returns the number of generated tokens."""
    rows = [(index, sample) for index in range(len(prompts)) for sample in range(samples)]
    found = generate(
        student,
        [prompts[index] for index, _ in rows],
        keys=[(str(index), sample) for index, sample in rows],
        max_new_tokens=new_tokens,
        temperature=1.0,
        seed=seed,
        batch_tokens=10**9,
    )
    return sum(len(completion.token_ids) for completion in found)


def timed(run: Callable[[], int], device: str) -> float:
    """Time one run: tokens per second, on a CPU of CPU time, which neighbours disturb less."""
    if device == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    tokens = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return tokens / (clock() - start)


def main() -> None:
    """Measure both arms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = build_model(arguments.shape, arguments.device, arguments.dtype)
    vocabulary = model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(
        10, vocabulary, (arguments.prompts, arguments.prompt_tokens), generator=generator
    ).tolist()
    result: dict[str, Any] = {"arguments": vars(arguments), "torch": torch.__version__}
    tokenizer = build_tokenizer("qwen3")
    for name, ends in (("fixed", []), ("stops", list(range(0, vocabulary, 25)))):
        student = Student(model, tokenizer, tuple(ends), tuple(ends[:1]))
        arms: dict[str, Callable[[int], int]] = {
            "ours": lambda seed, student=student: our_arm(
                student, prompts, arguments.samples, arguments.new_tokens, seed
            ),
            "generate": lambda seed, ends=ends: hf_arm(
                model, prompts, arguments.samples, arguments.new_tokens, ends
            ),
        }
        speeds: dict[str, list[float]] = {arm: [] for arm in arms}
        for repeat in range(arguments.repeats + 1):
            for arm, run in arms.items():
                torch.manual_seed(repeat)
                speed = timed(lambda run=run, repeat=repeat: run(repeat), arguments.device)
                if repeat:  # the first round warms up
                    speeds[arm].append(speed)
        medians = {arm: round(statistics.median(values)) for arm, values in speeds.items()}
        result[name] = {
            "tokens_per_s": medians,
            "ratio": round(medians["ours"] / medians["generate"], 2),
            "all": {arm: [round(value) for value in values] for arm, values in speeds.items()},
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
