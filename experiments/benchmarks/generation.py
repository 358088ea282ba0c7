r"""Decoding speed: this project's two loops against ``generate`` of transformers, interleaved.

    python experiments/benchmarks/generation.py                      # tiny model, one thread
    python experiments/benchmarks/generation.py --shape 30m --repeats 3
    python experiments/benchmarks/generation.py --device cuda --shape 0.6b --dtype bfloat16 \
        --new-tokens 512                                             # graphs, share of bandwidth
    python experiments/benchmarks/generation.py --weights FOLDER --problems gsm8k/test.jsonl \
        --prompts 64 --new-tokens 256 --threads 2 --repeats 1 --server http://127.0.0.1:8000/v1
    python experiments/benchmarks/generation.py --weights FOLDER --problems predictions.jsonl \
        --prompts 100 --new-tokens 96 --noise noise.json             # what rounding changes

All arms answer the same prompts with the same number of samples: ``generate`` gets every prompt
repeated, as trainers do. Settings with random weights:

* fixed: every completion has exactly the asked length;
* stops: a set of end tokens (about one token in 25) makes lengths vary;
* mixed: prompts of many lengths, about one token in 64 ends, up to 16 times the asked length is
  allowed, and memory (``--batch-tokens``) holds only so many rows. The arm ``reserved`` is the
  growing loop with room for the longest completion kept for every row, and places not refilled.

With ``--weights`` the student is a folder of real weights, which answers the problems of a file
greedily and stops by itself; ``--server`` adds an OpenAI-compatible server (vLLM) of the same
folder, asked for all prompts at once as token ids, by wall time like the other arms then. The
server must have the machine to itself while it is measured: arms run one after another.
Prints one JSON object. ``--noise FILE`` measures no speed: see ``generation_noise.py``; the rows
of ``--problems`` may then be the predictions of a job, whose prompts are asked again.

On CUDA the object says which share of the memory-bandwidth bound an arm reaches: a decoding step
cannot be faster than reading the weights once and the cache once, prompts shared by their samples.
The time it is taken of is that of the whole call, so reading the prompts counts against it.
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

from generation_noise import write_noise
from generation_real import real_arms

from plan_tuning.students.generation.native_engine import generate
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

BANDWIDTHS = {  # bytes a second, by the vendors' data sheets; the first name that fits counts
    "B200": 8.0e12,
    "H200": 4.8e12,
    "H100 NVL": 3.9e12,
    "H100 PCIe": 2.0e12,
    "H100": 3.35e12,
    "A100-SXM4-40GB": 1.555e12,
    "A100": 2.0e12,
    "L40S": 0.864e12,
    "L4": 0.3e12,
    "RTX 4090": 1.008e12,
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
    student: Student,
    prompts: list[list[int]],
    samples: int,
    new_tokens: int,
    seed: int,
    decoding: str,
) -> int:
    """Run one of this project's loops; returns the number of generated tokens."""
    rows = [(index, sample) for index in range(len(prompts)) for sample in range(samples)]
    found = generate(
        student,
        [prompts[index] for index, _ in rows],
        keys=[(str(index), sample) for index, sample in rows],
        max_new_tokens=new_tokens,
        temperature=1.0,
        seed=seed,
        batch_tokens=10**9,
        decoding=decoding,
    )
    return sum(len(completion.token_ids) for completion in found)


def mixed_arm(
    student: Student,
    prompts: list[list[int]],
    limit: int,
    seed: int,
    budget: int,
    arm: str,
) -> int:
    """Answer prompts of many lengths within a budget of memory; returns the tokens.

    Args:
        student: who writes.
        prompts: one row each.
        limit: longest completion.
        seed: of the noise.
        budget: tokens that there is memory for.
        arm: dynamic or static; reserved: batch by batch, as :func:`reserved_batches` has them.
    """
    batches = [list(range(len(prompts)))]
    if arm == "reserved":
        batches, budget = reserved_batches(prompts, limit, budget), 10**9
    return sum(
        len(completion.token_ids)
        for batch in batches
        for completion in generate(
            student,
            [prompts[index] for index in batch],
            keys=[(str(index), 0) for index in batch],
            max_new_tokens=limit,
            temperature=1.0,
            seed=seed,
            batch_tokens=budget,
            decoding="static" if arm == "static" else "dynamic",
        )
    )


