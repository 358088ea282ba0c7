"""The last arrow: finished jobs -> comparison.{md,csv,tex,json}, report.html and a printed table.

Runs at the end of every sweep, whatever failed, so nothing that a job left behind stops it: what is
missing is shown and counted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plan_tuning.artifacts import write_atomic
from plan_tuning.comparison.claims import Finding, findings, silence
from plan_tuning.comparison.differences import OutcomeReader
from plan_tuning.comparison.disagreements import Disagreement, disagreements
from plan_tuning.comparison.exports import to_csv, to_json, to_latex
from plan_tuning.comparison.runs import ComparisonError, Results, load
from plan_tuning.comparison.table_text import (
    CLAIMS_LEGEND,
    LEGEND,
    REWARDS_LEGEND,
    accuracy_table,
    difference_table,
    finding_table,
    markdown_table,
    reward_table,
)
from plan_tuning.comparison.tables import Table, build_table

_SHOWN_DISAGREEMENTS = 5


@dataclass(frozen=True)
class Comparison:
    """A finished comparison and where its files are."""

    results: Results
    table: Table
    findings: tuple[Finding, ...]
    disagreements: tuple[Disagreement, ...]
    holes: tuple[str, ...]  # one line per job that is missing, failed or unreadable, and why
    files: tuple[Path, ...]

    @property
    def silence(self) -> list[str]:
        """Which swept choices no claim of the paper is compared for."""
        return silence(self.table, self.findings) if self.table.rows else []


def compare(
    folders: Sequence[Path],
    *,
    out: Path | None = None,
    expected_jobs: int | None = None,
    baseline: str | None = None,
    console: bool = True,
) -> Comparison:
    """Compare all jobs in ``folders`` and write the comparison.

    Args:
        folders: sweeps, or folders of single jobs.
        out: where to write; ``None``: the first folder.
        expected_jobs: how many jobs a sweep started, to count those that left nothing.
        baseline: see :func:`plan_tuning.comparison.tables.build_table`.
        console: print the table to the terminal.

    Raises:
        ComparisonError: a folder does not exist or holds no job, or ``baseline`` matches no row.
    """
    paths = [Path(folder) for folder in folders]
    results = load(paths)
    if expected_jobs is None and not results.runs and not results.holes:
        raise ComparisonError(
            f"no job is in or directly below {', '.join(str(path) for path in paths)}; "
            "give a sweep, for example: plan-tuning compare multirun_outputs/mine"
        )
    reader = OutcomeReader()
    table = build_table(results, baseline=baseline, reader=reader)
    comparison = Comparison(
        results=results,
        table=table,
        findings=tuple(findings(table, reader)),
        disagreements=tuple(disagreements(table, reader)),
        holes=tuple(holes(results, expected_jobs)),
        files=(),
    )
    folder = Path(out) if out is not None else paths[0]
    files = write(comparison, folder)
    finished = Comparison(**{**vars(comparison), "files": tuple(files)})
    if console:
        from plan_tuning.comparison.terminal import show

        show(finished, warnings(finished))
    return finished


def holes(results: Results, expected_jobs: int | None) -> list[str]:
    """List what is missing, a line each: jobs, results, figures; see :func:`compare`."""
    lines = [f"{run.name}: failed, {run.error or 'no error recorded'}" for run in results.failed]
    lines += [f"{hole.folder.name}: {hole.reason}" for hole in results.holes]
    lines += [f"{run.name}: {line}" for run in results.runs for line in run.defects]
    present = len(results.runs) + len(results.holes)
    if expected_jobs is not None and present < expected_jobs:
        lines.append(f"{expected_jobs - present} of {expected_jobs} jobs left nothing behind")
    if results.num_debug_left_out:
        lines.append(f"{results.num_debug_left_out} debug runs are left out")
    return lines


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write all files into ``folder`` and list them."""
    from plan_tuning.comparison.page import report_page

    content = to_json(comparison.table, comparison.findings)
    content["disagreements"] = [vars(item) for item in comparison.disagreements]
    content["holes"] = list(comparison.holes)
    texts = {
        "comparison.md": to_markdown(comparison),
        "comparison.csv": to_csv(comparison.table, comparison.findings),
        "comparison.tex": to_latex(comparison.table, comparison.findings),
        "comparison.json": json.dumps(content, indent=2, ensure_ascii=False) + "\n",
    }
    texts["report.html"] = report_page(
        comparison,
        title=f"Comparison of {folder.resolve().name}",
        summary=_summary(comparison),
        warnings=warnings(comparison),
    )
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return [folder / name for name in texts]


def warnings(comparison: Comparison) -> list[str]:
    """What a reader must know before believing the table."""
    lines = list(comparison.table.notes)
    if not comparison.results.completed:
        lines.append("No job has completed: there is nothing to compare yet.")
    elif any(run.result.debug for run in comparison.results.completed):
        lines.append("These are debug runs: their figures say that the code runs, nothing else.")
    return lines


def to_markdown(comparison: Comparison) -> str:
    """Render comparison.md."""
    table = comparison.table
    parts = ["# Comparison", _summary(comparison)]
    parts += [f"**{line}**" for line in warnings(comparison)]
    if table.rows:
        parts.append(markdown_table(*accuracy_table(table)))
        head, rows = difference_table(table)
        if rows:
            parts += ["## Difference to the baseline", markdown_table(head, rows)]
        parts.append(LEGEND)
        titles, rewards = reward_table(table)
        if rewards:
            parts += ["## Rewards", markdown_table(titles, rewards), REWARDS_LEGEND]
        parts.append("## The paper's claims")
    if comparison.findings:
        parts += [markdown_table(*finding_table(comparison.findings)), CLAIMS_LEGEND]
    parts += comparison.silence
    if comparison.disagreements:
        parts += ["## Problems that only one of two rows solves", _disagreement_table(comparison)]
    if comparison.holes:
        parts += ["## Missing", "\n".join(f"- {line}" for line in comparison.holes)]
    return "\n\n".join(parts) + "\n"


def _summary(comparison: Comparison) -> str:
    results = comparison.results
    total = len(results.runs) + len(results.holes)
    return (
        f"{len(results.completed)} of {total} jobs compared, {len(results.failed)} failed, "
        f"{len(results.holes)} without a readable result."
    )


def _disagreement_table(comparison: Comparison) -> str:
    rows = []
    for item in comparison.disagreements:
        texts = [item.row, item.baseline, item.benchmark]
        for problems in (item.only_row, item.only_baseline):
            shown = ", ".join(problems[:_SHOWN_DISAGREEMENTS])
            more = ", …" if len(problems) > _SHOWN_DISAGREEMENTS else ""
            texts.append(f"{len(problems)}: {shown}{more}" if problems else "0")
        rows.append(texts)
    head = ("row", "baseline", "benchmark", "only the row", "only the baseline")
    return markdown_table(head, rows) + (
        "\n\nIn more than half of the shared seeds; the full lists are in comparison.json."
    )
