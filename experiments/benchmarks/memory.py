r"""The memory ledger against what real code holds: every preset, adapter and kind of training.

    python experiments/benchmarks/memory.py                          # all presets, 15 minutes
    python experiments/benchmarks/memory.py --models qwen3_4b --kept # activations kept, not redone
    python experiments/benchmarks/memory.py --cpu                    # peaks of real processes
    python experiments/benchmarks/memory.py --cards                  # which presets fit which cards

Counted is a whole step of two passes on tensors without contents (``memory_counts.py``), with the
real shapes, under the autocast of the training; predicted is what ``dry_run=true`` would say of the
same passes. ``--cpu`` trains small shapes in processes of their own instead, in float32: the peak
of the process less that of one that loads the student and does nothing, with a C library that gives
memory back at once. Holes that it keeps otherwise come on top: a tenth with all weights trained,
three quarters with LoRA, whose short-lived tensors lie between those that are kept. ``--cards``
counts nothing and prints the ledger: the peak with one row a pass, and the largest passes.
``adapter=qlora`` is a formula and is not counted: its kernels need a card.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plan_tuning.config.training import CARDS
from plan_tuning.job.cards import GB, sold_card
from plan_tuning.job.stage_memory import MICRO, Phase, StageMemory

PRETRAINED = (
    *(
        "smollm2_135m",
        "smollm2_360m",
        "qwen3_0_6b",
        "gemma3_1b",
        "llama3_2_1b",
        "qwen3_1_7b",
        "qwen3_4b",
    ),
    *("gemma3_4b", "qwen3_8b", "gemma3_12b"),
)
MADE_HERE = ("micro", "tiny_qwen3", "tiny_gemma3", "tiny_llama")
LENGTH, PROMPT = 512, 256  # tokens of a row, and of a prompt
GROUPS, ROWS = 4, 32  # of a pass
# Every tensor is mapped and unmapped by itself; the C library's holes would count as tensors.
GIVES_BACK = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
OF_A_PASS = ("a layer computed again", "output layer", "end of a pass")


def job_words(model: str, adapter: str, kind: str, *, is_kept: bool) -> list[str]:
    """The command line of a job whose training is counted."""
    words = [f"model={model}", f"adapter={adapter}", "trainer=paper", "trainer.val_problems=0"]
    words += [f"trainer.max_length={LENGTH}", f"trainer.gradient_checkpointing={not is_kept}"]
    if model != "micro":
        words += ["data=gsm8k", "teacher=openai_compatible", "teacher.model=nobody",
                  "teacher.api_base=http://127.0.0.1:1/v1"]  # fmt: skip
    if kind == "sft":
        return [*words, "method=sft"]
    return [*words, "method=grpo", "start=base", "reward=answer", "method.max_new_tokens=256",
            "method.sampler_dtype=bfloat16"]  # fmt: skip


def predicted(words: Sequence[str], tokens: int) -> tuple[StageMemory, Phase]:
    """What the ledger says of a job's training in passes of so many tokens."""
    from composition import config_of, graph

    from plan_tuning.job.ledger import job_memory

    (stage,) = [s for s in job_memory(config_of(*words), graph(*words)) if s.name == "train"]
    phases = stage.phases({**stage.needed, MICRO: tokens})
    return stage, max((p for p in phases if p.name in OF_A_PASS), key=lambda phase: phase.total)


def compared(model: str, adapter: str, kind: str, *, is_kept: bool) -> dict[str, Any]:
    """Count one training and predict it."""
    from composition import config_of
    from memory_counts import count_grpo, count_sft

    from plan_tuning.config.grpo import GRPOConfig
    from plan_tuning.students.shapes import shape_of

    began = time.perf_counter()
    words = job_words(model, adapter, kind, is_kept=is_kept)
    config = config_of(*words)
    shape = shape_of(config.model)
    assert shape is not None
    if isinstance(config.method, GRPOConfig):
        read = PROMPT if is_kept else PROMPT * config.method.group_size
        tokens = GROUPS * (read + config.method.group_size * config.method.max_new_tokens)
        count = count_grpo(
            shape[0], config.adapter, config.trainer, config.method,
            groups=GROUPS, prompt=PROMPT, length=config.method.max_new_tokens,
        )  # fmt: skip
    else:
        tokens = ROWS * LENGTH
        count = count_sft(shape[0], config.adapter, config.trainer, rows=ROWS, length=LENGTH)
    _, phase = predicted(words, tokens)
    return {
        "model": model, "adapter": adapter, "kind": kind, "kept": is_kept, "tokens": tokens,
        "counted_gb": count.peak / GB, "predicted_gb": phase.total / GB, "phase": phase.name,
        "error": phase.total / count.peak - 1, "seconds": time.perf_counter() - began,
    }  # fmt: skip


