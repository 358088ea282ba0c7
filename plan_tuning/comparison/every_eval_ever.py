"""A finished job -> a record of the shared schema Every Eval Ever 0.3 (arXiv 2606.14516).

Pure functions of plain data: an aggregate record a benchmark, and a row for each answer. All ids
come from what was computed, so the same job always gives the same files.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from plan_tuning.comparison.choices import record_of
from plan_tuning.comparison.disclosures import exported_facts
from plan_tuning.comparison.runs import Run

SCHEMA = "0.3.0"
ORGANISATION = "plan-tuning"  # in front of the names of students that a job has trained
_ONE_SAMPLE = "Wilson over problems"
_SEVERAL_SAMPLES = (
    "Student's t over the problems' means of samples; Wilson over problems where all are equal"
)
_TWO_CALLS = "the student writes the plan, an executor carries it out"


@dataclass(frozen=True)
class Record:
    """One benchmark of one job."""

    folder: str  # below the export's folder
    name: str  # of both files, without their endings
    aggregate: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def texts(self) -> dict[str, str]:
        """The two files by their path below the export's folder."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        whole = json.dumps(self.aggregate, indent=1, ensure_ascii=False) + "\n"
        return {
            f"{self.folder}/{self.name}.json": whole,
            f"{self.folder}/{self.name}_samples.jsonl": lines,
        }


def student_name(run: Run) -> str:
    """Name whom a job tested: model, method, filter, seed and fingerprint, without a slash."""
    trained = run.result.fingerprints.student
    parts = [run.choices.get("model", "model"), run.choices.get("method", "")]
    if trained:
        filtered = [run.choices["filter"]] if "filter" in run.choices else []
        parts += [*filtered, f"seed{run.seed}", trained[:12]]
    return "-".join(part.replace("/", "_") for part in parts if part)


def every_eval_ever(run: Run, benchmark: str, rows: Sequence[Mapping[str, Any]]) -> Record:
    """Write one benchmark of a job as a record.

    Args:
        run: completed.
        benchmark: with figures in ``run``.
        rows: its predictions, as read from disk.
    """
    result, figures = run.result, run.result.metrics[benchmark]
    stamp = f"{_seconds(result.created):.0f}"
    model_id = f"{ORGANISATION}/{student_name(run)}"
    name = stable_uuid(result.fingerprints.predictions.get(benchmark) or result.key, model_id)
    evaluation_id = f"{benchmark}/{model_id.replace('/', '_')}/{stamp}"
    result_id = f"{benchmark}/accuracy"
    folder = f"data/{benchmark}/{ORGANISATION}/{student_name(run)}"
    lines = [_row(row, evaluation_id, result_id, model_id, benchmark) for row in rows]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    uncertainty: dict[str, Any] = {"num_samples": figures.n}
    if figures.low is not None and figures.high is not None:
        uncertainty["confidence_interval"] = {
            "lower": figures.low,
            "upper": figures.high,
            "confidence_level": 0.95,
            "method": _ONE_SAMPLE if figures.num_samples <= 1 else _SEVERAL_SAMPLES,
        }
    facts = exported_facts(run, benchmark)
    aggregate = {
        "schema_version": SCHEMA,
        "evaluation_id": evaluation_id,
        "evaluation_timestamp": stamp,
        "retrieved_timestamp": stamp,
        "source_metadata": {
            "source_name": "plan_tuning",
            "source_type": "evaluation_run",
            "source_organization_name": ORGANISATION,
            "evaluator_relationship": "first_party",
        },
        "eval_library": {
            "name": "plan_tuning",
            "version": result.versions.get("plan-tuning", "unknown"),
            "additional_details": {
                key: value for key, value in result.versions.items() if key != "plan-tuning"
            },
        },
        "model_info": _model(run, model_id),
        "evaluation_results": [
            {
                "evaluation_result_id": result_id,
                "evaluation_name": benchmark,
                "source_data": {"dataset_name": benchmark, "source_type": "other"},
                "metric_config": {
                    "evaluation_description": "Share of problems whose final answer equals gold",
                    "metric_id": "accuracy",
                    "metric_name": "Accuracy",
                    "metric_kind": "accuracy",
                    "metric_unit": "proportion",
                    "lower_is_better": False,
                    "score_type": "continuous",
                    "min_score": 0.0,
                    "max_score": 1.0,
                },
                "score_details": {
                    "score": figures.accuracy,
                    **({"details": facts} if facts else {}),
                    "uncertainty": uncertainty,
                },
                "generation_config": _generation(run),
            }
        ],
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": f"{folder}/{name}_samples.jsonl",
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(text.encode()).hexdigest(),
            "total_rows": len(lines),
        },
    }
    return Record(folder, name, aggregate, lines)


