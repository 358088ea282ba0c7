r"""How fast, how cheap and how flat is a distillation? Real HTTP on loopback, an instant teacher.

    python experiments/benchmarks/distillation.py --server ../shared/tools/faulty_teacher.py \
        --problems ../shared/data/gsm8k/train.jsonl

The server answers each request after ``--latency`` seconds, so ``concurrency / latency`` calls a
second are the most that can be had. Measured are: the share of that which each backend reaches; the
client's CPU time a call; the peak memory at 200 and at 2,000 problems; the authors' order of calls,
one after the other; distilabel on the same server, where it is installed. Each cell is a process of
its own. Two cores are enough, but other work on them lowers the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", type=Path, required=True, help="faulty_teacher.py")
    parser.add_argument("--problems", type=Path, required=True, help="GSM8K's train.jsonl")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds a call")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--count", type=int, default=400, help="problems of the speed cells")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--base-url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        print(json.dumps(CELLS[arguments.cell](arguments)))
        return
    ideal = arguments.concurrency / arguments.latency
    print(f"ideal {ideal:.0f} calls/s ({arguments.concurrency} at {arguments.latency} s)")
    for cell in ("http", "litellm", "sequential", "distilabel"):
        report(cell, measure(arguments, cell, latency=arguments.latency), ideal)
    for count in (200, 2000):
        report(f"memory of {count}", measure(arguments, "memory", latency=0.0, count=count), ideal)


def report(name: str, found: dict[str, Any], ideal: float) -> None:
    if "skipped" in found:
        print(f"{name:15} skipped: {found['skipped']}")
        return
    rate = found["calls"] / found["wall_s"]
    print(
        f"{name:15} {found['calls']:6} calls {rate:7.1f}/s = {rate / ideal:6.1%} of ideal, "
        f"CPU {1000 * found['cpu_s'] / found['calls']:5.2f} ms/call, "
        f"peak {found['peak_mb']:4.0f} MB"
    )


def measure(
    arguments: argparse.Namespace, cell: str, *, latency: float, count: int | None = None
) -> dict[str, Any]:
    """Run one cell against a fresh server."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        server = subprocess.Popen(
            [
                sys.executable, str(arguments.server), "--problems", str(arguments.problems),
                "--question-key", "problem", "--port", "0", "--port-file", str(port_file),
                "--latency", str(latency),
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not port_file.exists():
                time.sleep(0.05)
            done = subprocess.run(
                [
                    sys.executable, __file__, "--server", str(arguments.server),
                    "--problems", str(arguments.problems), "--cell", cell,
                    "--concurrency", str(arguments.concurrency),
                    "--count", str(count or arguments.count),
                    "--base-url", f"http://127.0.0.1:{port_file.read_text().strip()}/v1",
                ],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )  # fmt: skip
        finally:
            server.terminate()
            server.wait()
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def load_problems(arguments: argparse.Namespace) -> list[Any]:
    from plan_tuning.records import Problem

    with arguments.problems.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(arguments.count), strict=False)]
    return [
        Problem(id=row["id"], problem=row["problem"], answer=row["answer"], style="gsm8k")
        for row in rows
    ]


def usage(calls: int, started: tuple[float, float]) -> dict[str, Any]:
    return {
        "calls": calls,
        "wall_s": time.perf_counter() - started[0],
        "cpu_s": time.process_time() - started[1],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def distil_cell(arguments: argparse.Namespace, backend: str, candidates: int) -> dict[str, Any]:
    """Our distillation, whole: requests, store, grader, parquet."""
    from plan_tuning.config.grading import GradingConfig
    from plan_tuning.config.teacher import DistillationConfig, TeacherConfig
    from plan_tuning.distillation.corpus import make_corpus

    teacher = TeacherConfig(
        backend=backend,
        model="teacher",
        provider="openai_compatible",
        api_base=arguments.base_url,
        concurrency=arguments.concurrency,
    )
    problems = load_problems(arguments)
    if backend == "litellm":
        from plan_tuning.teachers.litellm_backend import LitellmBackend

        LitellmBackend(teacher)  # seconds of import that are no part of a call
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        started = time.perf_counter(), time.process_time()
        facts = make_corpus(
            corpus,
            problems,
            teacher,
            DistillationConfig(num_candidates=candidates),
            GradingConfig(),
            Path(folder) / "calls",
            progress=False,
        )
    return usage(facts["calls"]["bought"], started)


def sequential_cell(arguments: argparse.Namespace) -> dict[str, Any]:
    """The authors' order: one call after the other, here for three problems."""
    from plan_tuning.config.teacher import DistillationConfig, TeacherConfig
    from plan_tuning.distillation.teacher_requests import (
        constraints_request,
        execute_request,
        plan_request,
        verify_request,
    )
    from plan_tuning.teachers.http_backend import HttpBackend

    config = DistillationConfig()
    teacher = TeacherConfig(backend="http", model="teacher", api_base=arguments.base_url)

    async def run() -> int:
        backend = HttpBackend(teacher)
        calls = 0
        for problem in load_problems(arguments)[:3]:
            constraints = await backend.complete(constraints_request(problem, config))
            for index in range(config.num_candidates):
                plan = (await backend.complete(plan_request(problem, config, index))).text
                await backend.complete(verify_request(problem, config, plan, constraints))
                await backend.complete(execute_request(problem, config, plan))
            calls += 1 + 3 * config.num_candidates
        await backend.close()
        return calls

    started = time.perf_counter(), time.process_time()
    return usage(asyncio.run(run()), started)


def distilabel_cell(arguments: argparse.Namespace) -> dict[str, Any]:
    """Distilabel's client on one request a problem, in batches as large as our concurrency."""
    if importlib.util.find_spec("distilabel") is None:
        return {"skipped": "pip install 'distilabel[openai]' in an environment of its own"}
    from distilabel.models import OpenAILLM

    from plan_tuning.config.teacher import DistillationConfig
    from plan_tuning.distillation.teacher_requests import plan_request

    model = OpenAILLM(model="teacher", base_url=arguments.base_url, api_key="none")
    model.load()
    config = DistillationConfig()
    inputs = [
        [dict(message) for message in plan_request(problem, config, 0).messages]
        for problem in load_problems(arguments)
    ]
    started = time.perf_counter(), time.process_time()
    for at in range(0, len(inputs), arguments.concurrency):
        model.generate_outputs(
            inputs=inputs[at : at + arguments.concurrency], max_new_tokens=2048, temperature=0.7
        )
    return usage(len(inputs), started)


CELLS = {
    "http": lambda arguments: distil_cell(arguments, "http", candidates=5),
    "litellm": lambda arguments: distil_cell(arguments, "litellm", candidates=5),
    "memory": lambda arguments: distil_cell(arguments, "http", candidates=2),
    "sequential": sequential_cell,
    "distilabel": distilabel_cell,
}

if __name__ == "__main__":
    main()
