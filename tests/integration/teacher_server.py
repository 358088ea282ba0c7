"""A teacher on loopback that answers badly on purpose, and a distillation against it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from plan_tuning.config.grading import GradingConfig
from plan_tuning.config.teacher import DistillationConfig, TeacherConfig
from plan_tuning.distillation.corpus import OnUsage, make_corpus
from plan_tuning.records import Problem


def load_server(shared: Path) -> ModuleType:
    """The module of the faulty teacher, which lies outside the project."""
    spec = importlib.util.spec_from_file_location(
        "faulty_teacher", shared / "tools" / "faulty_teacher.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gsm8k(shared: Path, count: int) -> list[Problem]:
    """The first training problems of GSM8K."""
    with (shared / "data" / "gsm8k" / "train.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(count), strict=False)]
    return [
        Problem(
            id=row["id"],
            problem=row["problem"],
            answer=row["answer"],
            solution=row["solution"],
            source="gsm8k",
            style="gsm8k",
        )
        for row in rows
    ]


def known_to(problems: list[Problem]) -> list[dict[str, Any]]:
    """The problems in the server's own schema."""
    return [{"id": p.id, "question": p.problem, "answer": p.answer} for p in problems]


def teacher_config(base_url: str, **settings: Any) -> TeacherConfig:
    defaults: dict[str, Any] = {
        "backend": "http",
        "model": "teacher",
        "provider": "openai_compatible",
        "concurrency": 8,
        "timeout_s": 20.0,
    }
    return TeacherConfig(api_base=base_url, **(defaults | settings))


def distil_corpus(
    folder: Path,
    problems: list[Problem],
    teacher: TeacherConfig,
    calls: Path,
    *,
    on_usage: OnUsage | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Make a corpus in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    return make_corpus(
        folder,
        problems,
        teacher,
        DistillationConfig(**settings),
        GradingConfig(),
        calls,
        progress=False,
        on_usage=on_usage,
    )


def start_process(
    shared: Path,
    outputs: Path,
    base_url: str,
    count: int,
    concurrency: int,
    sigint: str = "handled",
) -> subprocess.Popen[str]:
    """Make the same corpus in a process of its own, which can be killed.

    Its SIGINT is ``handled`` or ``ignored`` at the start, whichever way this process was started.
    """
    return subprocess.Popen(
        [
            sys.executable, "-m", "tests.integration.teacher_server",
            str(shared), str(outputs), base_url, str(count), str(concurrency), sigint,
        ],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def main(
    shared: str, outputs: str, base_url: str, count: str, concurrency: str, sigint: str
) -> int:
    is_ignored = sigint == "ignored"
    signal.signal(signal.SIGINT, signal.SIG_IGN if is_ignored else signal.default_int_handler)
    teacher = teacher_config(base_url, concurrency=int(concurrency))
    problems = gsm8k(Path(shared), int(count))
    try:
        distil_corpus(Path(outputs) / "corpus", problems, teacher, Path(outputs) / "calls")
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return getattr(error, "exit_code", 2)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
