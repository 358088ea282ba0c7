"""The flag ``--noise`` of ``generation.py``: which greedy answers hang on how they were computed.

Equal weights answer the same prompts by the growing cache and the static one, with room for few
rows and for all of them, by continuous batching of transformers, and by its padded ``generate``.
Rounding depends on the shapes that are multiplied, and where two tokens are nearly as likely it
chooses between them. Counted against the growing cache with room for all rows, in the same
precision: completions of which a token differs, and completions whose final answer reads otherwise.
A difference between two students that is smaller than this says nothing, unless both were run in
the same way, as the jobs of one machine are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from generation_real import asked_prompts, load, padded_rows

from plan_tuning.grading.answers import extract
from plan_tuning.students.generation.continuous_batching import generate_continuously
from plan_tuning.students.generation.native_engine import generate
from plan_tuning.students.loading import Student
from plan_tuning.text.formats import parse_output

REFERENCE = "dynamic, all rows"
PRECISIONS = (torch.float32, torch.bfloat16)

Tokens = list[tuple[int, ...]]
"""What was written, in the order of the prompts."""


def arms(student: Student, prompts: list[list[int]], limit: int) -> dict[str, Callable[[], Tokens]]:
    """Name the ways of computing the same greedy answers."""
    longest = max(map(len, prompts)) + limit
    few, everything = 2 * longest, len(prompts) * longest

    def native(decoding: str, budget: int) -> Tokens:
        found = generate(
            student,
            prompts,
            keys=[(str(place), 0) for place in range(len(prompts))],
            max_new_tokens=limit,
            batch_tokens=budget,
            decoding=decoding,
        )
        return [tuple(one.token_ids) for one in found]

    def continuous() -> Tokens:
        found = generate_continuously(
            student, prompts, max_new_tokens=limit, temperature=0.0, top_p=1.0, top_k=0, seed=0,
            batch_tokens=everything, progress=lambda *_: None,
        )  # fmt: skip
        return [tuple(one.token_ids) for one in found]

    return {
        REFERENCE: lambda: native("dynamic", everything),
        "dynamic, two rows": lambda: native("dynamic", few),
        "static, all rows": lambda: native("static", everything),
        "static, two rows": lambda: native("static", few),
        "continuous batching": continuous,
        "padded generate": lambda: padded_rows(student, prompts, limit),
    }


def final_answers(tokenizer: Any, written: Tokens) -> list[str]:
    """Read the final answer of each completion."""
    texts = [tokenizer.decode(list(ids), skip_special_tokens=True) for ids in written]
    return [extract(parse_output(text)).answer for text in texts]


def changes(tokenizer: Any, first: Tokens, second: Tokens) -> dict[str, int]:
    """Count the completions of which a token differs, and those whose final answer does."""
    answers = zip(*(final_answers(tokenizer, one) for one in (first, second)), strict=True)
    return {
        "completions": sum(a != b for a, b in zip(first, second, strict=True)),
        "answers": sum(a != b for a, b in answers),
    }


def inference_noise(arguments: argparse.Namespace) -> dict[str, Any]:
    """Answer the problems in all ways and count what changes.

    Returns:
        ``problems``; by precision the changes of every way and the most answers that one of them
        changes; and those between the precisions.
    """
    written: dict[str, Tokens] = {}
    found: dict[str, Any] = {}
    for dtype in PRECISIONS:
        student = load(arguments, dtype)
        prompts = asked_prompts(student, arguments)
        name = str(dtype).removeprefix("torch.")
        ways = arms(student, prompts, arguments.new_tokens)
        written[name] = ways.pop(REFERENCE)()
        counted = {
            way: changes(student.tokenizer, written[name], run()) for way, run in ways.items()
        }
        found[name] = {"ways": counted, "answers": max(c["answers"] for c in counted.values())}
    between = changes(student.tokenizer, *written.values())
    return {
        "weights": Path(arguments.weights).name,
        "problems": len(prompts),
        "new_tokens": arguments.new_tokens,
        "device": arguments.device,
        "torch": torch.__version__,
        "reference": REFERENCE,
        "precisions": found,
        "between_precisions": between,
    }


def lines(noise: dict[str, Any]) -> Sequence[str]:
    """Say what changed, a line each way."""
    said = [f"{noise['problems']} greedy answers, against {noise['reference']}:"]
    for precision, found in noise["precisions"].items():
        said += [
            f"  {precision:<9} {way:<20} {changed['completions']:>4} texts, "
            f"{changed['answers']:>4} final answers changed"
            for way, changed in found["ways"].items()
        ]
    between = noise["between_precisions"]
    said.append(
        f"  float32 against bfloat16       {between['completions']:>4} texts, "
        f"{between['answers']:>4} final answers changed"
    )
    return said


def write_noise(arguments: argparse.Namespace) -> None:
    """Count, write the file that ``plan-tuning compare --noise`` reads, and print."""
    noise = inference_noise(arguments)
    Path(arguments.noise).write_text(json.dumps(noise, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines(noise)))
