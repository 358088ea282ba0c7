"""Facts about a corpus -> its dataset card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from plan_tuning.artifacts import write_atomic
from plan_tuning.config.teacher import DistillationConfig
from plan_tuning.distillation.funnel import funnel_rows
from plan_tuning.records import Problem
from plan_tuning.tasks.published_tests import name_test_problems
from plan_tuning.teachers.pricing import shown_usd

CARD = "README.md"
_LICENCES = {
    "gsm8k": "MIT (openai/grade-school-math)",
    "gsm8k_socratic": "MIT (openai/grade-school-math)",
    "math": "MIT for the collection (hendrycks/math); the problems are third-party copyright",
    "strategyqa": "MIT (eladsegal/strategyqa)",
    "olympiadbench": "MIT (OpenBMB/OlympiadBench)",
    "humaneval": "MIT (openai/human-eval)",
    "mbpp": "CC-BY-4.0 (google-research-datasets/mbpp)",
    "microworld": "made by plan-tuning, Apache-2.0",
}


def write_card(
    folder: Path,
    facts: Mapping[str, Any],
    problems: Sequence[Problem],
    distillation: DistillationConfig | None = None,
) -> None:
    """Write the card, whose header tells ``datasets.load_dataset`` where the tables are.

    Args:
        folder: of the corpus.
        facts: of the corpus.
        problems: of the corpus.
        distillation: how it was made; None: it was imported.
    """
    sources = sorted({problem.source for problem in problems if problem.source})
    is_scored = "selected" in facts["funnel"]
    title = _title(facts)
    header = {
        "pretty_name": title,
        "task_categories": ["text-generation"],
        "tags": ["plan-tuning", "reasoning", *sources],
        "configs": [
            {"config_name": "trajectories", "data_files": "trajectories.parquet", "default": True},
            {"config_name": "problems", "data_files": "problems.parquet"},
        ],
    }
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False).strip(),
        "---",
        "",
        f"# {title}",
        "",
        (_imported(facts) if distillation is None else _origin(facts["teacher"], distillation))
        + " Every candidate is a row of `trajectories`; no filter is applied.",
        "",
        "## Funnel",
        "",
        "| step | count |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in funnel_rows(facts["funnel"])),
        "",
        _explained(facts),
        "",
        "| filter | problems kept | rate |",
        "|---|---|---|",
        *(
            f"| {name} | {count} | {facts['kept_rate'][name]:.1%} |"
            for name, count in facts["kept_problems"].items()
        ),
        "",
        *_test_problems(facts),
        "## Quality",
        "",
        *_left_out(facts),
        f"- plan score against right execution, AUC: {_shown(facts['score_auc'])}",
        f"- verifier replies: {_counts(facts['score_status'])}; the authors' released parser reads "
        f"{facts['released_parser_differs']} of them differently",
        f"- verdicts on executions: {_counts(facts['verdicts'])}",
        f"- plans, all: {_counts(facts['plans_before'])}",
        f"- plans, after the {'two-stage filter' if is_scored else 'last of these filters'}: "
        f"{_counts(facts['plans_after'])}",
        f"- diversity of a problem's plans: {_counts(facts['diversity'])}",
        "",
        *_cost(facts),
        "## Sources",
        "",
        *(f"- {source}: {_licence(source)}" for source in sources),
        *_terms(facts),
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'trajectories = load_dataset("FOLDER", "trajectories", split="train")',
        "```",
        "",
    ]
    write_atomic(folder / CARD, "\n".join(lines))


def _title(facts: Mapping[str, Any]) -> str:
    if "imported" in facts:
        return "Imported plans, graded"
    return (
        f"Plans of a {'data set, graded' if _is_given(facts) else 'teacher, verified and executed'}"
    )


def _is_given(facts: Mapping[str, Any]) -> bool:
    """Whether plans and executions came with the problems."""
    return "teacher" in facts and facts["teacher"]["kind"] == "dataset"


def _imported(facts: Mapping[str, Any]) -> str:
    """Say where imported rows come from."""
    imported = facts["imported"]
    text = (
        f"Imported by plan-tuning from {imported['rows']} rows of `{imported['from']}`, at most "
        f"{imported['most_candidates']} plans for a problem; executions, where there are any, are "
        "compared with the gold answer. Nobody was asked."
    )
    if imported["split"] == "test":
        text += " The problems are test problems, and nothing is ever trained on them."
    return text


def _explained(facts: Mapping[str, Any]) -> str:
    """Explain the last steps of the funnel."""
    if "selected" in facts["funnel"]:
        return (
            "`good score` is 80 or more; `selected` is the two-stage filter: one best-scored plan "
            "for each problem among those with a good score and a right answer."
        )
    if "recompute" not in facts["kept_problems"]:
        return "No plan has a score."
    return (
        "No plan has a score: `kept by recompute` are executions that end right and whose "
        "annotated equations all recompute."
    )


def _left_out(facts: Mapping[str, Any]) -> list[str]:
    if _is_given(facts):
        return []
    if "imported" not in facts:
        count = facts["calls"]["left_out"]
        return [f"- calls that failed to the end and are left out: {count}"]
    left_out = facts["imported"]["left_out"].items()
    return [f"- rows that are left out: {count} ({reason})" for reason, count in left_out]


def _cost(facts: Mapping[str, Any]) -> list[str]:
    """Say what was paid; nothing where nobody was asked."""
    if "imported" in facts or _is_given(facts):
        return []
    return [
        "## Cost",
        "",
        f"- {facts['calls']['bought']} calls asked for in the run that finished it, "
        f"{facts['calls']['cached']} answered from the store",
        f"- all replies that it rests on, whenever they were bought: "
        f"{shown_usd(facts['cost_usd']['corpus'])}",
        f"- models that answered: {', '.join(facts['served_models']) or 'all from the store'}",
        "",
    ]


def _terms(facts: Mapping[str, Any]) -> list[str]:
    """Say whose terms hold for the texts that are not the data sets'."""
    if "imported" in facts:
        return [f"- plans, executions and scores: see whoever wrote `{facts['imported']['from']}`"]
    return [] if _is_given(facts) else ["- the teacher's texts: see the terms of its provider"]


def _origin(teacher: Mapping[str, Any], distillation: DistillationConfig) -> str:
    """Say whose the plans are, and what was done with them."""
    made = "Made by plan-tuning (arXiv 2507.07495)"
    if teacher["kind"] == "dataset":
        return (
            f"{made} of the plans and executions that come with the data set: one for each "
            "problem, not scored; the execution is compared with the gold answer. Nobody was asked."
        )
    name = f"the teacher `{teacher['model']}`"
    name += f" ({teacher['label']})" if teacher["label"] else ""
    plans = f"{distillation.num_candidates} plans for each problem"
    if distillation.has_given_plans:
        plans = "the data set's own plan of each problem"
    return (
        f"{made} with {name}: {plans}, scored by a Plan Verifier, executed, and compared with the "
        "gold answer."
    )


def _test_problems(facts: Mapping[str, Any]) -> list[str]:
    """Name the problems of published test splits; a student of them is measured elsewhere."""
    known = facts.get("test_problems", {})
    if not known:
        return []
    return [
        "## Test problems",
        "",
        f"Among the problems are {name_test_problems(known)}, known by their questions. A student "
        "that is trained on this corpus is trained on test problems, and no figure on that "
        "benchmark says anything of it.",
        "",
    ]


def _shown(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _counts(values: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items()) or "none"
    )


def _licence(source: str) -> str:
    is_made = source.startswith("microworld")
    return _LICENCES.get("microworld" if is_made else source, "see its publisher")
