"""Training speed: this project's SFT against TRL's SFTTrainer, interleaved, on the same rows.

    pip install -e ".[bench]"
    python experiments/benchmarks/sft.py                       # tiny Qwen3, one thread
    python experiments/benchmarks/sft.py --shape 30m --repeats 3
    python experiments/benchmarks/sft.py --shape 30m --many 24 --peak      # memory, not speed
    python experiments/benchmarks/sft.py --device cuda --shape 0.6b --precision bf16
    python experiments/benchmarks/sft.py --student FOLDER --rows FILE.jsonl --few 8 --many 24
    python experiments/benchmarks/sft.py --student FOLDER --rows FILE.jsonl --threads 2 --profile
    python experiments/benchmarks/sft.py --student FOLDER --arms packed_onednn packed ours  # no TRL

A student is the folder of pretrained weights, rows are GSM8K's socratic ones, learned as M1 does.

All arms get the same token ids, masks, batch size, optimizer and precision; TRL runs without
gradient checkpointing and without packing, its best setting on a CPU. Each arm trains on few and
on many rows, and the difference of the two times is what the further rows cost: start-up, export
and the like drop out. Prints one JSON object; speeds are tokens per second (of CPU on a CPU), on a
card also as the share of its arithmetic (MFU), ratios are to the last arm. A profile says on which
operations this project's arm spends its CPU time.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from generation import build_model
from transformers import AutoTokenizer

from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.records import Segment, SegmentKind
from plan_tuning.students.loading import without_bars
from plan_tuning.students.templates import turn_end_ids
from plan_tuning.students.tiny import build_tokenizer
from plan_tuning.tasks.benchmarks import load
from plan_tuning.tasks.dataset_plans import dataset_plan
from plan_tuning.text.formats import render_completion, student_messages
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.sft import batches
from plan_tuning.training.sft.batches import TrainingRow
from plan_tuning.training.sft.fit import SFTSettings, train_student
from plan_tuning.training.sft.metrics import utilisation

METHOD = MethodConfig(name="m1")
BATCH = 8


def make_rows(count: int) -> list[TrainingRow]:
    """Make rows of varying length: prompts of 10-80 words, completions of 20-160."""
    draw = random.Random(0)
    words = ["add", "then", "plan", "step", "find", "total", "number", "apples", "each", "day"]

    def text(low: int, high: int) -> str:
        return " ".join(draw.choice(words) for _ in range(draw.randint(low, high)))

    return [
        TrainingRow(
            f"p{index}",
            ({"role": "user", "content": text(10, 80)},),
            (
                Segment(SegmentKind.PLAN, text(10, 60)),
                Segment(SegmentKind.SOLUTION, " " + text(10, 100)),
            ),
        )
        for index in range(count)
    ]


def read_rows(file: Path, count: int) -> list[TrainingRow]:
    """Read problems with plans of their own and write them as M1 learns them."""
    rows = []
    for problem in load("gsm8k_socratic", split="train", path=str(file)):
        given = dataset_plan(problem)
        if given is not None and len(rows) < count:
            asked = student_messages(
                problem.problem, method=METHOD.name, prompt="matched", style=problem.style
            )
            parts = {"plan": given.plan, "execution": given.execution, "solution": ""}
            learned = render_completion(METHOD.name, answer=problem.answer, **parts)
            rows.append(TrainingRow(problem.id, asked, learned))
    return rows


def our_arm(
    base: Path, rows: list[TrainingRow], precision: str, device: str, **settings: Any
) -> None:
    """Train for one epoch with this project."""
    with tempfile.TemporaryDirectory() as folder:
        train_student(
            TrainingRun(Path(folder), Path(folder)),
            SFTSettings(
                model=ModelConfig(name="bench", kind="tiny"),
                adapter=AdapterConfig(name="full"),
                trainer=TrainerConfig(
                    learning_rate=1e-4,
                    precision=precision,
                    accelerator=device,
                    batch_size=BATCH,
                    val_fraction=0.0,
                    max_length=4096,
                    checkpoint_every_n_steps=0,
                    threads=0,
                    micro_batch_tokens=2048 if device == "cpu" else 65536,
                    **settings,
                ),
                method=METHOD,
                seed=0,
            ),
            base,
            rows,
        )


def trl_arm(base: Path, rows: list[TrainingRow], precision: str, device: str) -> None:
    """Train for one epoch with TRL."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(base)
    encoded = encode(tokenizer, rows)
    data = Dataset.from_list(
        [
            {"input_ids": row.ids.tolist(), "completion_mask": (row.weights > 0).int().tolist()}
            for row in encoded
        ]
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=data,
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                num_train_epochs=1,
                learning_rate=1e-4,
                lr_scheduler_type="cosine",
                warmup_steps=1,
                max_grad_norm=1.0,
                max_length=None,
                packing=False,
                gradient_checkpointing=False,
                bf16=precision == "bf16",
                use_cpu=device == "cpu",
                optim="adamw_torch_fused",
                report_to="none",
                save_strategy="no",
                logging_steps=10,
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
        )
        trainer.train()


def encode(tokenizer: Any, rows: list[TrainingRow]) -> list[batches.EncodedRow]:
    """Turn rows into tokens."""
    ends = turn_end_ids(tokenizer)
    return [
        batches.encode(tokenizer, row, tokens, ends, method=METHOD, max_length=10**6)
        for row, tokens in zip(rows, batches.tokenise(tokenizer, rows), strict=True)
    ]


