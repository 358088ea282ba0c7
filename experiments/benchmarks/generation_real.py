"""Arms of ``generation.py`` with real weights, which answer real problems, and a server's."""

from __future__ import annotations

import argparse
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import torch

from plan_tuning.config.model import ModelConfig
from plan_tuning.students.generation.native_engine import generate
from plan_tuning.students.loading import Student, load_student
from plan_tuning.students.templates import prompt_ids


def server_arm(url: str, prompts: list[list[int]], limit: int, ends: list[int]) -> int:
    """Ask a server for greedy continuations of token ids, all at once; returns the tokens."""
    with urllib.request.urlopen(f"{url}/models", timeout=30) as reply:
        name = json.load(reply)["data"][0]["id"]
    asked = {
        "model": name, "prompt": prompts, "max_tokens": limit, "temperature": 0.0,
        "stop_token_ids": ends,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{url}/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=3600) as reply:
        return int(json.load(reply)["usage"]["completion_tokens"])


def greedy_arm(
    student: Student, prompts: list[list[int]], limit: int, budget: int, decoding: str
) -> int:
    """Answer prompts greedily by one of this project's loops; returns the tokens."""
    found = generate(
        student,
        prompts,
        keys=[(str(index), 0) for index in range(len(prompts))],
        max_new_tokens=limit,
        batch_tokens=budget,
        decoding=decoding,
    )
    return sum(len(completion.token_ids) for completion in found)


def padded_rows(student: Student, prompts: list[list[int]], limit: int) -> list[tuple[int, ...]]:
    """Answer prompts greedily by ``generate`` in one batch, padded on the left."""
    longest = max(len(prompt) for prompt in prompts)
    padding = [[student.pad_id] * (longest - len(prompt)) for prompt in prompts]
    ids = torch.tensor([pad + prompt for pad, prompt in zip(padding, prompts, strict=True)])
    mask = torch.tensor(
        [[0] * len(pad) + [1] * len(prompt) for pad, prompt in zip(padding, prompts, strict=True)]
    )
    out = student.causal_lm.generate(
        ids.to(student.device), attention_mask=mask.to(student.device), max_new_tokens=limit,
        do_sample=False, eos_token_id=list(student.end_ids), pad_token_id=student.pad_id,
    )[:, longest:].cpu()  # fmt: skip
    is_end = torch.isin(out, torch.tensor(student.end_ids))
    first = torch.where(is_end.any(1), is_end.long().argmax(1) + 1, out.shape[1])
    return [tuple(row[:size].tolist()) for row, size in zip(out, first.tolist(), strict=True)]


def load(arguments: argparse.Namespace, dtype: torch.dtype | None = None) -> Student:
    """Read the student of ``--weights``; None: in the precision of its file."""
    model = ModelConfig(name="benchmark", kind="pretrained", path=arguments.weights)
    student = load_student(arguments.weights, model, device=arguments.device)
    if dtype is not None:
        student.model.to(dtype)
    return student


def asked_prompts(student: Student, arguments: argparse.Namespace) -> list[list[int]]:
    """Render the problems of ``--problems``: questions, or the prompts of a job's predictions."""
    lines = Path(arguments.problems).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[: arguments.prompts]]
    asked = [row["prompt"] if "prompt" in row else row["problem"] for row in rows]
    return [prompt_ids(student.tokenizer, [{"role": "user", "content": text}]) for text in asked]


def real_arms(arguments: argparse.Namespace) -> dict[str, Callable[[int], int]]:
    """Make the arms that answer real problems with real weights."""
    student = load(arguments)
    prompts = asked_prompts(student, arguments)
    limit, budget = arguments.new_tokens, arguments.batch_tokens
    arms: dict[str, Callable[[int], int]] = {
        decoding: lambda seed, decoding=decoding: greedy_arm(
            student, prompts, limit, budget, decoding
        )
        for decoding in ("dynamic", "static")
    }
    arms["generate"] = lambda seed: sum(map(len, padded_rows(student, prompts, limit)))
    if arguments.server:
        ends = list(student.end_ids)
        arms["server"] = lambda seed: server_arm(arguments.server, prompts, limit, ends)
    return arms