def reserved_batches(prompts: list[list[int]], limit: int, budget: int) -> list[list[int]]:
    """Group prompts, the longest first, with room for the longest completion for each."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    batches: list[list[int]] = []
    while order:
        count = max(1, budget // (len(prompts[order[0]]) + limit))
        batches.append(order[:count])
        order = order[count:]
    return batches


def mixed_arms(
    model: Any, tokenizer: Any, arguments: argparse.Namespace
) -> dict[str, Callable[[int], int]]:
    """Make the arms of prompts and completions of many lengths."""
    vocabulary, longest = model.config.vocab_size, arguments.prompt_tokens
    generator = torch.Generator().manual_seed(1)
    count = 2 * arguments.prompts * arguments.samples
    sizes = torch.randint(longest // 5, longest + 1, (count,), generator=generator).tolist()
    prompts = [
        torch.randint(10, vocabulary, (size,), generator=generator).tolist() for size in sizes
    ]
    ends = tuple(range(0, vocabulary, 64))
    student = Student(model, tokenizer, ends, ends[:1])
    limit, budget = 16 * arguments.new_tokens, arguments.batch_tokens
    return {
        arm: lambda seed, arm=arm: mixed_arm(student, prompts, limit, seed, budget, arm)
        for arm in ("dynamic", "static", "reserved")
    }


def measured(
    arms: dict[str, Callable[[int], int]], arguments: argparse.Namespace, baseline: str
) -> dict[str, Any]:
    """Time the arms in turns: tokens per second, and ratios to one of them."""
    speeds: dict[str, list[float]] = {arm: [] for arm in arms}
    for repeat in range(arguments.repeats + 1):
        for arm, run in arms.items():
            torch.manual_seed(repeat)
            has_wall_time = bool(arguments.server) or arguments.device == "cuda"
            speed = timed(lambda run=run, repeat=repeat: run(repeat), has_wall_time)
            if repeat:  # the first round warms up
                speeds[arm].append(speed)
    medians = {arm: round(statistics.median(values), 1) for arm, values in speeds.items()}
    return {
        "tokens_per_s": medians,
        "ratio": {
            arm: round(speed / medians[baseline], 2)
            for arm, speed in medians.items()
            if arm != baseline
        },
        "all": {arm: [round(value, 1) for value in values] for arm, values in speeds.items()},
    }


def bytes_read(model: Any, prompts: int, prompt_tokens: int, rows: int, new_tokens: int) -> int:
    """Sum up what a decoder of rows of equal length has to read from memory, prompts apart.

    Args:
        model: its weights are read once a step, of an untied embedding a row a token.
        prompts: read once a step for all of their samples.
        prompt_tokens: of each prompt.
        rows: completions.
        new_tokens: of each completion; the first comes from reading the prompts.
    """
    config, steps = model.config, new_tokens - 1
    weights = sum(w.numel() * w.element_size() for w in model.parameters())
    if not config.tie_word_embeddings:
        table = model.get_input_embeddings().weight
        weights -= table.numel() * table.element_size()
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    token *= next(model.parameters()).element_size()
    own = rows * steps * (steps + 1) // 2  # the step number s reads s tokens a row
    return steps * (weights + prompts * prompt_tokens * token) + own * token


def bandwidth() -> float | None:
    """Bytes a second of the card at hand; None where the table does not know it."""
    name = torch.cuda.get_device_name()
    return next((value for part, value in BANDWIDTHS.items() if part in name), None)


def timed(run: Callable[[], int], has_wall_time: bool) -> float:
    """Time one run: tokens per second, of CPU time, which neighbours disturb less, or of wall."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    clock = time.perf_counter if has_wall_time else time.process_time
    start = clock()
    tokens = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return tokens / (clock() - start)


def main() -> None:
    """Measure all arms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", help="folder of a real student")
    parser.add_argument("--problems", help="its questions: JSON lines with a field problem")
    parser.add_argument("--server", help="http://HOST:PORT/v1 of a server of the same folder")
    parser.add_argument("--noise", help="count greedy answers that change, into this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {"arguments": vars(arguments), "torch": torch.__version__}
    if arguments.noise:
        if not (arguments.weights and arguments.problems):
            parser.error("--noise needs --weights FOLDER and --problems FILE")
        write_noise(arguments)
        return
    if arguments.weights:
        result["real"] = measured(real_arms(arguments), arguments, "generate")
        print(json.dumps(result))
        return
    model = build_model(arguments.shape, arguments.device, arguments.dtype)
    vocabulary = model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(
        10, vocabulary, (arguments.prompts, arguments.prompt_tokens), generator=generator
    ).tolist()
    tokenizer = build_tokenizer("qwen3")
    for name, ends in (("fixed", []), ("stops", list(range(0, vocabulary, 25)))):
        student = Student(model, tokenizer, tuple(ends), tuple(ends[:1]))
        arms: dict[str, Callable[[int], int]] = {
            **{
                decoding: lambda seed, student=student, decoding=decoding: our_arm(
                    student, prompts, arguments.samples, arguments.new_tokens, seed, decoding
                )
                for decoding in ("dynamic", "static")
            },
            "generate": lambda seed, ends=ends: hf_arm(
                model, prompts, arguments.samples, arguments.new_tokens, ends
            ),
        }
        result[name] = measured(arms, arguments, "generate")
    result["mixed"] = measured(mixed_arms(model, tokenizer, arguments), arguments, "reserved")
    if arguments.device == "cuda":
        rows = arguments.prompts * arguments.samples
        sizes = (arguments.prompts, arguments.prompt_tokens, rows, arguments.new_tokens)
        total, peak = bytes_read(model, *sizes), bandwidth()
        result["card"] = torch.cuda.get_device_name()
        for arm, speed in result["fixed"]["tokens_per_s"].items():
            reached = total * speed / (rows * arguments.new_tokens)  # bytes a second
            share = None if peak is None else round(reached / peak, 3)
            result["fixed"].setdefault("share_of_bandwidth", {})[arm] = share
    print(json.dumps(result))


if __name__ == "__main__":
    main()
