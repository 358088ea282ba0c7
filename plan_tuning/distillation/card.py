"""Facts about a corpus -> its dataset card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from plan_tuning.artifacts import write_atomic
from plan_tuning.config.teacher import DistillationConfig
from plan_tuning.distillation.funnel import FUNNEL
from plan_tuning.records import Problem
from plan_tuning.teachers.pricing import shown_usd

CARD = "README.md"
_LICENCES = {
    "gsm8k": "MIT (openai/grade-school-math)",
    "math": "MIT for the collection (hendrycks/math); the problems are third-party copyright",
    "strategyqa": "MIT (eladsegal/strategyqa)",
    "olympiadbench": "MIT (OpenBMB/OlympiadBench)",
    "microworld": "made by plan-tuning, Apache-2.0",
}


def write_card(
    folder: Path,
    facts: Mapping[str, Any],
    problems: Sequence[Problem],
    distillation: DistillationConfig,
) -> None:
    """Write the card of a distilled corpus."""
    teacher = facts["teacher"]
    origin = (
        f"Made by plan-tuning (arXiv 2507.07495) with the teacher `{teacher['model']}`"
        + (f" ({teacher['label']})" if teacher["label"] else "")
        + f": {distillation.num_candidates} plans for each problem, scored by a Plan Verifier, "
        "executed, and compared with the gold answer. Every candidate is a row of `trajectories`; "
        "no filter is applied."
    )
    cost = [
        "",
        "## Cost",
        "",
        f"- {facts['calls']['bought']} calls asked for in the run that finished it, "
        f"{facts['calls']['cached']} answered from the store",
        f"- all replies that it rests on, whenever they were bought: "
        f"{shown_usd(facts['cost_usd']['corpus'])}",
        f"- models that answered: {', '.join(facts['served_models']) or 'all from the store'}",
    ]
    left_out = [f"- calls that failed to the end and are left out: {facts['calls']['left_out']}"]
    terms = "- the teacher's texts: see the terms of its provider"
    title = "Plans of a teacher, verified and executed"
    _write(folder, facts, problems, [title, origin, terms], left_out, cost)


def write_import_card(folder: Path, facts: Mapping[str, Any], problems: Sequence[Problem]) -> None:
    """Write the card of an imported corpus."""
    imported = facts["imported"]
    origin = (
        f"Imported by plan-tuning from {imported['rows']} rows of `{imported['from']}`: at most "
        f"{imported['most_candidates']} plans for a problem; executions, where there are any, are "
        "compared with the gold answer. Every candidate is a row of `trajectories`; no filter is "
        "applied."
    )
    if imported["split"] == "test":
        origin += " The problems are test problems: nothing is ever trained on them."
    left_out = [
        f"- rows that are left out: {count} ({reason})"
        for reason, count in imported["left_out"].items()
    ]
    terms = f"- plans, executions and scores: see whoever published `{imported['from']}`"
    title = "Imported plans, executed and graded"
    _write(folder, facts, problems, [title, origin, terms], left_out, [])


def _write(
    folder: Path,
    facts: Mapping[str, Any],
    problems: Sequence[Problem],
    words: Sequence[str],
    left_out: Sequence[str],
    cost: Sequence[str],
) -> None:
    """Write a card, whose header tells ``datasets.load_dataset`` where the tables are.

    Args:
        folder: of the corpus.
        facts: of the corpus.
        problems: of the corpus.
        words: title, where the rows come from, and the terms of their texts.
        left_out: lines on what is left out.
        cost: lines on what was paid.
    """
    title, origin, terms = words
    sources = sorted({problem.source for problem in problems if problem.source})
    header = {
        "pretty_name": title,
        "task_categories": ["text-generation"],
        "tags": ["plan-tuning", "reasoning", *sources],
        "configs": [
            {"config_name": "trajectories", "data_files": "trajectories.parquet", "default": True},
            {"config_name": "problems", "data_files": "problems.parquet"},
        ],
    }
    funnel = facts["funnel"]
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False).strip(),
        "---",
        "",
        f"# {title}",
        "",
        origin,
        "",
        "## Funnel",
        "",
        "| step | count |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {funnel.get(name, 0)} |" for name in FUNNEL),
        "",
        "`good score` is 80 or more; `selected` is the two-stage filter: one best-scored plan for "
        "each problem among those with a good score and a right answer.",
        "",
        "| filter | problems kept | rate |",
        "|---|---|---|",
        *(
            f"| {name} | {count} | {facts['kept_rate'][name]:.1%} |"
            for name, count in facts["kept_problems"].items()
        ),
        "",
        "## Quality",
        "",
        *left_out,
        f"- plan score against right execution, AUC: {_shown(facts['score_auc'])}",
        f"- verifier replies: {_counts(facts['score_status'])}; the authors' released parser reads "
        f"{facts['released_parser_differs']} of them differently",
        f"- verdicts on executions: {_counts(facts['verdicts'])}",
        f"- plans, all: {_counts(facts['plans_before'])}",
        f"- plans, after the two-stage filter: {_counts(facts['plans_after'])}",
        f"- diversity of a problem's plans: {_counts(facts['diversity'])}",
        *cost,
        "",
        "## Sources",
        "",
        *(f"- {source}: {_LICENCES.get(source, 'see its publisher')}" for source in sources),
        terms,
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'trajectories = load_dataset("FOLDER", "trajectories", split="train")',
        "```",
        "",
    ]
    write_atomic(folder / CARD, "\n".join(lines))


def _shown(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _counts(values: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items()) or "none"
    )
