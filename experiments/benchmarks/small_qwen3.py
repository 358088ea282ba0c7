"""CPU time of one pass of the micro-world's student: transformers' own, and written out.

    python experiments/benchmarks/small_qwen3.py

Both do the forward and the backward pass of the same rows in turn, so other processes slow both;
the fastest of many passes is what a free core does.
"""

from __future__ import annotations

import argparse
import time

import torch

from plan_tuning.config.microworld import MicroBaseConfig, MicroworldConfig
from plan_tuning.students.log_probs import token_log_probs
from plan_tuning.students.memory import keep_freed_memory
from plan_tuning.students.micro import build_model, build_tokenizer, world_vocabulary


def main() -> None:
    """Print the fastest pass of each kind in milliseconds of CPU time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=72, help="of a row; a third is learnt")
    parser.add_argument("--passes", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    tokenizer = build_tokenizer(world_vocabulary(MicroworldConfig()))
    model = build_model(MicroBaseConfig(), tokenizer, seed=0).train()
    ids = torch.randint(5, len(tokenizer), (asked.rows, asked.tokens))
    ends = torch.arange(asked.tokens * 2 // 3, asked.tokens - 1)
    positions = (ends + torch.arange(asked.rows)[:, None] * asked.tokens).flatten()
    targets = ids.flatten()[positions + 1]
    best = {False: float("inf"), True: float("inf")}
    for _ in range(asked.passes):
        for written_out in (False, True):
            start = time.process_time()
            found = token_log_probs(model, ids, positions, targets, written_out=written_out)
            (-found.log_probs.mean()).backward()  # type: ignore[no-untyped-call]
            best[written_out] = min(best[written_out], time.process_time() - start)
            model.zero_grad()
    own, ours = best[False] * 1e3, best[True] * 1e3
    print(f"transformers {own:.1f} ms, written out {ours:.1f} ms: {own / ours:.2f} times as fast")


if __name__ == "__main__":
    main()