def seconds(run: Callable[[], None], device: str) -> float:
    """Time one run."""
    gc.collect()
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def mfu_of(base: Path, rows: list[TrainingRow], tokens_per_s: float) -> float | None:
    """Say which share of the card's arithmetic a speed is; None where the card is not known."""
    from transformers import AutoModelForCausalLM

    encoded = encode(AutoTokenizer.from_pretrained(base), rows)
    tokens = sum(len(row) for row in encoded)
    share = utilisation(
        AutoModelForCausalLM.from_pretrained(base),
        torch.cuda.get_device_name(),
        tokens=tokens,
        supervised=sum(row.supervised_tokens for row in encoded),
        rows=len(encoded),
        seconds=tokens / tokens_per_s,
    )
    return None if share is None else round(share, 3)


def peak_mib(device: str) -> float:
    """Read the most memory that this process has held, on the card where there is one."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Unlike getrusage, this does not count the process that started this one.
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (held,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(held) / 1024


def compare_peaks(arguments: argparse.Namespace) -> dict[str, float]:
    """Run every arm in a process of its own and read its peak; `load`: nothing is trained."""
    peaks = {}
    for arm in ("load", *arguments.arms):
        command = [sys.executable, __file__, "--arm", arm]
        for key in ("shape", "device", "precision", "many", "threads", "student", "rows"):
            if (value := getattr(arguments, key)) is not None:
                command += [f"--{key}", str(value)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[arm] = round(float(done.stdout.splitlines()[-1]), 1)
    return peaks


def run_alone(arguments: argparse.Namespace, base: Path, rows: list[TrainingRow]) -> float:
    """Run one arm and return this process's peak in MiB."""
    if arguments.arm == "load":
        from transformers import AutoModelForCausalLM
        from trl import SFTTrainer  # noqa: F401 - both arms' libraries are in memory

        held = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        held.to(arguments.device)
    else:
        ARMS[arguments.arm](base, rows, arguments.precision, arguments.device)
    return peak_mib(arguments.device)


def profile(base: Path, rows: list[TrainingRow], precision: str) -> dict[str, float]:
    """Say which share of this project's CPU time each operation takes, the largest ones first."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    with recorded(activities=[ProfilerActivity.CPU]) as record:
        our_arm(base, rows, precision, "cpu")
    found = record.key_averages()
    total = sum(item.self_cpu_time_total for item in found)
    largest = sorted(found, key=lambda item: -item.self_cpu_time_total)[:12]
    return {item.key: round(item.self_cpu_time_total / total, 3) for item in largest}


ARMS: dict[str, Callable[[Path, list[TrainingRow], str, str], None]] = {
    "ours": our_arm,
    "packed": functools.partial(our_arm, packing=True),
    "packed_onednn": functools.partial(our_arm, packing=True, cpu_matmul="onednn"),
    "trl": trl_arm,
}


def shown(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write arguments as JSON does, paths by their last name."""
    return {k: v.name if isinstance(v, Path) else v for k, v in vars(arguments).items()}


def main() -> None:
    """Measure both arms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=["tiny", "30m", "0.6b"], default="tiny")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--student", type=Path, help="folder of a pretrained student, not --shape")
    parser.add_argument("--rows", type=Path, help="GSM8K's socratic rows, not words drawn here")
    parser.add_argument("--profile", action="store_true", help="this project's operations")
    parser.add_argument("--few", type=int, default=64, help="rows of the short training")
    parser.add_argument("--many", type=int, default=320, help="rows of the long training")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=["ours", "trl"])
    parser.add_argument("--peak", action="store_true", help="peak memory in MiB instead of speed")
    parser.add_argument("--arm", choices=["load", *ARMS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if arguments.peak:
        print(json.dumps({"arguments": shown(arguments), "peak_mib": compare_peaks(arguments)}))
        return
    rows = make_rows(arguments.many)
    if arguments.rows is not None:
        rows = read_rows(arguments.rows, arguments.many)
    tokenizer = (
        build_tokenizer("qwen3")
        if arguments.student is None
        else AutoTokenizer.from_pretrained(arguments.student)
    )
    tokens = sum(len(row) for row in encode(tokenizer, rows[arguments.few :]))
    arms = {name: ARMS[name] for name in arguments.arms}
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    output = os.dup(1)
    os.dup2(2, 1)  # what the trainers print goes to stderr
    with tempfile.TemporaryDirectory() as folder:
        base = arguments.student or Path(folder)
        if arguments.student is None:
            with without_bars():
                build_model(arguments.shape, "cpu", "float32").save_pretrained(base)
            tokenizer.save_pretrained(base)
        if arguments.profile:
            shares = profile(base, rows, arguments.precision)
            os.dup2(output, 1)
            print(json.dumps({"arguments": shown(arguments), "share_of_cpu": shares}))
            return
        if arguments.arm is not None:
            peak = run_alone(arguments, base, rows)
            os.dup2(output, 1)
            print(peak)
            return
        for repeat in range(arguments.repeats + 1):
            for name, arm in arms.items():
                short, long = (
                    seconds(
                        lambda arm=arm, part=part: arm(
                            base, part, arguments.precision, arguments.device
                        ),
                        arguments.device,
                    )
                    for part in (rows[: arguments.few], rows)
                )
                if repeat:  # the first round warms up
                    speeds[name].append(tokens / (long - short))
        medians = {name: round(statistics.median(values)) for name, values in speeds.items()}
        further = rows[arguments.few :]
        mfu = {}
        if arguments.device == "cuda":
            mfu = {"mfu": {name: mfu_of(base, further, speed) for name, speed in medians.items()}}
    last = arguments.arms[-1]
    result = {
        "arguments": shown(arguments),
        "torch": torch.__version__,
        "tokens_per_s": medians,
        "ratio": {name: round(speed / medians[last], 2) for name, speed in medians.items()},
        "all": {name: [round(value) for value in values] for name, values in speeds.items()},
        **mfu,
    }
    os.dup2(output, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
