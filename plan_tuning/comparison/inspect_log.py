"""A finished job -> a log in the JSON format (version 2) that Inspect's viewer and reader open.

Pure functions of plain data: a log a benchmark, a sample for each problem and epoch. The format is
Inspect's; that its own reader takes these logs is a test which needs the package ``inspect_ai``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from plan_tuning.comparison.disclosures import exported_facts
from plan_tuning.comparison.every_eval_ever import Record, stable_uuid, student_name
from plan_tuning.comparison.runs import Run

VERSION = 2
_SCORER = "plan_tuning/grader"
_STOPS = {"stop": "stop", "length": "max_tokens"}


def inspect_log(run: Run, benchmark: str, rows: Sequence[Mapping[str, Any]]) -> Record:
    """Write one benchmark of a job as a log.

    Args:
        run: completed.
        benchmark: with figures in ``run``.
        rows: its predictions, as read from disk.
    """
    result, figures = run.result, run.result.metrics[benchmark]
    model = f"plan-tuning/{student_name(run)}"
    key = result.fingerprints.predictions.get(benchmark) or result.key
    name = stable_uuid(key, model)
    ids = list(dict.fromkeys(row["problem_id"] for row in rows))
    epochs = 1 + max((int(row["sample"]) for row in rows), default=0)
    metrics = {"accuracy": {"name": "accuracy", "value": figures.accuracy or 0.0}}
    log = {
        "version": VERSION,
        "status": "success",
        "eval": {
            "eval_id": name,
            "run_id": stable_uuid(result.key, "run"),
            "created": result.created,
            "task": benchmark,
            "task_id": stable_uuid(benchmark, "task"),
            "dataset": {"name": benchmark, "samples": len(ids), "sample_ids": ids},
            "model": model,
            "config": {"epochs": epochs},
            "packages": dict(result.versions),
            "metadata": {
                "seed": run.seed,
                "sweep": result.sweep,
                "choices": dict(run.choices),
                "fingerprint": key,
                **exported_facts(run, benchmark),
            },
        },
        "results": {
            "total_samples": len(rows),
            "completed_samples": len(rows),
            "scores": [{"name": "accuracy", "scorer": _SCORER, "metrics": metrics}],
        },
        "stats": {"started_at": result.created, "completed_at": result.created},
        "samples": [_sample(row, model, name) for row in rows],
    }
    stamp = result.created.replace(":", "-")  # its reader looks for files that begin with a time
    return Record("inspect", f"{stamp}_{benchmark}_{student_name(run)}_{name}", log, ())


def inspect_text(record: Record) -> dict[str, str]:
    """The log's file by its path below the export's folder."""
    text = json.dumps(record.aggregate, indent=1, ensure_ascii=False) + "\n"
    return {f"{record.folder}/{record.name}.json": text}


def _sample(row: Mapping[str, Any], model: str, log: str) -> dict[str, Any]:
    prompt, epoch = row.get("prompt") or "", 1 + int(row["sample"])
    plan, text = row.get("plan") or "", row["text"]
    answered = {"role": "assistant", "content": text, "source": "generate"}
    stop = _STOPS.get(row.get("finish_reason") or "", "unknown")
    return {
        "id": row["problem_id"],
        "epoch": epoch,
        "uuid": stable_uuid(log, row["problem_id"], str(epoch)),
        "input": prompt,
        "target": row["gold"],
        "messages": [{"role": "user", "content": prompt, "source": "input"}, answered],
        "output": {
            "model": model,
            "choices": [{"message": answered, "stop_reason": stop}],
            "completion": text,
        },
        "scores": {
            _SCORER: {
                "value": "C" if row["is_correct"] else "I",
                "answer": row.get("answer", ""),
                "explanation": f"{row['verdict']}, found by {row.get('rule') or 'no rule'}",
            }
        },
        "metadata": {
            "difficulty": row.get("difficulty", ""),
            "verdict": str(row["verdict"]),
            **({"plan": plan} if plan else {}),
        },
    }
