"""Writes folders that look like finished jobs: real files, without running anything."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plan_tuning.records import Prediction, Trajectory, Verdict, to_json

SETTINGS: dict[str, Any] = {
    "data": {"name": "microworld", "limit": None, "fraction": 1.0, "seed": 0, "split": "train"},
    "model": {"name": "micro", "kind": "micro"},
    "method": {"name": "m1", "problems": "all", "plan_weight": 1.0, "solution_weight": 1.0},
    "teacher": {"name": "scripted", "concurrency": 8},
    "filter": {
        "name": "two_stage",
        "plan": True,
        "answer": True,
        "plan_score_threshold": 80,
        "max_rows": None,
        "drop_leaks": False,
    },
    "adapter": {"name": "full", "rank": 16},
    "merge": {"name": "none", "students": [], "router": "oracle"},
    "executor": {"name": "base"},
    "prompt": {"name": "matched"},
    "trainer": {
        "learning_rate": 0.001,
        "batch_size": 16,
        "order": "shuffled",
        "pcgrad": "none",
    },
    "evaluation": {"benchmarks": [], "temperature": 0.0, "num_samples": 1, "plan": "own"},
    "student": {"path": None},
    "reward": {"name": "plan_and_answer"},
    "start": {"name": "base"},
    "seed": 0,
    "sweep_name": "mine",
    "paths": {"outputs": "multirun_outputs"},
}
_FILTERS = {
    "none": (False, False),
    "plan_only": (True, False),
    "answer_only": (False, True),
    "two_stage": (True, True),
}


def problem_text(index: int) -> str:
    """A question like those of the benchmarks."""
    return f"Ann has {index} apples and Bob has {index + 3} more. How many apples has Bob?"


def predictions(
    benchmark: str, accuracy: float, *, n: int, seed: int, salt: str = "", plan: str = ""
) -> list[Prediction]:
    """Make ``n`` answers of which about ``accuracy`` are right; equal arguments, equal answers."""
    rows = []
    for i in range(n):
        # one draw per problem, shared by all systems, plus a little noise of its own
        hardness = random.Random(f"{benchmark}/{i}").random()
        noise = random.Random(f"{benchmark}/{i}/{seed}/{salt}").gauss(0, 0.1)
        is_right = hardness + noise < accuracy
        gold = str(2 * i + 3)
        answer = gold if is_right else str(2 * i + 4)
        verdict = Verdict.CORRECT if is_right else Verdict.WRONG
        if not is_right and i % 7 == 0:
            answer, verdict = "", Verdict.NO_ANSWER
        rows.append(
            Prediction(
                problem_id=f"{benchmark}-{i}",
                benchmark=benchmark,
                sample=0,
                text=f"Bob has {i} + {i + 3} apples. \\boxed{{{answer}}}",
                answer=answer,
                rule="boxed",
                verdict=verdict,
                is_correct=is_right,
                is_correct_strict=is_right,
                gold=gold,
                difficulty=str(1 + i % 4),
                plan=f"{plan} 1. Find Ann's apples. 2. Add them to 3." if plan else "",
                prompt=f"<input>{problem_text(i)}</input>",
                completion_tokens=20 + i % 30,
            )
        )
    return rows


def trajectories(n: int, *, candidates: int = 3, seed: int = 0) -> list[Trajectory]:
    """Make the candidates of ``n`` training problems with scores and verdicts of all kinds."""
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        for candidate in range(candidates):
            score = draw.randint(40, 95)
            is_right = draw.random() < (0.95 if score >= 80 else 0.6)
            answer = str(2 * i + 3) if is_right else "1"
            rows.append(
                Trajectory(
                    problem_id=f"train-{i}",
                    candidate=candidate,
                    problem=problem_text(i),
                    answer=str(2 * i + 3),
                    solution=f"{i} + {i + 3} = {2 * i + 3}",
                    plan=f"1. Find Ann's apples. 2. Add 3. (candidate {candidate})",
                    constraints="- Bob has more than Ann",
                    plan_score=score,
                    score_status="parsed",
                    score_text=f"The plan is sound. Score: {score}",
                    execution=f"Ann has {i}. Bob has \\boxed{{{answer}}}",
                    execution_status="ok",
                    execution_answer=answer,
                    verdict=Verdict.CORRECT if is_right else Verdict.WRONG,
                )
            )
    return rows


def make_corpus(folder: Path, rows: Sequence[Trajectory]) -> None:
    """Write a corpus artifact."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist([to_json(row) for row in rows])
    pyarrow.parquet.write_table(table, folder / "trajectories.parquet")


