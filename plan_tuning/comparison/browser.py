"""A finished comparison -> the data of the report page's browser, packed for one HTML file.

Texts are interned (a problem is written once, however many runs answered it), rows are lists of
numbers, and the whole is compressed: the page opens from a file and stays quick.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plan_tuning.comparison.choices import method_of, values_of
from plan_tuning.comparison.runs import Run, corpus_files, read_predictions, read_trajectories
from plan_tuning.comparison.tables import Table
from plan_tuning.records import Verdict

MAX_PREDICTIONS = 20_000
MAX_TRAJECTORIES = 6_000
_VERDICTS = [str(verdict) for verdict in Verdict]
_INPUT = re.compile(r"<input>(.*?)</input>", re.DOTALL)


@dataclass
class _Strings:
    """Interned texts; the first one is the empty one."""

    texts: list[str] = field(default_factory=lambda: [""])
    index: dict[str, int] = field(default_factory=lambda: {"": 0})

    def add(self, value: Any) -> int:
        text = "" if value is None else str(value)
        if text not in self.index:
            self.index[text] = len(self.texts)
            self.texts.append(text)
        return self.index[text]


@dataclass
class Payload:
    """What page.js shows, and what was left out to keep the page quick."""

    content: dict[str, Any]
    left_out: str

    def packed(self) -> str:
        """Compress for the page: gzip, base64; equal contents give equal texts."""
        raw = json.dumps(self.content, ensure_ascii=False, separators=(",", ":")).encode()
        return base64.b64encode(gzip.compress(raw, mtime=0)).decode("ascii")


def browser_payload(table: Table, runs: Sequence[Run]) -> Payload:
    """Collect predictions, trajectories and settings for the page.

    Args:
        table: the comparison's table; its runs are browsed.
        runs: all jobs, failed ones as well: their settings can be compared.
    """
    strings = _Strings()
    browsed = [(row, run) for row in table.rows for run in row.runs]
    predictions, problems, num_left_out = _predictions(table, [r for _, r in browsed], strings)
    paths = corpus_files(runs)
    trajectories, trajectories_left_out = _trajectories(paths, strings)
    keys, jobs = _settings(runs, strings)
    content = {
        "verdicts": _VERDICTS,
        "benchmarks": list(table.benchmarks),
        "runs": [
            {"label": f"{table.label(row)} · seed {run.seed}", "method": method_of(run)}
            for row, run in browsed
        ],
        "problems": problems,
        "predictions": predictions,
        "corpora": [path.parent.name for path in paths],
        "trajectories": trajectories,
        "settings": keys,
        "jobs": jobs,
        "strings": strings.texts,
    }
    notes = []
    if num_left_out:
        notes.append(
            f"{num_left_out:,} predictions are left out to keep the page quick: the first problems "
            "of each benchmark are here, with the answers of every run."
        )
    if trajectories_left_out:
        notes.append(f"{trajectories_left_out:,} trajectories are left out, too.")
    return Payload(content, " ".join(notes))


def _predictions(
    table: Table, runs: Sequence[Run], strings: _Strings
) -> tuple[list[list[Any]], list[list[int]], int]:
    """Pack predictions; where there are too many, whole problems are left out, not runs."""
    problems: dict[tuple[int, str, str], int] = {}
    facts: list[list[int]] = []
    rows: list[list[Any]] = []
    total = 0
    for b, name in enumerate(table.benchmarks):
        read: dict[Path, list[dict[str, Any]]] = {}
        for run in runs:
            if name in run.predictions and run.predictions[name].resolve() not in read:
                read[run.predictions[name].resolve()] = read_predictions(run, name)
        num_answers = sum(len(read[r.predictions[name].resolve()]) for r in runs
                          if name in r.predictions)  # fmt: skip
        total += num_answers
        allowed = _allowed_problems(read.values(), num_answers, len(table.benchmarks))
        for r, run in enumerate(runs):
            if name not in run.predictions:
                continue
            for row in read[run.predictions[name].resolve()]:
                if row["problem_id"] not in allowed:
                    continue
                key = (b, row["problem_id"], row["gold"])
                if key not in problems:
                    problems[key] = len(facts)
                    facts.append(
                        [
                            b,
                            strings.add(row["problem_id"]),
                            strings.add(row["gold"]),
                            strings.add(_problem(row.get("prompt", ""))),
                            strings.add(row.get("difficulty", "")),
                        ]
                    )
                rows.append(_packed_prediction(r, problems[key], row, strings))
    return rows, facts, total - len(rows)


def _allowed_problems(answers: Any, num_answers: int, num_benchmarks: int) -> Mapping[str, None]:
    ids = dict.fromkeys(row["problem_id"] for rows in answers for row in rows)
    budget = MAX_PREDICTIONS // max(1, num_benchmarks)
    if num_answers <= budget:
        return ids
    kept = max(1, len(ids) * budget // num_answers)
    return dict.fromkeys(list(ids)[:kept])


def _problem(prompt: str) -> str:
    found = _INPUT.search(prompt)
    return found[1].strip() if found else prompt


def _packed_prediction(
    run: int, problem: int, row: Mapping[str, Any], strings: _Strings
) -> list[Any]:
    verdict = row["verdict"]
    return [
        run,
        problem,
        row["sample"],
        _VERDICTS.index(verdict) if verdict in _VERDICTS else _VERDICTS.index(Verdict.ERROR),
        strings.add(row.get("answer")),
        strings.add(row.get("plan")),
        strings.add(row["text"]),
        row.get("completion_tokens", 0),
        strings.add(row.get("finish_reason")),
    ]


def _trajectories(paths: Sequence[Path], strings: _Strings) -> tuple[list[list[Any]], int]:
    packed: list[list[Any]] = []
    total = 0
    for number, path in enumerate(paths):
        rows = read_trajectories(path)
        total += len(rows)
        for row in rows[: MAX_TRAJECTORIES // len(paths)]:
            verdict = row["verdict"]
            packed.append(
                [
                    number,
                    strings.add(row["problem_id"]),
                    row["candidate"],
                    strings.add(row.get("problem")),
                    strings.add(row.get("answer")),
                    strings.add(row["plan"]),
                    row["plan_score"],
                    strings.add(row.get("score_text")),
                    strings.add(row.get("execution")),
                    strings.add(row.get("execution_answer")),
                    _VERDICTS.index(verdict) if verdict in _VERDICTS else -1,
                    strings.add(row.get("constraints")),
                    strings.add(row.get("score_status")),
                ]
            )
    return packed, total - len(packed)


def _settings(runs: Sequence[Run], strings: _Strings) -> tuple[list[str], list[dict[str, Any]]]:
    """List the keys that differ between any two jobs, and every job's values of them."""
    values = [values_of(run) for run in runs]
    names = sorted({key for flat in values for key in flat})
    keys = [key for key in names if len({flat.get(key) for flat in values}) > 1]
    jobs = [
        {
            "label": run.name + ("" if run.is_completed else " (failed)"),
            "values": [strings.add(flat.get(key)) for key in keys],
        }
        for run, flat in zip(runs, values, strict=True)
    ]
    return keys, jobs
