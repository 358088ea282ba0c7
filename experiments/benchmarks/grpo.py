"""GRPO against TRL on the same work: seconds per step and peak memory, arms interleaved.

    python experiments/benchmarks/grpo.py --work plain --repeats 3
    python experiments/benchmarks/grpo.py --work lora --trl-python /path/to/python/with/trl
    python experiments/benchmarks/grpo.py --work gpu --steps 10

Work: a random Qwen3 of 0.9M parameters (128 x 4, vocabulary 2048), 8 prompts of 200 tokens, 8
completions each, up to 64 new tokens, dapo loss, AdamW. plain: all weights, no KL. lora: rank 16,
beta 0.04. mixed: all weights, and completions end by themselves after 1 to 64 tokens (the end has
probability 1/27 at every token); elsewhere nothing ends early. gpu, on a card: the shape of
Qwen3-0.6B with random weights, prompts of 512 tokens, 512 new ones, rank 16, no KL, bfloat16; the
share of the memory's bandwidth that sampling needs at least (the weights once and the keys and
values of every row, token by token) and of the card's arithmetic that training uses are printed
too. TRL runs with its two backends, the whole step as one micro-batch (gpu: 16 rows), gradient
checkpointing off and the fused optimizer; everything else is its default. Each repeat is a process
of its own. Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from grpo_work import GROUP, PROMPTS, WORKS, build, card_shares, digit_share, problems

ARMS = ("ours", "trl_hf", "trl_cb")
PARTS = ("rollout", "reward", "scoring", "train", "optimizer")
WARMUP = 2


def run_ours(work: str, steps: int, threads: int) -> dict[str, Any]:
    """Measure this project."""
    import pytorch_lightning as pl
    import torch
    from peft import LoraConfig, get_peft_model

    from plan_tuning.config.grpo import GRPOConfig
    from plan_tuning.config.reward import RewardConfig
    from plan_tuning.config.training import PromptConfig, TrainerConfig
    from plan_tuning.grading.grader import Grader
    from plan_tuning.records import Problem
    from plan_tuning.students.adapters import PROJECTIONS
    from plan_tuning.students.loading import Student
    from plan_tuning.training.grpo.data import PlannedProblem
    from plan_tuning.training.grpo.module import GRPOModule
    from plan_tuning.training.grpo.reward import RewardWorker
    from plan_tuning.training.grpo.rollout import Rollout
    from plan_tuning.training.lightning import Steps, TrainingRun, build_trainer, quiet
    from plan_tuning.training.logs import CompletionLog

    torch.set_num_threads(threads)

    class Digits(RewardWorker):
        async def _rewards_of(self, rollout: Rollout) -> dict[str, float]:
            return {"correct": digit_share(rollout.completion.text)}

    size = WORKS[work]
    model, tokenizer = build(work)
    if size.has_lora:
        targets = list(PROJECTIONS)
        model = get_peft_model(
            model, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM")
        )
    end = int(tokenizer.eos_token_id)
    student = Student(model, tokenizer, (end,), (end,))
    planned = [
        PlannedProblem(Problem(f"p{i}", text, "0"), "")
        for i, text in enumerate(problems(tokenizer, PROMPTS * 2, size.prompt_tokens))
    ]
    total = steps + WARMUP
    is_card = size.device == "cuda"
    ends = [now()]
    tokens: list[float] = []
    times: list[dict[str, float]] = []

    class Clock(pl.Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            module = args[1]
            ends.append(now())
            tokens.append(module.tokens - sum(tokens))
            times.append({k: v for k, v in module.last_metrics.items() if k.startswith("time/")})

    method = GRPOConfig(
        steps=total, prompts_per_step=PROMPTS, group_size=GROUP, max_new_tokens=size.new_tokens,
        learning_rate=1e-6, scheduler="constant", warmup_ratio=0.0, loss="dapo",
        beta=size.beta, log_completions_every_n_steps=0,
    )  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as folder,
        Grader() as grader,
        Digits(RewardConfig(), grader, max_new_tokens=size.new_tokens) as worker,
    ):
        config = TrainerConfig(
            precision="bf16" if is_card else "fp32", micro_batch_tokens=16384,
            accelerator=size.device, progress=False,
        )  # fmt: skip
        module = GRPOModule(
            student, planned, worker, method=method, prompt=PromptConfig(), seed=0, trainer=config,
            total_steps=total, log=CompletionLog(Path(folder) / "c.jsonl", every_n_steps=0),
        )  # fmt: skip
        run = TrainingRun(Path(folder), Path(folder))
        with quiet():
            build_trainer(run, config, [Clock()]).fit(module, Steps(module))
    named = {
        name: statistics.median(p.get(f"time/{name}", 0.0) for p in times[WARMUP:])
        for name in PARTS
    }
    shares = card_shares(student.causal_lm, size, named) if is_card else {}
    return report(ends, tokens, named) | shares


def run_trl(work: str, steps: int, threads: int, backend: str) -> dict[str, Any]:
    """Measure TRL; field names are those of its GRPOConfig."""
    import torch
    import transformers
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    from plan_tuning.students.adapters import PROJECTIONS
    from plan_tuning.students.templates import prompt_ids
    from plan_tuning.text.formats import student_messages

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    size = WORKS[work]
    model, tokenizer = build(work)
    rendered = [
        tokenizer.decode(
            prompt_ids(
                tokenizer, student_messages(text, method="m1", prompt="matched", style="math")
            )
        )
        for text in problems(tokenizer, PROMPTS * 2, size.prompt_tokens)
    ]
    lengths = {len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in rendered}
    total = steps + WARMUP
    ends: list[tuple[float, float]] = []
    tokens: list[float] = []
    named = {"rollout": [0.0]}

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            ends.append(now())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(now())
            named["rollout"].append(0.0)

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        tokens.append(float(sum(len(ids) for ids in completion_ids)))
        return [digit_share(text) for text in completions]

    batch, is_card = PROMPTS * GROUP, size.device == "cuda"
    rows = 16 if is_card else batch
    settings: dict[str, Any] = {
        "per_device_train_batch_size": rows, "gradient_accumulation_steps": batch // rows,
        "num_generations": GROUP, "max_completion_length": size.new_tokens, "max_steps": total,
        "learning_rate": 1e-6, "lr_scheduler_type": "constant", "beta": size.beta,
        "loss_type": "dapo", "gradient_checkpointing": False, "optim": "adamw_torch_fused",
        "use_cpu": not is_card, "bf16": is_card, "report_to": [], "save_strategy": "no",
        "logging_steps": total + 1, "disable_tqdm": True, "seed": 0,
        "use_transformers_continuous_batching": backend == "cb",
    }  # fmt: skip
    adapter = None
    if size.has_lora:
        targets = list(PROJECTIONS)
        adapter = LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=[reward],
            args=GRPOConfig(output_dir=folder, **settings),
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": rendered * total}),
            callbacks=[Clock()],
            peft_config=adapter,
        )
        inner = trainer.model.get_base_model() if adapter else trainer.model
        for name in ("generate", "generate_batch"):
            setattr(inner, name, timed(getattr(inner, name), named["rollout"]))
        trainer.train()
    rollout = statistics.median(named["rollout"][WARMUP:-1])
    return report(ends, tokens, {"rollout": rollout}) | {"prompt_tokens": sorted(lengths)}


def timed(function: Any, totals: list[float]) -> Any:
    """Add a function's seconds to the last of ``totals``."""

    def inner(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            totals[-1] += time.perf_counter() - start

    return inner


def now() -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process: neighbours do not slow those down."""
    return time.perf_counter(), time.process_time()


def report(
    ends: list[tuple[float, float]], tokens: list[float], seconds: dict[str, float]
) -> dict[str, Any]:
    """Summarise one process."""
    steps = list(itertools.pairwise(ends))[WARMUP:]
    return {
        "step_s": statistics.median(b[0] - a[0] for a, b in steps),
        "cpu_s": statistics.median(b[1] - a[1] for a, b in steps),
        "steps": len(steps),
        "completion_tokens": statistics.median(tokens[WARMUP:]),
        "parts_s": seconds,
        "peak_gib": peak_gib(),
    }


def peak_gib() -> float:
    """Peak memory: of the card where one was used, else of the process."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Run one arm, or all of them in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", choices=ARMS, help="one arm in this process, as JSON")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--work", choices=WORKS, default="plain")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trl-python", default=sys.executable)
    args = parser.parse_args()
    if WORKS[args.work].device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error(f"--work {args.work} needs a CUDA device: --work plain")
    if args.arm == "ours":
        print(json.dumps(run_ours(args.work, args.steps, args.threads)))
        return
    if args.arm:
        print(json.dumps(run_trl(args.work, args.steps, args.threads, args.arm[4:])))
        return
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in args.arms}
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    for repeat in range(args.repeats):
        for arm in args.arms:
            python = sys.executable if arm == "ours" else args.trl_python
            command = [python, __file__, "--arm", arm, "--work", args.work]
            command += ["--steps", str(args.steps), "--threads", str(args.threads)]
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, check=False
            )
            if done.returncode:
                sys.stderr.write(f"{arm} failed:\n{done.stderr[-2000:]}\n")
                continue
            row = json.loads(done.stdout.strip().splitlines()[-1])
            found[arm].append(row)
            sys.stderr.write(f"{repeat} {arm}: {json.dumps(row)}\n")
    print(f"work={args.work} threads={args.threads}: per step, medians over processes")
    for arm, rows in found.items():
        if not rows:
            print(f"  {arm:8} did not run")
            continue
        parts = []
        for key in ("step_s", "cpu_s"):
            value = statistics.median(row[key] for row in rows)
            ours = [row[key] for row in found.get("ours", [])]
            ratio = f" ({value / statistics.median(ours):.2f} x ours)" if ours else ""
            parts.append(f"{key} {value:7.3f}{ratio}")
        memory = max(row["peak_gib"] for row in rows)
        print(f"  {arm:8} {'  '.join(parts)}  peak {memory:.2f} GiB")
        middles = {
            name: statistics.median(row["parts_s"][name] for row in rows)
            for name in rows[0]["parts_s"]
        }
        shown = [f"{name} {value:.3f}" for name, value in middles.items()]
        for name in ("bandwidth_share", "training_mfu"):
            if name in rows[0]:
                shown.append(f"{name} {statistics.median(row[name] for row in rows):.1%}")
        print(f"  {'':8} {'  '.join(shown)}")


if __name__ == "__main__":
    main()