def make_job(
    sweep: Path,
    *,
    accuracies: Mapping[str, float],
    seed: int = 0,
    n: int = 60,
    settings: Mapping[str, Any] | None = None,
    overrides: Sequence[str] | None = None,
    corpus: Path | None = None,
    salt: str | None = None,
    status: str = "completed",
    debug: bool = False,
    wall_s: float = 12.5,
    cost_usd: float | None = 0.0,
    name: str | None = None,
    has_student: bool | None = None,
    training: Mapping[str, Any] | None = None,
    curves: Mapping[str, Sequence[float]] | None = None,
    **choices: str,
) -> Path:
    """Write one job's folder.

    Args:
        sweep: the folder that the job's folder is made in.
        accuracies: benchmark -> share of right answers.
        settings: dotted keys that differ from SETTINGS.
        overrides: default: the choices and the seed.
        corpus: folder that make_corpus wrote.
        salt: jobs of equal salt and seed make equal predictions; default: choices and settings.
        has_student: whether the job's seed trained whoever answers; default: unless zero-shot.
        training: facts of the training that differ from the defaults.
        curves: metric -> its values, for metrics.csv.
        choices: groups that differ from the defaults, for example ``method="sft"``.
    """
    flat = {"method": "m1", "filter": "two_stage", "teacher": "scripted", "data": "microworld"}
    flat |= {
        "model": "micro",
        "adapter": "full",
        "executor": "base",
        "prompt": "matched",
        "merge": "none",
    }
    flat |= choices
    nested = json.loads(json.dumps(SETTINGS)) | {"seed": seed, "sweep_name": sweep.name}
    nested["data"]["seed"] = seed
    for group, choice in flat.items():
        nested[group]["name"] = choice
    if flat["method"] != "grpo":
        del nested["reward"], nested["start"]
    plan, answer = _FILTERS[flat["filter"]]
    nested["filter"] |= {"plan": plan, "answer": answer}
    for key, value in (settings or {}).items():
        *groups, field = key.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[field] = value
    shown = [f"{k}={v}" for k, v in [*choices.items(), *(settings or {}).items()]]
    name = name or ",".join([*shown, f"seed={seed}"]).replace("/", "_")
    salt = salt if salt is not None else " ".join(shown)
    folder = sweep / name
    folder.mkdir(parents=True, exist_ok=True)
    references: dict[str, str] = {}
    metrics: dict[str, Any] = {}
    for benchmark, accuracy in accuracies.items() if status == "completed" else ():
        rows = predictions(
            benchmark,
            accuracy,
            n=n,
            seed=seed,
            salt=salt,
            plan="Plan:" if flat["method"] in ("m1", "m2") else "",
        )
        path = folder / "predictions" / benchmark / "predictions.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(to_json(row)) + "\n" for row in rows))
        references[benchmark] = str(path.relative_to(folder))
        right = sum(row.is_correct for row in rows)
        metrics[benchmark] = {
            "accuracy": right / n,
            "low": max(0.0, right / n - 0.1),
            "high": min(1.0, right / n + 0.1),
            "n": n,
            "strict_accuracy": right / n,
            "no_answer_rate": sum(row.verdict is Verdict.NO_ANSWER for row in rows) / n,
            "truncated_rate": 0.0,
            "timeout_rate": 0.0,
            "mean_completion_tokens": sum(row.completion_tokens for row in rows) / n,
            "by_difficulty": {},
        }
    losses = {
        "train/loss": [3 / (1 + i) + seed / 100 for i in range(0, 50, 5)],
        "val/loss": [3.2 / (1 + i) for i in range(0, 50, 5)],
    }
    shown_curves = losses if curves is None else curves
    lines = zip(range(0, 5000, 5), *shown_curves.values(), strict=False)
    (folder / "metrics.csv").write_text(
        ",".join(["step", *shown_curves])
        + "\n"
        + "".join(",".join(str(value) for value in line) + "\n" for line in lines)
    )
    if has_student is None:
        has_student = not flat["method"].startswith("zero_shot")
    result = {
        "schema": 1,
        "status": status,
        "error": None
        if status == "completed"
        else {"type": "ValueError", "message": "the loss is not finite"},
        "job": name,
        "sweep": sweep.name,
        "debug": debug,
        "choices": flat,
        "overrides": list(overrides) if overrides is not None else [*shown, f"seed={seed}"],
        "tags": [],
        "seed": seed,
        "settings": nested,
        "key": f"{salt}/{seed}",
        "fingerprints": {
            "base": "b",
            "corpus": "c" if corpus else None,
            "student": f"{salt}/{seed}" if has_student else None,
            "predictions": {name: f"{salt}/{seed}/{name}" for name in references},
        },
        "objective": next((figures["accuracy"] for figures in metrics.values()), None),
        "metrics": metrics,
        "predictions": references,
        "corpus": {
            "path": os.path.relpath(corpus, folder),
            "funnel": {"problems": 40, "candidates": 120, "unique": 120, "kept": 31},
            "rows": 31,
            "reasons": {"low_score": 60, "wrong_answer": 29},
        }
        if corpus
        else None,
        "training": {
            "steps": 50,
            "rows": 31,
            "train_loss": 0.06,
            "val_loss": 0.08,
            "tokens": 9000,
            **(training or {}),
        },
        "curves": "metrics.csv",
        "versions": {"plan-tuning": "0.1.0"},
        "device": "cpu",
        "created": "2025-01-01T00:00:00+00:00",
        "stages": {
            "distill": {"wall_s": 2.0, "is_cached": seed > 0},
            "train": {"wall_s": 8.0, "is_cached": False},
        },
        "wall_s": wall_s,
        "teacher_calls": 160 if corpus else 0,
        "cost_usd": cost_usd,
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def make_quickstart(sweep: Path, *, n: int = 60, seeds: Sequence[int] = (0, 1, 2)) -> Path:
    """Write a sweep like the quickstart: methods x seeds, and the filters on M1."""
    corpus = sweep.parent / "artifacts" / "corpora" / "c0"
    make_corpus(corpus, trajectories(40))
    make_job(sweep, method="zero_shot", seed=0, n=n, accuracies=_both(0.05))
    for seed in seeds:
        make_job(sweep, method="sft", seed=seed, n=n, accuracies=_both(0.2))
        for method, filters, accuracy in (
            ("sft_teacher_cot", "two_stage", 0.55),
            ("m1", "two_stage", 0.9),
            ("m2", "two_stage", 0.8),
            ("m1", "none", 0.6),
            ("m1", "plan_only", 0.75),
            ("m1", "answer_only", 0.8),
        ):
            make_job(
                sweep,
                method=method,
                filter=filters,
                seed=seed,
                n=n,
                corpus=corpus,
                accuracies=_both(accuracy),
            )
    return sweep


def _both(accuracy: float) -> dict[str, float]:
    return {"microworld": accuracy, "microworld_depth": max(0.02, accuracy - 0.3)}
