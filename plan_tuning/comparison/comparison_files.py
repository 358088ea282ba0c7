"""The last arrow: finished jobs -> comparison.{md,csv,tex,json}, report.html and a printed table.

Runs at the end of every sweep, whatever failed, so nothing that a job left behind stops it: what is
missing is shown and counted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from plan_tuning.artifacts import write_together
from plan_tuning.comparison.claims import findings
from plan_tuning.comparison.comparison import Comparison, holes
from plan_tuning.comparison.compute_table import COMPUTE_LEGEND, base_lines, compute_table
from plan_tuning.comparison.differences import OutcomeReader
from plan_tuning.comparison.disagreements import disagreements
from plan_tuning.comparison.evidence import Reading, check_replaced, keep_evidence
from plan_tuning.comparison.exports import to_csv, to_json
from plan_tuning.comparison.filter_comparison import UNNAMED, corpora_effects, effects_values
from plan_tuning.comparison.inference_noise import InferenceNoise, noise_lines
from plan_tuning.comparison.interference import interferences
from plan_tuning.comparison.interference_text import LEGEND as INTERFERENCE_LEGEND
from plan_tuning.comparison.interference_text import (
    interference_json,
    interference_table,
    transfer_matrix,
    verdict,
)
from plan_tuning.comparison.judged import judged_again
from plan_tuning.comparison.latex import Compact, to_compact_latex, to_latex
from plan_tuning.comparison.learning_table import LEARNING_LEGEND, learning_table
from plan_tuning.comparison.plan_value_text import (
    VALUE_LEGEND,
    WORTH_LEGEND,
    correlation_lines,
    likelihood_table,
    values_csv,
    values_json,
    worth_table,
)
from plan_tuning.comparison.plan_values import plan_worth
from plan_tuning.comparison.registered import (
    Registered,
    read_registration,
    registration_lines,
    with_kinds,
)
from plan_tuning.comparison.runs import ComparisonError, Results, load
from plan_tuning.comparison.table_text import (
    CLAIMS_LEGEND,
    DISAGREEMENTS_LEGEND,
    LEGEND_ENTRIES,
    LEGEND_LINE,
    REWARDS_LEGEND,
    accuracy_table,
    difference_table,
    disagreement_table,
    finding_table,
    markdown_table,
    reward_table,
)
from plan_tuning.comparison.tables import build_table
from plan_tuning.distillation.filter_effects import LEGEND as EFFECTS_LEGEND
from plan_tuning.distillation.filter_effects import effect_rows

logger = logging.getLogger(__name__)

VALUES_FILE = "comparison_plan_values.csv"
COMPACT_FILE = "comparison_compact.tex"


def compare(
    folders: Sequence[Path],
    *,
    out: Path | None = None,
    expected_jobs: int | None = None,
    baseline: str | None = None,
    console: bool = True,
    force: bool = False,
    compact: Compact | None = None,
    smallest_effect: float | None = None,
    by_compute: bool = False,
    noise: InferenceNoise | None = None,
    with_plans: bool = False,
) -> Comparison:
    """Compare all jobs in ``folders`` and write the comparison.

    Args:
        folders: sweeps, or folders of single jobs.
        out: where to write; ``None``: the first folder.
        expected_jobs: how many jobs a sweep started, to count those that left nothing.
        baseline: see :func:`plan_tuning.comparison.tables.build_table`.
        console: print the table to the terminal.
        force: replace a comparison that was made from files which are missing here.
        compact: of the LaTeX table that is written beside the full one; None: none is.
        smallest_effect: points that would matter; None: what the jobs or their registration say.
        by_compute: show what each row's training cost, and which differences are between equals.
        noise: what rounding alone changes; None: it was not counted.
        with_plans: show what filters do to the plans of the corpora.

    Raises:
        ComparisonError: a folder does not exist or holds no job, ``baseline`` matches no row,
            ``compact`` names what the table has not, or the comparison that is there already was
            made from more.
    """
    paths = [Path(folder) for folder in folders]
    results, judged = judged_again(load(paths))
    if expected_jobs is None and not results.runs and not results.holes:
        raise ComparisonError(
            f"no job is in or directly below {', '.join(str(path) for path in paths)}; "
            "give a sweep, for example: plan-tuning compare multirun_outputs/mine"
        )
    reader = OutcomeReader()
    registered = read_registration(paths[0]) if len(paths) == 1 else None
    points = smallest_effect or _smallest_effect(results, registered)
    table = build_table(
        results,
        baseline=baseline,
        reader=reader,
        smallest_effect=None if points is None else points / 100,
    )
    found, untested = with_kinds(findings(table, reader), registered)
    effects, gap = corpora_effects(results.completed) if with_plans else ([], "")
    comparison = Comparison(
        results=results,
        table=table,
        findings=found,
        registration=tuple(
            registration_lines(registered, results, untested, smallest_effect=points)
        ),
        disagreements=tuple(disagreements(table, reader)),
        holes=tuple(holes(results, expected_jobs)),
        worth=plan_worth(table),
        interferences=tuple(interferences(table, reader)),
        judged=judged,
        by_compute=by_compute,
        noise=() if noise is None else tuple(noise_lines(noise, table)),
        reading=Reading.of(results.completed),
        effects=tuple(effects),
        effects_gap=gap,
    )
    folder = Path(out) if out is not None else paths[0]
    try:
        files = write(comparison, folder, force=force, compact=compact)
        if out is None:
            keep_evidence(folder, results.completed)
        comparison = replace(comparison, files=tuple(files))
    finally:  # who may not write the table can read it
        if console:
            from plan_tuning.comparison.terminal import show

            show(comparison)
    return comparison


def _smallest_effect(results: Results, registered: Registered | None) -> float | None:
    """Points that would matter: what all jobs were given, or what was registered."""
    given = {run.settings.get("comparison.smallest_effect") for run in results.completed}
    named = given.pop() if len(given) == 1 else None
    if named is not None:
        return float(named)
    return None if registered is None else registered.smallest_effect


def write(
    comparison: Comparison, folder: Path, *, force: bool = False, compact: Compact | None = None
) -> list[Path]:
    """Write all files into ``folder`` and list them.

    Raises:
        ComparisonError: what is there was made from more, and ``force`` is not set; or
            ``compact`` names what the table has not.
    """
    from plan_tuning.comparison.page import report_page

    content = to_json(comparison.table, comparison.findings)
    content["disagreements"] = [vars(item) for item in comparison.disagreements]
    content["holes"] = list(comparison.holes)
    if comparison.worth.rows:
        content["plan_values"] = values_json(comparison.worth)
    if comparison.interferences:
        content["interferences"] = interference_json(comparison.interferences)
    if comparison.effects:
        content["filter_effects"] = effects_values(comparison.effects)
    content["registration"] = list(comparison.registration)
    content["inference_noise"] = list(comparison.noise)
    reading = comparison.reading
    content["read"] = {"predictions": reading.predictions, "corpora": reading.corpora}
    if not force:
        check_replaced(folder, content, reading)
    texts = {
        "comparison.md": to_markdown(comparison),
        "comparison.csv": to_csv(comparison.table, comparison.findings),
        "comparison.tex": to_latex(comparison.table, comparison.findings),
        "comparison.json": json.dumps(content, indent=2, ensure_ascii=False) + "\n",
        "report.html": report_page(comparison, title=f"Comparison of {folder.resolve().name}"),
    }
    if comparison.worth.rows:
        texts[VALUES_FILE] = values_csv(comparison.worth)
    if compact is not None:
        texts[COMPACT_FILE] = to_compact_latex(comparison.table, compact)
    elif (folder / COMPACT_FILE).is_file():
        logger.warning("%s is of an earlier comparison; again: --latex compact", COMPACT_FILE)
    write_together({folder / name: text for name, text in texts.items()})
    return [folder / name for name in texts]


def plan_values_section(comparison: Comparison) -> list[str]:
    """What plans are worth, in the parts of comparison.md; nothing where it was not asked for."""
    worth = comparison.worth
    if not worth.rows:
        return []
    parts = ["## What a plan is worth", markdown_table(*likelihood_table(worth)), VALUE_LEGEND]
    head, rows = worth_table(worth)
    if rows:
        parts += [markdown_table(head, rows), WORTH_LEGEND]
    return [*parts, *correlation_lines(worth)]


def interference_section(comparison: Comparison) -> list[str]:
    """What mixing costs, in the parts of comparison.md; nothing where nothing was mixed."""
    parts = []
    for found in comparison.interferences:
        parts += ["## Mixed training", markdown_table(*transfer_matrix(found))]
        parts += [markdown_table(*interference_table(found)), *verdict(found)]
    return [*parts, INTERFERENCE_LEGEND] if parts else []


def filter_effects_section(comparison: Comparison) -> list[str]:
    """What filters do to plans, in the parts of comparison.md; nothing unless it was asked for."""
    if not comparison.effects:
        return []
    parts = ["## Plans before and after the filters"]
    for one in comparison.effects:
        parts += [
            f"{one.source or UNNAMED}, {one.corpora} corpora",
            markdown_table(*effect_rows(one.effects)),
        ]
    return [*parts, EFFECTS_LEGEND]


def to_markdown(comparison: Comparison) -> str:
    """Render comparison.md."""
    table = comparison.table
    parts = ["# Comparison", comparison.summary]
    parts += [f"**{line}**" for line in comparison.warnings]
    if table.rows:
        parts.append(markdown_table(*accuracy_table(table)))
        head, rows = difference_table(table)
        if rows:
            parts += ["## Difference to the baseline", markdown_table(head, rows)]
        parts += [table.basis] if table.basis else []
        parts += comparison.noise
        parts.append(f"{LEGEND_LINE} [Every mark and figure](#reading-the-table)")
        if comparison.by_compute:
            parts += ["## By equal compute", markdown_table(*compute_table(table))]
            parts += [*base_lines(table), COMPUTE_LEGEND]
        titles, rewards = reward_table(table)
        if rewards:
            parts += ["## Rewards", markdown_table(titles, rewards), REWARDS_LEGEND]
            parts += [markdown_table(*learning_table(table)), LEARNING_LEGEND]
        parts += interference_section(comparison)
        parts += plan_values_section(comparison)
        parts += filter_effects_section(comparison)
        parts.append("## The paper's claims")
        parts += comparison.registration
    if comparison.findings:
        parts += [markdown_table(*finding_table(comparison.findings)), CLAIMS_LEGEND]
    parts += comparison.silence
    if comparison.disagreements:
        parts += ["## Problems that only one of two rows solves"]
        parts += [markdown_table(*disagreement_table(comparison.disagreements))]
        parts += [DISAGREEMENTS_LEGEND]
    if table.rows:
        parts += ["## Reading the table", "\n".join(f"- {line}" for line in LEGEND_ENTRIES)]
    if comparison.holes:
        parts += ["## Missing", "\n".join(f"- {line}" for line in comparison.holes)]
    return "\n\n".join(parts) + "\n"