def _model(run: Run, model_id: str) -> dict[str, Any]:
    keys = run.result.fingerprints
    details = {
        "deployment_type": "self_deployed",
        "model_availability": "open_weights",
        "base_model": str(run.settings.get("model.path") or run.choices.get("model", "")),
        "seed": str(run.seed),
        **{f"choice_{key}": value for key, value in run.choices.items()},
        **{
            f"fingerprint_{name}": value
            for name in ("base", "corpus", "start", "student")
            if (value := getattr(keys, name))
        },
    }
    return {
        "name": student_name(run),
        "id": model_id,
        "developer": ORGANISATION,
        "inference_engine": {"name": str(run.settings.get("evaluation.engine", "native"))},
        "additional_details": {key: _public(value) for key, value in details.items()},
    }


def _public(value: str) -> str:
    """A path of the machine says nothing elsewhere: its last part stays."""
    is_path = value.startswith(("/", "~", "."))
    return value.rstrip("/").rpartition("/")[2] if is_path else value


def _generation(run: Run) -> dict[str, Any]:
    limit = run.settings.get("evaluation.max_new_tokens")
    details = {
        key: str(run.settings[f"evaluation.{key}"])
        for key in ("num_samples", "plan", "max_plan_tokens", "decoding")
        if run.settings.get(f"evaluation.{key}") is not None
    }
    method = record_of(run)
    if method is not None and method.calls > 1:
        details["calls"] = _TWO_CALLS
    arguments = {"temperature": float(run.settings.get("evaluation.temperature", 0.0))}
    return {
        "generation_args": {**arguments, **({"max_tokens": int(limit)} if limit else {})},
        "additional_details": details,
    }


def _row(
    row: Mapping[str, Any], evaluation_id: str, result_id: str, model_id: str, benchmark: str
) -> dict[str, Any]:
    plan, text = row.get("plan") or "", row["text"]
    texts = [plan, text] if plan and plan not in text else [text]
    prompt = row.get("prompt") or ""
    tokens = row.get("completion_tokens")
    details = {
        "verdict": row["verdict"],
        "sample": row["sample"],
        "finish_reason": row.get("finish_reason", ""),
        "difficulty": row.get("difficulty", ""),
        "completion_tokens": tokens,
    }
    return {
        "schema_version": SCHEMA,
        "evaluation_id": evaluation_id,
        "model_id": model_id,
        "evaluation_name": benchmark,
        "evaluation_result_id": result_id,
        "sample_id": row["problem_id"],
        "sample_hash": hashlib.sha256((prompt + row["gold"]).encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": prompt, "reference": [row["gold"]]},
        "output": {"raw": texts},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": f"output.raw[{len(texts) - 1}]",
                "extracted_value": row.get("answer", ""),
                "extraction_method": row.get("rule") or "none",
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": float(row["is_correct"]), "is_correct": bool(row["is_correct"])},
        "metadata": {key: str(value) for key, value in details.items() if value not in (None, "")},
    }


def _seconds(created: str) -> float:
    return datetime.fromisoformat(created).timestamp() if created else 0.0


def stable_uuid(*parts: str) -> str:
    """A UUID in the form of version 4, as the schema asks, that the same parts always give."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()[:16]
    return str(uuid.UUID(bytes=digest, version=4))