def cpu_arms() -> Iterator[dict[str, Any]]:
    """Train small shapes in processes of their own, and compare their peaks with the ledger."""
    for model, adapter, kept in (
        ("smollm2_135m", "full", True),
        ("smollm2_135m", "full", False),
        ("smollm2_135m", "lora", True),
        ("smollm2_135m", "lora", False),
    ):
        peaks = {}
        for arm in ("load", "train"):
            command = [sys.executable, __file__, "--arm", arm, "--models", model]
            command += ["--adapter", adapter, *(["--kept"] if kept else [])]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env=GIVES_BACK
            )
            peaks[arm] = json.loads(done.stdout.splitlines()[-1])
        measured = peaks["train"]["peak"] - peaks["load"]["peak"]
        guess = peaks["train"]["predicted"]
        yield {
            "model": model, "adapter": adapter, "kept": kept, "measured_gb": measured / GB,
            "predicted_gb": guess / GB, "error": guess / measured - 1,
        }  # fmt: skip


def cpu_arm(arm: str, model: str, adapter: str, *, is_kept: bool) -> dict[str, float]:
    """Load a student of a shape, random weights; train it for a step of one pass and one of two."""
    import torch
    from composition import config_of
    from memory_counts import transformers_config
    from transformers import AutoModelForCausalLM

    from plan_tuning.students.adapters import wrap
    from plan_tuning.students.log_probs import token_log_probs
    from plan_tuning.students.shapes import shape_of
    from plan_tuning.training.optim import build_optimizer

    torch.set_num_threads(1)
    words = [*job_words(model, adapter, "sft", is_kept=is_kept),
             "trainer.precision=fp32", "trainer.accelerator=cpu"]  # fmt: skip
    config = config_of(*words)
    found = shape_of(config.model)
    assert found is not None
    plain = AutoModelForCausalLM.from_config(
        transformers_config(found[0]), attn_implementation="sdpa"
    )
    if not is_kept:
        plain.gradient_checkpointing_enable({"use_reentrant": False})
    student = wrap(plain, config.model, config.adapter).train()
    causal_lm = student.get_base_model() if adapter == "lora" else student
    if not is_kept and adapter == "lora":
        causal_lm.enable_input_require_grads()
    rows = 2
    if arm == "train":
        optimizer = build_optimizer(student, config.trainer)
        ids = torch.zeros((rows, LENGTH), dtype=torch.long)
        places, targets = torch.arange(rows * LENGTH), torch.zeros(rows * LENGTH, dtype=torch.long)
        for passes in (1, 2):
            for _ in range(passes):
                (-token_log_probs(causal_lm, ids, places, targets).log_probs.sum()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    _, phase = predicted(words, rows * LENGTH)
    return {
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
        "predicted": phase.total - phase.causes["weights"],
    }


def card_rows(models: Sequence[str]) -> Iterator[str]:
    """The ledger itself, as rows of Markdown: what a training takes, and what fits where."""
    head = ["model", "adapter", "training", "weights, GB", "one row a pass, GB", "MB a token"]
    head += [f"tokens a pass, {size} GB" for size in CARDS]
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for model in models:
        for adapter in ("full", "lora", "qlora"):
            for kind in ("sft", "grpo"):
                words = [*job_words(model, adapter, kind, is_kept=False), "trainer.max_length=2048",
                         *(["method.max_new_tokens=1024"] if kind == "grpo" else [])]  # fmt: skip
                stage, least = predicted(words, 2048)
                _, more = predicted(words, 2048 + 2**16)
                _, most = predicted(words, 2048 + 2**17)
                fits = [stage.largest(MICRO, sold_card(size).usable) for size in CARDS]
                shown = " | ".join("-" if tokens is None else f"{tokens:,}" for tokens in fits)
                yield (
                    f"| {model} | {adapter} | {kind} | {least.causes['weights'] / GB:.1f} | "
                    f"{stage.least.total / GB:.1f} | {(most.total - more.total) / 2**16 / 1e6:.3f} "
                    f"| {shown} |"
                )


def main() -> None:
    """Print one line a training, and at the end the largest error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join((*MADE_HERE, *PRETRAINED)))
    parser.add_argument("--adapter", default="full,lora")
    parser.add_argument("--kept", action="store_true", help="activations are kept")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--cards", action="store_true")
    parser.add_argument("--arm", choices=("load", "train"), help="one process of --cpu")
    arguments = parser.parse_args()
    models, adapters = arguments.models.split(","), arguments.adapter.split(",")
    if arguments.arm:
        found = cpu_arm(arguments.arm, models[0], adapters[0], is_kept=arguments.kept)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    if arguments.cards:
        for row in card_rows(models):
            sys.stdout.write(row + "\n")
        return
    rows = cpu_arms() if arguments.cpu else (
        compared(model, adapter, kind, is_kept=arguments.kept)
        for model in models for adapter in adapters for kind in ("sft", "grpo")
    )  # fmt: skip
    errors = []
    for row in rows:
        errors.append(abs(row["error"]))
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        sys.stdout.write(json.dumps(shown) + "\n")
        sys.stdout.flush()
    sys.stdout.write(f"largest error: {max(errors):.1%} of {len(errors)}\n")


if __name__ == "__main__":
    main()
